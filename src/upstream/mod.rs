//! The `upstream` room.

mod settings;

pub use settings::{ConnectTo, TargetSettings};
