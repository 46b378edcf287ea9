//! CNI plugins: those of rnet beside the reference ones, mixed with them, and called by real container runtimes.

mod bridge;
mod differ;
mod driver;
mod state;
