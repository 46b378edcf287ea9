//! The built-in plugins: each turns what is wanted and what is there into a plan.

pub mod bandwidth;
pub mod bridge;
mod chained;
#[allow(dead_code)]
mod common;
pub mod dhcp;
pub mod host_local;
pub mod loopback;
pub mod port;
mod registry;
pub mod sbr;
mod spoof;
pub mod static_ipam;
mod surfaces;
#[allow(dead_code)]
mod table;
#[cfg(test)]
mod testing;
pub mod tuning;
pub mod vrf;

pub use registry::{configure, names, unknown_keys};
pub use surfaces::Kernel;
