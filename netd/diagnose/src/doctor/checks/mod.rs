//! The checks, by subject. Each is a function from [`super::Facts`] to what is wrong.

pub(super) mod daemon;
pub(super) mod firewall;
pub(super) mod kernel;
pub(super) mod network;
pub(super) mod sysctls;

#[cfg(test)]
mod tests;
