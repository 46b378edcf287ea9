//! How a user names a container, and which network a new one gets.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{InvalidInput, string_value};
use crate::{ContainerName, NetworkName};

/// Who made a container, or how its namespace is reached. Also the prefix that selects one resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Engine {
    /// rnet's own runtime.
    Rnet,
    /// Docker, over its socket.
    Docker,
    /// Podman.
    Podman,
    /// containerd.
    Containerd,
    /// LXC.
    Lxc,
    /// A namespace: a name under /run/netns or a path.
    Netns,
    /// A process id.
    Pid,
    /// An OCI runtime that called the hook: known to netd by its attachments only, so a name that can be detached and
    /// waited for, but not attached to.
    Oci,
    /// A CNI runtime that called plugin `rnet`: known to netd as those of [`Engine::Oci`] are.
    Cni,
}

impl Engine {
    /// The engines a user can name with a prefix.
    pub const PREFIXES: [Engine; 9] = [
        Engine::Rnet,
        Engine::Docker,
        Engine::Podman,
        Engine::Containerd,
        Engine::Lxc,
        Engine::Netns,
        Engine::Pid,
        Engine::Oci,
        Engine::Cni,
    ];

    /// Lower-case name, as in the prefix.
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Rnet => "rnet",
            Engine::Docker => "docker",
            Engine::Podman => "podman",
            Engine::Containerd => "containerd",
            Engine::Lxc => "lxc",
            Engine::Netns => "netns",
            Engine::Pid => "pid",
            Engine::Oci => "oci",
            Engine::Cni => "cni",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `[docker:|podman:|containerd:|lxc:|netns:|pid:|rnet:]NAME-or-ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ContainerRef {
    /// No prefix: every resolver is asked, an ambiguous name is an error.
    Any(ContainerName),
    /// A container of one engine.
    Of(Engine, ContainerName),
    /// `netns:/path`: a namespace file.
    NetnsPath(PathBuf),
    /// `pid:N`: the namespace of a process.
    Pid(u32),
}

impl FromStr for ContainerRef {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let Some((prefix, rest)) = s.split_once(':') else {
            return s.parse().map(ContainerRef::Any);
        };
        let Some(engine) = Engine::PREFIXES.into_iter().find(|e| e.as_str() == prefix) else {
            let known: Vec<_> = Engine::PREFIXES.iter().map(|e| format!("{e}:")).collect();
            return Err(InvalidInput::new("container", s, format!("{prefix:?} is not an engine"))
                .hint(format!("known prefixes: {}", known.join(" "))));
        };
        match engine {
            Engine::Pid => rest
                .parse::<u32>()
                .ok()
                .filter(|p| *p > 0 && *p <= i32::MAX.unsigned_abs() && rest.bytes().all(|b| b.is_ascii_digit()))
                .map(ContainerRef::Pid)
                .ok_or_else(|| InvalidInput::new("container", s, "pid: needs a process id")),
            Engine::Netns if rest.starts_with('/') => {
                if rest.contains('\0') {
                    return Err(InvalidInput::new("container", s, "a path may not contain a zero byte"));
                }
                Ok(ContainerRef::NetnsPath(PathBuf::from(rest)))
            }
            engine => rest.parse().map(|name| ContainerRef::Of(engine, name)),
        }
    }
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContainerRef::Any(name) => write!(f, "{name}"),
            ContainerRef::Of(engine, name) => write!(f, "{engine}:{name}"),
            ContainerRef::NetnsPath(path) => write!(f, "netns:{}", path.display()),
            ContainerRef::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}
string_value!(ContainerRef, "container: [ENGINE:]NAME-or-ID, netns:/path or pid:N");

/// The network mode of a new container.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// The host's namespace.
    Host,
    /// Own namespace, `lo` only.
    None,
    /// The namespace of another container.
    Container(ContainerName),
    /// Own namespace, one interface on each of these networks. Never empty.
    Networks(Vec<NetworkName>),
}

impl NetworkMode {
    /// The network a container gets when nothing is asked for.
    pub const DEFAULT_NETWORK: &'static str = "bridge";
}

impl Default for NetworkMode {
    fn default() -> Self {
        NetworkMode::Networks(vec![Self::DEFAULT_NETWORK.parse().expect("the default network's name is valid")])
    }
}

impl FromStr for NetworkMode {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        match s {
            "host" => Ok(NetworkMode::Host),
            "none" => Ok(NetworkMode::None),
            _ => match s.strip_prefix("container:") {
                Some(other) => other.parse().map(NetworkMode::Container),
                None => {
                    let networks: Vec<NetworkName> = s.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    let mut seen = std::collections::HashSet::new();
                    match networks.iter().find(|n| !seen.insert(*n)) {
                        Some(twice) => Err(InvalidInput::new("network mode", s, format!("names {twice} twice"))),
                        None => Ok(NetworkMode::Networks(networks)),
                    }
                }
            },
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkMode::Host => f.write_str("host"),
            NetworkMode::None => f.write_str("none"),
            NetworkMode::Container(other) => write!(f, "container:{other}"),
            NetworkMode::Networks(names) => {
                let names: Vec<_> = names.iter().map(NetworkName::as_str).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}
string_value!(NetworkMode, "host, none, container:ID, or network names separated by commas");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for good in ["web", "docker:web", "rnet:a1", "netns:blue", "netns:/run/netns/blue", "pid:12", "oci:x"] {
            assert_eq!(good.parse::<ContainerRef>().map(|r| r.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "docker:",
            "pid:0",
            "pid:x",
            "pid:+1",
            "pid:4294967295",
            "foo:web",
            "a/b",
            "netns:../x",
            "oci:../x",
            ":x",
        ] {
            assert!(bad.parse::<ContainerRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn modes() {
        for good in ["host", "none", "container:web", "bridge", "blue,green"] {
            assert_eq!(good.parse::<NetworkMode>().map(|m| m.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "container:", "blue,blue", "blue,host", "a/b"] {
            assert!(bad.parse::<NetworkMode>().is_err(), "{bad}");
        }
    }
}
