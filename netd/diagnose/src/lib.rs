//! Says what is wrong with the network of a host.
//!
//! Owns: the checks of `rnet doctor` (pure functions over [`doctor::Facts`]) and how their facts are collected, the walk
//! of `rnet explain`, and `rnet ping-all`. Refuses: changing anything that stays; the tables of a walk live as long as
//! its socket. Blocking: netd runs it on threads outside of its engine, the command line by itself.

pub mod doctor;
mod echo;
pub mod explain;
pub mod ping;
mod program;
pub mod rules;
