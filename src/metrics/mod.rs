//! What operators measure: every metric of tokenward, and typed handles to count with.
//!
//! What it does not know: requests, tokens, policy. Rooms call a method with words that the configuration chose; that
//! rule keeps the number of series bounded, whatever agents send. No other room imports `prometheus` or writes a
//! label by hand.
//!
//! Invariant: counting never fails, never waits and never allocates for a series that exists. The output is the
//! Prometheus text format, version 0.0.4.

mod handles;
mod labels;
mod names;

pub use handles::{ConnectionGuard, Metrics, MetricsError};
pub use labels::{LeafResult, Peer};
