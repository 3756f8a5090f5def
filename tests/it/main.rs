//! Tests over several rooms, in one binary: linking is most of what a test binary costs.

mod examples;
