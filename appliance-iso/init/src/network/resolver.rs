//! /etc/resolv.conf: the configured name servers, else those of all leases.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// The name servers known; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    configured: Vec<IpAddr>,
    leased: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
    file: PathBuf,
}

impl Resolver {
    /// Writes the file for the configured servers.
    pub(crate) fn new(configured: Vec<IpAddr>, file: PathBuf) -> Self {
        let resolver = Self { configured, leased: Arc::default(), file };
        resolver.write(&resolver.text(&BTreeMap::new()));
        resolver
    }

    /// The lease of a link names these servers.
    pub(crate) fn leased(&self, link: &str, servers: impl IntoIterator<Item = IpAddr>) {
        let text = {
            let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
            leased.insert(link.to_owned(), servers.into_iter().collect());
            self.text(&leased)
        };
        self.write(&text);
    }

    fn text(&self, leased: &BTreeMap<String, Vec<IpAddr>>) -> String {
        let mut servers: Vec<IpAddr> = self.configured.clone();
        if servers.is_empty() {
            // The public link's servers know the world: first.
            let public = leased.iter().filter(|(link, _)| *link == "public");
            let others = leased.iter().filter(|(link, _)| *link != "public");
            servers.extend(public.chain(others).flat_map(|(_, servers)| servers));
        }
        let mut seen = Vec::new();
        let mut text = String::new();
        for server in servers {
            if !seen.contains(&server) {
                let _ = writeln!(text, "nameserver {server}");
                seen.push(server);
            }
        }
        text
    }

    fn write(&self, text: &str) {
        if let Err(error) = std::fs::write(&self.file, text) {
            log::error!("cannot write {}: {error}", self.file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn configured_servers_win_and_the_public_links_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let read = || std::fs::read_to_string(&file).unwrap();
        let resolver = Resolver::new(vec![], file.clone());
        resolver.leased("client", [ip("10.0.0.1"), ip("10.0.0.9")]);
        resolver.leased("public", [ip("192.0.2.1"), ip("10.0.0.1")]);
        assert_eq!(read(), "nameserver 192.0.2.1\nnameserver 10.0.0.1\nnameserver 10.0.0.9\n");
        let resolver = Resolver::new(vec![ip("9.9.9.9")], file.clone());
        resolver.leased("public", [ip("192.0.2.1")]);
        assert_eq!(read(), "nameserver 9.9.9.9\n");
    }
}
