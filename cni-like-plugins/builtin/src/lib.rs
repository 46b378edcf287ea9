//! The built-in plugins: each turns what is wanted and what is there into a plan.

#[allow(dead_code)]
mod chained;
#[allow(dead_code)]
mod common;
pub mod host_local;
pub mod loopback;
pub mod port;
mod registry;
pub mod static_ipam;
mod surfaces;
#[allow(dead_code)]
mod table;
#[cfg(test)]
mod testing;
pub mod tuning;

pub use registry::{NAMES, configure};
pub use surfaces::Kernel;
