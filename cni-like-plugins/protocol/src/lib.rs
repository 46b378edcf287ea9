//! The one plugin trait: a network type is a pure function from what is wanted and what is there to a plan.
//!
//! Owns: the verbs of CNI 1.1 (`add del check gc status`) as a trait, and the values they take. Refuses: side effects;
//! whoever calls a plugin applies the plan it returns, in process or as an executable.

use std::net::IpAddr;

use rnet_kernel::{LinkState, Netns};
use rnet_model::{EndpointId, IfAddr, IfName, Kind, MacAddr, RouteSpec};
use rnet_plan::Plan;

/// The interface that is wanted. Every default is filled in.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Endpoint.
    pub id: EndpointId,
    /// Alias of the host end, which marks it as ours.
    pub alias: String,
    /// Device of the host the endpoint hangs on.
    pub master: IfName,
    /// Alias of the device of the host, if the plan has to make it.
    pub master_alias: String,
    /// Name of the host end.
    pub host_ifname: IfName,
    /// Namespace of the container.
    pub netns: Netns,
    /// Name inside.
    pub ifname: IfName,
    /// Address inside.
    pub mac: MacAddr,
    /// Bytes.
    pub mtu: u32,
    /// Addresses inside.
    pub addresses: Vec<IfAddr>,
    /// Default gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Additional routes.
    pub routes: Vec<RouteSpec>,
    /// Metric of the default and additional routes.
    pub metric: Option<u32>,
}

/// What the container's namespace looks like before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// `lo` is down and must come up.
    Down,
    /// `lo` is up.
    Up,
}

/// Why a plugin cannot do what is wanted.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct PluginError {
    /// What it means to the caller.
    pub kind: Kind,
    /// What, which object, why.
    pub text: String,
    /// What the user can do.
    pub hint: Option<String>,
}

/// A network type.
pub trait Plugin: Sync {
    /// Its name, as in `type`.
    fn name(&self) -> &'static str;
    /// The plan that makes the interface.
    ///
    /// # Errors
    /// When the master is none this plugin can use.
    fn add(&self, wanted: &Wanted, master: Option<&LinkState>, loopback: Loopback) -> Result<Plan, PluginError>;
    /// The plan that cuts the interface off at once; the device itself goes with its device group.
    fn del(&self, host_ifname: &IfName, retired_group: u32) -> Plan;
    /// What is not as wanted, a line each. `host` is the host end, `master` what it should hang on.
    fn check(&self, wanted: &Wanted, host: Option<&LinkState>, master: Option<&LinkState>) -> Vec<String>;
    /// The plan that removes links of ours that belong to no endpoint.
    fn gc(&self, stale: &[LinkState], retired_group: u32) -> Plan;
    /// Whether it can work on this host at all.
    ///
    /// # Errors
    /// Names what is missing.
    fn status(&self) -> Result<(), PluginError>;
}
