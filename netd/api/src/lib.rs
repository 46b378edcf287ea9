//! Requests, responses and the client of netd's HTTP API: JSON over HTTP/1.1 on a unix socket, version `/v1`.
//!
//! Owns: the words both sides use, the list of routes ([`openapi::ROUTES`]), where an instance keeps its files
//! ([`Root`]). Refuses: any decision about networks; that is the daemon's.

mod client;
mod cni;
mod diagnose;
mod direct;
mod error;
mod networks;
mod observe;
pub mod openapi;
mod root;
mod stream;
mod types;

pub use client::Client;
pub use cni::*;
pub use diagnose::*;
pub use direct::DirectClient;
pub use error::ApiError;
pub use networks::*;
pub use observe::*;
pub use root::Root;
pub use stream::{ByteStream, EventStream};
pub use types::*;

/// Largest request body in bytes that netd reads.
pub const BODY_LIMIT: usize = 256 * 1024;
