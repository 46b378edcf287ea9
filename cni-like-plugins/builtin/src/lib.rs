//! The built-in plugins: each turns what is wanted and what is there into a plan.

pub mod bridge;
#[allow(dead_code)]
mod common;
mod device;
pub mod dummy;
pub mod host_device;
pub mod host_local;
pub mod ipvlan;
pub mod loopback;
pub mod macvlan;
pub mod port;
pub mod ptp;
mod registry;
mod spoof;
pub mod static_ipam;
mod surfaces;
#[allow(dead_code)]
mod table;
pub mod tap;
#[cfg(test)]
mod testbed;
pub mod vlan;

pub use registry::{NAMES, configure};
pub use surfaces::Kernel;
