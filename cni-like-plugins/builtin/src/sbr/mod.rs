#![doc = include_str!("README.md")]

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use rnet_kernel::{Family, LinkOp, RouteEntry, Rule};
use rnet_model::{IfName, Subnet};
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Error, IpConfig, Plugin, Request, Version, View, Work};
use serde::Deserialize;

use crate::chained::{container_link, own_addresses, since};
use crate::common::inside;

const FIRST_TABLE: u32 = 100;
/// RTPROT_BOOT of linux/rtnetlink.h, which ip(8) and the reference plugins give their routes.
const BOOT: u8 = 3;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    table: Option<u32>,
    gateways: Option<Vec<IpAddr>>,
    add_source_hints: Option<bool>,
}

/// Whether routes name their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    None,
    Source,
}

/// The plugin.
#[derive(Debug)]
pub struct Sbr {
    table: Option<u32>,
    gateways: Vec<IpAddr>,
    hints: Hints,
    /// What is wrong with the configuration.
    wrong: Option<Error>,
}

impl Sbr {
    /// From a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Sbr::configure(request).unwrap_or_else(|error| {
            // What is in a table of somebody's choice is not the plugin's.
            let table = request.own.get("table").filter(|t| !t.is_null());
            let table = table.map(|t| t.as_u64().and_then(|t| u32::try_from(t).ok()).unwrap_or_default());
            Sbr { table, gateways: Vec::new(), hints: Hints::None, wrong: Some(error) }
        })
    }

    /// # Errors
    /// Code 6 for another shape, 7 for two gateways of a family or a table that is none.
    fn configure(request: &Request) -> Result<Self, Error> {
        since(request, Version::V0_3_0)?;
        let config: Config = request.config()?;
        let gateways = config.gateways.unwrap_or_default();
        for v6 in [false, true] {
            if gateways.iter().filter(|g| g.is_ipv6() == v6).count() > 1 {
                let family = if v6 { "IPv6" } else { "IPv4" };
                return Err(Error::config(format!("sbr: gateways: more than one {family} address")));
            }
        }
        if config.table == Some(0) {
            return Err(Error::config("sbr: table 0 is none"));
        }
        let hints = if config.add_source_hints == Some(true) { Hints::Source } else { Hints::None };
        Ok(Sbr { table: config.table, gateways, hints, wrong: None })
    }

    fn gateway(&self, ip: &IpConfig) -> Option<IpAddr> {
        let own = self.gateways.iter().copied().find(|g| g.is_ipv6() == ip.address.is_ipv6());
        own.or(ip.gateway)
    }

    /// What the table of an address has in it, in an order in which next hops are reachable before they are used.
    fn table_of(&self, ip: &IpConfig, dev: &IfName, table: u32, routes: &[RouteEntry]) -> Vec<RouteEntry> {
        let near = |hop: IpAddr| ip.address.contains(hop);
        let family = |r: &&RouteEntry| r.destination.network().is_ipv6() == ip.address.is_ipv6();
        let related = |r: &&RouteEntry| match (r.source, r.via) {
            (None, None) => true,
            (source, via) => source.is_some_and(near) || via.is_some_and(near),
        };
        let source = || (self.hints == Hints::Source).then(|| ip.address.ip());
        let copied = routes.iter().filter(family).filter(related).map(|r| RouteEntry {
            table,
            source: r.source.or_else(source),
            ..r.clone()
        });
        let mut entries: Vec<RouteEntry> = copied.collect();
        if let Some(via) = self.gateway(ip) {
            let any = Subnet::containing(via, 0).expect("0 is a prefix length of both families");
            let default = RouteEntry {
                via: Some(via),
                protocol: BOOT,
                table,
                source: source(),
                ..RouteEntry::new(any, dev.clone())
            };
            if !entries.iter().any(|r| r.destination == default.destination && r.metric.is_none()) {
                entries.push(default);
            }
        }
        entries.sort_by_key(|r| r.via.is_some());
        entries
    }
}

/// `from ADDRESS lookup TABLE`.
fn rule(ip: IpAddr, table: u32) -> Rule {
    let (family, bits) = if ip.is_ipv4() { (Family::V4, 32) } else { (Family::V6, 128) };
    let from = Subnet::containing(ip, bits).expect("the length of the whole address");
    Rule { from: Some(from), ..Rule::new(family, table) }
}

fn leads_from(rule: &Rule, ip: IpAddr) -> bool {
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    rule.from.is_some_and(|from| from.network() == ip && from.prefix() == whole)
}

/// The next table from `candidate` that no rule leads to and no route is in.
fn free_table(
    view: &mut View<'_>,
    netns: &rnet_kernel::Netns,
    used: &BTreeSet<u32>,
    candidate: u32,
) -> Result<u32, Error> {
    for table in (candidate..).filter(|t| !used.contains(t)) {
        if view.inside(netns)?.routes_of_table(table)?.is_empty() {
            return Ok(table);
        }
    }
    Err(Error::internal("sbr: no routing table is free"))
}

impl Plugin for Sbr {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let (previous, ifname, netns) = (call.previous()?, call.ifname()?, call.netns()?);
        let ips: Vec<&IpConfig> = own_addresses(previous, ifname).collect();
        if ips.is_empty() {
            return Err(Error::config(format!("No IP addresses supplied on interface: {ifname}")));
        }
        let link = container_link(call, view)?;
        let links = view.inside(netns)?;
        let rules = links.rules()?;
        let main: Vec<RouteEntry> =
            links.routes_through(&link.name)?.into_iter().filter(|r| r.table == RouteEntry::MAIN).collect();
        let mut used: BTreeSet<u32> = rules.iter().map(|r| r.table).collect();
        let (mut ops, mut undo) = (Vec::new(), Vec::new());
        for ip in &ips {
            let table = match self.table {
                Some(table) => table,
                None => free_table(view, netns, &used, FIRST_TABLE)?,
            };
            used.insert(table);
            let entries = if self.table.is_some() { Vec::new() } else { self.table_of(ip, ifname, table, &main) };
            undo.extend(entries.iter().rev().cloned().map(LinkOp::DelRoute));
            ops.extend(entries.into_iter().map(LinkOp::AddRoute));
            let rule = rule(ip.address.ip(), table);
            if !rules.iter().any(|r| r.table == table && leads_from(r, ip.address.ip())) {
                ops.push(LinkOp::AddRule(rule.clone()));
                undo.push(LinkOp::DelRule(rule));
            }
        }
        let mut plan = Plan::default();
        plan.undoable("cni.sbr.tables", inside(netns, ops), vec![inside(netns, undo)]);
        if self.table.is_none() && !main.is_empty() {
            // Those that lead elsewhere by a next hop go first, and come back last.
            let mut main = main;
            main.sort_by_key(|r| r.via.is_none());
            let back = main.iter().rev().cloned().map(LinkOp::AddRoute).collect();
            let away = main.into_iter().map(LinkOp::DelRoute).collect();
            plan.undoable("cni.sbr.main", inside(netns, away), vec![inside(netns, back)]);
        }
        Ok(Work::Planned(plan, previous.clone()))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let Some(netns) = &call.netns else { return Ok(plan) };
        let ifname = call.ifname()?;
        let mut ours: BTreeSet<IpAddr> =
            call.previous.iter().flat_map(|p| own_addresses(p, ifname)).map(|ip| ip.address.ip()).collect();
        let links = view.inside(netns)?;
        if let Some(link) = links.link(ifname)? {
            ours.extend(links.addresses_of(link.index)?.into_iter().map(|a| a.ip));
        }
        let rules: Vec<Rule> =
            links.rules()?.into_iter().filter(|r| ours.iter().any(|ip| leads_from(r, *ip))).collect();
        let mut ops: Vec<LinkOp> = Vec::new();
        if self.table.is_none() {
            let tables: BTreeSet<u32> = rules.iter().map(|r| r.table).filter(|t| *t >= FIRST_TABLE).collect();
            for table in tables.into_iter().filter(|t| *t != RouteEntry::MAIN) {
                let left = links.routes_of_table(table)?.into_iter().filter(|r| r.dev == *ifname);
                ops.extend(left.map(LinkOp::DelRoute));
            }
        }
        ops.extend(rules.into_iter().map(LinkOp::DelRule));
        if !ops.is_empty() {
            plan.step("cni.sbr.del", inside(netns, ops));
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let (previous, ifname) = (call.previous()?, call.ifname()?);
        container_link(call, view)?;
        let links = view.inside(call.netns()?)?;
        let rules = links.rules()?;
        for ip in own_addresses(previous, ifname) {
            let address = ip.address.ip();
            let rule = rules.iter().find(|r| leads_from(r, address) && self.table.is_none_or(|t| t == r.table));
            let rule = rule.ok_or_else(|| Error::internal(format!("sbr: no rule for packets from {address}")))?;
            let table = links.routes_of_table(rule.table)?;
            if table.is_empty() {
                return Err(Error::internal(format!("sbr: table {} of {address} is empty", rule.table)));
            }
            let missing = |via: &IpAddr| !table.iter().any(|r| r.destination.prefix() == 0 && r.via == Some(*via));
            if let Some(via) = self.gateway(ip).filter(|via| self.table.is_none() && missing(via)) {
                return Err(Error::internal(format!("sbr: table {} has no default route by {via}", rule.table)));
            }
        }
        Ok(())
    }

    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}
