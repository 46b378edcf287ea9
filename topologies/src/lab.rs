//! A lab as it shall be: nodes, bridges, links and ports, every name and address a parsed value, everything inherited.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rnet_model::{ContainerName, IfAddr, IfName, MacAddr};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::TopologyError;

/// MTU of a link between two nodes that names none: containerlab's default, and with it that of a bridge the lab makes.
pub const DEFAULT_MTU: u32 = 9500;

/// A lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lab {
    /// Name of the lab.
    pub name: String,
    /// Nodes, in the order of the file.
    pub nodes: Vec<Node>,
    /// Linux bridges, in the order of the file.
    pub bridges: Vec<BridgeNode>,
    /// Links between two nodes.
    pub links: Vec<Link>,
    /// Links between a node and a bridge.
    pub ports: Vec<Port>,
    /// What the file asks for and does not get, a line each.
    pub warnings: Vec<String>,
}

/// A node with a network namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Name in the lab.
    pub name: String,
    /// Name of its container or sandbox: `lab-LAB-NODE`, usable in `rnet attach`.
    pub container: ContainerName,
    /// What runs in it.
    pub body: NodeBody,
    /// Commands run in it once, after its links are there.
    pub exec: Vec<Vec<String>>,
    /// Settings of its namespace: `net.ipv4.ip_forward` and alike.
    pub sysctls: BTreeMap<String, String>,
}

/// What runs in a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeBody {
    /// Nothing: the node is a network namespace, and commands in it see the files of the machine.
    Namespace,
    /// A container of rnet's runtime.
    Rootfs(Box<Process>),
}

/// The container of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its root file system.
    pub rootfs: PathBuf,
    /// The image that the root file system stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The command.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Directories and files of the machine that it sees.
    pub binds: Vec<Bind>,
    /// User to run as; default root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Hostname; default: the node's name.
    pub hostname: String,
    /// Additional capabilities.
    pub cap_add: Vec<String>,
}

/// `src:dst[:options]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bind {
    /// On the machine; absolute, or relative to where the topology file is.
    pub source: PathBuf,
    /// In the node.
    pub destination: PathBuf,
    /// `ro` and alike, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
}

/// A Linux bridge; made for the lab if it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgeNode {
    /// Name of the node and of the bridge.
    pub name: IfName,
    /// Its own addresses, if the lab makes it.
    pub addresses: Vec<IfAddr>,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Node.
    pub node: String,
    /// Interface.
    pub ifname: IfName,
    /// Its address on the link; stable over deploys.
    pub mac: MacAddr,
    /// Addresses.
    pub addresses: Vec<IfAddr>,
}

/// A veth pair between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The two ends, in the order of the file.
    pub ends: [End; 2],
    /// Bytes.
    pub mtu: u32,
}

/// A veth pair between a node and a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The bridge.
    pub bridge: IfName,
    /// Name of the end in the bridge.
    pub port: IfName,
    /// The end in the node.
    pub end: End,
    /// Bytes; `None`: the bridge's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// What a topology file is read with.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The file's name, for errors.
    pub file: &'a Path,
    /// Where relative paths of the file begin.
    pub directory: &'a Path,
    /// The variables of `${NAME}`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Root file systems by image name, before those the file names itself.
    pub images: &'a BTreeMap<String, PathBuf>,
}

impl std::fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs").field("file", &self.file).field("images", &self.images).finish_non_exhaustive()
    }
}

impl Lab {
    /// Reads the text of a topology file. Touches no file and reads no variable but through `inputs`.
    ///
    /// # Errors
    /// With file, line and column.
    pub fn parse(text: &str, inputs: &Inputs<'_>) -> Result<Lab, TopologyError> {
        crate::read::lab(text, inputs)
    }

    /// Reads a topology file with the variables of this process.
    ///
    /// # Errors
    /// When the file cannot be read, and those of [`Lab::parse`].
    pub fn load(file: &Path, images: &BTreeMap<String, PathBuf>) -> Result<Lab, TopologyError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| TopologyError::Read { file: file.to_owned(), source })?;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let directory = absolute.parent().unwrap_or_else(|| Path::new("/"));
        Lab::parse(&text, &Inputs { file, directory, variable: &|name| std::env::var(name).ok(), images })
    }
}

/// The address of an interface that names none: 46 bits of a hash of lab, node and interface, locally administered
/// (IEEE 802c), so that neighbour tables, DHCP leases and captures mean the same after each deploy.
pub fn stable_mac(lab: &str, node: &str, ifname: &IfName) -> MacAddr {
    let mut hash = Sha256::new();
    for part in [lab, node, ifname.as_str()] {
        // A zero byte is in none of the parts, so no two triples give the same text.
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    MacAddr::local(digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn macs_are_stable_and_distinct() {
        let eth0: IfName = "eth0".parse().unwrap();
        let mac = stable_mac("two", "a", &eth0);
        assert_eq!(mac, stable_mac("two", "a", &eth0));
        assert_ne!(mac, stable_mac("two", "b", &eth0));
        assert_ne!(stable_mac("x", "y1", &eth0), stable_mac("xy", "1", &eth0));
        assert_eq!(mac.octets()[0] & 3, 2, "unicast, locally administered");
    }
}
