//! Metrics for Prometheus: counters that are kept while netd runs, and what the engine shows when it is asked.
//!
//! Owns the registry ([`Registry`]), the text format ([`text`]) and the listener of `[metrics]` ([`listen`]). A writer of
//! its own: the format is four lines of grammar, and what is asked of the engine needs no registry.

mod gather;
mod listen;
mod registry;
mod text;

pub(crate) use gather::gather;
pub(crate) use listen::listen;
pub(crate) use registry::{Counter, Registry};

/// Media type of the text format, version 0.0.4.
pub(crate) const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";
