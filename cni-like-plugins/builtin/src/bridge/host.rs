//! The host's side of a bridge: its address on it, the VLANs of a port, and what CHECK looks for there.

use std::collections::BTreeSet;

use rnet_kernel::{Address, AddressGeneration, LinkKind, LinkOp, NewVeth, PortVlan};
use rnet_model::{IfAddr, IfName, MacAddr};
use rnet_plan::Plan;
use rnet_plugin_protocol::{Call, CniResult, Error, Interface, IpConfig, View};

use super::config::{Config, Vlans};
use crate::common;

/// The VLAN every port of a filtering bridge is born in.
const DEFAULT: u16 = 1;

/// Runs of consecutive numbers.
fn runs(tags: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for tag in tags {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *tag => *last = *tag,
            _ => runs.push((*tag, *tag)),
        }
    }
    runs
}

/// Membership of a port in its VLANs.
pub(super) fn port_vlans(vlans: &Vlans, port: &IfName) -> Vec<LinkOp> {
    if !vlans.any() {
        return Vec::new();
    }
    let mut ops = Vec::new();
    if !vlans.keep_default && vlans.access != DEFAULT {
        ops.push(LinkOp::DelPortVlan(PortVlan::tagged(port.clone(), DEFAULT)));
    }
    ops.extend(
        runs(&vlans.trunk)
            .into_iter()
            .map(|(from, to)| LinkOp::PortVlan(PortVlan { to, ..PortVlan::tagged(port.clone(), from) })),
    );
    if vlans.access != 0 {
        ops.push(LinkOp::PortVlan(PortVlan::access(port.clone(), vlans.access)));
    }
    ops
}

/// The device that carries the gateway's address: the bridge, or for a VLAN one end of a pair whose other end is a port
/// of the bridge in that VLAN.
pub(super) fn gateway_device(
    config: &Config,
    view: &mut View<'_>,
    bridge_mac: MacAddr,
    plan: &mut Plan,
    result: &mut CniResult,
) -> Result<IfName, Error> {
    if config.vlans.access == 0 {
        return Ok(config.bridge.clone());
    }
    let name: IfName = format!("{}.{}", config.bridge, config.vlans.access).parse()?;
    let there = view.host()?.link(&name)?;
    let mac = match &there {
        Some(link) => link.mac.unwrap_or(bridge_mac),
        None => {
            let (peer, mac) = (common::veth_name(), common::random_mac());
            let veth = NewVeth {
                mac: Some(mac),
                ipv6: AddressGeneration::Kernel,
                mtu: config.mtu.unwrap_or(1500),
                ..NewVeth::new(name.clone(), peer.clone(), common::random_mac())
            };
            let vlans = Vlans { trunk: BTreeSet::new(), keep_default: false, ..config.vlans.clone() };
            let mut ops = vec![LinkOp::NewVeth(veth), LinkOp::Master(peer.clone(), config.bridge.clone())];
            ops.extend(port_vlans(&vlans, &peer));
            ops.push(LinkOp::Up(peer));
            // Shared, like the bridge.
            plan.step("cni.bridge.vlan", common::host(ops));
            mac
        }
    };
    result.interfaces.push(Interface { name: name.to_string(), mac: mac.to_string(), ..Interface::default() });
    Ok(name)
}

/// Gives the host the gateway's addresses. An address of another network in the way is an error, or makes room.
pub(super) fn gateway_addresses(
    config: &Config,
    view: &mut View<'_>,
    device: &IfName,
    ips: &[IpConfig],
    plan: &mut Plan,
) -> Result<(), Error> {
    let links = view.host()?;
    let there: Vec<Address> = match links.link(device)? {
        Some(link) => links.addresses_of(link.index)?.into_iter().filter(|a| !a.automatic).collect(),
        None => Vec::new(),
    };
    let mut ops = Vec::new();
    for ip in ips {
        let Some(gateway) = ip.gateway else { continue };
        let wanted = IfAddr::new(gateway, ip.address.prefix())?;
        if there.iter().any(|a| a.ip == wanted.ip() && a.prefix == wanted.prefix()) {
            continue;
        }
        for old in there.iter().filter(|a| a.ip.is_ipv4() == gateway.is_ipv4()) {
            let old = IfAddr::new(old.ip, old.prefix)?;
            if gateway.is_ipv6() && !old.subnet().overlaps(&wanted.subnet()) {
                continue;
            }
            if !config.force_address {
                return Err(Error::internal(format!(
                    "failed to set bridge addr: {:?} already has an IP address different from {wanted}",
                    device.as_str()
                ))
                .details(format!("it has {old}; forceAddress replaces it")));
            }
            ops.push(LinkOp::DelAddress(device.clone(), old));
        }
        ops.push(LinkOp::AddAddress(device.clone(), wanted));
    }
    if !ops.is_empty() {
        plan.step("cni.gateway", common::host(ops));
    }
    Ok(())
}

/// Compares the host's side with the previous result.
pub(super) fn check(config: &Config, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
    let wrong = |text: String| Err(Error::internal(text));
    let previous = call.previous()?;
    let name = &config.bridge;
    let host_ends: Vec<&Interface> = previous.interfaces.iter().filter(|i| i.sandbox.is_empty()).collect();
    let Some(expected) = host_ends.iter().find(|i| i.name == name.as_str()) else {
        return wrong(format!("bridge {name} is not in the previous result"));
    };
    let ifname = call.ifname()?;
    let inside = view.inside(call.netns()?)?.link(ifname)?;
    let Some(LinkKind::Veth { peer }) = inside.as_ref().map(|l| l.kind.clone()) else {
        return wrong(format!("container interface {ifname} is not a veth"));
    };
    let links = view.host()?;
    let Some(bridge) = links.link(name)? else { return wrong(format!("bridge {name} not found")) };
    if !matches!(bridge.kind, LinkKind::Bridge { .. }) {
        return wrong(format!("interface {name} is not a bridge"));
    }
    let mac = bridge.mac.map(|m| m.to_string()).unwrap_or_default();
    if !expected.mac.is_empty() && !expected.mac.eq_ignore_ascii_case(&mac) {
        return wrong(format!("bridge {name} has the MAC address {mac}, not {}", expected.mac));
    }
    if config.promisc && !bridge.promisc {
        return wrong(format!("bridge {name} is not promiscuous"));
    }
    let Some(end) = peer.and_then(|index| links.link_by_index(index).transpose()).transpose()? else {
        return wrong(format!("the host's end of {ifname} not found"));
    };
    if !host_ends.iter().any(|i| i.name == end.name.as_str()) {
        return wrong(format!("the host's end of {ifname} is {}, which is not in the previous result", end.name));
    }
    if end.master != Some(bridge.index) {
        return wrong(format!("{} is not a port of bridge {name}", end.name));
    }
    let port = links.port(&end.name)?;
    if port.is_some_and(|p| p.hairpin != config.hairpin || p.isolated != config.isolated) {
        return wrong(format!("the settings of port {} are not the configured ones", end.name));
    }
    let tags: BTreeSet<u16> = links.port_vlans(&end.name)?.into_iter().map(|v| v.vid).collect();
    let wanted = config.vlans.trunk.iter().copied().chain(Some(config.vlans.access).filter(|v| *v != 0));
    match wanted.clone().find(|vid| !tags.contains(vid)) {
        Some(vid) => wrong(format!("port {} is not in VLAN {vid}", end.name)),
        None => Ok(()),
    }
}

/// Plans the removal of the host's ends of pairs that a result names: of this name and with this address, which nobody
/// else has.
pub(super) fn remove_ends(previous: Option<&CniResult>, view: &mut View<'_>, plan: &mut Plan) -> Result<(), Error> {
    let links = view.host()?;
    for interface in previous.iter().flat_map(|p| &p.interfaces).filter(|i| i.sandbox.is_empty() && !i.mac.is_empty()) {
        let Ok(name) = interface.name.parse::<IfName>() else { continue };
        let Some(link) = links.link(&name)? else { continue };
        let same = link.mac.is_some_and(|mac| mac.to_string().eq_ignore_ascii_case(&interface.mac));
        // The gateway's device of a VLAN is one end of a pair too, and no port.
        if same && matches!(link.kind, LinkKind::Veth { .. }) && link.master.is_some() {
            plan.step("cni.del", common::host(vec![LinkOp::Delete(name)]));
        }
    }
    Ok(())
}
