//! What the plugins that stand behind others have in common.

use rnet_kernel::{LinkKind, LinkState};
use rnet_model::IfName;
use rnet_plugin_protocol::{Call, CniResult, Error, IpConfig, Request, Version, View};

/// The plugin speaks no version before `first`.
///
/// # Errors
/// Code 1.
pub(crate) fn since(request: &Request, first: Version) -> Result<(), Error> {
    if request.version >= first {
        return Ok(());
    }
    let msg = format!("incompatible CNI versions: {} has {}", request.kind, request.version.as_str());
    Err(Error::new(Error::INCOMPATIBLE_VERSION, msg).details(format!("{} and newer are supported", first.as_str())))
}

/// Addresses of the previous result that are this interface's: those said to be, and those nothing is said of.
pub(crate) fn own_addresses<'a>(result: &'a CniResult, ifname: &'a IfName) -> impl Iterator<Item = &'a IpConfig> {
    result.ips.iter().filter(|ip| {
        let interface = ip.interface.and_then(|i| result.interfaces.get(i));
        interface.is_none_or(|i| i.name == ifname.as_str() && !i.sandbox.is_empty())
    })
}

/// The container's interface, which a plugin before made.
///
/// # Errors
/// When it is not there.
pub(crate) fn container_link(call: &Call<'_>, view: &mut View<'_>) -> Result<LinkState, Error> {
    let ifname = call.ifname()?;
    let missing = || {
        Error::internal(format!("failed to get {:?}: Link not found", ifname.as_str()))
            .details(format!("in {}: the plugin works on an interface another made", call.env.netns))
    };
    view.inside(call.netns()?)?.link(ifname)?.ok_or_else(missing)
}

/// The other end of the container's interface, on the host, which the previous result has to name.
///
/// # Errors
/// When the interface is no veth, or its other end is not on the host or not in the result.
pub(crate) fn host_end(call: &Call<'_>, view: &mut View<'_>) -> Result<LinkState, Error> {
    let previous = call.previous()?;
    if previous.interfaces.is_empty() {
        return Err(Error::internal("no interfaces provided").details("prevResult has none"));
    }
    let inner = container_link(call, view)?;
    let LinkKind::Veth { peer: Some(peer) } = inner.kind else {
        return Err(Error::internal(format!("container interface {} has no veth peer", inner.name)));
    };
    let outer = view.host()?.link_by_index(peer)?;
    let outer = outer.ok_or_else(|| Error::internal(format!("veth peer with index {peer} is not in host ns")))?;
    match previous.interfaces.iter().any(|i| i.sandbox.is_empty() && i.name == outer.name.as_str()) {
        true => Ok(outer),
        false => Err(Error::internal("no veth peer of container interface found in host ns")
            .details(format!("{} is not among the interfaces of prevResult", outer.name))),
    }
}
