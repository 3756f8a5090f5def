//! The keeper's rules, one by one.

use std::time::Duration;

use super::pace::{hint, renew_in};
use super::*;
use crate::vocab::{AgentName, Scope, ServiceName};

pub(super) fn key(scope: &str) -> Key {
    Key {
        edition: 1,
        grant: GrantId {
            service: ServiceName::new("items").unwrap(),
            agent: AgentName::fallback(),
        },
        scopes: ScopeSet::of([Scope::new(scope).unwrap()]),
    }
}

const HOUR: Duration = Duration::from_hours(1);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A keeper with its two clocks, which a test turns together or apart.
struct Bench {
    keeper: Keeper,
    now: Moment,
    wall: WallTime,
}

impl Bench {
    fn new() -> Self {
        Self {
            keeper: Keeper::new(7),
            now: Moment(1_000),
            wall: WallTime(1_700_000_000_000),
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.wall = self.wall + span;
    }

    /// Actions other than the wish for a tick.
    fn feed(&mut self, event: Event<&'static str>) -> Vec<Action<&'static str>> {
        let mut actions = self.keeper.handle(self.now, self.wall, event);
        actions.retain(|a| !matches!(a, Action::WakeAt(_) | Action::Trouble { .. }));
        actions
    }

    fn ask(&mut self) -> Vec<Action<&'static str>> {
        self.feed(Event::Asked(key("a")))
    }

    fn tick(&mut self) -> Vec<Action<&'static str>> {
        self.feed(Event::Tick)
    }

    fn grant(&mut self, attempt: u64, life: Option<Duration>) -> Vec<Action<&'static str>> {
        self.feed(Event::Granted {
            key: key("a"),
            attempt,
            token: "t",
            life,
            cap: HOUR,
        })
    }

    fn fail(&mut self, attempt: u64, failure: impl Into<Failure>) -> Vec<Action<&'static str>> {
        self.feed(Event::Failed {
            key: key("a"),
            attempt,
            failure: failure.into(),
        })
    }

    /// A live token; its lease number.
    fn live(&mut self, life: u64) -> u64 {
        let attempt = fetch(&self.ask());
        published(&self.grant(attempt, Some(secs(life)))).0
    }
}

fn fetch(actions: &[Action<&'static str>]) -> u64 {
    match actions {
        [Action::Fetch { attempt, .. }] => *attempt,
        other => panic!("one fetch wanted: {other:?}"),
    }
}

fn published(actions: &[Action<&'static str>]) -> (u64, Expiry) {
    match actions {
        [Action::Publish { lease, expires, .. }, Action::Wake(_)] => (*lease, *expires),
        other => panic!("a token wanted: {other:?}"),
    }
}

fn refused(actions: &[Action<&'static str>]) -> Unavailable {
    match actions {
        [Action::Refuse { refusal, .. }] => refusal.clone(),
        other => panic!("a refusal wanted: {other:?}"),
    }
}

fn woken(actions: &[Action<&'static str>]) -> bool {
    matches!(actions, [Action::Wake(_)])
}

#[test]
fn many_asks_are_one_fetch() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    for _ in 0..500 {
        assert!(bench.ask().is_empty());
    }
    assert!(!bench.feed(Event::Asked(key("b"))).is_empty());
    published(&bench.grant(attempt, Some(HOUR)));
    assert!(woken(&bench.ask()));
}

#[test]
fn an_answer_to_an_older_fetch_changes_nothing() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    assert!(bench.grant(attempt + 9, Some(HOUR)).is_empty());
    assert!(bench.fail(attempt + 9, Code::AsTimeout).is_empty());
    published(&bench.grant(attempt, Some(HOUR)));
    assert!(bench.grant(attempt, Some(HOUR)).is_empty());
}

#[test]
fn no_token_lives_longer_than_thirty_minutes_or_the_configured_cap() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    let (_, expires) = published(&bench.grant(attempt, Some(secs(86_400))));
    assert_eq!(expires.monotonic.since(bench.now), secs(1800));
    assert_eq!(expires.wall.0 - bench.wall.0, 1_800_000);
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    let actions = bench.feed(Event::Granted {
        key: key("a"),
        attempt,
        token: "t",
        life: Some(HOUR),
        cap: secs(60),
    });
    assert_eq!(published(&actions).1.monotonic.since(bench.now), secs(60));
}

#[test]
fn an_issuer_that_names_no_life_gives_five_minutes() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    let (_, expires) = published(&bench.grant(attempt, None));
    assert_eq!(expires.monotonic.since(bench.now), secs(300));
}

#[test]
fn a_token_ages_from_the_moment_it_was_asked_for() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    bench.pass(secs(9));
    let (_, expires) = published(&bench.grant(attempt, Some(secs(60))));
    assert_eq!(expires.monotonic.since(bench.now), secs(51));
    let mut asleep = Bench::new();
    let attempt = fetch(&asleep.ask());
    asleep.wall = asleep.wall + HOUR;
    assert_eq!(
        refused(&asleep.grant(attempt, Some(secs(60)))).code,
        Code::AsUnavailable
    );
}

#[test]
fn renewal_begins_between_75_and_80_percent_of_life() {
    for seed in 0..50 {
        let mut jitter = Jitter::new(seed);
        for (life, from, to) in [(1800, 1350, 1440), (300, 225, 240), (60, 45, 48)] {
            let at = renew_in(secs(life), Duration::ZERO, secs(life), &mut jitter);
            assert!((secs(from)..=secs(to)).contains(&at), "{life}: {at:?}");
        }
        // Ten seconds before the end, but never more than half of the life before it.
        for (life, at) in [(40, 30), (20, 10), (12, 6), (2, 1), (1, 1)] {
            let got = renew_in(secs(life), Duration::ZERO, secs(life), &mut jitter);
            assert!(got <= secs(at), "{life}: {got:?}");
        }
    }
}

#[test]
fn the_old_token_serves_while_its_renewal_fails() {
    let mut bench = Bench::new();
    bench.live(500);
    bench.pass(secs(401));
    let attempt = fetch(&bench.tick());
    assert!(bench.fail(attempt, Code::AsUnavailable).is_empty());
    assert!(woken(&bench.ask()));
    bench.pass(secs(1));
    let attempt = fetch(&bench.tick());
    bench.fail(
        attempt,
        Failure::because(Code::ClientMisconfigured, "invalid_client"),
    );
    assert!(woken(&bench.ask()));
    bench.pass(secs(100));
    let actions = bench.ask();
    assert!(matches!(
        actions[..],
        [Action::Drop { .. }, Action::Fetch { .. }]
    ));
}

#[test]
fn a_renewal_replaces_the_token_without_a_gap() {
    let mut bench = Bench::new();
    let first = bench.live(500);
    bench.pass(secs(401));
    let attempt = fetch(&bench.tick());
    assert!(woken(&bench.ask()));
    let actions = bench.grant(attempt, Some(secs(500)));
    assert!(matches!(actions[0], Action::Publish { renewal: true, .. }));
    assert!(published(&actions).0 > first);
}

#[test]
fn either_clock_ends_a_token() {
    for jump in [(HOUR, Duration::ZERO), (Duration::ZERO, HOUR)] {
        let mut bench = Bench::new();
        let lease = bench.live(600);
        bench.now = bench.now + jump.0;
        bench.wall = bench.wall + jump.1;
        let actions = bench.tick();
        assert!(
            matches!(actions[0], Action::Drop { lease: l, .. } if l == lease),
            "{actions:?}"
        );
    }
}

#[test]
fn a_wall_clock_set_back_keeps_no_token_alive() {
    let mut bench = Bench::new();
    bench.live(600);
    bench.wall = WallTime(0);
    bench.now = bench.now + secs(600);
    assert!(matches!(bench.ask()[0], Action::Drop { .. }));
}

#[test]
fn a_dead_grant_is_tried_at_most_eight_times_a_minute() {
    for seed in 0..200 {
        let mut bench = Bench::new();
        bench.keeper = Keeper::new(seed);
        let mut fetches = 0;
        for _ in 0..6000 {
            for action in bench.ask() {
                if let Action::Fetch { attempt, .. } = action {
                    fetches += 1;
                    let refusal = refused(&bench.fail(
                        attempt,
                        Failure::because(Code::ReauthorizationRequired, "invalid_grant"),
                    ));
                    assert_eq!(refusal.oauth_error, Some("invalid_grant"));
                }
            }
            bench.pass(Duration::from_millis(10));
        }
        assert!((5..=8).contains(&fetches), "seed {seed}: {fetches}");
    }
}

#[test]
fn after_the_pause_one_trial_goes_out_and_the_others_wait_for_it() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    bench.fail(attempt, Code::ClientMisconfigured);
    assert_eq!(refused(&bench.ask()).code, Code::ClientMisconfigured);
    bench.pass(secs(2));
    let attempt = fetch(&bench.ask());
    assert!(bench.ask().is_empty());
    published(&bench.grant(attempt, Some(HOUR)));
}

#[test]
fn a_429_does_not_hide_a_dead_grant() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    bench.fail(attempt, Code::ReauthorizationRequired);
    bench.pass(secs(2));
    let attempt = fetch(&bench.ask());
    let throttled = Failure {
        retry_after: Some(secs(60)),
        ..Code::AsUnavailable.into()
    };
    assert_eq!(
        refused(&bench.fail(attempt, throttled)).code,
        Code::ReauthorizationRequired
    );
    bench.pass(secs(59));
    assert_eq!(refused(&bench.ask()).code, Code::ReauthorizationRequired);
    bench.pass(secs(2));
    let attempt = fetch(&bench.ask());
    published(&bench.grant(attempt, Some(HOUR)));
}

#[test]
fn a_verdict_replaces_an_outage() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    assert_eq!(
        refused(&bench.fail(attempt, Code::AsUnavailable)).retry_after,
        Some(secs(1))
    );
    bench.pass(secs(1));
    let attempt = fetch(&bench.ask());
    let refusal = refused(&bench.fail(attempt, Code::ReauthorizationRequired));
    assert_eq!(refusal.code, Code::ReauthorizationRequired);
    assert_eq!(refusal.retry_after, None);
}

#[test]
fn retry_after_is_honoured_up_to_five_minutes() {
    for (asked, waits) in [(60, 60), (86_400, 300)] {
        let mut bench = Bench::new();
        let attempt = fetch(&bench.ask());
        let failure = Failure {
            retry_after: Some(secs(asked)),
            ..Code::AsUnavailable.into()
        };
        let refusal = refused(&bench.fail(attempt, failure));
        assert_eq!(refusal.retry_after, Some(secs(waits)));
        bench.pass(secs(waits) - Duration::from_millis(1));
        assert_eq!(refused(&bench.ask()).code, Code::AsUnavailable);
        bench.pass(secs(1));
        fetch(&bench.ask());
    }
}

#[test]
fn an_outage_is_tried_again_after_at_most_thirty_seconds() {
    let mut bench = Bench::new();
    let mut attempt = fetch(&bench.ask());
    for _ in 0..20 {
        bench.fail(attempt, Code::AsTimeout);
        let refusal = refused(&bench.ask());
        assert!(refusal.retry_after.unwrap() <= secs(36));
        bench.pass(secs(36));
        attempt = fetch(&bench.ask());
    }
}

#[test]
fn two_hundred_refusals_of_one_token_are_one_fetch() {
    let mut bench = Bench::new();
    let lease = bench.live(600);
    let actions = bench.feed(Event::Rejected {
        lease,
        again: false,
    });
    let attempt = match actions[..] {
        [Action::Drop { lease: l, .. }, Action::Fetch { attempt, .. }] if l == lease => attempt,
        _ => panic!("{actions:?}"),
    };
    for _ in 0..199 {
        assert!(
            bench
                .feed(Event::Rejected {
                    lease,
                    again: false
                })
                .is_empty()
        );
    }
    published(&bench.grant(attempt, Some(HOUR)));
    assert!(
        bench
            .feed(Event::Rejected {
                lease,
                again: false
            })
            .is_empty()
    );
    assert!(woken(&bench.ask()));
}

#[test]
fn a_second_refused_token_brings_a_rest_of_thirty_seconds() {
    for again in [true, false] {
        let mut bench = Bench::new();
        let lease = bench.live(600);
        let actions = bench.feed(Event::Rejected {
            lease,
            again: false,
        });
        let Action::Fetch { attempt, .. } = actions[1] else {
            panic!("{actions:?}")
        };
        let (lease, _) = published(&bench.grant(attempt, Some(secs(600))));
        let actions = bench.feed(Event::Rejected { lease, again });
        assert!(matches!(actions[..], [Action::Drop { .. }]), "{actions:?}");
        let refusal = refused(&bench.ask());
        assert_eq!(refusal.code, Code::UpstreamRejectedCredential);
        assert_eq!(refusal.retry_after, Some(secs(30)));
        bench.pass(secs(29));
        refused(&bench.ask());
        bench.pass(secs(1));
        fetch(&bench.ask());
    }
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let mut bench = Bench::new();
    let lease = bench.live(1800);
    bench.pass(secs(599));
    assert!(bench.tick().is_empty());
    bench.pass(secs(1));
    assert_eq!(
        bench.tick(),
        [
            Action::Drop {
                key: key("a"),
                lease,
                reason: Reason::Idle,
            },
            Action::Forget(key("a"))
        ]
    );
    assert!(bench.keeper.entries.is_empty() && bench.keeper.holders.is_empty());
    bench.live(1800);
    bench.pass(secs(500));
    let at = bench.now;
    bench.feed(Event::Used { key: key("a"), at });
    bench.pass(secs(200));
    assert!(bench.tick().is_empty());
}

#[test]
fn a_fetch_that_vanished_is_given_up() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    bench.pass(FLIGHT_MAX);
    assert_eq!(refused(&bench.tick()).code, Code::AsTimeout);
    assert!(bench.grant(attempt, Some(HOUR)).is_empty());
    bench.pass(secs(1));
    assert!(fetch(&bench.ask()) > attempt);
}

#[test]
fn a_retired_credential_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let lease = bench.live(600);
    bench.feed(Event::Asked(key("b")));
    let actions = bench.feed(Event::Retired { edition: 1 });
    assert!(actions.contains(&Action::Drop {
        key: key("a"),
        lease,
        reason: Reason::ConfigChanged,
    }));
    assert!(actions.contains(&Action::Refuse {
        key: key("b"),
        refusal: Code::ConfigChanged.into()
    }));
    assert!(bench.keeper.entries.is_empty() && bench.keeper.holders.is_empty());
}

#[test]
fn the_table_is_bounded() {
    let mut bench = Bench::new();
    for i in 0..ENTRIES_MAX {
        bench.feed(Event::Asked(key(&format!("s{i}"))));
    }
    assert_eq!(refused(&bench.ask()).code, Code::Overloaded);
    bench.feed(Event::Failed {
        key: key("s7"),
        attempt: 8,
        failure: Code::AsUnavailable.into(),
    });
    let actions = bench.ask();
    assert!(matches!(
        &actions[..],
        [Action::Forget(k), Action::Fetch { .. }] if *k == key("s7")
    ));
    assert_eq!(bench.keeper.entries.len(), ENTRIES_MAX);
}

#[test]
fn a_hint_is_whole_seconds_and_never_zero() {
    assert_eq!(hint(Duration::ZERO), secs(1));
    assert_eq!(hint(Duration::from_millis(1001)), secs(2));
    assert_eq!(hint(HOUR), secs(300));
}

#[test]
fn the_keeper_asks_for_a_tick_in_time() {
    let mut bench = Bench::new();
    let actions: Vec<Action<&str>> =
        bench
            .keeper
            .handle(bench.now, bench.wall, Event::Asked(key("a")));
    assert!(actions.contains(&Action::WakeAt(bench.now + FLIGHT_MAX)));
    let Action::Fetch { attempt, .. } = actions[0] else {
        panic!("{actions:?}")
    };
    let actions = bench.keeper.handle(
        bench.now,
        bench.wall,
        Event::Granted {
            key: key("a"),
            attempt,
            token: "t",
            life: Some(secs(20)),
            cap: HOUR,
        },
    );
    let wake = actions.iter().find_map(|a| match a {
        Action::WakeAt(at) => Some(at.since(bench.now)),
        _ => None,
    });
    assert!(wake.is_some_and(|w| w <= secs(10)), "{wake:?}");
}

/// A new certificate: tokens are had anew while the old ones go on.
#[test]
fn a_renewal_that_is_wanted_keeps_the_old_token_meanwhile() {
    let mut bench = Bench::new();
    let actions = bench.ask();
    let [Action::Fetch { attempt, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    bench.grant(*attempt, Some(secs(600)));
    bench.pass(secs(1));
    assert!(
        bench
            .feed(Event::Renew {
                edition: 2,
                agent: None
            })
            .is_empty(),
        "another's"
    );
    let actions = bench.feed(Event::Renew {
        edition: 1,
        agent: None,
    });
    let [Action::Fetch { attempt, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(bench.ask(), [Action::Wake(key("a"))], "the old one serves");
    let again = bench.feed(Event::Renew {
        edition: 1,
        agent: None,
    });
    assert!(again.is_empty(), "one at a time");
    let actions = bench.grant(*attempt, Some(secs(600)));
    assert!(
        matches!(actions[0], Action::Publish { renewal: true, .. }),
        "{actions:?}"
    );
}

#[test]
fn an_outage_is_noticed_to_be_over_within_a_share_of_a_tokens_life() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.ask());
    published(&bench.grant(attempt, Some(secs(45))));
    // The issuer goes away; agents ask all the time, before the token's end and long after it.
    let (mut last, mut served, mut refused) = (bench.now, 0, 0);
    let mut pending = None;
    for _ in 0..3_000 {
        bench.pass(Duration::from_millis(100));
        let mut actions = bench.tick();
        actions.extend(bench.ask());
        served += actions
            .iter()
            .filter(|a| matches!(a, Action::Wake(_)))
            .count();
        for action in actions {
            if let Action::Fetch { attempt, .. } = action {
                let pause = bench.now.since(last);
                assert!(
                    pending.is_some() || bench.now.0 < 40_000 || pause < secs(4),
                    "{pause:?}"
                );
                (last, pending) = (bench.now, Some(attempt));
                let told = bench.fail(attempt, Code::AsUnavailable);
                refused += told.len();
            }
        }
    }
    // Every ask of the first 45 s was served, and none after it.
    assert_eq!(served, 449);
    assert!(refused > 0);
}

#[test]
fn what_is_pursued_is_fetched_again_without_anybody_asking() {
    let mut bench = Bench::new();
    let attempt = fetch(&bench.feed(Event::Pursued(key("a"))));
    bench.fail(attempt, Code::AsUnavailable);
    bench.pass(secs(1));
    let attempt = fetch(&bench.tick());
    // A verdict ends it; only the next ask tries again.
    bench.fail(attempt, Code::ReauthorizationRequired);
    bench.pass(secs(120));
    assert!(bench.tick().is_empty());
    let attempt = fetch(&bench.ask());
    published(&bench.grant(attempt, Some(HOUR)));
}

#[test]
fn a_clock_that_leaps_ends_tokens_once_and_causes_no_storm() {
    // Two hours forth, two back, ten years forth, 1970.
    let leaps = [
        |wall: u64| wall + 7_200_000,
        |wall: u64| wall - 7_200_000,
        |wall: u64| wall + 315_360_000_000,
        |_: u64| 0,
    ];
    let mut bench = Bench::new();
    let mut fetches = 0;
    bench.live(600);
    for leap in leaps {
        bench.wall = WallTime(leap(bench.wall.0));
        for _ in 0..50 {
            bench.pass(Duration::from_millis(100));
            for action in bench
                .tick()
                .into_iter()
                .chain(bench.ask())
                .collect::<Vec<_>>()
            {
                if let Action::Fetch { attempt, .. } = action {
                    fetches += 1;
                    let (_, expires) = published_among(&bench.grant(attempt, Some(secs(600))));
                    assert!(!expires.passed(bench.now, bench.wall));
                }
            }
        }
    }
    // Forth ends the token, back does not: the monotonic clock goes on counting.
    assert_eq!(fetches, 2);
    // Suspended for an hour: the monotonic clock stood still, and the first request fetches.
    let mut bench = Bench::new();
    bench.live(600);
    bench.wall = bench.wall + HOUR;
    let asked = bench.ask();
    assert!(matches!(
        asked[..],
        [Action::Drop { .. }, Action::Fetch { .. }]
    ));
}

fn published_among(actions: &[Action<&'static str>]) -> (u64, Expiry) {
    let published = actions.iter().find_map(|action| match action {
        Action::Publish { lease, expires, .. } => Some((*lease, *expires)),
        _ => None,
    });
    published.expect("a token wanted")
}

#[test]
fn a_token_that_serves_everything_takes_the_place_of_the_others() {
    let mut bench = Bench::new();
    let lease = bench.live(600);
    let attempt = fetch(&bench.feed(Event::Asked(key("b"))));
    let granted = Event::Granted {
        key: key("b"),
        attempt,
        token: "t",
        life: Some(HOUR),
        cap: HOUR,
    };
    let (whole, _) = published(&bench.feed(granted));
    let merged = |from| Event::Merged {
        from,
        into: key("all"),
    };
    let actions = bench.feed(merged(Some(key("b"))));
    let moved = Action::Move {
        from: key("b"),
        into: key("all"),
    };
    assert!(actions.contains(&moved));
    let reason = Reason::Merged;
    let (a, all) = (key("a"), key("all"));
    assert!(actions.contains(&Action::Drop {
        key: a,
        lease,
        reason
    }));
    assert!(woken(&bench.feed(Event::Asked(all.clone()))));
    // Reports find the lease under its new name, and a second merge leaves it alone.
    assert!(bench.feed(merged(None)).is_empty());
    let dropped = bench.feed(Event::Rejected {
        lease: whole,
        again: false,
    });
    assert!(dropped.contains(&Action::Drop {
        key: all,
        lease: whole,
        reason: Reason::InvalidToken
    }));
}

#[test]
fn what_a_check_calls_over_is_replaced_at_once_and_what_it_doubts_is_renewed() {
    let mut bench = Bench::new();
    let lease = bench.live(3600);
    let doubted = |dead| Event::Doubted { lease, dead };
    fetch(&bench.feed(doubted(false)));
    // That fetch is under way: whatever is said now begins no other.
    assert_eq!(bench.feed(doubted(false)), []);
    let dropped = bench.feed(doubted(true));
    let reason = match dropped.as_slice() {
        [Action::Drop { reason, .. }] => *reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason, Reason::Inactive);
    // What is said of a lease that is not in use changes nothing.
    assert_eq!(bench.feed(doubted(true)), []);
    assert!(bench.ask().is_empty());
}

#[test]
fn what_ended_one_token_of_a_grant_has_the_others_renewed() {
    let mut bench = Bench::new();
    let lease = bench.live(3600);
    let attempt = fetch(&bench.feed(Event::Asked(key("b"))));
    published(&bench.feed(Event::Granted {
        key: key("b"),
        attempt,
        token: "t",
        life: Some(HOUR),
        cap: HOUR,
    }));
    let actions = bench.feed(Event::Doubted { lease, dead: true });
    let fetched = actions.iter().filter_map(|action| match action {
        Action::Fetch { key, .. } => Some(key.clone()),
        _ => None,
    });
    assert_eq!(fetched.collect::<Vec<_>>(), [key("a"), key("b")]);
}
