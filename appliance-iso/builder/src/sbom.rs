//! The bill of materials beside an ISO: SPDX 2.3, JSON.

use serde_json::{Value, json};

use crate::source::Package;

/// What the bill is about.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The image's name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// SHA-256 of the ISO, lower-case hex.
    pub sha256: &'a str,
    /// Seconds since 1970, the document's date.
    pub epoch: i64,
}

/// The document's text; the same inputs give the same text.
pub fn document(subject: &Subject<'_>, packages: &[Package]) -> String {
    let created = time::OffsetDateTime::from_unix_timestamp(subject.epoch)
        .ok()
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned());
    let mut sorted = packages.to_vec();
    sorted.sort();
    sorted.dedup();
    let image = "SPDXRef-Image";
    let mut entries = vec![package(image, subject.name, subject.version, subject.sha256, None)];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", image)];
    for item in &sorted {
        let id =
            format!("SPDXRef-Package-{}", item.name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-"));
        entries.push(package(&id, &item.name, &item.version, &item.sha256, Some(item)));
        relations.push(relation(image, "CONTAINS", &id));
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}-{}", subject.name, subject.version),
        "documentNamespace": format!("urn:vic-engine:{}:{}:{}", subject.name, subject.version, subject.sha256),
        "creationInfo": {"created": created, "creators": [format!("Tool: appliance-iso-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": entries,
        "relationships": relations,
    });
    format!("{document:#}\n")
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn package(id: &str, name: &str, version: &str, sha256: &str, origin: Option<&Package>) -> Value {
    let mut entry = json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
    });
    if let Some(origin) = origin {
        entry["sourceInfo"] = json!(format!("built from the source package {}", origin.source));
        entry["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": origin.purl,
        }]);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_each_package_once_and_relates_it_to_the_image() {
        let item = Package {
            name: "ca-certificates".into(),
            version: "1".into(),
            sha256: "00".into(),
            source: "ca-certificates".into(),
            depends: Vec::new(),
            purl: "pkg:deb/debian/ca-certificates@1?arch=all".into(),
        };
        let subject = Subject { name: "appliance", version: "0.1.0", sha256: "ab", epoch: 0 };
        let text = document(&subject, &[item.clone(), item]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["packages"].as_array().unwrap().len(), 2);
        assert_eq!(value["relationships"][1]["relatedSpdxElement"], "SPDXRef-Package-ca-certificates");
        assert_eq!(value["creationInfo"]["created"], "1970-01-01T00:00:00Z");
    }
}
