#![doc = include_str!("README.md")]

mod config;
mod host;

use std::net::IpAddr;

use rnet_kernel::{AddressGeneration, Devconf4, LinkKind, LinkOp, LinkState, NewBridge, NewVeth, Snooping, Switch};
use rnet_model::{IfName, MacAddr};
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::dress::routes;
use rnet_plugin_protocol::{
    AttachmentId, Call, CniResult, Delegation, Error, Interface, IpConfig, Plugin, Request, View, Work, wanted_mac,
};

use self::config::{Config, Gateway};
use crate::{common, device, spoof, table};

/// The plugin.
#[derive(Debug)]
pub struct Bridge {
    config: Config,
    /// What is wrong with it; then it is the default, with all that leaves something on the host.
    wrong: Option<Error>,
}

impl Bridge {
    /// From a request.
    pub fn new(request: &Request) -> Self {
        match Config::new(request) {
            Ok(config) => Bridge { config, wrong: None },
            Err(error) => Bridge { config: Config::all(), wrong: Some(error) },
        }
    }

    /// The bridge, made if it is not there; its address.
    fn bridge(&self, view: &mut View<'_>, plan: &mut Plan) -> Result<(Option<LinkState>, MacAddr), Error> {
        let config = &self.config;
        let name = &config.bridge;
        let there = view.host()?.link(name)?;
        let Some(link) = there else {
            let mac = common::random_mac();
            let bridge = NewBridge {
                mtu: config.mtu,
                mac: Some(mac),
                vlan_filtering: config.vlans.any(),
                ipv6: AddressGeneration::Kernel,
                // Each port that joins costs more the more there are (docs/plugins.md).
                snooping: Snooping::Off,
                ..NewBridge::new(name.clone())
            };
            let mut ops = vec![LinkOp::NewBridge(bridge)];
            if config.promisc {
                ops.push(LinkOp::Promisc(name.clone(), Switch::On));
            }
            // Shared: it stays, as every bridge of the plugin does, also when a later step fails.
            plan.step("cni.bridge", common::host(ops));
            // Routers of the network are none of the host's.
            let key = format!("net/ipv6/conf/{name}/accept_ra");
            if view.sysctl(&Place::Host, "net/ipv6/conf/default/accept_ra")?.is_some() {
                plan.step("cni.bridge.sysctl", Action::Sysctl { place: Place::Host, key, value: "0".into() });
            }
            return Ok((None, mac));
        };
        let LinkKind::Bridge { vlan_filtering } = link.kind else {
            return Err(Error::internal(format!("{:?} already exists but is not a bridge", name.as_str())));
        };
        let mut ops = Vec::new();
        if config.promisc && !link.promisc {
            ops.push(LinkOp::Promisc(name.clone(), Switch::On));
        }
        if config.vlans.any() && !vlan_filtering {
            ops.push(LinkOp::VlanFiltering(name.clone(), Switch::On));
        }
        if !link.up {
            ops.push(LinkOp::Up(name.clone()));
        }
        let mac = match link.mac {
            Some(mac) if link.carrier => mac,
            // Without ports it would take the first one's, and have none after the last.
            found => {
                let mac = found.unwrap_or_else(common::random_mac);
                ops.push(LinkOp::Mac(name.clone(), mac));
                mac
            }
        };
        if !ops.is_empty() {
            plan.step("cni.bridge", common::host(ops));
        }
        Ok((Some(link), mac))
    }

    /// The pair, with the port's settings.
    fn pair(&self, call: &Call<'_>, names: &Names, mtu: u32, plan: &mut Plan) -> Result<(), Error> {
        let config = &self.config;
        let veth = NewVeth {
            mac: Some(names.host_mac),
            ipv6: AddressGeneration::Kernel,
            master: Some(config.bridge.clone()),
            mtu,
            netns: Some(call.netns()?.clone()),
            ..NewVeth::new(names.host.clone(), call.ifname()?.clone(), names.mac)
        };
        let undo = vec![common::host(vec![LinkOp::Delete(names.host.clone())])];
        plan.undoable("cni.veth", common::host(vec![LinkOp::NewVeth(veth)]), undo);
        let mut ops = Vec::new();
        if config.hairpin {
            ops.push(LinkOp::Hairpin(names.host.clone(), Switch::On));
        }
        if config.isolated {
            ops.push(LinkOp::Isolated(names.host.clone(), true));
        }
        ops.extend(host::port_vlans(&config.vlans, &names.host));
        if !ops.is_empty() {
            plan.step("cni.port", common::host(ops));
        }
        Ok(())
    }

    /// What the container's end is given. The address comes before the device is up, so that the kernel tells the
    /// neighbours (arp_notify).
    fn dress(&self, call: &Call<'_>, view: &mut View<'_>, result: &CniResult, plan: &mut Plan) -> Result<(), Error> {
        let (netns, ifname) = (call.netns()?, call.ifname()?);
        let mut ops = vec![device::mark(call)?];
        if self.config.leave_down || call.leased.is_none() {
            ops.extend((!self.config.leave_down).then(|| LinkOp::Up(ifname.clone())));
            plan.step("cni.inside", common::inside(netns, ops));
            return Ok(());
        }
        let place = Place::Inside(netns.clone());
        if view.sysctl(&Place::Host, "net/ipv6/conf/default/accept_dad")?.is_some() {
            let value = if self.config.detect_duplicates { "1" } else { "0" };
            let key = format!("net/ipv6/conf/{ifname}/accept_dad");
            plan.step("cni.inside.sysctl", Action::Sysctl { place, key, value: value.into() });
        }
        ops.push(LinkOp::Devconf4(ifname.clone(), Devconf4::ArpNotify, 1));
        ops.extend(common::addresses(ifname, &result.ips, self.config.detect_duplicates)?);
        ops.push(LinkOp::Up(ifname.clone()));
        ops.extend(routes(ifname, result));
        plan.step("cni.inside", common::inside(netns, ops));
        Ok(())
    }
}

/// Names and addresses of a pair.
struct Names {
    host: IfName,
    host_mac: MacAddr,
    mac: MacAddr,
}

/// Gateways the addresses leave open, and the default routes to them.
fn gateways(config: &Config, ips: &mut [IpConfig], result: &mut CniResult) -> Result<(), Error> {
    for ip in ips.iter_mut().filter(|_| config.gateway != Gateway::None) {
        let gateway = *ip.gateway.get_or_insert_with(|| common::first_address(&ip.address));
        if config.gateway != Gateway::Default {
            continue;
        }
        let default = common::default_route(ip.address.is_ipv6());
        let given = result.routes.iter().find(|r| r.dst == default.dst && r.gw.is_some_and(|gw| gw != gateway));
        if let Some(gw) = given.and_then(|r| r.gw) {
            return Err(Error::config(format!(
                "isDefaultGateway ineffective because IPAM sets default route via {gw}"
            )));
        }
        result.routes.retain(|r| r.dst != default.dst);
        result.routes.push(rnet_plugin_protocol::Route { gw: Some(gateway), ..default });
    }
    Ok(())
}

impl Plugin for Bridge {
    fn delegation(&self) -> Delegation {
        Delegation::Allowed
    }

    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = &self.config;
        let mac = wanted_mac(config.mac.as_deref(), call.env.arg("MAC"), call.request)?;
        let late = call.request.ipam.is_some() && call.leased.is_none();
        if late && (config.gateway != Gateway::None || config.masquerade) {
            return Err(Error::config("bridge: isGateway and ipMasq need addresses before the interface is there")
                .details("addresses of dhcp are leased through it"));
        }
        common::refuse_existing(call, view)?;
        let mut plan = Plan::default();
        let (bridge, bridge_mac) = self.bridge(view, &mut plan)?;
        let mut result = call.leased.clone().unwrap_or_default();
        let mut ips = std::mem::take(&mut result.ips);
        gateways(config, &mut ips, &mut result)?;
        let names = Names {
            host: common::veth_name(),
            host_mac: common::port_mac(),
            mac: mac.unwrap_or_else(common::random_mac),
        };
        // A port below the bridge's MTU would lower the bridge's.
        let mtu = config.mtu.or_else(|| bridge.as_ref().map(|b| b.mtu)).unwrap_or(1500);
        self.pair(call, &names, mtu, &mut plan)?;
        let interface = |name: &IfName, mac: MacAddr, sandbox: &str| Interface {
            name: name.to_string(),
            mac: mac.to_string(),
            mtu: config.mtu,
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        };
        result.interfaces = vec![
            interface(&config.bridge, bridge_mac, ""),
            interface(&names.host, names.host_mac, ""),
            interface(call.ifname()?, names.mac, &call.env.netns),
        ];
        for ip in &mut ips {
            ip.interface = Some(2);
        }
        result.ips = ips;
        if config.gateway != Gateway::None && call.leased.is_some() {
            let device = host::gateway_device(config, view, bridge_mac, &mut plan, &mut result)?;
            host::gateway_addresses(config, view, &device, &result.ips, &mut plan)?;
            common::forward(view, result.ips.iter().map(|ip| ip.address.ip()), &mut plan)?;
        }
        self.dress(call, view, &result, &mut plan)?;
        if config.masquerade {
            let owner = table::owner(&call.request.name, &call.id());
            let changes = table::hide(view.tables()?, result.ips.iter().map(|ip| ip.address), &owner)?;
            plan.step("cni.masquerade", Action::Tables(changes));
        }
        if config.spoof_check {
            let changes = spoof::allow_only(view.tables()?, &names.host, names.mac, &call.request.name, &call.id())?;
            plan.step("cni.spoof", Action::Tables(changes));
        }
        if !call.request.dns.is_empty() {
            result.dns = call.request.dns.clone();
        }
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let (mut plan, mut links) = (Plan::default(), Plan::default());
        let mut ips: Vec<IpAddr> = call.previous.iter().flat_map(|p| &p.ips).map(|ip| ip.address.ip()).collect();
        // Only a pair is ours: a device of another kind has come by the name elsewhere.
        ips.extend(device::remove(call, view, |kind| matches!(kind, LinkKind::Veth { .. }), &mut links)?);
        if call.netns.is_none() {
            // Somebody may hold the namespace, though nobody can say where it is: its interface would go on with an address
            // that is free.
            host::remove_ends(call.previous.as_ref(), view, &mut links)?;
        }
        let owner = table::owner(&call.request.name, &call.id());
        if self.config.masquerade {
            table::show(view.tables()?, &ips, &owner, &mut plan)?;
        }
        // Elements and pair take a grace period each, which pass at the same time in this order. Looking whether the table
        // is used any more waits for the first.
        let look = plan.steps.split_off(plan.steps.len().min(1));
        plan.steps.append(&mut links.steps);
        plan.steps.extend(look);
        if self.config.spoof_check {
            spoof::forget(view.tables()?, &call.request.name, &call.id(), &mut plan)?;
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        host::check(&self.config, call, view)?;
        common::check_inside(call, view)?;
        let owner = table::owner(&call.request.name, &call.id());
        if self.config.masquerade {
            table::check_hidden(view.tables()?, &call.previous()?.ips, &owner)?;
        }
        if self.config.spoof_check {
            spoof::check(view.tables()?, &call.request.name, &call.id())?;
        }
        Ok(())
    }

    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        if self.config.masquerade {
            table::sweep(view.tables()?, &table::hiding_sets(), &call.request.name, valid, &mut plan)?;
        }
        if self.config.spoof_check {
            spoof::sweep(view.tables()?, &call.request.name, valid, &mut plan)?;
        }
        Ok(plan)
    }

    fn status(&self, _: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let name = &self.config.bridge;
        match view.host()?.link(name)? {
            Some(link) if !matches!(link.kind, LinkKind::Bridge { .. }) => {
                Err(Error::new(Error::NOT_AVAILABLE, format!("{name} is there and is not a bridge")))
            }
            _ => Ok(()),
        }
    }
}
