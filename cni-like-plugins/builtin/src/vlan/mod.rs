#![doc = include_str!("README.md")]

use rnet_kernel::{DeviceKind, LinkKind};
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Delegation, Error, Plugin, Request, View, Work};
use serde::Deserialize;

use crate::common;
use crate::device::{self, Below, New};

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    master: String,
    vlan_id: i64,
    mtu: i64,
    link_in_container: bool,
}

/// Checked.
#[derive(Debug)]
struct Config {
    below: Below,
    /// 0 to 4094.
    id: u16,
}

impl Config {
    fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        if written.master.is_empty() {
            return Err(Error::config("\"master\" field is required")
                .details("it names the host's interface that the VLAN is on"));
        }
        let id = u16::try_from(written.vlan_id).ok().filter(|id| *id <= 4094).ok_or_else(|| {
            Error::config(format!("invalid VLAN ID {} (must be between 0 and 4094 inclusive)", written.vlan_id))
        })?;
        Ok(Config { below: Below::new(&written.master, written.link_in_container, written.mtu)?, id })
    }
}

/// The plugin.
#[derive(Debug)]
pub struct Vlan {
    config: Result<Config, Error>,
}

impl Vlan {
    /// From a request. What is wrong with its configuration every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Vlan { config: Config::new(request) }
    }

    fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }
}

fn ours(kind: &LinkKind) -> bool {
    matches!(kind, LinkKind::Vlan { .. })
}

impl Plugin for Vlan {
    fn delegation(&self) -> Delegation {
        Delegation::Required
    }

    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        common::refuse_existing(call, view)?;
        let parent = config.below.find(call, view)?;
        let mut plan = Plan::default();
        let new = New { parent: &parent, kind: DeviceKind::Vlan { id: config.id }, mac: None };
        config.below.make(call, view, new, &mut plan)?;
        let mtu = config.below.mtu.unwrap_or(parent.mtu);
        // It has the address of the device below (vlan_dev_init).
        let result = device::result(call, vec![device::interface(call, parent.mac, Some(mtu))?]);
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
        if link.kind != (LinkKind::Vlan { id: config.id }) {
            return Err(Error::internal(format!("interface {} is not in VLAN {}", link.name, config.id)));
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
