#![doc = include_str!("README.md")]

use rnet_kernel::{DeviceKind, LinkKind, LinkOp, MacvlanMode};
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Delegation, Error, Plugin, Request, View, Work, wanted_mac};
use serde::Deserialize;

use crate::common;
use crate::device::{self, Below, New};

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    master: String,
    mode: String,
    mtu: i64,
    mac: Option<String>,
    link_in_container: bool,
    bcqueuelen: u32,
}

/// Checked.
#[derive(Debug)]
struct Config {
    below: Below,
    mode: MacvlanMode,
    mac: Option<String>,
    bc_queue_len: Option<u32>,
}

impl Config {
    fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        let mode = match written.mode.as_str() {
            "" | "bridge" => MacvlanMode::Bridge,
            "private" => MacvlanMode::Private,
            "vepa" => MacvlanMode::Vepa,
            "passthru" => MacvlanMode::Passthru,
            other => {
                return Err(Error::config(format!("unknown macvlan mode: {other:?}"))
                    .details("bridge, private, vepa or passthru"));
            }
        };
        Ok(Config {
            below: Below::new(&written.master, written.link_in_container, written.mtu)?,
            mode,
            mac: written.mac,
            bc_queue_len: Some(written.bcqueuelen).filter(|n| *n > 0),
        })
    }
}

/// The plugin.
#[derive(Debug)]
pub struct Macvlan {
    config: Result<Config, Error>,
}

impl Macvlan {
    /// From a request. What is wrong with its configuration every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Macvlan { config: Config::new(request) }
    }

    fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }
}

fn ours(kind: &LinkKind) -> bool {
    matches!(kind, LinkKind::Macvlan { .. })
}

impl Plugin for Macvlan {
    fn delegation(&self) -> Delegation {
        Delegation::Allowed
    }

    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        let wanted = wanted_mac(config.mac.as_deref(), call.env.arg("MAC"), call.request)?;
        common::refuse_existing(call, view)?;
        let parent = config.below.find(call, view)?;
        let passes_through = config.mode == MacvlanMode::Passthru;
        let mac = if passes_through { wanted.or(parent.mac) } else { Some(wanted.unwrap_or_else(common::random_mac)) };
        let kind = DeviceKind::Macvlan { mode: config.mode, bc_queue_len: config.bc_queue_len };
        let mut plan = Plan::default();
        let new = New { parent: &parent, kind, mac: mac.filter(|_| !passes_through) };
        config.below.make(call, view, new, &mut plan)?;
        if let (true, Some(mac)) = (passes_through, wanted) {
            // Such a device is born with the address of the one below, whatever is asked for (macvlan_common_newlink).
            let ifname = call.ifname()?.clone();
            plan.step("cni.mac", common::inside(call.netns()?, vec![LinkOp::Mac(ifname, mac)]));
        }
        let mtu = config.below.mtu.unwrap_or(parent.mtu);
        let result = device::result(call, vec![device::interface(call, mac, Some(mtu))?]);
        device::dress(call, view, &result, &mut plan)?;
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        device::remove(call, view, ours, &mut plan)?;
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let config = self.config()?;
        let link = device::check(call, view, ours)?;
        if link.kind != (LinkKind::Macvlan { mode: config.mode }) {
            return Err(Error::internal(format!("interface {} is not in mode {}", link.name, config.mode.word())));
        }
        config.below.check(call, view, &link)
    }

    /// The device goes with its namespace.
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        self.config()?.below.status(view)
    }
}

#[cfg(test)]
mod tests;
