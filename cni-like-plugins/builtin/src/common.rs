//! What the plugins that make interfaces have in common: what a container's interface is given, and how it is compared
//! with a result.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rnet_kernel::{LinkOp, LinkState, Netns};
use rnet_model::{IfAddr, IfName, MacAddr, Subnet};
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::{Call, Error, IpConfig, Route, View};

/// A name known to be one.
pub(crate) fn name(text: &str) -> IfName {
    text.parse().expect("a name written in this crate is one")
}

/// Eight bytes nobody can guess.
pub(crate) fn random() -> u64 {
    let mut seed = [0; 8];
    // Without flags it can fail only before the pool is seeded at boot, and then it blocks instead.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(seed)
}

/// A locally administered address.
pub(crate) fn random_mac() -> MacAddr {
    MacAddr::local(random())
}

/// An address for a port of a bridge: a bridge without an address of its own takes the lowest of its ports'
/// (br_stp_recalculate_bridge_id), and this one is above all that are made by others.
pub(crate) fn port_mac() -> MacAddr {
    MacAddr::local(random() | 0xfe << 40)
}

/// A name for the host's end of a pair, as the reference makes them.
pub(crate) fn veth_name() -> IfName {
    name(&format!("veth{:08x}", random() >> 32))
}

/// The interface must not be there yet.
///
/// # Errors
/// When it is.
pub(crate) fn refuse_existing(call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
    let ifname = call.ifname()?;
    match view.inside(call.netns()?)?.link(ifname)? {
        Some(_) => Err(Error::internal(format!("container interface {:?} already exists", ifname.as_str()))
            .details(format!("in {}", call.env.netns))),
        None => Ok(()),
    }
}

/// An action inside a container.
pub(crate) fn inside(netns: &Netns, ops: Vec<LinkOp>) -> Action {
    Action::Links(Place::Inside(netns.clone()), ops)
}

/// An action on the host.
pub(crate) fn host(ops: Vec<LinkOp>) -> Action {
    Action::Links(Place::Host, ops)
}

/// A result's address as one an interface can have.
///
/// # Errors
/// Code 7 for a network or broadcast address.
pub(crate) fn if_addr(net: &IpNetwork) -> Result<IfAddr, Error> {
    Ok(IfAddr::new(net.ip(), net.prefix())?)
}

/// A destination without host bits.
pub(crate) fn subnet(net: &IpNetwork) -> Subnet {
    Subnet::containing(net.ip(), net.prefix()).expect("the prefix length is one of this family")
}

/// The address behind the network address.
pub(crate) fn first_address(net: &IpNetwork) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
    }
}

/// Addresses of a result, for IPv6 with or without duplicate detection.
///
/// # Errors
/// Code 7 for one that no interface can have.
pub(crate) fn addresses(dev: &IfName, ips: &[IpConfig], detect: bool) -> Result<Vec<LinkOp>, Error> {
    let add = if detect { LinkOp::DetectAddress } else { LinkOp::AddAddress };
    ips.iter().map(|ip| Ok(add(dev.clone(), if_addr(&ip.address)?))).collect()
}

/// The default route of a family, without a next hop.
pub(crate) fn default_route(v6: bool) -> Route {
    let dst = if v6 { "::/0" } else { "0.0.0.0/0" };
    Route::new(dst.parse().expect("a prefix"), None)
}

/// Lets the host forward packets of the families of these addresses. It is the host's own setting and stays.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn forward(view: &mut View<'_>, ips: impl Iterator<Item = IpAddr>, plan: &mut Plan) -> Result<(), Error> {
    let mut keys: Vec<&str> =
        ips.map(|ip| if ip.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" }).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        if view.sysctl(&Place::Host, key)?.is_some_and(|value| value != "1") {
            plan.step("cni.forward", Action::Sysctl { place: Place::Host, key: key.into(), value: "1".into() });
        }
    }
    Ok(())
}

/// The container's interface as the previous result has it: there, with its addresses and routes.
///
/// # Errors
/// The first difference.
pub(crate) fn check_inside(call: &Call<'_>, view: &mut View<'_>) -> Result<LinkState, Error> {
    let (ifname, previous) = (call.ifname()?, call.previous()?);
    let links = view.inside(call.netns()?)?;
    let link = links.link(ifname)?.ok_or_else(|| Error::internal(format!("interface {ifname} not found")))?;
    let there = links.addresses_of(link.index)?;
    let of_us = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|i| previous.interfaces.get(i));
        interface.is_none_or(|i| i.name == ifname.as_str())
    };
    for ip in previous.ips.iter().filter(of_us) {
        if !there.iter().any(|a| a.ip == ip.address.ip() && a.prefix == ip.address.prefix()) {
            return Err(Error::internal(format!("Failed to match addr {} on interface {ifname}", ip.address)));
        }
    }
    let wanted = previous.interfaces.iter().find(|i| !i.sandbox.is_empty() && i.name == ifname.as_str());
    if let (Some(wanted), Some(mac)) = (wanted.filter(|w| !w.mac.is_empty()), link.mac)
        && !wanted.mac.eq_ignore_ascii_case(&mac.to_string())
    {
        return Err(Error::internal(format!("interface {ifname} has the MAC address {mac}, not {}", wanted.mac)));
    }
    let routes = links.routes_through(ifname)?;
    for route in &previous.routes {
        // A plugin behind may have moved it to a table of its own (section 4 of the specification, "CHECK").
        let in_table = |found: u32| route.table.is_none_or(|table| table == found);
        if !routes.iter().any(|r| r.destination == subnet(&route.dst) && in_table(r.table)) {
            return Err(Error::internal(format!("expected route to {} not found on {ifname}", route.dst)));
        }
    }
    Ok(link)
}
