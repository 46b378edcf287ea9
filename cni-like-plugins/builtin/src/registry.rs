//! Which plugin a `type` is.

use rnet_plugin_protocol::{Error, Plugin, Request};
use serde_json::Map;

use crate::{
    bandwidth, bridge, dummy, host_device, host_local, ipvlan, loopback, macvlan, ptp, sbr, static_ipam, tap, tuning,
    vlan, vrf,
};

/// Every `type` this crate has, as the reference plugins are called.
pub const NAMES: [&str; 15] = [
    "bandwidth",
    "bridge",
    "dummy",
    "host-device",
    "host-local",
    "ipvlan",
    "loopback",
    "macvlan",
    "ptp",
    "sbr",
    "static",
    "tap",
    "tuning",
    "vlan",
    "vrf",
];

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
        "dummy" => Box::new(dummy::Dummy),
        "host-device" => Box::new(host_device::HostDevice::new(request)),
        "host-local" => Box::new(host_local::HostLocal::new(request, ipam)?),
        "ipvlan" => Box::new(ipvlan::Ipvlan::new(request)),
        "loopback" => Box::new(loopback::Loopback),
        "macvlan" => Box::new(macvlan::Macvlan::new(request)),
        "ptp" => Box::new(ptp::Ptp::new(request)),
        "sbr" => Box::new(sbr::Sbr::new(request)?),
        "static" => Box::new(static_ipam::Static::new(ipam)?),
        "tap" => Box::new(tap::Tap::new(request)),
        "tuning" => Box::new(tuning::Tuning::new(request)?),
        "vlan" => Box::new(vlan::Vlan::new(request)),
        "vrf" => Box::new(vrf::Vrf::new(request)?),
        _ => return Ok(None),
    }))
}
