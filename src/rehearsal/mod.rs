//! The `rehearsal` room.
