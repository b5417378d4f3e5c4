//! The texts of /etc/hostname, /etc/hosts and /etc/resolv.conf, in Docker's form.

use std::fmt::Write;

use tether_proto::{Container, Dns};

/// What stands in every container's /etc/hosts.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

pub(crate) fn hosts(container: &Container) -> String {
    let mut text = HOSTS.to_owned();
    for (address, name) in &container.extra_hosts {
        let _ = writeln!(text, "{address}\t{name}");
    }
    let own = match (container.host_name.as_str(), container.domain_name.as_str()) {
        ("", _) => return text,
        (host, "") => host.to_owned(),
        (host, domain) => format!("{host}.{domain} {host}"),
    };
    for interface in container.interfaces.iter().filter(|interface| !interface.address.is_empty()) {
        let address = interface.address.split('/').next().unwrap_or_default();
        let _ = writeln!(text, "{address}\t{own}");
    }
    text
}

pub(crate) fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.search.is_empty() {
        let _ = writeln!(text, "search {}", dns.search.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use tether_proto::Interface;

    use super::*;

    #[test]
    fn a_container_knows_itself_and_who_it_was_told_of() {
        let interface = |address: &str| Interface {
            mac: String::new(),
            name: "eth0".into(),
            address: address.into(),
            gateway: None,
        };
        let container = Container {
            host_name: "web".into(),
            domain_name: "example.org".into(),
            extra_hosts: vec![("192.0.2.9".parse().unwrap(), "db".into())],
            interfaces: vec![interface("172.16.0.2/16"), interface("")],
            ..Container::default()
        };
        let text = hosts(&container);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with("192.0.2.9\tdb\n172.16.0.2\tweb.example.org web\n"), "{text}");
        assert!(hosts(&Container::default()).ends_with("ip6-allrouters\n"));
    }

    #[test]
    fn resolv_conf_has_only_what_is_given() {
        let dns = Dns {
            servers: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            search: vec!["a".into(), "b".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(resolv_conf(&dns), "search a b\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:2\n");
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
