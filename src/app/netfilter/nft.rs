//! The rules as nftables reads them: one table for both families.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::legacy::Family;
use super::{Ground, MARK, Shape, TABLE};

/// Without it IPv6 has no way at all. It does not leave the link.
const NEIGHBOURS: &str = "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept";

pub(super) fn text(ground: &Ground) -> String {
    let mut out = String::from("# Made by `tokenward netfilter`; for `nft -f -`.\n");
    if ground.tproxy {
        out.push_str("# Marked packets are routed to this machine; `tokenward netfilter apply` does that too:\n");
        for words in routes() {
            line(&mut out, format_args!("#   ip {}", words.join(" ")));
        }
    }
    // The first line makes sure that the second has something to delete, so the whole is one transaction whatever was there.
    line(&mut out, format_args!("table inet {TABLE}"));
    line(&mut out, format_args!("delete table inet {TABLE}"));
    line(&mut out, format_args!("table inet {TABLE} {{"));
    let chains = match &ground.shape {
        Shape::Sidecar { gid } => sidecar(ground, *gid),
        Shape::Gateway { interface } => gateway(ground, interface),
    };
    out.push_str(&chains);
    out.push_str("}\n");
    out
}

/// What removes the table, and is content where there is none.
pub(super) fn removal() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// How `ip` is called so that marked packets come to this machine: words of `rule` are added once, those of `route` replaced.
pub(super) fn routes() -> Vec<Vec<String>> {
    let mark = format!("{MARK:#x}");
    let table = MARK.to_string();
    let mut all = Vec::new();
    for (family, every) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        let route = [
            family, "route", "replace", "local", every, "dev", "lo", "table", &table,
        ];
        let rule = [family, "rule", "add", "fwmark", &mark, "lookup", &table];
        all.push(route.map(str::to_owned).to_vec());
        all.push(rule.map(str::to_owned).to_vec());
    }
    all
}

/// Everything on its way out that is not tokenward's.
fn sidecar(ground: &Ground, gid: u32) -> String {
    let mut out = String::new();
    let it = &mut out;
    it.push_str("  chain nat_out {\n    type nat hook output priority -100; policy accept;\n");
    line(it, format_args!("    meta skgid {gid} return"));
    it.push_str("    ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return\n");
    redirects(it, ground, "");
    it.push_str(
        "  }\n  chain filter_out {\n    type filter hook output priority 0; policy accept;\n",
    );
    // Packets of a socket that its process has closed belong to nobody: their connection is known by its mark. What would
    // begin a connection is never among them. After a reset by the far side conntrack takes it for a part of the old one.
    line(
        it,
        format_args!("    meta skgid {gid} meta l4proto tcp ct mark set {MARK:#x} accept"),
    );
    line(it, format_args!("    meta skgid {gid} accept"));
    line(
        it,
        format_args!(
            "    tcp flags & (syn | ack) != syn ct mark {MARK:#x} ct state established accept"
        ),
    );
    it.push_str("    ip daddr 127.0.0.0/8 accept\n    ip6 daddr ::1 accept\n");
    line(it, format_args!("    {NEIGHBOURS}"));
    rest(it, ground, "");
    it.push_str("  }\n  chain loopback_out {\n    type filter hook postrouting priority 0; policy accept;\n");
    // Above, loopback is an address. A socket that is bound to another device sends there all the same, also what was just
    // redirected, and only here the device is known by which it leaves.
    it.push_str("    oifname != \"lo\" ip daddr 127.0.0.0/8 drop\n    oifname != \"lo\" ip6 daddr ::1 drop\n  }\n");
    out
}

/// Everything that comes in by the agents' interface.
fn gateway(ground: &Ground, interface: &str) -> String {
    let mut out = String::new();
    let it = &mut out;
    let from = format!("iifname \"{interface}\" ");
    if ground.tproxy {
        it.push_str(
            "  chain tproxy_pre {\n    type filter hook prerouting priority -150; policy accept;\n",
        );
        line(
            it,
            format_args!(
                "    {from}meta l4proto tcp socket transparent 1 meta mark set {MARK:#x} accept"
            ),
        );
        for (family, word) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
            let Some(listener) = ground.listener(family) else {
                continue;
            };
            let to = listener_of(family, listener.ip(), listener.port());
            let (nfproto, ports) = (family.nfproto(), ports(ground));
            // Only what is taken is marked: where nobody listens, the rest of the rules rejects it.
            line(
                it,
                format_args!(
                    "    {from}meta nfproto {nfproto} tcp dport {ports} tproxy {word} to {to} meta mark set {MARK:#x} accept"
                ),
            );
        }
    } else {
        it.push_str(
            "  chain nat_pre {\n    type nat hook prerouting priority -100; policy accept;\n",
        );
        redirects(it, ground, &from);
    }
    it.push_str(
        "  }\n  chain filter_forward {\n    type filter hook forward priority 0; policy accept;\n",
    );
    rest(it, ground, &from);
    it.push_str(
        "  }\n  chain filter_in {\n    type filter hook input priority 0; policy accept;\n",
    );
    inward(it, ground, &from);
    rest(it, ground, &from);
    it.push_str("  }\n");
    out
}

/// What of the gateway itself agents may reach: what was led to tokenward, and the listeners of `listen.proxy`.
fn inward(out: &mut String, ground: &Ground, from: &str) {
    // Answers to what the gateway asked, such as its resolver where that is on the agents' side.
    line(out, format_args!("    {from}ct direction reply accept"));
    line(out, format_args!("    {from}{NEIGHBOURS}"));
    if ground.tproxy {
        line(
            out,
            format_args!("    {from}meta l4proto tcp meta mark {MARK:#x} accept"),
        );
    } else {
        for family in [Family::V4, Family::V6] {
            if let Some(listener) = ground.listener(family) {
                let (nfproto, port) = (family.nfproto(), listener.port());
                line(
                    out,
                    format_args!(
                        "    {from}meta nfproto {nfproto} tcp dport {port} ct status dnat accept"
                    ),
                );
            }
        }
    }
    for family in [Family::V4, Family::V6] {
        for (ip, port) in ground.doors(family) {
            let to = match (ip, family) {
                (Some(ip), Family::V4) => format!("ip daddr {ip}"),
                (Some(ip), Family::V6) => format!("ip6 daddr {ip}"),
                (None, _) => format!("meta nfproto {}", family.nfproto()),
            };
            line(out, format_args!("    {from}{to} tcp dport {port} accept"));
        }
    }
}

fn listener_of(family: Family, ip: IpAddr, port: u16) -> String {
    match (family, ip.is_unspecified()) {
        (Family::V4, true) => format!("127.0.0.1:{port}"),
        (Family::V6, true) => format!("[::1]:{port}"),
        (Family::V4, false) => format!("{ip}:{port}"),
        (Family::V6, false) => format!("[{ip}]:{port}"),
    }
}

fn redirects(out: &mut String, ground: &Ground, from: &str) {
    let ports = ports(ground);
    for family in [Family::V4, Family::V6] {
        if let Some(listener) = ground.listener(family) {
            let (nfproto, port) = (family.nfproto(), listener.port());
            line(
                out,
                format_args!(
                    "    {from}meta nfproto {nfproto} tcp dport {ports} redirect to :{port}"
                ),
            );
        }
    }
}

/// What was not led to tokenward, from what others began down to what is rejected.
fn rest(out: &mut String, ground: &Ground, from: &str) {
    line(
        out,
        format_args!("    {from}meta l4proto tcp ct direction reply accept"),
    );
    line(
        out,
        format_args!("    {from}meta l4proto {{ icmp, ipv6-icmp }} ct state related accept"),
    );
    for (family, word) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let resolvers: Vec<_> = ground.resolvers(family).map(ToString::to_string).collect();
        if !resolvers.is_empty() {
            let resolvers = resolvers.join(", ");
            line(
                out,
                format_args!(
                    "    {from}{word} daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept"
                ),
            );
        }
    }
    line(
        out,
        format_args!("    {from}udp dport 443 counter reject comment \"QUIC\""),
    );
    line(
        out,
        format_args!(
            "    {from}meta l4proto {{ tcp, udp }} th dport 53 counter reject comment \"foreign DNS\""
        ),
    );
    line(
        out,
        format_args!("    {from}meta l4proto tcp counter reject with tcp reset"),
    );
    line(out, format_args!("    {from}counter reject"));
}

fn ports(ground: &Ground) -> String {
    let ports: Vec<_> = ground.ports.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", ports.join(", "))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let written = writeln!(out, "{text}");
    debug_assert!(written.is_ok());
}
