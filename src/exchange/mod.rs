//! The `exchange` room.

mod settings;

pub use settings::{ServiceSettings, Timeouts};
