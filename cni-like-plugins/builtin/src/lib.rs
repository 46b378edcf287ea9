//! The built-in plugins: each turns what is wanted and what is there into a plan.

pub mod bridge;
#[allow(dead_code)]
mod common;
pub mod host_local;
pub mod loopback;
pub mod port;
mod registry;
mod spoof;
pub mod static_ipam;
mod surfaces;
#[allow(dead_code)]
mod table;

pub use registry::{NAMES, configure};
pub use surfaces::Kernel;
