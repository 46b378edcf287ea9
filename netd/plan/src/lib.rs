//! Plans: ordered, printable steps with their undo, and the executor that applies them.
//!
//! Owns: what a step is, the order of undo, the fail points. Refuses: deciding which steps are needed (that is a plugin's
//! or the daemon's pure function) and knowing how the kernel is told (that is `rnet-kernel`).

mod apply;
pub mod fail;
mod step;
#[cfg(test)]
mod tests;

pub use apply::{Failure, Surfaces, apply, undo};
pub use step::{Action, Place, Plan, Step};
