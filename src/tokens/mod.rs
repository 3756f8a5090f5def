//! The `tokens` room.
