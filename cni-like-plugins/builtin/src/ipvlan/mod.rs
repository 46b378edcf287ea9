#![doc = include_str!("README.md")]

use rnet_kernel::{DeviceKind, IpvlanMode, LinkKind};
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, CniResult, Delegation, Error, Plugin, Request, View, Work};
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
    link_in_container: bool,
}

/// Checked.
#[derive(Debug)]
struct Config {
    below: Below,
    mode: IpvlanMode,
}

impl Config {
    fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        let mode = match written.mode.as_str() {
            "" | "l2" => IpvlanMode::L2,
            "l3" => IpvlanMode::L3,
            "l3s" => IpvlanMode::L3s,
            other => {
                return Err(Error::config(format!("unknown ipvlan mode: {other:?}")).details("l2, l3 or l3s"));
            }
        };
        Ok(Config { below: Below::new(&written.master, written.link_in_container, written.mtu)?, mode })
    }
}

/// The plugin.
#[derive(Debug)]
pub struct Ipvlan {
    config: Result<Config, Error>,
}

impl Ipvlan {
    /// From a request. What is wrong with its configuration every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Ipvlan { config: Config::new(request) }
    }

    fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }
}

fn ours(kind: &LinkKind) -> bool {
    matches!(kind, LinkKind::Ipvlan { .. })
}

/// The device below, for a configuration that names none: behind another plugin the interface that one made.
fn on_previous(below: &Below, previous: Option<&CniResult>) -> Result<Below, Error> {
    let (None, Some(previous)) = (&below.master, previous) else { return Ok(below.clone()) };
    match previous.interfaces.as_slice() {
        [one] if !one.name.is_empty() => Ok(Below { master: Some(one.name.parse()?), ..below.clone() }),
        _ => Err(Error::config("chained master failure. PrevResult lacks a single named interface")
            .details("name the device below with \"master\"")),
    }
}

impl Plugin for Ipvlan {
    fn delegation(&self) -> Delegation {
        Delegation::Allowed
    }

    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        // An IPAM that leases through the interface has not leased yet.
        let asks = call.request.ipam.is_some();
        let given = call.previous.as_ref().filter(|p| !asks && !p.ips.is_empty());
        if !asks && given.is_none() {
            return Err(Error::config("IPAM is required and the configuration has none")
                .details("add \"ipam\": {\"type\": \"host-local\", ...}"));
        }
        common::refuse_existing(call, view)?;
        let below = on_previous(&config.below, call.previous.as_ref())?;
        let parent = below.find(call, view)?;
        let mut plan = Plan::default();
        let new = New { parent: &parent, kind: DeviceKind::Ipvlan { mode: config.mode }, mac: None };
        below.make(call, view, new, &mut plan)?;
        let mtu = below.mtu.unwrap_or(parent.mtu);
        let interface = device::interface(call, parent.mac, Some(mtu))?;
        let mut result = device::result(call, vec![interface]);
        if let Some(given) = given {
            result.ips.clone_from(&given.ips);
            result.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
            result.routes.clone_from(&given.routes);
            if result.dns.is_empty() {
                result.dns.clone_from(&given.dns);
            }
        }
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
        if link.kind != (LinkKind::Ipvlan { mode: config.mode }) {
            return Err(Error::internal(format!("interface {} is not in mode {}", link.name, config.mode.word())));
        }
        config.below.check(call, view, &link)
    }

    /// The device goes with its namespace.
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    /// Without `master` it is not known whether the plugin stands behind another one.
    fn status(&self, _: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let below = &self.config()?.below;
        if below.master.is_some() { below.status(view) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
