//! The `upstream` room.
