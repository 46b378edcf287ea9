//! Settings of a namespace under /proc/sys/net.
//!
//! What is found there depends on the namespace of the thread that looks, even through a directory opened elsewhere,
//! so each access runs on a thread inside.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;

use crate::{KernelError, Netns};

/// Settings by key. A key is the path below /proc/sys, `net/ipv4/ip_forward`: with dots, names of devices that have
/// dots in them could not be told apart.
pub trait Sysctls: Send {
    /// The value without its line end; `None` when the kernel has no such setting.
    ///
    /// # Errors
    /// When the key is not one, or the value may not be read.
    fn get(&mut self, key: &str) -> Result<Option<String>, KernelError>;
    /// Sets one value.
    ///
    /// # Errors
    /// When the key is not one, the setting does not exist or the value is refused.
    fn set(&mut self, key: &str, value: &str) -> Result<(), KernelError>;
    /// Sets values in order and stops at the first that fails.
    ///
    /// # Errors
    /// Those of [`Sysctls::set`].
    fn set_all(&mut self, settings: &[(&str, &str)]) -> Result<(), KernelError> {
        settings.iter().try_for_each(|(key, value)| self.set(key, value))
    }
}

/// The settings of one namespace.
#[derive(Debug, Clone)]
pub struct ProcSys {
    ns: Netns,
}

impl ProcSys {
    /// Of `ns`.
    pub fn new(ns: &Netns) -> Self {
        ProcSys { ns: ns.clone() }
    }
}

/// Only keys below `net/` belong to a network namespace; others would change the whole host.
pub(crate) fn path(key: &str) -> Result<PathBuf, KernelError> {
    let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    if !key.starts_with("net/") || key.split('/').any(odd) {
        return Err(KernelError {
            errno: libc::EINVAL,
            ..KernelError::text(format!("sysctl {key:?}"), "a key is a path below net/, such as net/ipv4/ip_forward")
        });
    }
    Ok(PathBuf::from("/proc/sys").join(key))
}

fn write(key: &str, value: &str) -> Result<(), KernelError> {
    let operation = || format!("sysctl {key}={value}");
    let path = path(key)?;
    // One write(2): the kernel takes each as a whole value. Never created: an unknown key is an error.
    let written =
        std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|e| KernelError::io(operation(), &e))
}

impl Sysctls for ProcSys {
    fn get(&mut self, key: &str) -> Result<Option<String>, KernelError> {
        let path = path(key)?;
        let read = self.ns.run(|| -> io::Result<String> {
            let mut text = String::new();
            std::fs::File::open(path)?.read_to_string(&mut text)?;
            Ok(text)
        })?;
        match read {
            Ok(text) => Ok(Some(text.trim_end_matches('\n').to_owned())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(KernelError::io(format!("sysctl {key}"), &e)),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), KernelError> {
        self.ns.run(|| write(key, value))?
    }

    /// All on one thread.
    fn set_all(&mut self, settings: &[(&str, &str)]) -> Result<(), KernelError> {
        self.ns.run(|| settings.iter().try_for_each(|(key, value)| write(key, value)))?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::root_or_skip;

    #[test]
    fn keys_stay_below_net() {
        assert_eq!(
            path("net/ipv4/conf/eth0.10/rp_filter").unwrap().to_str(),
            Some("/proc/sys/net/ipv4/conf/eth0.10/rp_filter")
        );
        for bad in [
            "",
            "net",
            "net/",
            "kernel/hostname",
            "/net/x",
            "net/../kernel/hostname",
            "net//x",
            "net/./x",
            "net.ipv4.ip_forward",
        ] {
            assert_eq!(path(bad).unwrap_err().errno, libc::EINVAL, "{bad}");
        }
    }

    #[test]
    fn values_belong_to_their_namespace() {
        if !root_or_skip() {
            return;
        }
        let (mut one, mut two) = (ProcSys::new(&Netns::create().unwrap()), ProcSys::new(&Netns::create().unwrap()));
        let key = "net/ipv4/conf/default/rp_filter";
        two.set(key, "0").unwrap();
        one.set_all(&[(key, "2"), ("net/ipv4/ip_forward", "1")]).unwrap();
        assert_eq!(one.get(key).unwrap().as_deref(), Some("2"));
        assert_eq!(one.get("net/ipv4/ip_forward").unwrap().as_deref(), Some("1"));
        assert_eq!(two.get(key).unwrap().as_deref(), Some("0"));
        assert_eq!(one.get("net/ipv4/nonsense").unwrap(), None);
        let e = one.set("net/ipv4/nonsense", "1").unwrap_err();
        assert_eq!((e.errno, e.operation.as_str()), (libc::ENOENT, "sysctl net/ipv4/nonsense=1"));
        let e = one.set("net/ipv4/ip_forward", "yes").unwrap_err();
        assert_eq!(e.errno, libc::EINVAL);
    }
}
