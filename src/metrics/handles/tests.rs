use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Touches every metric once.
fn touched() -> Metrics {
    let metrics = Metrics::new().unwrap();
    let ms = Duration::from_millis;
    metrics.request(
        "coder",
        "items",
        "allowed",
        "",
        ms(120),
        ms(1),
        Some(ms(100)),
    );
    metrics.request(
        "coder",
        "",
        "refused",
        "destination-denied",
        ms(1),
        ms(1),
        None,
    );
    metrics.tokens("items", Binding::Dpop, "live", 3);
    metrics.token_event("items", "issued");
    metrics.token_health("items", "healthy", 1);
    metrics.dpop_proof("items");
    metrics.nonce_challenge("items", Peer::Api);
    metrics.nonce_challenge("items", Peer::Issuer);
    metrics.leaf(LeafResult::Minted);
    metrics.redaction("items");
    metrics.security_event("self_connect");
    metrics.clock_offset("items", -1.5);
    metrics.config_generation(2);
    metrics.reload_failure();
    metrics.ca_not_after(1_800_000_000);
    metrics.audit_dropped(4);
    metrics.panic();
    drop(metrics.connection("proxy"));
    metrics
}

fn value(text: &str, series: &str) -> Option<f64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(series))?;
    rest.strip_prefix(' ')?.parse().ok()
}

#[test]
fn every_promised_metric_is_there_with_its_labels() {
    let text = touched().encode();
    for series in [
        r#"tokenward_requests_total{agent="coder",code="",decision="allowed",service="items"} 1"#,
        r#"tokenward_requests_total{agent="coder",code="destination-denied",decision="refused",service=""} 1"#,
        "tokenward_request_duration_seconds_count 2",
        "tokenward_overhead_seconds_count 2",
        "tokenward_upstream_duration_seconds_count 1",
        r#"tokenward_tokens{binding="dpop",service="items",state="live"} 3"#,
        r#"tokenward_token_events_total{event="issued",service="items"} 1"#,
        r#"tokenward_token_health{service="items",state="healthy"} 1"#,
        r#"tokenward_dpop_proofs_total{service="items"} 1"#,
        r#"tokenward_dpop_nonce_challenges_total{peer="api",service="items"} 1"#,
        r#"tokenward_dpop_nonce_challenges_total{peer="issuer",service="items"} 1"#,
        r#"tokenward_leaf_certificates_total{result="minted"} 1"#,
        r#"tokenward_leaf_certificates_total{result="failed"} 0"#,
        r#"tokenward_connections{listener="proxy"} 0"#,
        r#"tokenward_redactions_total{service="items"} 1"#,
        r#"tokenward_security_events_total{kind="self_connect"} 1"#,
        r#"tokenward_clock_offset_seconds{service="items"} -1.5"#,
        "tokenward_config_generation 2",
        "tokenward_config_reload_failures_total 1",
        "tokenward_ca_not_after_seconds 1800000000",
        "tokenward_audit_dropped_total 4",
        "tokenward_panics_total 1",
        concat!(
            r#"tokenward_build_info{version=""#,
            env!("CARGO_PKG_VERSION"),
            r#""} 1"#
        ),
    ] {
        assert!(text.lines().any(|l| l == series), "{series}\n{text}");
    }
}

#[test]
fn the_text_is_well_formed_and_named_as_prometheus_wants() {
    let text = touched().encode();
    assert!(text.ends_with('\n'));
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty());
            assert!(helped.insert(name), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            types.insert(name, kind);
        } else {
            let (id, number) = line.rsplit_once(' ').unwrap();
            assert!(number.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(id), "{id} twice");
            let name = id.split('{').next().unwrap();
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
            );
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .find(|family| types.contains_key(family))
                .unwrap_or(name);
            assert!(helped.contains(family), "{line}");
        }
    }
    for (name, kind) in types {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} {kind}");
    }
}

#[test]
fn buckets_cover_what_a_proxy_sees() {
    for buckets in [&names::OVERHEAD_BUCKETS[..], &names::REQUEST_BUCKETS] {
        assert!(buckets.windows(2).all(|w| w[0] < w[1]));
    }
    let text = touched().encode();
    for series in [
        r#"tokenward_overhead_seconds_bucket{le="0.00005"}"#,
        r#"tokenward_overhead_seconds_bucket{le="0.1"}"#,
        r#"tokenward_request_duration_seconds_bucket{le="0.001"}"#,
        r#"tokenward_request_duration_seconds_bucket{le="300"}"#,
    ] {
        assert!(value(&text, series).is_some(), "{series}");
    }
}

#[test]
fn connections_are_counted_while_they_live() {
    let metrics = Metrics::new().unwrap();
    let open = || {
        value(
            &metrics.encode(),
            r#"tokenward_connections{listener="proxy"}"#,
        )
    };
    assert_eq!(open(), None);
    let first = metrics.connection("proxy");
    let second = metrics.connection("proxy");
    assert_eq!(open(), Some(2.0));
    drop(first);
    assert_eq!(open(), Some(1.0));
    drop(second);
    assert_eq!(open(), Some(0.0));
}

#[test]
fn dropped_lines_only_grow() {
    let metrics = Metrics::new().unwrap();
    let dropped = || value(&metrics.encode(), "tokenward_audit_dropped_total");
    assert_eq!(dropped(), Some(0.0));
    for total in [3, 3, 2, 5] {
        metrics.audit_dropped(total);
    }
    assert_eq!(dropped(), Some(5.0));
}

#[test]
fn strange_label_values_cannot_break_a_line() {
    let metrics = Metrics::new().unwrap();
    metrics.redaction("a\"} 7\ntokenward_panics_total 9\\");
    let text = metrics.encode();
    assert_eq!(value(&text, "tokenward_panics_total"), Some(0.0));
    let lines: Vec<_> = text
        .lines()
        .filter(|l| l.contains("redactions_total{"))
        .collect();
    assert_eq!(
        lines,
        [r#"tokenward_redactions_total{service="a\"} 7\ntokenward_panics_total 9\\"} 1"#]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured_too() {
    let text = Metrics::new().unwrap().encode();
    assert!(value(&text, "process_resident_memory_bytes").is_some_and(|v| v > 0.0));
    assert!(value(&text, "process_open_fds").is_some());
}
