//! Which plugin a `type` is.

use rnet_plugin_protocol::{Error, Plugin, Request};
use serde_json::Map;

use crate::{bridge, dummy, host_device, host_local, ipvlan, loopback, macvlan, ptp, static_ipam, tap, vlan};

/// Every `type` this crate has, as the reference plugins are called.
pub const NAMES: [&str; 11] =
    ["bridge", "dummy", "host-device", "host-local", "ipvlan", "loopback", "macvlan", "ptp", "static", "tap", "vlan"];

/// The plugin of a `type` with the configuration of a request; `None` when this crate has no such one.
///
/// # Errors
/// What is wrong with the configuration, in the codes of the CNI specification.
pub fn configure(kind: &str, request: &Request) -> Result<Option<Box<dyn Plugin>>, Error> {
    let none = Map::new();
    let ipam = request.ipam.as_ref().unwrap_or(&none);
    Ok(Some(match kind {
        "bridge" => Box::new(bridge::Bridge::new(request)?),
        "dummy" => Box::new(dummy::Dummy),
        "host-device" => Box::new(host_device::HostDevice::new(request)),
        "host-local" => Box::new(host_local::HostLocal::new(request, ipam)?),
        "ipvlan" => Box::new(ipvlan::Ipvlan::new(request)),
        "loopback" => Box::new(loopback::Loopback),
        "macvlan" => Box::new(macvlan::Macvlan::new(request)),
        "ptp" => Box::new(ptp::Ptp::new(request)),
        "static" => Box::new(static_ipam::Static::new(ipam)?),
        "tap" => Box::new(tap::Tap::new(request)),
        "vlan" => Box::new(vlan::Vlan::new(request)),
        _ => return Ok(None),
    }))
}
