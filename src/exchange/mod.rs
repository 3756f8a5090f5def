//! The `exchange` room.
