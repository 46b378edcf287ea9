//! Raw netlink with nothing around it: what the kernel itself takes for an attach.

use std::time::{Duration, Instant};

use rnet_kernel::{
    AddressGeneration, LinkOp, Links as _, Netns, NewBridge, NewVeth, Route, RouteEntry, RouteKind, Snooping,
};
use rnet_model::{IfAddr, IfName, MacAddr, Subnet};

use crate::bed::Container;
use crate::stats::Samples;

/// Time of the kernel for making the link, and for giving it its address and route.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    /// Two batches: from nothing to a configured interface.
    pub(crate) cold: Samples,
    /// One batch: addresses and route on an interface that is there.
    pub(crate) warm: Samples,
    /// Deleting links in one group, each.
    pub(crate) delete: Duration,
}

/// Attaches each container once on a bridge of its own, with sockets that are open already.
pub(crate) fn measure(containers: &[Container]) -> anyhow::Result<Floor> {
    const GROUP: u32 = 77;
    let bridge: IfName = "brfloor".parse()?;
    let mut host = Route::open(&Netns::current()?)?;
    apply(
        &mut host,
        &[LinkOp::NewBridge(NewBridge {
            name: bridge.clone(),
            alias: "floor".into(),
            mtu: Some(1500),
            mac: None,
            vlan_filtering: false,
            ipv6: AddressGeneration::Off,
            snooping: Snooping::Off,
        })],
    )?;
    let mut floor = Floor::default();
    let mut retire = Vec::new();
    for (n, container) in containers.iter().enumerate() {
        let mut inside = Route::open(&container.netns)?;
        let (lo, eth0): (IfName, IfName) = ("lo".parse()?, "eth0".parse()?);
        apply(&mut inside, &[LinkOp::Up(lo)])?;
        let name: IfName = format!("fl{n}").parse()?;
        let address: IfAddr = format!("10.253.{}.{}/16", n / 250, n % 250 + 2).parse()?;
        let route = RouteEntry {
            destination: "0.0.0.0/0".parse::<Subnet>()?,
            via: Some("10.253.0.1".parse()?),
            dev: eth0.clone(),
            metric: None,
            onlink: false,
            source: None,
            protocol: RouteEntry::OURS,
            table: RouteEntry::MAIN,
            kind: RouteKind::Unicast,
            scope: None,
            mtu: None,
            advmss: None,
            more: Vec::new(),
        };
        let birth = [LinkOp::NewVeth(NewVeth {
            name: name.clone(),
            alias: "floor".into(),
            master: Some(bridge.clone()),
            mtu: 1500,
            peer: eth0.clone(),
            mac: None,
            ipv6: AddressGeneration::Off,
            peer_mac: MacAddr::local(u64::try_from(n)?),
            netns: Some(container.netns.clone()),
        })];
        let up = [LinkOp::Up(eth0.clone())];
        let dress = [LinkOp::AddAddress(eth0.clone(), address), LinkOp::AddRoute(route)];
        let begun = Instant::now();
        apply(&mut host, &birth)?;
        apply(&mut inside, &up)?;
        let wired = Instant::now();
        apply(&mut inside, &dress)?;
        floor.cold.push(begun.elapsed());
        floor.warm.push(wired.elapsed());
        retire.push(LinkOp::Retire(name, GROUP));
    }
    let begun = Instant::now();
    retire.chunks(128).try_for_each(|ops| apply(&mut host, ops))?;
    apply(&mut host, &[LinkOp::DeleteGroup(GROUP)])?;
    floor.delete = begun.elapsed() / u32::try_from(containers.len().max(1))?;
    apply(&mut host, &[LinkOp::Delete(bridge)])?;
    Ok(floor)
}

fn apply(route: &mut Route, ops: &[LinkOp]) -> anyhow::Result<()> {
    match route.batch(ops)?.into_iter().next() {
        Some(fault) => Err(fault.error.into()),
        None => Ok(()),
    }
}
