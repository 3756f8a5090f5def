//! The `credential` room.
