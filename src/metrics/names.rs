//! Every metric: name, help and labels, in one list. Dashboards and alerts elsewhere use these names; they are kept.

/// A metric's name, help text and label names.
pub(super) struct Metric<const N: usize> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: [&'static str; N],
}

const fn metric<const N: usize>(
    name: &'static str,
    labels: [&'static str; N],
    help: &'static str,
) -> Metric<N> {
    Metric { name, help, labels }
}

pub(super) const REQUESTS: Metric<4> = metric(
    "tokenward_requests_total",
    ["agent", "service", "decision", "code"],
    "Requests of agents that have ended, by decision; code is empty where nothing failed.",
);
pub(super) const REQUEST_DURATION: Metric<0> = metric(
    "tokenward_request_duration_seconds",
    [],
    "From the arrival of a request's head to the end of its response.",
);
pub(super) const OVERHEAD: Metric<0> = metric(
    "tokenward_overhead_seconds",
    [],
    "The part of a request's duration that tokenward itself took.",
);
pub(super) const UPSTREAM_DURATION: Metric<0> = metric(
    "tokenward_upstream_duration_seconds",
    [],
    "From sending a request to the head of the API's response.",
);
pub(super) const TOKENS: Metric<3> = metric(
    "tokenward_tokens",
    ["service", "binding", "state"],
    "Access tokens held, by binding and state.",
);
pub(super) const TOKEN_EVENTS: Metric<2> = metric(
    "tokenward_token_events_total",
    ["service", "event"],
    "Events in the life of access tokens.",
);
pub(super) const TOKEN_HEALTH: Metric<2> = metric(
    "tokenward_token_health",
    ["service", "state"],
    "Grants of a service in each state of health.",
);
pub(super) const DPOP_PROOFS: Metric<1> = metric(
    "tokenward_dpop_proofs_total",
    ["service"],
    "DPoP proofs signed.",
);
pub(super) const NONCE_CHALLENGES: Metric<2> = metric(
    "tokenward_dpop_nonce_challenges_total",
    ["service", "peer"],
    "Requests that were answered with a demand for another DPoP nonce.",
);
pub(super) const LEAF_CERTIFICATES: Metric<1> = metric(
    "tokenward_leaf_certificates_total",
    ["result"],
    "Leaf certificates asked for when intercepting TLS.",
);
pub(super) const CONNECTIONS: Metric<1> = metric(
    "tokenward_connections",
    ["listener"],
    "Open connections of agents.",
);
pub(super) const REDACTIONS: Metric<1> = metric(
    "tokenward_redactions_total",
    ["service"],
    "Credentials found in and taken out of responses.",
);
pub(super) const SECURITY_EVENTS: Metric<1> = metric(
    "tokenward_security_events_total",
    ["kind"],
    "Events that somebody should look at.",
);
pub(super) const CLOCK_OFFSET: Metric<1> = metric(
    "tokenward_clock_offset_seconds",
    ["service"],
    "How far the server's clock is ahead of ours.",
);
pub(super) const CONFIG_GENERATION: Metric<0> = metric(
    "tokenward_config_generation",
    [],
    "The number of the policy in force.",
);
pub(super) const RELOAD_FAILURES: Metric<0> = metric(
    "tokenward_config_reload_failures_total",
    [],
    "Configurations that were not accepted.",
);
pub(super) const CA_NOT_AFTER: Metric<0> = metric(
    "tokenward_ca_not_after_seconds",
    [],
    "When the interception CA expires, in seconds since 1970.",
);
pub(super) const AUDIT_DROPPED: Metric<0> = metric(
    "tokenward_audit_dropped_total",
    [],
    "Audit lines that were never written.",
);
pub(super) const PANICS: Metric<0> = metric(
    "tokenward_panics_total",
    [],
    "Requests lost to a defect of tokenward.",
);
pub(super) const BUILD_INFO: Metric<1> = metric(
    "tokenward_build_info",
    ["version"],
    "Always 1; which build this is.",
);

/// Buckets for our own part: signing and matching take tens of microseconds, a cold TLS handshake or a wait for a
/// token tens of milliseconds. What is above 100 ms is a fault and needs no finer scale.
pub(super) const OVERHEAD_BUCKETS: [f64; 11] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
];

/// Buckets for whole requests: from a cached answer next door to a model that streams for five minutes.
pub(super) const REQUEST_BUCKETS: [f64; 15] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0,
];
