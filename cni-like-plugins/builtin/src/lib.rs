//! The built-in network types. Each is a pure function from what is wanted and what is there to a plan.

mod bridge;

pub use bridge::{Bridge, dress};
