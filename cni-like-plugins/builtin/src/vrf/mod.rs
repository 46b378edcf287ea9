#![doc = include_str!("README.md")]

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use rnet_kernel::{Address, Admin, DeviceKind, LinkKind, LinkOp, LinkState, Links, NewDevice, RouteEntry};
use rnet_model::{IfAddr, IfName};
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Error, Plugin, Request, Version, View, Work};
use serde::Deserialize;

use crate::chained::{container_link, since};
use crate::common::inside;

/// RTPROT_KERNEL of linux/rtnetlink.h.
const BY_KERNEL: u8 = 2;
/// The tables of the kernel itself, RT_TABLE_DEFAULT to RT_TABLE_LOCAL of linux/rtnetlink.h.
const RESERVED: std::ops::RangeInclusive<u32> = 253..=255;

#[derive(Debug, Deserialize)]
struct Config {
    vrfname: Option<String>,
    table: Option<u32>,
}

/// The plugin.
#[derive(Debug)]
pub struct Vrf {
    config: Result<Wanted, Error>,
    /// Of the VRF, also of a configuration that is none; `None` where it has no name, and so none was made.
    name: Option<IfName>,
}

/// Checked.
#[derive(Debug)]
struct Wanted {
    name: IfName,
    table: Option<u32>,
}

impl Vrf {
    /// From a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        let name = request.own.get("vrfname").and_then(serde_json::Value::as_str).and_then(|n| n.parse().ok());
        Vrf { config: Wanted::new(request), name }
    }

    fn config(&self) -> Result<&Wanted, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }
}

impl Wanted {
    /// # Errors
    /// Code 6 for another shape, 7 without a name, 1 before version 0.3.1.
    fn new(request: &Request) -> Result<Self, Error> {
        since(request, Version::V0_3_1)?;
        let config: Config = request.config()?;
        let name = config.vrfname.filter(|n| !n.is_empty());
        let name = name.ok_or_else(|| Error::config("configuration is expected to have a valid vrf name"))?;
        Ok(Wanted { name: name.parse()?, table: config.table.filter(|t| *t != 0) })
    }

    /// The VRF with its table, if it is there.
    fn there(&self, links: &mut dyn Links) -> Result<Option<(LinkState, u32)>, Error> {
        let Some(link) = links.link(&self.name)? else { return Ok(None) };
        match link.kind {
            LinkKind::Vrf { table } => Ok(Some((link, table))),
            _ => Err(Error::internal(format!("Netlink {} is not a VRF", self.name))),
        }
    }
}

/// The first table that is no VRF's, no rule leads to and nothing is in.
fn free_table(links: &mut dyn Links) -> Result<u32, Error> {
    let vrfs = links.links()?.into_iter().filter_map(|l| match l.kind {
        LinkKind::Vrf { table } => Some(table),
        _ => None,
    });
    let mut used: BTreeSet<u32> = vrfs.collect();
    used.extend(links.rules()?.into_iter().map(|r| r.table));
    for table in (1..).filter(|t| !used.contains(t) && !RESERVED.contains(t)) {
        if links.routes_of_table(table)?.is_empty() {
            return Ok(table);
        }
    }
    Err(Error::internal("Failed to find an available routing id"))
}

fn if_addr(address: &Address) -> Option<IfAddr> {
    IfAddr::new(address.ip, address.prefix).ok()
}

impl Plugin for Vrf {
    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        let previous = call.previous()?.clone();
        let netns = call.netns()?;
        let link = container_link(call, view)?;
        let links = view.inside(netns)?;
        if let Some(master) = link.master {
            let master = links.link_by_index(master)?.map_or_else(|| master.to_string(), |m| m.name.to_string());
            return Err(Error::internal(format!("interface {} has already a master set: {master}", link.name)));
        }
        let mut plan = Plan::default();
        let table = match (config.there(links)?, config.table) {
            (Some((_, table)), Some(wanted)) if table != wanted => {
                return Err(Error::config(format!(
                    "VRF {} already exist with different routing table {table}",
                    config.name
                )));
            }
            (Some((_, table)), _) => table,
            (None, wanted) => {
                let table = match wanted {
                    Some(table) => table,
                    None => free_table(links)?,
                };
                let device =
                    NewDevice { admin: Admin::Up, ..NewDevice::new(config.name.clone(), DeviceKind::Vrf { table }) };
                let undo = vec![inside(netns, vec![LinkOp::Delete(config.name.clone())])];
                plan.undoable("cni.vrf.device", inside(netns, vec![LinkOp::NewDevice(device)]), undo);
                table
            }
        };
        let addresses = links.addresses_of(link.index)?;
        // Connected routes follow the device by themselves; all others are lost.
        let main = links.routes_through(&link.name)?;
        let main: Vec<RouteEntry> =
            main.into_iter().filter(|r| r.table == RouteEntry::MAIN && r.protocol != BY_KERNEL).collect();
        let dev = || link.name.clone();
        let six = addresses.iter().filter(|a| a.ip.is_ipv6() && !a.automatic).filter_map(if_addr);
        let again: Vec<LinkOp> = six.map(|a| LinkOp::AddAddress(dev(), a)).collect();
        let enslave = vec![LinkOp::Master(dev(), config.name.clone())];
        let mut undo = vec![LinkOp::NoMaster(dev())];
        undo.extend(again.iter().cloned());
        undo.extend(main.iter().cloned().map(LinkOp::AddRoute));
        plan.undoable("cni.vrf.enslave", inside(netns, enslave), vec![inside(netns, undo)]);
        let moved = main.into_iter().map(|r| LinkOp::AddRoute(RouteEntry { table, ..r }));
        let ops: Vec<LinkOp> = again.into_iter().chain(moved).collect();
        if !ops.is_empty() {
            plan.undoable("cni.vrf.dress", inside(netns, ops), Vec::new());
        }
        Ok(Work::Planned(plan, previous))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let (Some(netns), Some(name)) = (&call.netns, &self.name) else { return Ok(plan) };
        let links = view.inside(netns)?;
        // A device of another kind has come by the name elsewhere.
        let Some(vrf) = links.link(name)?.filter(|l| matches!(l.kind, LinkKind::Vrf { .. })) else { return Ok(plan) };
        let ifname = call.ifname()?;
        let members: Vec<LinkState> = links.links()?.into_iter().filter(|l| l.master == Some(vrf.index)).collect();
        let mut ops: Vec<LinkOp> =
            members.iter().filter(|l| l.name == *ifname).map(|l| LinkOp::NoMaster(l.name.clone())).collect();
        if members.iter().all(|l| l.name == *ifname) {
            ops.push(LinkOp::Delete(name.clone()));
        }
        if !ops.is_empty() {
            plan.step("cni.vrf.del", inside(netns, ops));
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let config = self.config()?;
        call.previous()?;
        let link = container_link(call, view)?;
        let there = config.there(view.inside(call.netns()?)?)?;
        let (vrf, table) = there.ok_or_else(|| Error::internal(format!("VRF {} not found", config.name)))?;
        if link.master != Some(vrf.index) {
            return Err(Error::internal(format!("Failed to find {} associated to vrf {}", link.name, config.name)));
        }
        match config.table.filter(|wanted| *wanted != table) {
            Some(wanted) => Err(Error::internal(format!("VRF {} has the table {table}, not {wanted}", config.name))),
            None => Ok(()),
        }
    }

    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}
