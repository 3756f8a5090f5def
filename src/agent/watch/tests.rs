use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings() -> WatchSettings {
    WatchSettings {
        sources: Vec::new(),
        hours: Vec::new(),
        offset: 0,
        rate: None,
        action: Action::Log,
    }
}

/// Monday, 2026-11-30, 00:00 UTC.
const MONDAY: u64 = 1_795_996_800;

/// So many seconds after the start of both clocks.
fn at(seconds: u64, from: &str) -> Sighting {
    Sighting {
        from: (!from.is_empty()).then(|| ip(from)),
        wall: WallTime((MONDAY + seconds) * 1000),
        now: Moment(seconds * 1000),
        request: true,
    }
}

fn odd(watch: &Watch, sighting: &Sighting) -> Vec<Oddity> {
    let found = watch.see(sighting).into_iter().map(|found| found.what);
    found.filter(|what| *what != Oddity::FirstSeen).collect()
}

#[test]
fn the_synthetic_clock_begins_on_a_monday() {
    assert_eq!(at(0, "").wall.to_string(), "2026-11-30T00:00:00.000Z");
}

#[test]
fn networks_are_read_and_hold_what_is_theirs() {
    for (network, inside, outside) in [
        ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("192.0.2.7/32", "::ffff:192.0.2.7", "192.0.2.6"),
        ("0.0.0.0/0", "255.1.2.3", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("::/0", "2001:db8::1", "10.0.0.1"),
        ("2001:db8::7", "2001:db8::7", "2001:db8::8"),
    ] {
        let network = Network::parse(network).unwrap();
        assert!(
            network.holds(ip(inside)) && !network.holds(ip(outside)),
            "{network:?}"
        );
    }
    for bad in [
        "",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0/8",
        "::/129",
        "host",
        "2001:db8::1/32",
        "::ffff:10.0.0.0/104",
        "::ffff:192.0.2.7",
    ] {
        assert_eq!(Network::parse(bad), None, "{bad}");
    }
}

#[test]
fn hours_are_read_and_hold_what_is_theirs() {
    const DAY: u64 = 24 * 3600;
    // Friday 17:59 and 18:00, and Sunday noon.
    let friday = |minute: u64| at(4 * DAY + minute * 60, "").wall;
    let hours = Hours::parse("Mon-Fri 08:00-18:00").unwrap();
    assert!(hours.holds(friday(17 * 60 + 59), 0));
    assert!(!hours.holds(friday(18 * 60), 0));
    assert!(!hours.holds(friday(7 * 60 + 59), 0));
    assert!(hours.holds(friday(7 * 60), 60), "an hour ahead it is eight");
    assert!(
        hours.holds(friday(22 * 60), -300),
        "in New York it is five in the afternoon"
    );
    assert!(!hours.holds(at(6 * DAY + DAY / 2, "").wall, 0));
    // Before midnight of UTC it is Saturday already in the east.
    assert!(
        !Hours::parse("Fri 00:00-24:00")
            .unwrap()
            .holds(friday(23 * 60), 120)
    );
    assert!(
        Hours::parse("sat 00:00-24:00")
            .unwrap()
            .holds(friday(23 * 60), 120)
    );
    let weekend = Hours::parse("Fri-Mon 00:00-24:00").unwrap();
    assert_eq!(weekend.days, 0b111_0001);
    assert_eq!(Hours::parse("Mon,Wed 08:00-09:00").unwrap().days, 0b101);
    assert_eq!(Hours::parse("08:00-09:00").unwrap().days, 0x7f);
    for bad in [
        "",
        "Mon",
        "Mon-Fri",
        "18:00-08:00",
        "8:00-9:00",
        "08:00-25:00",
        "08:60-09:00",
        "Funday 08:00-09:00",
        "Mon-Fri 08:00",
        "Mon- 08:00-09:00",
    ] {
        assert_eq!(Hours::parse(bad), None, "{bad}");
    }
    for (text, minutes) in [
        ("UTC", 0),
        ("+02:00", 120),
        ("-05:30", -330),
        ("+14:00", 840),
    ] {
        assert_eq!(utc_offset(text), Some(minutes));
    }
    for bad in ["", "utc", "2", "02:00", "+15:00", "Europe/Berlin", "+2:00"] {
        assert_eq!(utc_offset(bad), None, "{bad}");
    }
}

#[test]
fn another_network_is_noted_or_refused() {
    let sources = vec![Network::parse("10.0.0.0/8").unwrap()];
    for action in [Action::Log, Action::Deny] {
        let watch = Watch::new(WatchSettings {
            sources: sources.clone(),
            action,
            ..settings()
        });
        assert_eq!(odd(&watch, &at(0, "10.1.2.3")), []);
        assert_eq!(odd(&watch, &at(0, "")), [], "a unix socket");
        let found = watch.see(&at(1, "192.0.2.1"));
        assert_eq!(found[0].what, Oddity::Source);
        assert_eq!(
            (found[0].tell, found[0].deny),
            (true, action == Action::Deny)
        );
        // Every call is found, one a minute is told.
        let again = watch.see(&at(2, "192.0.2.1"))[0];
        assert_eq!((again.tell, again.deny), (false, action == Action::Deny));
        assert!(watch.see(&at(61, "192.0.2.1"))[0].tell);
    }
}

#[test]
fn a_new_source_is_told_once_and_never_refused() {
    let watch = Watch::new(WatchSettings {
        action: Action::Deny,
        ..settings()
    });
    let new = |from: &str| watch.see(&at(0, from));
    let first = new("10.0.0.1");
    assert_eq!(
        (first[0].what, first[0].tell, first[0].deny),
        (Oddity::FirstSeen, true, false)
    );
    assert_eq!(new("10.0.0.1"), []);
    assert_eq!(new("2001:db8::1").len(), 1);
    assert_eq!(new("2001:db8::ffff"), [], "one machine has many of these");
    // What is remembered is bounded; the first is forgotten.
    for i in 0..1000_u32 {
        let from = IpAddr::from(i.to_be_bytes());
        watch.see(&Sighting {
            from: Some(from),
            ..at(0, "")
        });
    }
    assert_eq!(watch.memory.lock().unwrap().sources.len(), SOURCES_MAX);
    assert_eq!(new("10.0.0.1").len(), 1);
}

#[test]
fn other_hours_are_noted() {
    let watch = Watch::new(WatchSettings {
        hours: vec![Hours::parse("Mon-Fri 08:00-18:00").unwrap()],
        offset: 60,
        ..settings()
    });
    assert_eq!(odd(&watch, &at(7 * 3600, "")), []);
    assert_eq!(odd(&watch, &at(17 * 3600, "")), [Oddity::Hours]);
    assert_eq!(odd(&watch, &at(6 * 24 * 3600, "")), [Oddity::Hours]);
}

/// So many requests, spread over the minute; how many of them were too many.
fn minute(watch: &Watch, minute: u64, requests: u64) -> usize {
    let found = (0..requests).flat_map(|i| {
        let mut sighting = at(minute * 60, "");
        sighting.now = Moment(minute * MINUTE_MS + i * MINUTE_MS / requests);
        odd(watch, &sighting)
    });
    found.count()
}

#[test]
fn the_rate_is_held_against_the_agents_own() {
    let watch = Watch::new(WatchSettings {
        rate: Some(5.0),
        action: Action::Deny,
        ..settings()
    });
    // Nothing is too much while it is not known what is usual.
    for i in 0..10 {
        assert_eq!(minute(&watch, i, if i == 3 { 400 } else { 40 }), 0);
    }
    // The average of those ten is 76; a night without a request changes nothing.
    assert_eq!(minute(&watch, 600, 381), 1);
    for i in 601..700 {
        assert_eq!(minute(&watch, i, 40), 0, "{i}");
    }
    let found = minute(&watch, 700, 1000);
    assert!((780..=800).contains(&found), "{found}");
    // An attack that goes on does not become usual within minutes.
    assert!(minute(&watch, 701, 1000) > 700);
    assert!(minute(&watch, 702, 1000) > 600);
    // CONNECTs are not counted.
    let connect = Sighting {
        request: false,
        ..at(703 * 60, "")
    };
    assert!((0..1000).all(|_| odd(&watch, &connect).is_empty()));
}

#[test]
fn who_asks_seldom_may_ask_sixty_times_a_minute() {
    let watch = Watch::new(WatchSettings {
        rate: Some(2.0),
        ..settings()
    });
    for i in 0..20 {
        assert_eq!(minute(&watch, i, 2), 0);
    }
    assert_eq!(minute(&watch, 30, 60), 0);
    assert_eq!(minute(&watch, 31, 61), 1);
}

#[test]
fn other_settings_forget_nothing() {
    let watch = Watch::new(WatchSettings {
        rate: Some(2.0),
        ..settings()
    });
    for i in 0..10 {
        assert_eq!(minute(&watch, i, 40), 0);
    }
    watch.see(&at(600, "10.0.0.1"));
    let next = watch.succeed(WatchSettings {
        sources: vec![Network::parse("192.0.2.0/24").unwrap()],
        ..watch.settings().clone()
    });
    let found = next.see(&at(601, "10.0.0.1"));
    assert_eq!((found.len(), found[0].what), (1, Oddity::Source));
    assert!(minute(&next, 20, 200) >= 110);
}
