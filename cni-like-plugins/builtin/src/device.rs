//! What the plugins that make one device in the container have in common: what it stands on, how it gets its addresses,
//! how it is compared, and how it goes.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use rnet_kernel::{Devconf4, DeviceKind, LinkKind, LinkOp, LinkState, Links, NewDevice};
use rnet_model::{IfName, MacAddr};
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::dress::routes;
use rnet_plugin_protocol::{Call, CniResult, Error, Interface, Request, View};
use serde_json::Value;

use crate::{common, table};

/// The device below, as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Below {
    /// `None` = the one the default route leads through.
    pub(crate) master: Option<IfName>,
    /// It is looked up in the container.
    pub(crate) in_container: bool,
    /// Bytes; `None` = as many as the device below has.
    pub(crate) mtu: Option<u32>,
}

/// `mtu` of a configuration: bytes, 0 = the kernel's choice.
///
/// # Errors
/// Code 7 for a negative one.
pub(crate) fn mtu(bytes: i64) -> Result<Option<u32>, Error> {
    let number = u32::try_from(bytes)
        .map_err(|_| Error::config(format!("invalid MTU {bytes}")).details("bytes; 0 = the kernel's choice"))?;
    Ok(Some(number).filter(|n| *n > 0))
}

impl Below {
    /// From the keys `master`, `linkInContainer` and `mtu`.
    ///
    /// # Errors
    /// Code 7 for what is no name and no number of bytes.
    pub(crate) fn new(master: &str, in_container: bool, bytes: i64) -> Result<Self, Error> {
        let master = if master.is_empty() { None } else { Some(master.parse::<IfName>()?) };
        Ok(Below { master, in_container, mtu: mtu(bytes)? })
    }

    /// Where the device below is.
    pub(crate) fn place(&self, call: &Call<'_>) -> Result<Place, Error> {
        Ok(if self.in_container { Place::Inside(call.netns()?.clone()) } else { Place::Host })
    }

    /// The device below.
    ///
    /// # Errors
    /// Code 7 if it is not there, or has a smaller MTU than is asked for.
    pub(crate) fn find(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<LinkState, Error> {
        let links = view.links(&self.place(call)?)?;
        let link = self.look(links)?;
        match self.mtu {
            Some(mtu) if mtu > link.mtu => {
                Err(Error::config(format!("invalid MTU {mtu}, must be [0, master MTU({})]", link.mtu))
                    .details(format!("the master is {}", link.name)))
            }
            _ => Ok(link),
        }
    }

    fn look(&self, links: &mut dyn Links) -> Result<LinkState, Error> {
        let name = match &self.master {
            Some(name) => name.clone(),
            None => default_route_device(links)?,
        };
        links.link(&name)?.ok_or_else(|| {
            let place = if self.in_container { "the container" } else { "the host" };
            Error::config(format!("failed to lookup master {:?}: Link not found", name.as_str()))
                .details(format!("{place} has no such interface"))
        })
    }

    /// Plans the birth of the container's interface on the device below.
    pub(crate) fn make(
        &self,
        call: &Call<'_>,
        view: &mut View<'_>,
        new: New<'_>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let New { parent, kind, mac } = new;
        let (netns, ifname) = (call.netns()?, call.ifname()?);
        // Kernels before 6.13 look for the name where the message is sent too (rtnl_newlink): a host with an eth0 of its
        // own would refuse each eth0.
        let taken = !self.in_container && view.host()?.link(ifname)?.is_some();
        let born = if taken { common::veth_name() } else { ifname.clone() };
        let device = NewDevice {
            parent: Some(parent.name.clone()),
            mtu: self.mtu,
            mac,
            netns: (!self.in_container).then(|| netns.clone()),
            ..NewDevice::new(born.clone(), kind)
        };
        let undo = vec![common::inside(netns, vec![LinkOp::Delete(born.clone())])];
        plan.undoable("cni.device", Action::Links(self.place(call)?, vec![LinkOp::NewDevice(device)]), undo);
        if taken {
            let undo = vec![common::inside(netns, vec![LinkOp::Delete(ifname.clone())])];
            let rename = vec![LinkOp::Rename(born, ifname.clone())];
            plan.undoable("cni.device.name", common::inside(netns, rename), undo);
        }
        Ok(())
    }

    /// The interface still stands on the configured device. A default route may have moved on since.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check(&self, call: &Call<'_>, view: &mut View<'_>, link: &LinkState) -> Result<(), Error> {
        if self.master.is_none() {
            return Ok(());
        }
        let parent = self.look(view.links(&self.place(call)?)?).map_err(|e| Error { code: Error::INTERNAL, ..e })?;
        if link.parent != Some(parent.index) || link.parent_elsewhere == self.in_container {
            return Err(Error::internal(format!("interface {} does not stand on {}", link.name, parent.name)));
        }
        Ok(())
    }

    /// The device below is there, as far as it can be told without a container.
    ///
    /// # Errors
    /// Code 50 if not.
    pub(crate) fn status(&self, view: &mut View<'_>) -> Result<(), Error> {
        if self.in_container {
            return Ok(());
        }
        self.look(view.host()?).map(drop).map_err(|e| Error { code: Error::NOT_AVAILABLE, ..e })
    }
}

/// The device of the default route with the lowest metric, IPv4 first.
///
/// # Errors
/// Code 7 without a default route.
pub(crate) fn default_route_device(links: &mut dyn Links) -> Result<IfName, Error> {
    let routes = links.routes()?;
    let best = |v4: bool| {
        let defaults = routes.iter().filter(|r| r.destination.prefix() == 0 && r.destination.is_ipv4() == v4);
        defaults.min_by_key(|r| r.metric.unwrap_or(0))
    };
    best(true).or_else(|| best(false)).map(|r| r.dev.clone()).ok_or_else(|| {
        Error::config("no default route interface found").details("name the device below with \"master\"")
    })
}

/// The container's interface as a result has it.
pub(crate) fn interface(call: &Call<'_>, mac: Option<MacAddr>, mtu: Option<u32>) -> Result<Interface, Error> {
    Ok(Interface {
        name: call.ifname()?.to_string(),
        mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu,
        sandbox: call.env.netns.clone(),
        ..Interface::default()
    })
}

/// The lease with these interfaces, of which the last is the container's.
pub(crate) fn result(call: &Call<'_>, interfaces: Vec<Interface>) -> CniResult {
    let mut result = call.leased.clone().unwrap_or_default();
    let own = interfaces.len().checked_sub(1);
    result.ips.iter_mut().for_each(|ip| ip.interface = own);
    result.interfaces = interfaces;
    if gives_dns(call.request) {
        result.dns = call.request.dns.clone();
    }
    result
}

/// Whether the configuration says anything of name resolution: an empty list says that there are no servers.
fn gives_dns(request: &Request) -> bool {
    let dns = request.whole.get("dns").and_then(Value::as_object);
    dns.is_some_and(|dns| {
        let list = |key: &str| dns.get(key).is_some_and(|v| !v.is_null());
        list("nameservers") || list("search") || list("options") || !request.dns.domain.is_empty()
    })
}

/// Says whose the container's interface is. [`remove`] leaves another's alone.
///
/// # Errors
/// Code 4 without an interface.
pub(crate) fn mark(call: &Call<'_>) -> Result<LinkOp, Error> {
    Ok(LinkOp::Alias(call.ifname()?.clone(), table::owner(&call.request.name, &call.id())))
}

/// Bytes of an owner's text that tell network and attachment apart, all of them hexadecimal digits.
const KEY: usize = 28;

/// Whether an alias is one of [`mark`], for another network or attachment. What the reference made has none.
fn is_of_another(alias: &str, call: &Call<'_>) -> bool {
    let key = |text: &str| {
        let (key, rest) = text.split_at_checked(KEY)?;
        let is_tag = key.bytes().all(|b| b.is_ascii_hexdigit()) && rest.starts_with(' ');
        is_tag.then(|| key.to_owned())
    };
    key(alias).is_some_and(|theirs| key(&table::owner(&call.request.name, &call.id())) != Some(theirs))
}

/// Lets the interface have the IPv6 addresses of a result, where the container's interfaces are born without.
///
/// # Errors
/// When the settings cannot be read.
pub(crate) fn allow_ipv6(
    call: &Call<'_>,
    view: &mut View<'_>,
    result: &CniResult,
    plan: &mut Plan,
) -> Result<(), Error> {
    let place = Place::Inside(call.netns()?.clone());
    if !result.ips.iter().any(|ip| ip.address.is_ipv6()) {
        return Ok(());
    }
    for (key, value) in [("disable_ipv6", "0"), ("keep_addr_on_down", "1")] {
        let there = view.sysctl(&place, &format!("net/ipv6/conf/default/{key}"))?;
        if there.is_some_and(|there| there != value) {
            let key = format!("net/ipv6/conf/{}/{key}", call.ifname()?);
            plan.step("cni.inside.sysctl", Action::Sysctl { place: place.clone(), key, value: value.into() });
        }
    }
    Ok(())
}

/// Plans the addresses and routes of a result for the container's interface, and takes it up. The addresses come first,
/// so that the kernel tells the neighbours of them (arp_notify).
///
/// # Errors
/// Code 7 for an address no interface can have.
pub(crate) fn dress(call: &Call<'_>, view: &mut View<'_>, result: &CniResult, plan: &mut Plan) -> Result<(), Error> {
    dress_after(vec![mark(call)?], call, view, result, plan)
}

/// The same for a device that is only lent: its alias is not ours.
///
/// # Errors
/// As [`dress`].
pub(crate) fn dress_lent(
    call: &Call<'_>,
    view: &mut View<'_>,
    result: &CniResult,
    plan: &mut Plan,
) -> Result<(), Error> {
    dress_after(Vec::new(), call, view, result, plan)
}

fn dress_after(
    mut ops: Vec<LinkOp>,
    call: &Call<'_>,
    view: &mut View<'_>,
    result: &CniResult,
    plan: &mut Plan,
) -> Result<(), Error> {
    let (netns, ifname) = (call.netns()?, call.ifname()?);
    allow_ipv6(call, view, result, plan)?;
    if !result.ips.is_empty() {
        ops.push(LinkOp::Devconf4(ifname.clone(), Devconf4::ArpNotify, 1));
        ops.extend(common::addresses(ifname, &result.ips, false)?);
    }
    ops.push(LinkOp::Up(ifname.clone()));
    ops.extend(routes(ifname, result));
    plan.step("cni.inside", common::inside(netns, ops));
    Ok(())
}

/// Plans the removal of the container's interface, if it is there, of a kind this plugin makes and not of another network:
/// a device of another kind has come by the name elsewhere, and an ADD that was refused because of one of another network
/// is followed by a DEL. Returns the addresses it has.
///
/// # Errors
/// When the container cannot be looked into.
pub(crate) fn remove(
    call: &Call<'_>,
    view: &mut View<'_>,
    ours: impl Fn(&LinkKind) -> bool,
    plan: &mut Plan,
) -> Result<Vec<IpAddr>, Error> {
    let (Some(netns), Some(ifname)) = (&call.netns, &call.env.ifname) else { return Ok(Vec::new()) };
    let links = view.inside(netns)?;
    let anothers = |link: &LinkState| link.alias.as_deref().is_some_and(|alias| is_of_another(alias, call));
    let Some(link) = links.link(ifname)?.filter(|link| ours(&link.kind) && !anothers(link)) else {
        return Ok(Vec::new());
    };
    let ips = links.addresses_of(link.index)?.into_iter().filter(|a| !a.automatic).map(|a| a.ip).collect();
    plan.step("cni.del", common::inside(netns, vec![LinkOp::Delete(ifname.clone())]));
    Ok(ips)
}

/// The container's interface as the previous result has it, of the right kind.
///
/// # Errors
/// The first difference.
pub(crate) fn check(
    call: &Call<'_>,
    view: &mut View<'_>,
    ours: impl Fn(&LinkKind) -> bool,
) -> Result<LinkState, Error> {
    let previous = call.previous()?;
    let ifname = call.ifname()?;
    let told = previous.interfaces.iter().find(|i| i.name == ifname.as_str() && !i.sandbox.is_empty());
    let Some(told) = told else {
        return Err(Error::internal(format!("interface {ifname} is not in the previous result")));
    };
    if told.sandbox != call.env.netns {
        return Err(Error::internal(format!(
            "Sandbox in prevResult {} doesn't match configured netns: {}",
            told.sandbox, call.env.netns
        )));
    }
    let link = common::check_inside(call, view)?;
    if !ours(&link.kind) {
        return Err(Error::internal(format!("interface {ifname} is not of type {}", call.request.kind))
            .details(format!("it is {:?}", link.kind)));
    }
    match told.mtu.filter(|mtu| *mtu != 0 && *mtu != link.mtu) {
        Some(mtu) => Err(Error::internal(format!("interface {ifname} has the MTU {}, not {mtu}", link.mtu))),
        None => Ok(link),
    }
}

/// What is to be born on the device below.
pub(crate) struct New<'a> {
    pub(crate) parent: &'a LinkState,
    pub(crate) kind: DeviceKind,
    /// `None` = the kernel's choice.
    pub(crate) mac: Option<MacAddr>,
}
