//! CNI plugins: those of rnet beside the reference ones, mixed with them, and called by real container runtimes.

mod bad_input;
mod bridge;
mod clients;
mod differ;
mod driver;
mod hard;
mod interfaces;
mod meta;
mod orders;
mod state;
