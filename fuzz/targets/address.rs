//! What may be dialled is global unicast by another definition: that of the standard library, as far as it goes, and the
//! prefixes that carry other addresses, as numbers.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use tokenward::upstream::fuzzing::admitted;

fuzz_target!(|bytes: [u8; 17]| {
    let mut long = [0; 16];
    long.copy_from_slice(&bytes[1..]);
    let v4 = Ipv4Addr::new(long[0], long[1], long[2], long[3]);
    let v6 = Ipv6Addr::from(long);
    four(v4);
    // Around every IPv4 address, however it is wrapped.
    six(v4.to_ipv6_mapped());
    six(v4.to_ipv6_compatible());
    six(v6);
    for (address, private) in [(IpAddr::V4(v4), false), (IpAddr::V6(v6), false)] {
        assert!(
            !admitted(address, private) || admitted(address, true),
            "private includes public"
        );
    }
});

fn within(number: u128, prefix: u128, length: u32, width: u32) -> bool {
    number >> (width - length) == prefix >> (width - length)
}

fn four(v4: Ipv4Addr) {
    let in_v4 = |prefix: [u8; 4], length| {
        within(
            u32::from(v4).into(),
            u32::from_be_bytes(prefix).into(),
            length,
            32,
        )
    };
    let never = v4.is_unspecified()
        || v4.is_broadcast()
        || v4.is_multicast()
        || v4.is_link_local()
        || v4.is_documentation()
        || in_v4([0, 0, 0, 0], 8)
        || in_v4([240, 0, 0, 0], 4)
        || in_v4([192, 0, 0, 0], 24)
        || in_v4([192, 31, 196, 0], 24)
        || in_v4([192, 52, 193, 0], 24)
        || in_v4([192, 175, 48, 0], 24)
        || in_v4([192, 88, 99, 0], 24)
        || in_v4([198, 18, 0, 0], 15)
        || in_v4([168, 63, 129, 16], 32)
        || in_v4([100, 100, 100, 200], 32);
    let private = v4.is_private() || v4.is_loopback() || in_v4([100, 64, 0, 0], 10);
    assert_eq!(admitted(v4.into(), false), !never && !private, "{v4}");
    assert_eq!(admitted(v4.into(), true), !never, "{v4}");
}

fn six(v6: Ipv6Addr) {
    let in_v6 = |prefix: &str, length| {
        let prefix: Ipv6Addr = prefix.parse().expect("a prefix");
        within(v6.to_bits(), prefix.to_bits(), length, 128)
    };
    let unicast = in_v6("2000::", 3);
    let carries = v6.to_ipv4_mapped().is_some()
        || in_v6("2002::", 16)
        || in_v6("64:ff9b::", 96)
        || in_v6("2001::", 32);
    let special = in_v6("2001::", 23)
        || in_v6("2001:db8::", 32)
        || in_v6("3fff::", 20)
        || in_v6("2620:4f:8000::", 48);
    let interface = v6.to_bits() as u64;
    let isatap = interface & 0xfdff_ffff_0000_0000 == 0x0000_5efe_0000_0000;
    let global = unicast && !carries && !special && !isatap;
    assert_eq!(admitted(v6.into(), false), global, "{v6}");
    let metadata = in_v6("fd00:ec2::", 32)
        || in_v6("fd20:ce::", 32)
        || in_v6("fd00:c1::a9fe:a9fe", 128)
        || in_v6("fd00:42::42", 128);
    let local = v6.is_loopback() || (v6.is_unique_local() && !metadata && !isatap);
    assert_eq!(admitted(v6.into(), true), global || local, "{v6}");
}
