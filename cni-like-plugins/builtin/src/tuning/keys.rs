//! Keys of sysctls: how they are written, and which are allowed.

use std::path::Path;

use regex_lite::Regex;
use rnet_model::IfName;
use rnet_plugin_protocol::Error;

/// What stands for the interface in a key.
const IFNAME: &str = "IFNAME";

/// The path below /proc/sys, with the place of the interface still to be filled in. The first separator decides, as for
/// sysctl(8): dots and slashes are exchanged when it is a dot.
///
/// # Errors
/// Code 7 for one that is not of the network.
pub(super) fn path(key: &str) -> Result<String, Error> {
    let exchanged = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = match key.find(['.', '/']) {
        Some(first) if key[first..].starts_with('.') => key.chars().map(exchanged).collect(),
        _ => key.to_owned(),
    };
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if !path.starts_with("net/") || path.split('/').any(odd) {
        return Err(Error::config(format!("invalid net sysctl key: {key:?}"))
            .details("a key is a path below net, such as net.ipv4.conf.IFNAME.arp_notify"));
    }
    Ok(path)
}

/// The same for an interface.
pub(super) fn of(key: &str, ifname: &IfName) -> Result<String, Error> {
    Ok(path(key)?.replacen(IFNAME, ifname.as_str(), 1))
}

/// Whether a value read is the one written: the kernel puts tabs between the numbers of a list.
pub(super) fn same(read: &str, written: &str) -> bool {
    read.split_whitespace().eq(written.split_whitespace())
}

/// Which keys an administrator allows; all, where there is no such file.
#[derive(Debug)]
pub(super) struct AllowList(Option<Vec<Regex>>);

impl AllowList {
    pub(super) fn read(file: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(AllowList(None)),
            Err(e) => return Err(Error::io(format!("tuning: read {}", file.display()), &e)),
        };
        let line = |line: &str| {
            Regex::new(line)
                .map_err(|e| Error::config(format!("{}: {line:?} is no regular expression: {e}", file.display())))
        };
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        lines.map(line).collect::<Result<_, _>>().map(|all| AllowList(Some(all)))
    }

    /// Keys as they are written in the configuration.
    pub(super) fn allows<'a>(&self, mut keys: impl Iterator<Item = &'a String>) -> Result<(), Error> {
        let Some(allowed) = &self.0 else { return Ok(()) };
        match keys.find(|key| !allowed.iter().any(|regex| regex.is_match(key))) {
            Some(key) => {
                let list: Vec<&str> = allowed.iter().map(Regex::as_str).collect();
                Err(Error::config(format!(
                    "Sysctl {key} is not allowed. Only the following sysctls are allowed: [{}]",
                    list.join(" ")
                )))
            }
            None => Ok(()),
        }
    }
}
