//! Bodies of the requests of plugin `rnet`: what a CNI runtime asks of a network, by the verbs of the CNI specification.

use std::net::IpAddr;
use std::path::PathBuf;

use rnet_model::{ContainerName, IfName, MacAddr, NetworkName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Endpoint;

/// An interface of a container, as its CNI runtime names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniId {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerName,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
}

/// The namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniNetns {
    /// `CNI_NETNS`.
    pub path: PathBuf,
    /// Its inode as the plugin sees it: the path may lead netd somewhere else.
    pub inode: u64,
}

/// `POST /v1/cni/add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniAdd {
    /// Which interface.
    pub id: CniId,
    /// Where it is made.
    pub netns: CniNetns,
    /// `name` of the runtime's network.
    pub list: String,
    /// The network to be on.
    pub network: NetworkName,
    /// Addresses to have, at most one per family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// MAC address to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// `POST /v1/cni/del`. What is not there is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniDel {
    /// Which interface.
    pub id: CniId,
    /// `name` of the runtime's network.
    pub list: String,
}

/// `POST /v1/cni/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniCheck {
    /// Which interface.
    pub id: CniId,
    /// Where it should be.
    pub netns: CniNetns,
    /// `name` of the runtime's network.
    pub list: String,
}

/// `POST /v1/cni/gc`: removes what the runtime's network made and none of these is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniGc {
    /// `name` of the runtime's network.
    pub list: String,
    /// What is still there.
    pub valid: Vec<CniId>,
}

/// `POST /v1/cni/status`: whether an interface could be added now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CniStatus {
    /// The network.
    pub network: NetworkName,
}

/// Answer to `POST /v1/cni/add` and `POST /v1/cni/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CniReply {
    /// The interface.
    pub endpoint: Endpoint,
    /// MAC address of the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge_mac: Option<MacAddr>,
    /// MAC address of the host end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<MacAddr>,
    /// What is not as it was made; only for a check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
