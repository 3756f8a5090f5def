//! Which addresses may be dialled: a pure function over one address, after resolution.
//!
//! The list names what is allowed, not what is forbidden: global unicast, and private networks where a service says
//! so. Addresses that carry another address inside (mapped, 6to4, Teredo, NAT64, ISATAP) are never dialled, even around
//! a public one: what the kernel or a translator makes of them is not ours to predict.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::vocab::variant::{Variant, broken};

/// What an address is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anybody's.
    Global,
    /// RFC 1918, CGNAT, unique-local, loopback: only where the service allows it.
    Private,
    /// Never.
    Forbidden,
}

/// Judges one address.
pub(super) fn classify(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

/// Whether an address may be dialled for a service that does or does not allow private ones.
pub(super) fn admitted(address: IpAddr, allow_private: bool) -> bool {
    if broken(Variant::PrivateAllowed) {
        return true;
    }
    match classify(address) {
        Kind::Global => true,
        Kind::Private => allow_private,
        Kind::Forbidden => false,
    }
}

/// By the IANA special-purpose registry (RFC 6890), and the metadata services of the large clouds.
fn classify_v4(v4: Ipv4Addr) -> Kind {
    match v4.octets() {
        // Metadata: Azure, Alibaba. (AWS, GCP and others use 169.254.0.0/16, Oracle also 192.0.0.192.)
        [168, 63, 129, 16] | [100, 100, 100, 200] => Kind::Forbidden,
        [10, ..] | [127, ..] | [192, 168, ..] => Kind::Private,
        [172, b, ..] if b & 0xf0 == 16 => Kind::Private,
        [100, b, ..] if b & 0xc0 == 64 => Kind::Private,
        // "This network", link-local, protocol assignments, documentation, AS112 sinks, AMT relays, 6to4 relays,
        // benchmarking, multicast and up.
        [0, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 31, 196, _]
        | [192, 52, 193, _]
        | [192, 175, 48, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Kind::Forbidden,
        _ => Kind::Global,
    }
}

fn classify_v6(v6: Ipv6Addr) -> Kind {
    if v6 == Ipv6Addr::LOCALHOST {
        return Kind::Private;
    }
    let s = v6.segments();
    // ISATAP (RFC 5214 §6.1): an IPv4 address below an interface identifier that any prefix may carry.
    let isatap = matches!(s[4] & 0xfdff, 0) && s[5] == 0x5efe;
    match s {
        _ if isatap => Kind::Forbidden,
        // Metadata: AWS, GCP, Oracle, Scaleway.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] => Kind::Forbidden,
        [0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => Kind::Forbidden,
        [0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042] => Kind::Forbidden,
        [first, ..] if first & 0xfe00 == 0xfc00 => Kind::Private,
        // Teredo and the other protocol assignments (2001::/23), documentation, 6to4.
        [0x2001, second, ..] if second < 0x0200 || second == 0x0db8 => Kind::Forbidden,
        [0x2002, ..] => Kind::Forbidden,
        // AS112 sinks.
        [0x2620, 0x004f, 0x8000, ..] => Kind::Forbidden,
        [0x3fff, second, ..] if second < 0x1000 => Kind::Forbidden,
        [first, ..] if first & 0xe000 == 0x2000 => Kind::Global,
        // Unspecified, mapped, translated, compatible, NAT64 (both), discard, dummy prefix, SRv6 SIDs, link-local,
        // site-local, multicast, unassigned.
        _ => Kind::Forbidden,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[(&str, Kind)] = &[
        ("1.1.1.1", Kind::Global),
        ("45.33.32.10", Kind::Global),
        ("100.63.255.255", Kind::Global),
        ("100.128.0.1", Kind::Global),
        ("172.15.0.1", Kind::Global),
        ("172.32.0.1", Kind::Global),
        ("192.0.1.1", Kind::Global),
        ("198.17.0.1", Kind::Global),
        ("198.20.0.1", Kind::Global),
        ("223.255.255.255", Kind::Global),
        ("2606:4700::77", Kind::Global),
        ("2001:4860:4860::8888", Kind::Global),
        ("2a00:1450:4001::1", Kind::Global),
        // C01, C07: local and private.
        ("127.0.0.1", Kind::Private),
        ("127.255.0.9", Kind::Private),
        ("::1", Kind::Private),
        ("10.0.0.5", Kind::Private),
        ("172.16.0.1", Kind::Private),
        ("172.31.255.255", Kind::Private),
        ("192.168.1.1", Kind::Private),
        ("100.64.0.1", Kind::Private),
        ("100.127.255.255", Kind::Private),
        ("fc00::1", Kind::Private),
        ("fd12:3456::1", Kind::Private),
        // C02: metadata services.
        ("169.254.169.254", Kind::Forbidden),
        ("169.254.170.2", Kind::Forbidden),
        ("fd00:ec2::254", Kind::Forbidden),
        ("fd20:ce::254", Kind::Forbidden),
        ("fd00:c1::a9fe:a9fe", Kind::Forbidden),
        ("fd00:42::42", Kind::Forbidden),
        ("fd00:42::43", Kind::Private),
        ("168.63.129.16", Kind::Forbidden),
        ("100.100.100.200", Kind::Forbidden),
        ("192.0.0.192", Kind::Forbidden),
        // C04: an address inside an address.
        ("::ffff:169.254.169.254", Kind::Forbidden),
        ("::ffff:7f00:1", Kind::Forbidden),
        ("::ffff:1.1.1.1", Kind::Forbidden),
        ("::ffff:0:1.1.1.1", Kind::Forbidden),
        ("::1.1.1.1", Kind::Forbidden),
        ("2002:7f00:1::", Kind::Forbidden),
        ("64:ff9b::a9fe:a9fe", Kind::Forbidden),
        ("64:ff9b:1::a00:1", Kind::Forbidden),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Kind::Forbidden),
        ("2606:4700::5efe:7f00:1", Kind::Forbidden),
        ("2606:4700::200:5efe:7f00:1", Kind::Forbidden),
        ("fd12::5efe:a9fe:a9fe", Kind::Forbidden),
        // C05, C07: what no server lives on.
        ("fe80::1", Kind::Forbidden),
        ("fec0::1", Kind::Forbidden),
        ("0.0.0.0", Kind::Forbidden),
        ("0.1.2.3", Kind::Forbidden),
        ("255.255.255.255", Kind::Forbidden),
        ("224.0.0.1", Kind::Forbidden),
        ("239.1.1.1", Kind::Forbidden),
        ("240.0.0.1", Kind::Forbidden),
        ("192.0.0.8", Kind::Forbidden),
        ("192.0.2.1", Kind::Forbidden),
        ("192.88.99.1", Kind::Forbidden),
        ("198.18.0.1", Kind::Forbidden),
        ("198.19.255.255", Kind::Forbidden),
        ("198.51.100.1", Kind::Forbidden),
        ("203.0.113.1", Kind::Forbidden),
        ("::", Kind::Forbidden),
        ("ff02::1", Kind::Forbidden),
        ("100::1", Kind::Forbidden),
        ("2001:db8::1", Kind::Forbidden),
        ("2001:2::1", Kind::Forbidden),
        ("3fff:0fff::1", Kind::Forbidden),
        ("5f00::1", Kind::Forbidden),
        // The rest of the IANA registries of special-purpose addresses, first and last of each range.
        ("192.0.0.0", Kind::Forbidden),
        ("192.0.0.255", Kind::Forbidden),
        ("192.31.196.1", Kind::Forbidden),
        ("192.52.193.1", Kind::Forbidden),
        ("192.175.48.1", Kind::Forbidden),
        ("192.88.99.255", Kind::Forbidden),
        ("203.0.113.255", Kind::Forbidden),
        ("255.255.255.254", Kind::Forbidden),
        ("::ffff:0:0", Kind::Forbidden),
        ("64:ff9b::", Kind::Forbidden),
        ("64:ff9b::ffff:ffff", Kind::Forbidden),
        ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Kind::Forbidden),
        ("100:0:0:1::1", Kind::Forbidden),
        ("2001::", Kind::Forbidden),
        ("2001:1::1", Kind::Forbidden),
        ("2001:3::1", Kind::Forbidden),
        ("2001:4:112::1", Kind::Forbidden),
        ("2001:10::1", Kind::Forbidden),
        ("2001:1f:ffff::1", Kind::Forbidden),
        ("2001:20::1", Kind::Forbidden),
        ("2001:2f:ffff::1", Kind::Forbidden),
        ("2001:30::1", Kind::Forbidden),
        ("2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Forbidden),
        ("2001:200::1", Kind::Global),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Forbidden),
        ("2001:db9::1", Kind::Global),
        ("2002:101:101::1", Kind::Forbidden),
        ("2003::1", Kind::Global),
        ("2620:4f:8000::1", Kind::Forbidden),
        ("2620:4f:8001::1", Kind::Global),
        ("3fff::1", Kind::Forbidden),
        ("4000::1", Kind::Forbidden),
        ("5f00:ffff::1", Kind::Forbidden),
        ("fe80:ffff::1", Kind::Forbidden),
        ("febf::1", Kind::Forbidden),
        ("feff:ffff::1", Kind::Forbidden),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Forbidden),
    ];

    #[test]
    fn every_special_range_is_what_it_is() {
        for &(text, kind) in TABLE {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(classify(address), kind, "{text}");
            assert_eq!(admitted(address, false), kind == Kind::Global, "{text}");
            assert_eq!(admitted(address, true), kind != Kind::Forbidden, "{text}");
        }
    }
}
