//! The one plugin trait, and CNI 1.1.0 with its older versions around it.
//!
//! Owns: the verbs of CNI as a trait, the values they take ([`Request`], [`Environment`], [`CniResult`], [`Error`]),
//! how a plugin with its delegate is driven ([`drive`]), and the runtime's side ([`runtime`]). Refuses: knowing any plugin.

pub mod dress;
pub mod drive;
mod environment;
mod error;
mod plugin;
mod request;
mod result;
pub mod runtime;
#[cfg(test)]
mod testing;
mod version;

pub use environment::{Command, Environment, is_name};
pub use error::Error;
pub use plugin::{Call, Delegation, Plugin, View, Work, gateway_of};
pub use request::{
    Args, AttachmentId, LIMIT, OLD_ATTACHMENTS, Request, RuntimeConfig, VALID_ATTACHMENTS, loose_address, wanted_mac,
};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use version::Version;
