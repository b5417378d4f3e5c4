//! Names of images, as people write them and as they are kept.

use oci_client::Reference;

/// What people mean by `text`: `busybox` is `docker.io/library/busybox:latest`.
///
/// # Errors
/// Docker's words for what is no reference.
pub fn parse(text: &str) -> Result<Reference, InvalidReference> {
    let words = |reason: &'static str| InvalidReference(format!("invalid reference format{reason}"));
    if text.is_empty() {
        return Err(words(""));
    }
    if text.split(['@', ':', '/']).next().is_some_and(|first| text.len() == 64 && first == text && is_hex(text)) {
        return Err(words(": repository name cannot be 64-byte hexadecimal strings"));
    }
    let name = text.split('@').next().unwrap_or_default();
    let path = name.rsplit_once('/').map_or(name, |(_, last)| last);
    let repository = &name[..name.len() - path.len() + path.split(':').next().unwrap_or_default().len()];
    let domain = repository.split_once('/').map(|(first, _)| first);
    let domain = domain.filter(|d| d.contains(['.', ':']) || *d == "localhost").unwrap_or_default();
    if repository[domain.len()..].bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(words(": repository name must be lowercase"));
    }
    let reference: Reference = text.parse().map_err(|_| words(""))?;
    Ok(match (reference.tag(), reference.digest()) {
        (None, None) => {
            let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
            Reference::with_tag(registry, repository, "latest".to_owned())
        }
        _ => reference,
    })
}

/// What is no reference, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidReference(String);

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The repository with its registry: `docker.io/library/busybox`.
pub fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// How people write a name that is kept: without what goes without saying.
pub fn shorten(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// How people write a reference.
pub fn familiar(reference: &Reference) -> String {
    shorten(&reference.whole()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_shortened_as_docker_does() {
        for (text, whole, short) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"),
            ("host.example/a/b:1", "host.example/a/b:1", "host.example/a/b:1"),
        ] {
            let reference = parse(text).unwrap();
            assert_eq!(reference.whole(), whole);
            assert_eq!(familiar(&reference), short);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_in_dockers_words() {
        for (text, words) in [
            ("", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("Busybox", "invalid reference format: repository name must be lowercase"),
            ("host.example/Busy:X", "invalid reference format: repository name must be lowercase"),
            (&"a".repeat(64), "invalid reference format: repository name cannot be 64-byte hexadecimal strings"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), words, "{text}");
        }
        assert!(parse("host.example/busy:X").is_ok());
    }
}
