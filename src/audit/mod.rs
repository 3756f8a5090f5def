//! The `audit` room.
