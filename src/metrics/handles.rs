//! The handles: one method a metric.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::names::{self, Metric};
use super::{LeafResult, Peer};
use crate::vocab::Binding;

/// Two metrics have one name, or a name is not well-formed: a defect that the first test shows.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be registered")]
pub struct MetricsError;

/// All metrics of the process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: Histogram,
    overhead: Histogram,
    upstream_duration: Histogram,
    tokens: IntGaugeVec,
    token_events: IntCounterVec,
    token_health: IntGaugeVec,
    dpop_proofs: IntCounterVec,
    nonce_challenges: IntCounterVec,
    leaf_certificates: IntCounterVec,
    connections: IntGaugeVec,
    redactions: IntCounterVec,
    security_events: IntCounterVec,
    clock_offset: GaugeVec,
    config_generation: IntGauge,
    reload_failures: IntCounter,
    ca_not_after: IntGauge,
    audit_dropped: IntCounter,
    /// The greatest number of dropped lines that was reported.
    audit_dropped_seen: AtomicU64,
    panics: IntCounter,
}

impl Metrics {
    /// Registers every metric, and those of the process (`process_*`) where the system tells them.
    ///
    /// # Errors
    /// [`MetricsError`] where the list of names contradicts itself.
    pub fn new() -> Result<Self, MetricsError> {
        let book = Book(Registry::new());
        let build_info = book.gauges(&names::BUILD_INFO)?;
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        book.add(prometheus::process_collector::ProcessCollector::for_self())?;
        let inner = Inner {
            requests: book.counters(&names::REQUESTS)?,
            request_duration: book.histogram(&names::REQUEST_DURATION, &names::REQUEST_BUCKETS)?,
            overhead: book.histogram(&names::OVERHEAD, &names::OVERHEAD_BUCKETS)?,
            upstream_duration: book
                .histogram(&names::UPSTREAM_DURATION, &names::REQUEST_BUCKETS)?,
            tokens: book.gauges(&names::TOKENS)?,
            token_events: book.counters(&names::TOKEN_EVENTS)?,
            token_health: book.gauges(&names::TOKEN_HEALTH)?,
            dpop_proofs: book.counters(&names::DPOP_PROOFS)?,
            nonce_challenges: book.counters(&names::NONCE_CHALLENGES)?,
            leaf_certificates: book.counters(&names::LEAF_CERTIFICATES)?,
            connections: book.gauges(&names::CONNECTIONS)?,
            redactions: book.counters(&names::REDACTIONS)?,
            security_events: book.counters(&names::SECURITY_EVENTS)?,
            clock_offset: book.offsets(&names::CLOCK_OFFSET)?,
            config_generation: book.gauge(&names::CONFIG_GENERATION)?,
            reload_failures: book.counter(&names::RELOAD_FAILURES)?,
            ca_not_after: book.gauge(&names::CA_NOT_AFTER)?,
            audit_dropped: book.counter(&names::AUDIT_DROPPED)?,
            audit_dropped_seen: AtomicU64::new(0),
            panics: book.counter(&names::PANICS)?,
            registry: book.0,
        };
        // A counter that begins to exist with its first event hides that event from `rate`.
        for result in LeafResult::ALL {
            inner
                .leaf_certificates
                .with_label_values(&[result.as_str()]);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// A request has ended. `agent` and `service` come from the configuration or are empty; `code` is empty where
    /// nothing failed.
    #[expect(
        clippy::too_many_arguments,
        reason = "the facts of one line, known together"
    )]
    pub fn request(
        &self,
        agent: &str,
        service: &str,
        decision: &str,
        code: &str,
        duration: Duration,
        overhead: Duration,
        upstream: Option<Duration>,
    ) {
        let inner = &self.0;
        inner
            .requests
            .with_label_values(&[agent, service, decision, code])
            .inc();
        inner.request_duration.observe(duration.as_secs_f64());
        inner.overhead.observe(overhead.as_secs_f64());
        if let Some(upstream) = upstream {
            inner.upstream_duration.observe(upstream.as_secs_f64());
        }
    }

    /// How many access tokens of a service are in a state.
    pub fn tokens(&self, service: &str, binding: Binding, state: &str, count: usize) {
        self.0
            .tokens
            .with_label_values(&[service, binding.as_str(), state])
            .set(signed(count as u64));
    }

    /// Something happened to a token: `issued`, `refreshed`, `failed` …
    pub fn token_event(&self, service: &str, event: &str) {
        self.0
            .token_events
            .with_label_values(&[service, event])
            .inc();
    }

    /// How many grants of a service are in a state of health.
    pub fn token_health(&self, service: &str, state: &str, grants: usize) {
        self.0
            .token_health
            .with_label_values(&[service, state])
            .set(signed(grants as u64));
    }

    /// A proof was signed.
    pub fn dpop_proof(&self, service: &str) {
        self.0.dpop_proofs.with_label_values(&[service]).inc();
    }

    /// A server wants another nonce.
    pub fn nonce_challenge(&self, service: &str, peer: Peer) {
        self.0
            .nonce_challenges
            .with_label_values(&[service, peer.as_str()])
            .inc();
    }

    /// A leaf certificate was asked for.
    pub fn leaf(&self, result: LeafResult) {
        self.0
            .leaf_certificates
            .with_label_values(&[result.as_str()])
            .inc();
    }

    /// Counts a connection for as long as the guard lives.
    #[must_use = "the connection is counted until this is dropped"]
    pub fn connection(&self, listener: &str) -> ConnectionGuard {
        let gauge = self.0.connections.with_label_values(&[listener]);
        gauge.inc();
        ConnectionGuard(gauge)
    }

    /// A credential was taken out of a response.
    pub fn redaction(&self, service: &str) {
        self.0.redactions.with_label_values(&[service]).inc();
    }

    /// Something that somebody should look at.
    pub fn security_event(&self, kind: &'static str) {
        self.0.security_events.with_label_values(&[kind]).inc();
    }

    /// How far a server's clock is ahead of ours; negative where it is behind.
    pub fn clock_offset(&self, service: &str, seconds: f64) {
        self.0
            .clock_offset
            .with_label_values(&[service])
            .set(seconds);
    }

    /// The policy in force.
    pub fn config_generation(&self, generation: u64) {
        self.0.config_generation.set(signed(generation));
    }

    /// A configuration was not accepted.
    pub fn reload_failure(&self) {
        self.0.reload_failures.inc();
    }

    /// When the CA expires, in seconds since 1970.
    pub fn ca_not_after(&self, seconds: i64) {
        self.0.ca_not_after.set(seconds);
    }

    /// How many audit lines were dropped since the start. Reports may come late or twice: only growth counts.
    pub fn audit_dropped(&self, total: u64) {
        let seen = self
            .0
            .audit_dropped_seen
            .fetch_max(total, Ordering::Relaxed);
        self.0.audit_dropped.inc_by(total.saturating_sub(seen));
    }

    /// A request was lost to a defect of ours.
    pub fn panic(&self) {
        self.0.panics.inc();
    }

    /// The text that `/metrics` answers with.
    #[must_use]
    pub fn encode(&self) -> String {
        // The encoder refuses only families without samples, which `gather` leaves out.
        TextEncoder::new()
            .encode_to_string(&self.0.registry.gather())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Counts one open connection until it is dropped.
pub struct ConnectionGuard(IntGauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionGuard")
    }
}

/// Makes metrics and enters them.
struct Book(Registry);

impl Book {
    fn add<C: Collector + 'static>(&self, collector: C) -> Result<(), MetricsError> {
        self.0
            .register(Box::new(collector))
            .map_err(|_| MetricsError)
    }

    fn enter<C: Collector + Clone + 'static>(
        &self,
        collector: prometheus::Result<C>,
    ) -> Result<C, MetricsError> {
        let collector = collector.map_err(|_| MetricsError)?;
        self.add(collector.clone())?;
        Ok(collector)
    }

    fn counter(&self, metric: &Metric<0>) -> Result<IntCounter, MetricsError> {
        self.enter(IntCounter::with_opts(opts(metric)))
    }

    fn counters<const N: usize>(&self, metric: &Metric<N>) -> Result<IntCounterVec, MetricsError> {
        self.enter(IntCounterVec::new(opts(metric), &metric.labels))
    }

    fn gauge(&self, metric: &Metric<0>) -> Result<IntGauge, MetricsError> {
        self.enter(IntGauge::with_opts(opts(metric)))
    }

    fn gauges<const N: usize>(&self, metric: &Metric<N>) -> Result<IntGaugeVec, MetricsError> {
        self.enter(IntGaugeVec::new(opts(metric), &metric.labels))
    }

    fn offsets<const N: usize>(&self, metric: &Metric<N>) -> Result<GaugeVec, MetricsError> {
        self.enter(GaugeVec::new(opts(metric), &metric.labels))
    }

    fn histogram(&self, metric: &Metric<0>, buckets: &[f64]) -> Result<Histogram, MetricsError> {
        let opts = HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec());
        self.enter(Histogram::with_opts(opts))
    }
}

fn opts<const N: usize>(metric: &Metric<N>) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
