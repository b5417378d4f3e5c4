//! The rule sets of a host's firewall.

use std::collections::BTreeMap;

use vim25_types::{
    HostFirewallDefaultPolicy, HostFirewallInfo, HostFirewallRule, HostFirewallRuleDirection as Direction,
    HostFirewallRulePortType as PortType, HostFirewallRuleset, HostFirewallRulesetIpList,
};

use super::objects::Host;

/// First and last port, direction, protocol.
type Rule = (i32, i32, Direction, &'static str);

struct RuleSet {
    key: &'static str,
    label: &'static str,
    /// Whether a new host has it enabled.
    enabled: bool,
    rules: &'static [Rule],
}

/// A few of ESXi 7's rule sets, with their ports: what its `esxcli network firewall ruleset rule list` prints.
const RULE_SETS: &[RuleSet] = &[
    RuleSet {
        key: "CIMHttpServer",
        label: "CIM Server",
        enabled: true,
        rules: &[(5988, 5988, Direction::Inbound, "tcp")],
    },
    RuleSet {
        key: "dhcp",
        label: "DHCP Client",
        enabled: true,
        rules: &[(68, 68, Direction::Inbound, "udp"), (68, 68, Direction::Outbound, "udp")],
    },
    RuleSet {
        key: "dns",
        label: "DNS Client",
        enabled: true,
        rules: &[(53, 53, Direction::Inbound, "udp"), (53, 53, Direction::Outbound, "udp")],
    },
    RuleSet {
        key: "httpClient",
        label: "httpClient",
        enabled: false,
        rules: &[(80, 80, Direction::Outbound, "tcp"), (443, 443, Direction::Outbound, "tcp")],
    },
    RuleSet { key: "nfsClient", label: "NFS Client", enabled: false, rules: &[(0, 65535, Direction::Outbound, "tcp")] },
    RuleSet {
        key: "remoteSerialPort",
        label: "VM serial port connected over network",
        enabled: false,
        rules: &[
            (23, 23, Direction::Inbound, "tcp"),
            (1024, 65535, Direction::Inbound, "tcp"),
            (0, 65535, Direction::Outbound, "tcp"),
        ],
    },
    RuleSet { key: "sshServer", label: "SSH Server", enabled: false, rules: &[(22, 22, Direction::Inbound, "tcp")] },
    RuleSet {
        key: "vMotion",
        label: "vMotion",
        enabled: true,
        rules: &[(8000, 8000, Direction::Inbound, "tcp"), (8000, 8000, Direction::Outbound, "tcp")],
    },
    RuleSet {
        key: "vSPC",
        label: "VM serial port connected to vSPC",
        enabled: false,
        rules: &[(0, 65535, Direction::Outbound, "tcp")],
    },
];

/// The rule sets of a new host and whether they are enabled.
pub(super) fn initial() -> BTreeMap<String, bool> {
    RULE_SETS.iter().map(|set| (set.key.to_owned(), set.enabled)).collect()
}

/// `HostFirewallSystem.firewallInfo`: everything that no rule set lets through is blocked, both ways, as on ESXi.
pub(super) fn info(host: &Host) -> HostFirewallInfo {
    let rule = |&(first, last, ref direction, protocol): &Rule| HostFirewallRule {
        port: first,
        end_port: (last != first).then_some(last),
        direction: direction.clone(),
        port_type: Some(PortType::Dst),
        protocol: protocol.into(),
    };
    let set = |set: &RuleSet| HostFirewallRuleset {
        key: set.key.into(),
        label: set.label.into(),
        required: false,
        rule: set.rules.iter().map(rule).collect(),
        enabled: host.firewall.get(set.key).copied().unwrap_or_default(),
        allowed_hosts: Some(HostFirewallRulesetIpList { all_ip: true, ..HostFirewallRulesetIpList::default() }),
        user_controllable: Some(true),
        ..HostFirewallRuleset::default()
    };
    HostFirewallInfo {
        default_policy: HostFirewallDefaultPolicy { incoming_blocked: Some(true), outgoing_blocked: Some(true) },
        ruleset: RULE_SETS.iter().map(set).collect(),
    }
}
