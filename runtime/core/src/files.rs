//! The text of a container's own files.

pub mod hosts;
pub mod resolv;

/// `/etc/hostname`.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}
