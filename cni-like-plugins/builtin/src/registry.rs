//! Which plugin a `type` is.

use rnet_plugin_protocol::{Error, Plugin, Request};
use serde_json::Map;

use crate::{dhcp, host_local, loopback, static_ipam};

/// Every `type` this crate has, as the reference plugins are called.
pub const NAMES: [&str; 4] = ["dhcp", "host-local", "loopback", "static"];

/// The plugin of a `type` with the configuration of a request; `None` when this crate has no such one.
///
/// # Errors
/// What is wrong with the configuration, in the codes of the CNI specification.
pub fn configure(kind: &str, request: &Request) -> Result<Option<Box<dyn Plugin>>, Error> {
    let none = Map::new();
    let ipam = request.ipam.as_ref().unwrap_or(&none);
    Ok(Some(match kind {
        "dhcp" => Box::new(dhcp::Dhcp::new(request, ipam)?),
        "host-local" => Box::new(host_local::HostLocal::new(request, ipam)?),
        "loopback" => Box::new(loopback::Loopback),
        "static" => Box::new(static_ipam::Static::new(ipam)?),
        _ => return Ok(None),
    }))
}
