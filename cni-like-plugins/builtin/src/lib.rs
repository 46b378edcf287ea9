//! The built-in plugins: each turns what is wanted and what is there into a plan.

#[allow(dead_code)]
mod common;
pub mod dhcp;
pub mod host_local;
pub mod loopback;
pub mod port;
mod registry;
pub mod static_ipam;
mod surfaces;
#[allow(dead_code)]
mod table;

pub use registry::{NAMES, configure};
pub use surfaces::Kernel;
