//! Containers of the slim runtime: records, states, bundles, files, logs, and the words between the command and the shim.
//!
//! Owns: what a container is and where it is kept. Refuses: making one (that is the shim's, with libcontainer) and any
//! decision about networks (netd's). The truth is on disk: `LIB/containers/ID` is what was asked for and how it last
//! ended, `RUN/containers/ID` exists while a shim has it in hand.

pub mod bundle;
mod caps;
pub mod cgroup;
pub mod files;
mod id;
pub mod link;
pub mod logs;
mod names;
pub mod neighbours;
mod network;
mod options;
pub mod passwd;
pub mod process;
pub mod protocol;
pub mod releases;
pub mod resolver;
mod seccomp;
pub mod sharing;
mod signal;
mod spec;
mod state;
mod store;
pub mod workdir;

pub use caps::{CapName, effective_caps, not_to_be_given};
pub use id::ContainerId;
pub use names::{DnsOption, DnsSettings, ExtraHost, HostTarget, LinkSpec, SearchDomain};
pub use network::{NetWord, NetworkSettings};
pub use options::{Bind, BindAccess, EnvVar, Hostname, UserSpec};
pub use signal::SignalName;
pub use spec::{ContainerSpec, Keep, Record, Streams};
pub use state::{Ended, Live, Phase, Status, status};
pub use store::{Container, Listing, Store};

use rnet_api::ApiError;
use rnet_model::Kind;

/// The right to change a container, see [`Container::lock`].
pub type Lock = nix::fcntl::Flock<std::fs::File>;

/// The time.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// An error about a file or directory; what the system said decides the kind.
pub fn file_error(verb: &str, path: &std::path::Path, error: &std::io::Error) -> ApiError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
        std::io::ErrorKind::NotFound => Kind::Missing,
        _ => Kind::Retry,
    };
    ApiError::new(kind, format!("cannot {verb} {}", path.display())).because(error)
}

/// An error about a file of the instance, which on the machine's own instance is root's.
fn instance_error(verb: &str, path: &std::path::Path, error: &std::io::Error) -> ApiError {
    let plain = file_error(verb, path, error);
    match plain.kind {
        Kind::Denied => plain.hint("run it as root, or in namespaces of your own: unshare -Urnm, with --root DIR"),
        _ => plain,
    }
}
