//! What the texts say, and what is refused. Whether they hold is shown in network namespaces (`tests/netns`).

use super::*;

/// A ground with these listeners (`mode@address`).
fn ground(shape: Shape, tproxy: bool, listeners: &[&str]) -> Result<Ground, GroundError> {
    let listeners: Vec<_> = listeners.iter().map(|text| listener(text)).collect();
    let ports = [443, 8443].into_iter();
    let resolvers = ["10.0.0.10", "127.0.0.53", "fd00::a"];
    let resolvers = resolvers.map(|text| text.parse().unwrap());
    Ground::from_parts(&listeners, ports, shape, tproxy, resolvers)
}

fn listener(text: &str) -> TransparentSettings {
    let (mode, address) = text.split_once('@').unwrap();
    TransparentSettings {
        address: address.parse().unwrap(),
        mode: match mode {
            "tproxy" => RedirectMode::Tproxy,
            _ => RedirectMode::Redirect,
        },
        agent: None,
    }
}

fn sidecar() -> Shape {
    Shape::Sidecar { gid: 1337 }
}

fn gateway(interface: &str) -> Shape {
    Shape::Gateway {
        interface: interface.to_owned(),
    }
}

const BOTH: &[&str] = &["redirect@127.0.0.1:15001", "redirect@[::1]:15002"];

#[test]
fn a_sidecar_leads_both_families_and_rejects_the_rest() {
    let text = ground(sidecar(), false, BOTH).unwrap().nft();
    for expected in [
        "table inet tokenward\ndelete table inet tokenward\ntable inet tokenward {",
        "meta skgid 1337 return\n    ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return\n    \
         meta nfproto ipv4 tcp dport { 80, 443, 8443 } redirect to :15001\n    \
         meta nfproto ipv6 tcp dport { 80, 443, 8443 } redirect to :15002\n  }",
        "ip daddr { 10.0.0.10 } meta l4proto { tcp, udp } th dport 53 accept",
        "ip6 daddr { fd00::a } meta l4proto { tcp, udp } th dport 53 accept",
        "meta skgid 1337 accept\n    tcp flags & (syn | ack) != syn ct mark 0x7477 ct state established accept",
        "counter reject with tcp reset\n    counter reject\n  }\n  chain loopback_out {\n    \
         type filter hook postrouting priority 0; policy accept;\n    \
         oifname != \"lo\" ip daddr 127.0.0.0/8 drop\n    oifname != \"lo\" ip6 daddr ::1 drop\n  }\n}\n",
    ] {
        assert!(text.contains(expected), "{expected}\n in\n{text}");
    }
}

#[test]
fn a_family_without_a_listener_is_rejected() {
    let half = ground(sidecar(), false, &BOTH[..1]).unwrap();
    assert_eq!(half.unserved(), ["IPv6"]);
    let text = half.nft();
    assert!(text.contains("meta nfproto ipv4 tcp dport") && !text.contains("nfproto ipv6"));
    assert!(text.contains("    counter reject\n  }\n"), "{text}");
    let legacy = half.legacy(Family::V6, "");
    assert!(!legacy.contains("REDIRECT") && legacy.contains("-A TOKENWARD_OUT -j REJECT"));
}

#[test]
fn a_gateway_looks_at_one_interface() {
    let listeners = &["redirect@0.0.0.0:15001", "redirect@[::]:15001"];
    let text = ground(gateway("twa1"), false, listeners).unwrap().nft();
    let rules = text
        .lines()
        .filter(|line| line.starts_with("    ") && !line.contains("hook"));
    for rule in rules {
        assert!(rule.trim().starts_with("iifname \"twa1\" "), "{rule}");
    }
    let listeners = &["tproxy@127.0.0.1:15006", "tproxy@[::]:15006", BOTH[0]];
    let text = ground(gateway("twa1"), true, listeners).unwrap().nft();
    assert!(text.contains("tproxy ip to 127.0.0.1:15006 meta mark set 0x7477 accept"));
    assert!(text.contains("tproxy ip6 to [::1]:15006 meta mark set 0x7477 accept"));
    assert!(text.contains("#   ip -6 rule add fwmark 0x7477 lookup 29815"));
}

#[test]
fn of_a_gateway_itself_only_its_listeners_are_open() {
    let listeners = &["redirect@0.0.0.0:15001", "redirect@[::]:15002"];
    let mut it = ground(gateway("twa1"), false, listeners).unwrap();
    let proxies = ["0.0.0.0:81", "[::]:82", "10.0.0.1:83", "[fd00::1]:84"];
    it.proxies = proxies.map(|at| at.parse().unwrap()).into();
    let nft = it.nft();
    let inward = &nft[nft.find("chain filter_in").unwrap()..];
    for (open, times) in [
        ("meta nfproto ipv4 tcp dport 15001 ct status dnat accept", 1),
        ("meta nfproto ipv6 tcp dport 15002 ct status dnat accept", 1),
        ("meta nfproto ipv4 tcp dport 81 accept", 1),
        ("tcp dport 82 accept", 2),
        ("ip daddr 10.0.0.1 tcp dport 83 accept", 1),
        ("ip6 daddr fd00::1 tcp dport 84 accept", 1),
        (" tcp dport ", 7),
    ] {
        assert_eq!(inward.matches(open).count(), times, "{open}\n{inward}");
    }
    assert!(inward.ends_with("\"twa1\" counter reject\n  }\n}\n"));
    let legacy = it.legacy(Family::V6, "");
    for open in [
        "-i twa1 -p tcp --dport 15002 -m conntrack --ctstate DNAT -j ACCEPT",
        "-i twa1 -p tcp --dport 82 -j ACCEPT",
        "-i twa1 -d fd00::1 -p tcp --dport 84 -j ACCEPT",
        "-i twa1 -j REJECT --reject-with icmp6-port-unreachable",
    ] {
        let rule = format!("-A TOKENWARD_IN {open}\n");
        assert!(legacy.contains(&rule), "{rule}\n{legacy}");
    }
    assert!(!legacy.contains("--dport 81 ") && !legacy.contains("--dport 83 "));
}

#[test]
fn what_does_not_fit_is_refused_with_a_remedy() {
    let refused = |shape, tproxy, listeners: &[&str]| {
        let refused = ground(shape, tproxy, listeners).err();
        refused.map(|error| error.to_string()).unwrap_or_default()
    };
    for (message, shape, tproxy, listeners) in [
        ("write `transparent: [127", sidecar(), false, &[][..]),
        (
            "write `transparent: [127",
            sidecar(),
            false,
            &["tproxy@127.0.0.1:1"][..],
        ),
        ("0.0.0.0:15001, agent", gateway("eth1"), false, BOTH),
        ("mode: tproxy", gateway("eth1"), true, BOTH),
        ("not supported yet", sidecar(), true, BOTH),
        (
            "several agents",
            sidecar(),
            false,
            &["redirect@127.0.0.1:1", "redirect@127.0.0.1:2"][..],
        ),
        ("a group of its own", Shape::Sidecar { gid: 0 }, false, BOTH),
        (
            "as `ip link` shows it",
            gateway("eth1\" accept #"),
            false,
            BOTH,
        ),
        ("as `ip link` shows it", gateway(""), false, BOTH),
        (
            "as `ip link` shows it",
            gateway("sixteen-letters-"),
            false,
            BOTH,
        ),
    ] {
        let said = refused(shape, tproxy, listeners);
        assert!(said.contains(message), "{message}: {said}");
    }
}

#[test]
fn legacy_chains_are_found_and_removed() {
    let ground = ground(sidecar(), false, BOTH).unwrap();
    let all = ground.legacy(Family::V4, "");
    assert!(all.find("*filter").unwrap() < all.find("*nat").unwrap());
    assert_eq!(all.matches(" 1 -j TOKENWARD").count(), 3);
    let told = "-A OUTPUT -j TOKENWARD_OUT\n-A OUTPUT -j TOKENWARD_NAT\n";
    let again = ground.legacy(Family::V4, told);
    assert!(!again.contains("-I OUTPUT") && again.contains("-I POSTROUTING 1 -j TOKENWARD_LO"));
    let saved =
        "*nat\n:OUTPUT ACCEPT [0:0]\n:TOKENWARD_NAT - [0:0]\n-A OUTPUT -j TOKENWARD_NAT\nCOMMIT\n";
    let removal = legacy::removal(saved, "nat").unwrap();
    assert_eq!(
        removal,
        "*nat\n-D OUTPUT -j TOKENWARD_NAT\n-F TOKENWARD_NAT\n-X TOKENWARD_NAT\nCOMMIT\n"
    );
    assert_eq!(legacy::removal(saved, "filter"), None);
}

/// What `nft list table` prints of the sidecar's rules, where the two lines that count are these.
fn listing(lines: &str) -> String {
    format!(
        "table inet tokenward {{\n\tchain nat_out {{\n\t\tmeta skgid 1337 return\n{lines}\n\t\tudp dport 443 counter packets 0 bytes 0 reject comment \"QUIC\"\n\t}}\n}}\n"
    )
}

#[test]
fn what_stands_is_looked_at_for_both_families() {
    let both = ground(sidecar(), false, BOTH).unwrap();
    let half = ground(sidecar(), false, &BOTH[..1]).unwrap();
    let v4 = "\t\tmeta nfproto ipv4 tcp dport { 80, 443 } redirect to :15001";
    let v6 = "\t\tmeta nfproto ipv6 tcp dport { 80, 443 } redirect to :15002";
    let rest = "\t\tcounter packets 7 bytes 900 reject";
    let stands = |ground, lines: &[&str]| {
        let seen = host::covered(&listing(&lines.join("\n")), ground);
        seen.map(|families| families.len())
            .map_err(|error| error.to_string())
    };
    assert_eq!(stands(&both, &[v4, v6, rest]), Ok(2));
    assert_eq!(stands(&half, &[v4, rest]), Ok(2));
    assert!(
        stands(&both, &[v4, rest])
            .unwrap_err()
            .starts_with("IPv6 is not covered")
    );
    assert!(
        stands(&both, &[v6, rest])
            .unwrap_err()
            .starts_with("IPv4 is not covered")
    );
    assert!(stands(&both, &[v4, v6]).is_err(), "nothing rejects");
    let other = "\t\tmeta nfproto ipv6 tcp dport { 80, 443 } redirect to :9";
    assert!(stands(&both, &[v4, other, rest]).is_err(), "another port");
}
