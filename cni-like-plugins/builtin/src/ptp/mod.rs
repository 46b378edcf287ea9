#![doc = include_str!("README.md")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use rnet_kernel::{AddressGeneration, LinkKind, LinkOp, LinkState, NewVeth, RouteEntry};
use rnet_model::{IfAddr, IfName, MacAddr, Subnet};
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::dress::routes;
use rnet_plugin_protocol::{
    AttachmentId, Call, CniResult, Delegation, Error, Interface, IpConfig, Plugin, Request, View, Work,
};
use serde::Deserialize;

use crate::{common, device, table};

/// RTPROT_BOOT of linux/rtnetlink.h, as the reference has it.
const BOOT: u8 = 3;
/// RT_SCOPE_HOST of linux/rtnetlink.h: how the reference marks the host's routes.
const SCOPE_HOST: u8 = 254;
/// IP6_RT_PRIO_ADDRCONF: the metric of the route that comes with an IPv6 address.
const METRIC_OF_ADDRESS: u32 = 256;

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: i64,
}

/// Checked.
#[derive(Debug)]
struct Config {
    masquerade: bool,
    mtu: Option<u32>,
}

impl Config {
    fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        if let Some(backend) = written.ip_masq_backend.filter(|b| !matches!(b.as_str(), "" | "iptables" | "nftables")) {
            return Err(
                Error::config(format!("ptp: unknown ipmasq backend {backend:?}")).details("it is always nftables")
            );
        }
        Ok(Config { masquerade: written.ip_masq, mtu: device::mtu(written.mtu)? })
    }
}

/// The plugin.
#[derive(Debug)]
pub struct Ptp {
    config: Result<Config, Error>,
}

impl Ptp {
    /// From a request. What is wrong with its configuration every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Ptp { config: Config::new(request) }
    }

    fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }

    /// Whether there may be elements of ours in the table.
    fn may_masquerade(&self) -> bool {
        self.config.as_ref().map_or(true, |c| c.masquerade)
    }
}

fn ours(kind: &LinkKind) -> bool {
    matches!(kind, LinkKind::Veth { .. })
}

/// An address of the container with the gateway it needs.
struct Hop {
    net: IpConfig,
    gateway: IpAddr,
}

fn hops(ips: &[IpConfig]) -> Result<Vec<Hop>, Error> {
    let missing = |ip: &IpConfig| {
        Error::config(format!("ptp: the address {} has no gateway", ip.address))
            .details("give the IPAM a gateway: it is the address of the host's end")
    };
    let hop = |ip: &IpConfig| Ok(Hop { net: ip.clone(), gateway: ip.gateway.ok_or_else(|| missing(ip))? });
    ips.iter().map(hop).collect()
}

fn single(ip: IpAddr) -> Subnet {
    Subnet::containing(ip, if ip.is_ipv4() { 32 } else { 128 }).expect("the prefix length is one of this family")
}

/// On the link.
fn entry(destination: Subnet, dev: &IfName) -> RouteEntry {
    RouteEntry { protocol: BOOT, ..RouteEntry::new(destination, dev.clone()) }
}

/// Plans addresses and routes of the host's end, which was born up.
fn host_side(dev: &IfName, hops: &[Hop], plan: &mut Plan) -> Result<(), Error> {
    let mut ops = Vec::new();
    for gateway in hops.iter().map(|h| h.gateway).collect::<BTreeSet<_>>() {
        ops.push(LinkOp::AddAddress(dev.clone(), IfAddr::new(gateway, single(gateway).prefix())?));
    }
    for hop in hops {
        let ip = hop.net.address.ip();
        let scope = ip.is_ipv4().then_some(SCOPE_HOST);
        ops.push(LinkOp::AddRoute(RouteEntry { scope, ..entry(single(ip), dev) }));
    }
    plan.step("cni.gateway", common::host(ops));
    Ok(())
}

/// The gateways are on the container's link.
fn gateway_routes(dev: &IfName, hops: &[Hop]) -> Vec<LinkOp> {
    let mut done = BTreeSet::new();
    let fresh = hops.iter().filter(|h| done.insert(h.gateway));
    let route = |h: &Hop| RouteEntry { source: Some(h.net.address.ip()), ..entry(single(h.gateway), dev) };
    fresh.map(|h| LinkOp::AddRoute(route(h))).collect()
}

/// The subnets are behind the gateways. What the kernel makes for an address says that they are on the link.
fn subnet_routes(dev: &IfName, hops: &[Hop]) -> Vec<LinkOp> {
    let mut ops = Vec::new();
    let mut done = BTreeSet::new();
    for hop in hops {
        let (ip, subnet) = (hop.net.address.ip(), common::subnet(&hop.net.address));
        if subnet.prefix() == single(ip).prefix() || !done.insert((subnet.network(), subnet.prefix())) {
            continue;
        }
        let metric = ip.is_ipv6().then_some(METRIC_OF_ADDRESS);
        ops.push(LinkOp::DelRoute(RouteEntry { metric, ..entry(subnet, dev) }));
        let route = RouteEntry { source: Some(ip), via: Some(hop.gateway), ..entry(subnet, dev) };
        ops.push(LinkOp::AddRoute(route));
    }
    ops
}

/// Plans the container's end. It is up before it has addresses, so that their routes are there to be removed.
fn inside_side(
    call: &Call<'_>,
    view: &mut View<'_>,
    result: &CniResult,
    hops: &[Hop],
    plan: &mut Plan,
) -> Result<(), Error> {
    let (netns, ifname) = (call.netns()?, call.ifname()?);
    device::allow_ipv6(call, view, result, plan)?;
    let mut ops = vec![device::mark(call)?, LinkOp::Up(ifname.clone())];
    ops.extend(common::addresses(ifname, &result.ips, false)?);
    ops.extend(gateway_routes(ifname, hops));
    // Their next hops may be anywhere in the subnet, which therefore has to be on the link until they are there.
    ops.extend(routes(ifname, result));
    ops.extend(subnet_routes(ifname, hops));
    plan.step("cni.inside", common::inside(netns, ops));
    Ok(())
}

/// The host's ends whose alias is like this.
fn host_ends(view: &mut View<'_>, like: impl Fn(&str) -> bool) -> Result<Vec<IfName>, Error> {
    let links = view.host()?.links()?.into_iter();
    let mine = |l: &LinkState| ours(&l.kind) && l.alias.as_deref().is_some_and(&like);
    Ok(links.filter(mine).map(|l| l.name).collect())
}

fn remove_host_ends(ends: Vec<IfName>, plan: &mut Plan) {
    if !ends.is_empty() {
        plan.step("cni.del", common::host(ends.into_iter().map(LinkOp::Delete).collect()));
    }
}

/// The host's end is the one of the previous result, and has the gateway's addresses.
fn check_host(link: &LinkState, previous: &CniResult, view: &mut View<'_>) -> Result<(), Error> {
    let LinkKind::Veth { peer: Some(peer) } = link.kind else {
        return Err(Error::internal(format!("interface {} has no other end", link.name)));
    };
    let links = view.host()?;
    let told =
        |end: &LinkState| previous.interfaces.iter().any(|i| i.sandbox.is_empty() && i.name == end.name.as_str());
    let Some(end) = links.link_by_index(peer)?.filter(told) else {
        return Err(Error::internal(format!("the host's end of {} is not that of the previous result", link.name)));
    };
    let there = links.addresses_of(end.index)?;
    for gateway in previous.ips.iter().filter_map(|ip| ip.gateway) {
        if !there.iter().any(|a| a.ip == gateway) {
            return Err(Error::internal(format!("{} does not have the gateway address {gateway}", end.name)));
        }
    }
    Ok(())
}

impl Plugin for Ptp {
    fn delegation(&self) -> Delegation {
        Delegation::Required
    }

    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        if call.leased.is_none() {
            return Err(Error::config("ptp: addresses are needed before the interface is there")
                .details("addresses of dhcp are leased through it"));
        }
        common::refuse_existing(call, view)?;
        let owner = table::owner(&call.request.name, &call.id());
        let (end, end_mac, mac) = (common::veth_name(), common::random_mac(), common::random_mac());
        let host_end = |name: &IfName, mac: MacAddr| Interface {
            name: name.to_string(),
            mac: mac.to_string(),
            mtu: config.mtu,
            ..Interface::default()
        };
        let result =
            device::result(call, vec![host_end(&end, end_mac), device::interface(call, Some(mac), config.mtu)?]);
        let hops = hops(&result.ips)?;
        let veth = NewVeth {
            alias: owner.clone(),
            mac: Some(end_mac),
            ipv6: AddressGeneration::Kernel,
            mtu: config.mtu.unwrap_or(1500),
            netns: Some(call.netns()?.clone()),
            ..NewVeth::new(end.clone(), call.ifname()?.clone(), mac)
        };
        let mut plan = Plan::default();
        let undo = vec![common::host(vec![LinkOp::Delete(end.clone())])];
        plan.undoable("cni.veth", common::host(vec![LinkOp::NewVeth(veth)]), undo);
        // Routers a container pretends to have are none of the host's.
        if view.sysctl(&Place::Host, "net/ipv6/conf/default/accept_ra")?.is_some() {
            let key = format!("net/ipv6/conf/{end}/accept_ra");
            plan.step("cni.host.sysctl", Action::Sysctl { place: Place::Host, key, value: "0".into() });
        }
        host_side(&end, &hops, &mut plan)?;
        common::forward(view, result.ips.iter().map(|ip| ip.address.ip()), &mut plan)?;
        inside_side(call, view, &result, &hops, &mut plan)?;
        if config.masquerade {
            let changes = table::hide(view.tables()?, result.ips.iter().map(|ip| ip.address), &owner)?;
            plan.step("cni.masquerade", Action::Tables(changes));
        }
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let (mut plan, mut links) = (Plan::default(), Plan::default());
        let owner = table::owner(&call.request.name, &call.id());
        let mut ips: Vec<IpAddr> = call.previous.iter().flat_map(|p| &p.ips).map(|ip| ip.address.ip()).collect();
        ips.extend(device::remove(call, view, ours, &mut links)?);
        if call.netns.is_none() {
            // Somebody may hold the namespace, and with it the pair, though nobody can say where it is.
            remove_host_ends(host_ends(view, |alias| alias == owner)?, &mut links);
        }
        if self.may_masquerade() {
            table::show(view.tables()?, &ips, &owner, &mut plan)?;
        }
        // Elements and pair take a grace period each, which pass at the same time in this order. Looking whether the table
        // is used any more waits for the first.
        let look = plan.steps.split_off(plan.steps.len().min(1));
        plan.steps.append(&mut links.steps);
        plan.steps.extend(look);
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let config = self.config()?;
        let link = device::check(call, view, ours)?;
        let previous = call.previous()?;
        check_host(&link, previous, view)?;
        if config.masquerade {
            table::check_hidden(view.tables()?, &previous.ips, &table::owner(&call.request.name, &call.id()))?;
        }
        Ok(())
    }

    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let network = &call.request.name;
        remove_host_ends(host_ends(view, |alias| table::is_stale(alias, network, valid))?, &mut plan);
        if self.may_masquerade() {
            table::sweep(view.tables()?, &table::hiding_sets(), network, valid, &mut plan)?;
        }
        Ok(plan)
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
