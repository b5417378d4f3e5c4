//! Certificates of a VCH: what exists is loaded and held against what is asked; what is missing is generated.
//!
//! Files in the certificate folder (`--tls-cert-path`, by default `./NAME`): `ca.pem`, `ca-key.pem`, `server-cert.pem`,
//! `server-key.pem`, `cert.pem`, `key.pem` (the client's).  Existing files are never overwritten.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use secret::Secret;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::problem::{Exit, Problem};

/// How clients of the Docker API are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Server and client certificates.
    Mutual,
    /// Server certificate only (`--no-tlsverify`).
    Server,
    /// Plain HTTP (`--no-tls`).
    None,
}

/// What the admin asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) mode: Mode,
    /// The folder of the certificates.
    pub(crate) folder: PathBuf,
    /// Names and addresses that the server certificate must carry; the first is its common name.
    pub(crate) names: Vec<String>,
    pub(crate) organization: Vec<String>,
    /// Explicit server pair.
    pub(crate) server_cert: Option<PathBuf>,
    pub(crate) server_key: Option<PathBuf>,
    /// CAs that clients may chain to, instead of a generated one.
    pub(crate) client_cas: Vec<PathBuf>,
    /// Bits of an RSA key; ECDSA P-256 when absent.
    pub(crate) rsa_bits: Option<u16>,
    pub(crate) now: OffsetDateTime,
}

/// The certificates of a VCH, with the files that are yet to be written.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    pub(crate) server_cert_pem: String,
    pub(crate) server_key_pem: Secret,
    pub(crate) client_ca_pem: String,
    /// The client pair that the final text can name.
    pub(crate) client: Option<ClientFiles>,
    new_files: Vec<NewFile>,
}

/// Where the client's files are.
#[derive(Debug, Clone)]
pub(crate) struct ClientFiles {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Debug, Clone)]
struct NewFile {
    path: PathBuf,
    content: Secret,
    private: bool,
}

impl Request {
    /// Loads what exists, generates what is missing, writes nothing.
    pub(crate) fn resolve(&self) -> Result<Certificates, Vec<Problem>> {
        let mut out = Certificates {
            server_cert_pem: String::new(),
            server_key_pem: Secret::new(""),
            client_ca_pem: String::new(),
            client: None,
            new_files: Vec::new(),
        };
        if self.mode == Mode::None {
            return Ok(out);
        }
        let explicit = match (&self.server_cert, &self.server_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => {
                return Err(vec![Problem::new(
                    Exit::Usage,
                    "--tls-server-cert and --tls-server-key must be given together",
                )]);
            }
        };
        let file = |name: &str| self.folder.join(name);
        let (cert_path, key_path) = explicit.clone().unwrap_or((file("server-cert.pem"), file("server-key.pem")));
        let have_server = explicit.is_some() || (cert_path.exists() && key_path.exists());
        if have_server {
            out.server_cert_pem = read(&cert_path).map_err(one)?;
            out.server_key_pem = Secret::new(read(&key_path).map_err(one)?);
            self.check_server(&out, &cert_path, &key_path).map_err(one)?;
        }
        let mut ca_files = self.client_cas.clone();
        if self.mode == Mode::Mutual && ca_files.is_empty() && file("ca.pem").exists() {
            ca_files.push(file("ca.pem"));
        }
        for path in &ca_files {
            let pem = read(path).map_err(one)?;
            check_dates(path, &certificates(path, &pem).map_err(one)?, self.now).map_err(one)?;
            out.client_ca_pem.push_str(&pem);
        }
        if self.names.is_empty() && !have_server {
            return Err(one(no_name()));
        }
        let client = ClientFiles { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") };
        if self.mode == Mode::Mutual && ca_files.is_empty() {
            self.generate_all(&mut out, have_server).map_err(one)?;
            out.client = Some(client);
            return Ok(out);
        }
        let ca_key = file("ca-key.pem");
        let own_ca = self.mode == Mode::Mutual && self.client_cas.is_empty() && ca_key.exists();
        let issuer = own_ca.then(|| load_issuer(&file("ca.pem"), &ca_key)).transpose().map_err(one)?;
        if !have_server {
            self.generate_server(&mut out, issuer.as_ref()).map_err(one)?;
        }
        if self.mode == Mode::Mutual {
            match (client.cert.exists() && client.key.exists(), &issuer) {
                (true, _) => out.client = Some(client),
                (false, Some(issuer)) => {
                    self.generate_client(&mut out, issuer).map_err(one)?;
                    out.client = Some(client);
                }
                (false, None) => {}
            }
        }
        Ok(out)
    }

    /// A CA, the server's pair unless there is one, and the client's pair.
    fn generate_all(&self, out: &mut Certificates, have_server: bool) -> Result<(), Problem> {
        let ca_key = self.key()?;
        let mut params = self.params(3650);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let ca_name = format!("{} CA", self.names.first().map_or("VCH", String::as_str));
        params.distinguished_name.push(DnType::CommonName, ca_name);
        let ca = params.self_signed(&ca_key).map_err(|e| failed(&e))?;
        out.client_ca_pem = ca.pem();
        self.add(out, "ca.pem", ca.pem(), false);
        self.add(out, "ca-key.pem", ca_key.serialize_pem(), true);
        let issuer = Issuer::new(params, ca_key);
        if !have_server {
            self.generate_server(out, Some(&issuer))?;
        }
        self.generate_client(out, &issuer)
    }

    /// The client's pair, signed by `issuer`.
    fn generate_client(&self, out: &mut Certificates, issuer: &Issuer<'_, KeyPair>) -> Result<(), Problem> {
        let key = self.key()?;
        let mut params = self.params(365);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, "docker client");
        let cert = params.signed_by(&key, issuer).map_err(|e| failed(&e))?;
        self.add(out, "cert.pem", cert.pem(), false);
        self.add(out, "key.pem", key.serialize_pem(), true);
        Ok(())
    }

    /// The server's pair: signed by `issuer`, or by itself.
    fn generate_server(&self, out: &mut Certificates, issuer: Option<&Issuer<'_, KeyPair>>) -> Result<(), Problem> {
        let key = self.key()?;
        let mut params = self.params(365);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(name) = self.names.first() {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        for name in self.names.iter().collect::<BTreeSet<_>>() {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|e| {
                    Problem::validation(format!("--tls-cname {name:?} cannot stand in a certificate")).why(e)
                })?),
            });
        }
        let cert = match issuer {
            Some(issuer) => params.signed_by(&key, issuer),
            None => params.self_signed(&key),
        }
        .map_err(|e| failed(&e))?;
        out.server_cert_pem = cert.pem();
        out.server_key_pem = Secret::new(key.serialize_pem());
        self.add(out, "server-cert.pem", cert.pem(), false);
        self.add(out, "server-key.pem", key.serialize_pem(), true);
        Ok(())
    }

    fn key(&self) -> Result<KeyPair, Problem> {
        let Some(bits) = self.rsa_bits else { return KeyPair::generate().map_err(|e| failed(&e)) };
        // The TLS library's own crypto signs with RSA keys but cannot make them.
        let failed = |e: &dyn std::fmt::Display| {
            Problem::new(Exit::Failed, format!("an RSA key of {bits} bits could not be generated")).why(e)
        };
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits.into()).map_err(|e| failed(&e))?;
        let der = rsa::pkcs8::EncodePrivateKey::to_pkcs8_der(&key).map_err(|e| failed(&e))?;
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(der.as_bytes());
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256).map_err(|e| failed(&e))
    }

    fn add(&self, out: &mut Certificates, name: &str, content: String, private: bool) {
        out.new_files.push(NewFile { path: self.folder.join(name), content: Secret::new(content), private });
    }

    fn params(&self, days: i64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for organization in &self.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        // Clocks differ; a certificate of a minute ago must not be "not yet valid" anywhere.
        params.not_before = self.now - Duration::days(1);
        params.not_after = self.now + Duration::days(days);
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn check_server(&self, out: &Certificates, cert_path: &Path, key_path: &Path) -> Result<(), Problem> {
        let ders = certificates(cert_path, &out.server_cert_pem)?;
        check_dates(cert_path, &ders, self.now)?;
        if out.server_key_pem.reveal().contains("BEGIN CERTIFICATE") {
            return Err(Problem::validation(format!("{} holds no private key", key_path.display()))
                .why("found a certificate rather than a key in the PEM for the private key")
                .remedy(SWITCHED));
        }
        let key = KeyPair::from_pem(out.server_key_pem.reveal())
            .map_err(|e| Problem::validation(format!("{} holds no usable private key", key_path.display())).why(e))?;
        let (_, leaf) = parse(&ders[0], cert_path)?;
        if leaf.public_key().raw != key.subject_public_key_info() {
            return Err(Problem::validation(format!(
                "{} and {} do not belong together",
                cert_path.display(),
                key_path.display()
            ))
            .why("the private key is not that of the certificate")
            .remedy("give the key that the certificate was issued for"));
        }
        let missing: Vec<&String> = self.names.iter().filter(|n| !covers(&leaf, n)).collect();
        match missing.first() {
            None => Ok(()),
            Some(name) => Err(Problem::validation(format!("{} does not name {name}", cert_path.display()))
                .why("Server certificate hostname doesn't match: the option does not match the existing server certificate")
                .remedy("use another --tls-cert-path, move the old files away, or give a certificate that carries the name")),
        }
    }
}

impl Certificates {
    /// Writes the new files: the folder 0700, keys 0600.  A file that has appeared meanwhile is not overwritten.
    ///
    /// A new folder appears with all its files or not at all.
    pub(crate) fn write(&self) -> Result<(), Problem> {
        let Some(folder) = self.new_files.first().and_then(|f| f.path.parent()) else { return Ok(()) };
        if folder.exists() {
            return self.write_into(folder);
        }
        let fail = |e: std::io::Error| cannot_write(folder, &e);
        let mut aside = folder.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(fail)?;
        }
        make_private_folder(&aside).map_err(fail)?;
        self.write_into(&aside)?;
        std::fs::rename(&aside, folder).map_err(fail)
    }

    fn write_into(&self, folder: &Path) -> Result<(), Problem> {
        for file in &self.new_files {
            let path = folder.join(file.path.file_name().unwrap_or_default());
            let fail = |e: std::io::Error| cannot_write(&path, &e);
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, if file.private { 0o600 } else { 0o644 });
            let mut out = options.open(&path).map_err(fail)?;
            out.write_all(file.content.reveal().as_bytes()).and_then(|()| out.sync_all()).map_err(fail)?;
        }
        Ok(())
    }

    /// Removes what [`Self::write`] wrote, for a create that failed.
    pub(crate) fn unwrite(&self) {
        for file in &self.new_files {
            if std::fs::read_to_string(&file.path).is_ok_and(|c| c == file.content.reveal()) {
                let _ = std::fs::remove_file(&file.path);
            }
        }
        // Only an empty folder goes.
        let folder = self.new_files.first().and_then(|f| f.path.parent());
        let _ = folder.map(std::fs::remove_dir);
    }
}

/// A key for the VCH's own CA, which the endpoint VM signs its containers' certificates with.
pub(crate) fn control_key() -> Result<Secret, Problem> {
    KeyPair::generate().map(|key| Secret::new(key.serialize_pem())).map_err(|e| failed(&e))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(Exit::Failed, format!("{} cannot be written", path.display()))
        .why(error)
        .remedy("choose another folder with --tls-cert-path")
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn no_name() -> Problem {
    Problem::validation("provide Common Name for server certificate")
        .why("the address of the Docker API is not known before the appliance runs, and clients verify it")
        .remedy("one of:")
        .remedy("  --tls-cname NAME          the name or address that clients will use")
        .remedy("  --public-network-ip CIDR  (or --client-network-ip) a static address, which also serves as name")
        .remedy("  --tls-server-cert, --tls-server-key  certificates that you have")
        .remedy("  --no-tlsverify            clients do not verify the server, and need no certificate")
}

fn one(problem: Problem) -> Vec<Problem> {
    vec![problem]
}

fn failed(error: &rcgen::Error) -> Problem {
    Problem::new(Exit::Failed, "a certificate could not be generated").why(error)
}

fn read(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|e| Problem::validation(format!("{} cannot be read", path.display())).why(e))
}

const SWITCHED: &str = "the PEM inputs may have been switched: exchange the files of certificate and key";

fn certificates(path: &Path, pem: &str) -> Result<Vec<Vec<u8>>, Problem> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let ders: Vec<Vec<u8>> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).map(|d| d.to_vec()).collect();
    if ders.is_empty() {
        let problem = Problem::validation(format!("{} holds no certificate", path.display()));
        return Err(if pem.contains("PRIVATE KEY-----") {
            problem.why("found a private key rather than a certificate").remedy(SWITCHED)
        } else {
            problem.why("no PEM block CERTIFICATE").remedy("give a certificate in PEM form")
        });
    }
    Ok(ders)
}

fn parse<'a>(der: &'a [u8], path: &Path) -> Result<(&'a [u8], X509Certificate<'a>), Problem> {
    X509Certificate::from_der(der)
        .map_err(|e| Problem::validation(format!("{} holds no usable certificate", path.display())).why(e))
}

fn check_dates(path: &Path, ders: &[Vec<u8>], now: OffsetDateTime) -> Result<(), Problem> {
    for der in ders {
        let (_, cert) = parse(der, path)?;
        let validity = cert.validity();
        let seconds = now.unix_timestamp();
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if seconds < from || seconds > to {
            let word = if seconds > to { "has expired" } else { "is not yet valid" };
            return Err(Problem::validation(format!("the certificate in {} {word}", path.display()))
                .why(format!("{} is valid from {} to {}", cert.subject(), validity.not_before, validity.not_after))
                .remedy(
                    "give a valid one, or move the file away to have a new one generated; check this machine's clock",
                ));
        }
    }
    Ok(())
}

/// The addresses and the host names that the first certificate of `pem` carries.
pub(crate) fn subject_names(pem: &str) -> (Vec<IpAddr>, Vec<String>) {
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    let Ok(ders) = certificates(Path::new(""), pem) else { return (addresses, names) };
    let Ok((_, cert)) = parse(&ders[0], Path::new("")) else { return (addresses, names) };
    let sans = cert.subject_alternative_name().ok().flatten();
    for san in sans.iter().flat_map(|s| &s.value.general_names) {
        match san {
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                addresses.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            _ => {}
        }
    }
    (addresses, names)
}

/// Whether a certificate names `name`: exactly, by address, or by a wildcard for the first label.
fn covers(cert: &X509Certificate<'_>, name: &str) -> bool {
    let address = name.parse::<IpAddr>().ok();
    let Ok(Some(sans)) = cert.subject_alternative_name() else { return false };
    sans.value.general_names.iter().any(|san| match (san, address) {
        (GeneralName::IPAddress(bytes), Some(IpAddr::V4(ip))) => *bytes == ip.octets(),
        (GeneralName::IPAddress(bytes), Some(IpAddr::V6(ip))) => *bytes == ip.octets(),
        (GeneralName::DNSName(dns), None) => {
            dns.eq_ignore_ascii_case(name)
                || dns
                    .strip_prefix("*.")
                    .is_some_and(|zone| name.split_once('.').is_some_and(|(_, z)| z.eq_ignore_ascii_case(zone)))
        }
        _ => false,
    })
}

fn load_issuer(cert: &Path, key: &Path) -> Result<Issuer<'static, KeyPair>, Problem> {
    let pair = KeyPair::from_pem(&read(key)?)
        .map_err(|e| Problem::validation(format!("{} holds no usable private key", key.display())).why(e))?;
    Issuer::from_ca_cert_pem(&read(cert)?, pair)
        .map_err(|e| Problem::validation(format!("{} holds no usable CA", cert.display())).why(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(folder: &Path, mode: Mode) -> Request {
        Request {
            mode,
            folder: folder.to_owned(),
            names: vec!["vch.example".into(), "192.0.2.7".into()],
            organization: vec!["ops".into()],
            server_cert: None,
            server_key: None,
            client_cas: Vec::new(),
            rsa_bits: None,
            now: OffsetDateTime::now_utc(),
        }
    }

    fn why(request: &Request) -> String {
        request.resolve().map(|_| ()).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn generated_files_are_loaded_again_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("vch");
        let first = request(&folder, Mode::Mutual).resolve().unwrap();
        assert!(!folder.exists(), "resolving writes nothing");
        first.write().unwrap();
        let second = request(&folder, Mode::Mutual).resolve().unwrap();
        assert!(second.new_files.is_empty());
        assert_eq!(second.server_cert_pem, first.server_cert_pem);
        assert!(second.client.is_some());
        assert!(first.write().is_err(), "writing over existing files is refused");
        first.unwrite();
        assert!(!folder.exists(), "a failed create leaves no files");
    }

    #[test]
    fn what_a_killed_run_did_not_write_is_made_with_the_ca_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("vch");
        request(&folder, Mode::Mutual).resolve().unwrap().write().unwrap();
        for file in ["server-cert.pem", "server-key.pem", "cert.pem", "key.pem"] {
            std::fs::remove_file(folder.join(file)).unwrap();
        }
        let again = request(&folder, Mode::Mutual).resolve().unwrap();
        again.write().unwrap();
        let ca = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
        assert_eq!(again.client_ca_pem, ca);
        assert!(again.client.is_some() && folder.join("key.pem").exists());
    }

    #[test]
    fn rsa_keys_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Request { rsa_bits: Some(2048), ..request(dir.path(), Mode::Server) }.resolve().unwrap();
        let ders = certificates(dir.path(), &certs.server_cert_pem).unwrap();
        let (_, cert) = parse(&ders[0], dir.path()).unwrap();
        let x509_parser::public_key::PublicKey::RSA(key) = cert.public_key().parsed().unwrap() else {
            panic!("not an RSA key")
        };
        assert_eq!(key.key_size(), 2048);
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_the_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("vch");
        request(&folder, Mode::Mutual).resolve().unwrap().write().unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for key in ["ca-key.pem", "server-key.pem", "key.pem"] {
            assert_eq!(mode(&folder.join(key)), 0o600, "{key}");
        }
    }

    #[test]
    fn the_server_certificate_names_every_address_and_is_dated_back() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(dir.path(), Mode::Server);
        let certs = request.resolve().unwrap();
        let ders = certificates(dir.path(), &certs.server_cert_pem).unwrap();
        let (_, cert) = parse(&ders[0], dir.path()).unwrap();
        assert!(covers(&cert, "vch.example") && covers(&cert, "192.0.2.7") && !covers(&cert, "192.0.2.8"));
        assert!(cert.validity().not_before.timestamp() <= request.now.unix_timestamp() - 86_000);
    }

    #[test]
    fn expired_mismatching_and_switched_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("vch");
        let good = request(&folder, Mode::Server);
        good.resolve().unwrap().write().unwrap();
        let (cert, key) = (folder.join("server-cert.pem"), folder.join("server-key.pem"));

        let late = Request { now: good.now + Duration::days(400), ..good.clone() };
        assert!(why(&late).contains("has expired"), "{}", why(&late));
        let other_name = Request { names: vec!["other.example".into()], ..good.clone() };
        assert!(why(&other_name).contains("Server certificate hostname doesn't match"), "{}", why(&other_name));
        let switched = Request { server_cert: Some(cert.clone()), server_key: Some(cert.clone()), ..good.clone() };
        assert!(why(&switched).contains("found a certificate rather than a key"), "{}", why(&switched));
        let swapped = Request { server_cert: Some(key.clone()), server_key: Some(cert.clone()), ..good.clone() };
        assert!(why(&swapped).contains("a private key rather than a certificate"), "{}", why(&swapped));
        let half = Request { server_cert: Some(cert), ..good.clone() };
        assert!(why(&half).contains("must be given together"));
        std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(why(&good).contains("do not belong together"), "{}", why(&good));
    }

    #[test]
    fn without_a_name_for_the_server_the_ways_out_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let nameless = Request { names: Vec::new(), ..request(&dir.path().join("x"), Mode::Mutual) };
        let problems = nameless.resolve().map(|_| ()).unwrap_err();
        assert!(problems[0].what.contains("provide Common Name"));
        assert!(problems[0].remedy.iter().any(|r| r.contains("--no-tlsverify")));
    }
}
