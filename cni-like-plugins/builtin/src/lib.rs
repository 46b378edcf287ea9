//! The built-in plugins: each turns what is wanted and what is there into a plan.

mod common;
pub mod host_local;
pub mod loopback;
pub mod port;
mod registry;
pub mod static_ipam;
mod surfaces;

pub use registry::{NAMES, configure};
pub use surfaces::Kernel;
