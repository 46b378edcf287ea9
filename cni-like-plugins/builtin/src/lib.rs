//! The built-in plugins: each a pure function from what is wanted and what is there to a plan.

pub mod port;
