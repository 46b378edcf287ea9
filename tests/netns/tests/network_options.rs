//! What can be asked of a network, and what it does: each option with an effect that can be seen.

mod edit;
mod gateways;
mod limits;
mod manage;
mod outside;
