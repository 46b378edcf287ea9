//! What a runtime must do by the CNI specification: networks as lists of plugins, read from files; executables of others as
//! plugins; the results of ADD kept for DEL and CHECK; and a list run from end to end.
//!
//! A runtime runs it from the host's network namespace, and makes the container's before and removes it after.

mod cache;
mod chain;
mod exec;
mod files;
mod gate;
mod list;
mod run;

pub use cache::{Cache, Cached};
pub use chain::{Attachment, Chain, Resolver};
pub use exec::{Directories, Executable};
pub use gate::{Gate, Pass};
pub use list::{Extra, Listed, NetworkList, PluginConfig};
pub use run::Limits;

#[cfg(test)]
mod tests;
