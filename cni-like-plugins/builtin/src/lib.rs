//! The built-in plugins: each turns what is wanted and what is there into a plan.

pub mod bandwidth;
pub mod bridge;
mod chained;
mod common;
mod device;
pub mod dhcp;
pub mod dummy;
pub mod firewall;
pub mod host_device;
pub mod host_local;
pub mod ipvlan;
pub mod loopback;
pub mod macvlan;
pub mod port;
pub mod portmap;
pub mod ptp;
mod registry;
pub mod sbr;
pub mod shaping;
mod spoof;
pub mod static_ipam;
mod surfaces;
mod table;
pub mod tap;
#[cfg(test)]
mod testbed;
#[cfg(test)]
mod testing;
pub mod tuning;
pub mod vlan;
pub mod vrf;

pub use registry::{configure, names, oldest, unknown_keys};
pub use surfaces::Kernel;
