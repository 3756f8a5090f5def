//! The same rules for `iptables-restore` and `ip6tables-restore`, in chains of our own.

use std::fmt::Write as _;

use super::{Ground, MARK, Shape};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    pub(super) fn nfproto(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// `iptables`, or `ip6tables`.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }
}

/// A chain of ours: its table, the chain of the system that leads to it, its name.
pub(super) type Chain = (&'static str, &'static str, &'static str);

/// Every chain that we make, whatever the shape.
pub(super) const CHAINS: [Chain; 7] = [
    ("filter", "OUTPUT", "TOKENWARD_OUT"),
    ("filter", "FORWARD", "TOKENWARD_FWD"),
    ("filter", "INPUT", "TOKENWARD_IN"),
    ("mangle", "POSTROUTING", "TOKENWARD_LO"),
    ("mangle", "PREROUTING", "TOKENWARD_TPROXY"),
    ("nat", "OUTPUT", "TOKENWARD_NAT"),
    ("nat", "PREROUTING", "TOKENWARD_PRE"),
];

/// The chains of this shape, with what they say. What keeps things in comes first: each table is a transaction of its own.
pub(super) fn chains(ground: &Ground, family: Family) -> Vec<(Chain, Vec<String>)> {
    let [out, forward, inside, lo, tproxy, nat, pre] = CHAINS;
    let leads = leads(ground, family);
    match (&ground.shape, ground.tproxy) {
        (Shape::Sidecar { .. }, _) => vec![
            (out, filters(ground, family)),
            (lo, vec![stays(family)]),
            (nat, leads),
        ],
        (Shape::Gateway { interface }, by_tproxy) => vec![
            (forward, filters(ground, family)),
            (inside, inward(ground, family, interface)),
            (if by_tproxy { tproxy } else { pre }, leads),
        ],
    }
}

/// `saved` is what `…-save` shows: a chain of the system that leads to ours there is not told again.
pub(super) fn text(ground: &Ground, family: Family, saved: &str) -> String {
    let mut out = format!(
        "# Made by `tokenward netfilter`; for `{}-restore --noflush`.\n",
        family.program()
    );
    for (chain, rules) in chains(ground, family) {
        let told = is_told(saved, chain.1, chain.2);
        table(&mut out, chain, !told, &rules);
    }
    out
}

/// What removes a chain of ours where it stands, as `…-save` shows it.
pub(super) fn removal(saved: &str, table: &str) -> Option<String> {
    let there = CHAINS.iter().filter(|(of, _, _)| *of == table);
    let there = there.filter(|(_, _, chain)| saved.lines().any(|line| defines(line, chain)));
    let mut lines = String::new();
    for (_, hook, chain) in there {
        if is_told(saved, hook, chain) {
            add(&mut lines, &format!("-D {hook} -j {chain}"));
        }
        add(&mut lines, &format!("-F {chain}"));
        add(&mut lines, &format!("-X {chain}"));
    }
    (!lines.is_empty()).then(|| format!("*{table}\n{lines}COMMIT\n"))
}

pub(super) fn is_told(saved: &str, hook: &str, chain: &str) -> bool {
    let jump = format!("-A {hook} -j {chain}");
    saved.lines().any(|line| line.trim_end() == jump)
}

pub(super) fn defines(line: &str, chain: &str) -> bool {
    let name = line.strip_prefix(':');
    name.and_then(|rest| rest.split(' ').next()) == Some(chain)
}

fn table(out: &mut String, (table, hook, chain): Chain, jump: bool, rules: &[String]) {
    add(out, &format!("*{table}"));
    add(out, &format!(":{chain} - [0:0]"));
    for rule in rules {
        add(out, &format!("-A {chain} {rule}"));
    }
    if jump {
        add(out, &format!("-I {hook} 1 -j {chain}"));
    }
    add(out, "COMMIT");
}

fn loopback(family: Family) -> &'static str {
    match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    }
}

/// What is sent to loopback leaves by no other device, whatever its socket is bound to (see `nft.rs`).
fn stays(family: Family) -> String {
    format!("! -o lo -d {} -j DROP", loopback(family))
}

/// The rules that lead to the listener.
fn leads(ground: &Ground, family: Family) -> Vec<String> {
    let mut rules = Vec::new();
    let from = match &ground.shape {
        Shape::Sidecar { gid } => {
            rules.push(format!("-m owner --gid-owner {gid} -j RETURN"));
            rules.push(format!("-d {} -j RETURN", loopback(family)));
            String::new()
        }
        Shape::Gateway { interface } => format!("-i {interface} "),
    };
    let Some(listener) = ground.listener(family) else {
        return rules;
    };
    let port = listener.port();
    if ground.tproxy {
        let ip = match (listener.ip().is_unspecified(), family) {
            (false, _) => listener.ip().to_string(),
            (true, Family::V4) => "127.0.0.1".to_owned(),
            (true, Family::V6) => "::1".to_owned(),
        };
        rules.push(format!(
            "{from}-p tcp -m socket --transparent -j MARK --set-mark {MARK:#x}"
        ));
        rules.push(format!("{from}-p tcp -m socket --transparent -j ACCEPT"));
        let to = format!("--on-ip {ip} --on-port {port} --tproxy-mark {MARK:#x}");
        let each = ground.ports.iter();
        rules.extend(each.map(|own| format!("{from}-p tcp --dport {own} -j TPROXY {to}")));
    } else {
        // One rule for each port: a list of them is bounded to 15.
        let each = ground.ports.iter();
        rules.extend(
            each.map(|own| format!("{from}-p tcp --dport {own} -j REDIRECT --to-ports {port}")),
        );
    }
    rules
}

/// The rules that let nothing else out.
fn filters(ground: &Ground, family: Family) -> Vec<String> {
    let mut rules = Vec::new();
    let from = match &ground.shape {
        Shape::Sidecar { gid } => {
            let own = format!("-m owner --gid-owner {gid}");
            rules.push(format!("-p tcp {own} -j CONNMARK --set-mark {MARK:#x}"));
            rules.push(format!("{own} -j ACCEPT"));
            rules.push(format!(
                "-p tcp ! --syn -m connmark --mark {MARK:#x} -m conntrack --ctstate ESTABLISHED -j ACCEPT"
            ));
            rules.push(format!("-d {} -j ACCEPT", loopback(family)));
            rules.extend(neighbours(family, ""));
            String::new()
        }
        Shape::Gateway { interface } => format!("-i {interface} "),
    };
    rules.extend(rest(ground, family, &from));
    rules
}

/// What of the gateway itself agents may reach (see `nft.rs`).
fn inward(ground: &Ground, family: Family, interface: &str) -> Vec<String> {
    let from = format!("-i {interface} ");
    let mut rules = vec![format!("{from}-m conntrack --ctdir REPLY -j ACCEPT")];
    rules.extend(neighbours(family, &from));
    match ground.listener(family) {
        Some(_) if ground.tproxy => {
            rules.push(format!("{from}-p tcp -m mark --mark {MARK:#x} -j ACCEPT"));
        }
        Some(listener) => rules.push(format!(
            "{from}-p tcp --dport {} -m conntrack --ctstate DNAT -j ACCEPT",
            listener.port()
        )),
        None => {}
    }
    for (ip, port) in ground.doors(family) {
        let to = ip.map_or_else(String::new, |ip| format!("-d {ip} "));
        rules.push(format!("{from}{to}-p tcp --dport {port} -j ACCEPT"));
    }
    rules.extend(rest(ground, family, &from));
    rules
}

/// Without them IPv6 has no way at all.
fn neighbours(family: Family, from: &str) -> Vec<String> {
    let kinds: &[&str] = match family {
        Family::V4 => &[],
        Family::V6 => &[
            "router-solicitation",
            "neighbour-solicitation",
            "neighbour-advertisement",
        ],
    };
    let rule = |kind| {
        format!("{from}-p ipv6-icmp -m hl --hl-eq 255 -m icmp6 --icmpv6-type {kind} -j ACCEPT")
    };
    kinds.iter().map(rule).collect()
}

/// What was not led to tokenward, from what others began down to what is rejected.
fn rest(ground: &Ground, family: Family, from: &str) -> Vec<String> {
    let mut rules = Vec::new();
    let (icmp, reject) = match family {
        Family::V4 => ("icmp", "icmp-port-unreachable"),
        Family::V6 => ("ipv6-icmp", "icmp6-port-unreachable"),
    };
    rules.push(format!("{from}-p tcp -m conntrack --ctdir REPLY -j ACCEPT"));
    rules.push(format!(
        "{from}-p {icmp} -m conntrack --ctstate RELATED -j ACCEPT"
    ));
    for resolver in ground.resolvers(family) {
        for protocol in ["udp", "tcp"] {
            rules.push(format!(
                "{from}-d {resolver} -p {protocol} --dport 53 -j ACCEPT"
            ));
        }
    }
    rules.push(format!("{from}-p tcp -j REJECT --reject-with tcp-reset"));
    rules.push(format!("{from}-j REJECT --reject-with {reject}"));
    rules
}

fn add(out: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let written = writeln!(out, "{line}");
    debug_assert!(written.is_ok());
}
