#![doc = include_str!("README.md")]

#[cfg(test)]
mod tests;

use rnet_kernel::{Admin, DeviceKind, LinkKind, LinkOp, LinkState, NewDevice, QdiscPlace, Tbf};
use rnet_model::IfName;
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, CniResult, Error, Interface, Plugin, Request, Version, View, Work};
use serde::Deserialize;
use sha2::{Digest, Sha512};

use crate::chained::{host_end, since};
use crate::common::{host, name, random_mac};
use crate::table::{is_stale, owner};

/// Of the devices' names, as the reference has it.
const PREFIX: &str = "bwp";
/// How long a packet may wait, in microseconds.
const LATENCY: u32 = 5_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
    shaped_subnets: Option<Vec<String>>,
    unshaped_subnets: Option<Vec<String>>,
}

/// Bytes a second, and bytes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    rate: u64,
    burst: u32,
}

/// The plugin.
#[derive(Debug)]
pub struct Bandwidth {
    network: String,
    limits: Limits,
    /// What is wrong with the configuration; then there are no limits.
    wrong: Option<Error>,
}

#[derive(Debug, Default)]
struct Limits {
    /// To the container.
    ingress: Option<Limit>,
    /// From the container.
    egress: Option<Limit>,
}

impl Config {
    fn is_given(&self) -> bool {
        let Config { ingress_rate, ingress_burst, egress_rate, egress_burst, shaped_subnets, unshaped_subnets } = self;
        [ingress_rate, ingress_burst, egress_rate, egress_burst].iter().any(|n| n.is_some())
            || [shaped_subnets, unshaped_subnets].iter().any(|s| s.is_some())
    }

    fn whole(&self) -> Result<(), Error> {
        for (key, subnets) in [("shapedSubnets", &self.shaped_subnets), ("unshapedSubnets", &self.unshaped_subnets)] {
            if let Some(subnets) = subnets.as_ref().filter(|s| !s.is_empty()) {
                return Err(Error::new(
                    Error::UNSUPPORTED_FIELD,
                    format!("bandwidth: {key} {subnets:?} is not supported: all traffic of the container is limited"),
                ));
            }
        }
        Ok(())
    }
}

impl Limit {
    /// Of bits.
    fn new(rate: Option<u64>, burst: Option<u64>) -> Result<Option<Self>, Error> {
        match (rate.unwrap_or(0), burst.unwrap_or(0)) {
            (0, 0) => Ok(None),
            (_, 0) => Err(Error::config("if rate is set, burst must also be set")),
            (0, _) => Err(Error::config("if burst is set, rate must also be set")),
            (rate, burst) => match u32::try_from(burst / 8) {
                // Less than a byte is no rate the kernel knows.
                Ok(burst) if burst < u32::MAX => Ok(Some(Limit { rate: (rate / 8).max(1), burst: burst.max(1) })),
                _ => Err(Error::config("burst cannot be more than 4GB")),
            },
        }
    }

    fn on(self, dev: &IfName) -> Tbf {
        Tbf { dev: dev.clone(), rate: self.rate, burst: self.burst, latency_us: LATENCY }
    }

    /// The root of a device, compared with what was asked for. How much may wait is whoever made it's own business.
    fn check(self, view: &mut View<'_>, dev: &IfName) -> Result<(), Error> {
        let there = view.host()?.qdiscs(dev)?.into_iter().find_map(|q| q.tbf);
        let there = there.ok_or_else(|| Error::internal(format!("Failed to find qdisc of {dev}")))?;
        // The kernel keeps the time a burst takes, in units of 64 ns.
        let unit = self.rate.saturating_mul(64) / 1_000_000_000 + 1;
        if there.rate != self.rate {
            return Err(Error::internal(format!("Rate of {dev} is {}, not {} bytes a second", there.rate, self.rate)));
        }
        if there.burst.abs_diff(u64::from(self.burst)) > unit {
            return Err(Error::internal(format!("Burst of {dev} is {}, not {} bytes", there.burst, self.burst)));
        }
        Ok(())
    }
}

impl Limits {
    /// # Errors
    /// Code 6 for another shape, 7 for a rate without a burst and the other way round, 1 before version 0.3.0.
    fn new(request: &Request) -> Result<Self, Error> {
        since(request, Version::V0_3_0)?;
        let own: Config = request.config()?;
        let config = match &request.runtime.bandwidth {
            Some(runtime) if !own.is_given() => Config::deserialize(runtime).map_err(|e| {
                Error::new(Error::DECODING_FAILURE, format!("cannot read runtimeConfig.bandwidth: {e}"))
            })?,
            _ => own,
        };
        config.whole()?;
        Ok(Limits {
            ingress: Limit::new(config.ingress_rate, config.ingress_burst)?,
            egress: Limit::new(config.egress_rate, config.egress_burst)?,
        })
    }
}

/// The name a text has.
fn hashed(text: &str) -> IfName {
    let digest: String = Sha512::digest(text).iter().take(6).map(|b| format!("{b:02x}")).collect();
    name(&format!("{PREFIX}{digest}"))
}

impl Bandwidth {
    /// From a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        let (limits, wrong) = match Limits::new(request) {
            Ok(limits) => (limits, None),
            Err(error) => (Limits::default(), Some(error)),
        };
        Bandwidth { network: request.name.clone(), limits, wrong }
    }

    /// The device of an interface.
    fn ifb(&self, id: &AttachmentId) -> IfName {
        hashed(&[&self.network, &id.container, &id.ifname].map(String::as_str).join("\0"))
    }

    /// The device the reference makes, the same for all interfaces of a container.
    fn ifb_of_reference(&self, container: &str) -> IfName {
        hashed(&format!("{}{container}", self.network))
    }

    /// The devices of an interface that are there, and not marked as another's.
    fn devices(&self, id: &AttachmentId, view: &mut View<'_>) -> Result<Vec<LinkState>, Error> {
        let owner = owner(&self.network, id);
        let links = view.host()?;
        let mut found = Vec::new();
        for ifb in [self.ifb(id), self.ifb_of_reference(&id.container)] {
            found.extend(links.link(&ifb)?.filter(|l| {
                // The reference marks nothing.
                matches!(l.kind, LinkKind::Ifb) && l.alias.as_ref().is_none_or(|alias| *alias == owner)
            }));
        }
        Ok(found)
    }
}

impl Plugin for Bandwidth {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let mut result: CniResult = call.previous()?.clone();
        let mut plan = Plan::default();
        if self.limits.ingress.is_none() && self.limits.egress.is_none() {
            return Ok(Work::Planned(plan, result));
        }
        let outer = host_end(call, view)?;
        let dev = || outer.name.clone();
        // The device first: a second ADD fails there, before it touches what the first made.
        if let Some(limit) = self.limits.egress {
            let ifb = self.ifb(&call.id());
            let mac = random_mac();
            let device = NewDevice {
                alias: Some(owner(&self.network, &call.id())),
                mtu: Some(outer.mtu),
                mac: Some(mac),
                admin: Admin::Up,
                ..NewDevice::new(ifb.clone(), DeviceKind::Ifb)
            };
            let undo = vec![host(vec![LinkOp::Delete(ifb.clone())])];
            plan.undoable("cni.bandwidth.ifb", host(vec![LinkOp::NewDevice(device)]), undo);
            let shape = vec![
                LinkOp::TxQueueLen(ifb.clone(), outer.tx_queue_len),
                LinkOp::Tbf(limit.on(&ifb)),
                LinkOp::Ingress(dev()),
                LinkOp::MirrorIngress { from: dev(), to: ifb.clone() },
            ];
            let undo = vec![host(vec![LinkOp::DelQdisc(dev(), QdiscPlace::Ingress)])];
            plan.undoable("cni.bandwidth.egress", host(shape), undo);
            result.interfaces.push(Interface { name: ifb.to_string(), mac: mac.to_string(), ..Interface::default() });
        }
        if let Some(limit) = self.limits.ingress {
            let undo = vec![host(vec![LinkOp::DelQdisc(dev(), QdiscPlace::Root)])];
            plan.undoable("cni.bandwidth.ingress", host(vec![LinkOp::Tbf(limit.on(&outer.name))]), undo);
        }
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let devices = self.devices(&call.id(), view)?;
        let links = view.host()?;
        // A filter that leads to a device that is gone throws everything away.
        let named = call.previous.iter().flat_map(|p| &p.interfaces).filter(|i| i.sandbox.is_empty());
        let others = named
            .filter_map(|i| i.name.parse::<IfName>().ok())
            .filter(|dev| !devices.iter().any(|device| device.name == *dev));
        let mut ops = Vec::new();
        for dev in others.filter(|_| !devices.is_empty()) {
            let mirrors = links.ingress_mirrors(&dev)?;
            if devices.iter().any(|device| mirrors.contains(&device.index)) {
                ops.push(LinkOp::DelQdisc(dev, QdiscPlace::Ingress));
            }
        }
        ops.extend(devices.into_iter().map(|device| LinkOp::Delete(device.name)));
        if !ops.is_empty() {
            plan.step("cni.bandwidth.del", host(ops));
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let outer = host_end(call, view)?;
        if let Some(limit) = self.limits.ingress {
            limit.check(view, &outer.name)?;
        }
        if let Some(limit) = self.limits.egress {
            let ifb = self.ifb(&call.id());
            let device = self.devices(&call.id(), view)?.into_iter().next();
            let device = device.ok_or_else(|| Error::internal(format!("get ifb device: {ifb} not found")))?;
            let ifb = &device.name;
            limit.check(view, ifb)?;
            if !view.host()?.ingress_mirrors(&outer.name)?.contains(&device.index) {
                return Err(Error::internal(format!("what comes in at {} is not sent to {ifb}", outer.name)));
            }
        }
        Ok(())
    }

    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], view: &mut View<'_>) -> Result<Plan, Error> {
        let network = &call.request.name;
        let stale = |l: &LinkState| {
            matches!(l.kind, LinkKind::Ifb) && l.alias.as_deref().is_some_and(|a| is_stale(a, network, valid))
        };
        let ops: Vec<LinkOp> =
            view.host()?.links()?.into_iter().filter(stale).map(|l| LinkOp::Delete(l.name)).collect();
        let mut plan = Plan::default();
        if !ops.is_empty() {
            plan.step("cni.bandwidth.gc", host(ops));
        }
        Ok(plan)
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}
