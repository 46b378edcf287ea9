//! Which plugin a `type` is.

use rnet_plugin_protocol::{Error, Plugin, Request};
use serde_json::Map;

use crate::{bandwidth, bridge, firewall, host_local, loopback, portmap, sbr, static_ipam, tuning, vrf};

/// Every `type` this crate has, as the reference plugins are called.
pub const NAMES: [&str; 10] =
    ["bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "sbr", "static", "tuning", "vrf"];

/// The plugin of a `type` with the configuration of a request; `None` when this crate has no such one.
///
/// # Errors
/// What is wrong with the configuration, in the codes of the CNI specification.
pub fn configure(kind: &str, request: &Request) -> Result<Option<Box<dyn Plugin>>, Error> {
    let none = Map::new();
    let ipam = request.ipam.as_ref().unwrap_or(&none);
    Ok(Some(match kind {
        "bandwidth" => Box::new(bandwidth::Bandwidth::new(request)?),
        "bridge" => Box::new(bridge::Bridge::new(request)?),
        "firewall" => Box::new(firewall::Firewall::new(request)?),
        "host-local" => Box::new(host_local::HostLocal::new(request, ipam)?),
        "loopback" => Box::new(loopback::Loopback),
        "portmap" => Box::new(portmap::Portmap::new(request)?),
        "sbr" => Box::new(sbr::Sbr::new(request)?),
        "static" => Box::new(static_ipam::Static::new(ipam)?),
        "tuning" => Box::new(tuning::Tuning::new(request)?),
        "vrf" => Box::new(vrf::Vrf::new(request)?),
        _ => return Ok(None),
    }))
}
