//! Address pools as pure values: who holds which address of a subnet, and which one is next.
//!
//! Owns: the life of an address (free, live, reserved, resting), which addresses of a subnet may be handed out, and the
//! choice of subnets for networks that name none. Refuses: clocks and sockets; the caller passes the time and says what
//! it can see in use. The truth about live addresses is the daemon's list of endpoints; a pool is built again from it.

mod error;
mod free;
mod pool;
mod subnets;
#[cfg(test)]
mod tests;

pub use error::IpamError;
pub use pool::{Pool, PoolSpec, State};
pub use subnets::{SubnetPools, ula_subnet};
