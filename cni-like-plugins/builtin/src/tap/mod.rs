#![doc = include_str!("README.md")]

use std::path::Path;

use rnet_kernel::{LinkKind, LinkOp, NewTap, Queues, Switch};
use rnet_model::IfName;
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Delegation, Error, Plugin, Request, View, Work, wanted_mac};
use serde::Deserialize;

use crate::{common, device};

/// Bytes a tap device is born with (ETH_DATA_LEN).
const MTU: u32 = 1500;

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    multi_queue: bool,
    mtu: i64,
    mac: Option<String>,
    owner: Option<u32>,
    group: Option<u32>,
    selinux_context: Option<String>,
    bridge: Option<String>,
}

/// Checked.
#[derive(Debug)]
struct Config {
    queues: Queues,
    mtu: Option<u32>,
    mac: Option<String>,
    owner: Option<u32>,
    group: Option<u32>,
    bridge: Option<IfName>,
}

impl Config {
    fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        if let Some(context) = written.selinux_context.filter(|c| !c.is_empty()) {
            return Err(Error::new(Error::UNSUPPORTED_FIELD, format!("selinuxContext {context:?} is not supported"))
                .details("a tap device has the label of the process that makes it"));
        }
        Ok(Config {
            queues: if written.multi_queue { Queues::Several } else { Queues::One },
            mtu: device::mtu(written.mtu)?,
            mac: written.mac,
            owner: written.owner,
            group: written.group,
            bridge: written.bridge.filter(|b| !b.is_empty()).map(|b| b.parse()).transpose()?,
        })
    }
}

/// The plugin.
#[derive(Debug)]
pub struct Tap {
    config: Result<Config, Error>,
}

impl Tap {
    /// From a request. What is wrong with its configuration every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Tap { config: Config::new(request) }
    }

    fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }
}

fn ours(kind: &LinkKind) -> bool {
    *kind == LinkKind::Tap
}

/// The bridge in the container.
fn bridge(call: &Call<'_>, view: &mut View<'_>, name: &IfName) -> Result<u32, Error> {
    match view.inside(call.netns()?)?.link(name)? {
        Some(link) if matches!(link.kind, LinkKind::Bridge { .. }) => Ok(link.index),
        Some(_) => Err(Error::config(format!("{:?} in the container is not a bridge", name.as_str()))),
        None => Err(Error::config(format!("bridge {:?} not found in the container", name.as_str()))),
    }
}

impl Plugin for Tap {
    fn delegation(&self) -> Delegation {
        Delegation::Allowed
    }

    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        let mac = wanted_mac(config.mac.as_deref(), call.env.arg("MAC"), call.request)?;
        common::refuse_existing(call, view)?;
        let (netns, ifname) = (call.netns()?, call.ifname()?);
        let mac = mac.unwrap_or_else(common::random_mac);
        let tap = NewTap {
            name: ifname.clone(),
            owner: config.owner,
            group: config.group,
            queues: config.queues,
            vnet_header: Switch::Off,
        };
        let mut plan = Plan::default();
        let undo = vec![common::inside(netns, vec![LinkOp::Delete(ifname.clone())])];
        plan.undoable("cni.device", common::inside(netns, vec![LinkOp::NewTap(tap)]), undo);
        let mut ops = vec![LinkOp::Mac(ifname.clone(), mac)];
        ops.extend(config.mtu.map(|mtu| LinkOp::Mtu(ifname.clone(), mtu)));
        if let Some(name) = &config.bridge {
            bridge(call, view, name)?;
            ops.push(LinkOp::Master(ifname.clone(), name.clone()));
        }
        plan.step("cni.port", common::inside(netns, ops));
        let interface = device::interface(call, Some(mac), Some(config.mtu.unwrap_or(MTU)))?;
        let result = device::result(call, vec![interface]);
        device::dress(call, view, &result, &mut plan)?;
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        device::remove(call, view, ours, &mut plan)?;
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let link = device::check(call, view, ours)?;
        let Some(name) = &self.config()?.bridge else { return Ok(()) };
        let index = bridge(call, view, name).map_err(|e| Error { code: Error::INTERNAL, ..e })?;
        if link.master == Some(index) {
            return Ok(());
        }
        Err(Error::internal(format!("interface {} is not a port of bridge {name}", link.name)))
    }

    /// The device goes with its namespace.
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        if Path::new("/dev/net/tun").exists() {
            return Ok(());
        }
        Err(Error::new(Error::NOT_AVAILABLE, "/dev/net/tun is missing").details("the kernel module is tun"))
    }
}

#[cfg(test)]
mod tests;
