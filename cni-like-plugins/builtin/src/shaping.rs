//! How fast a container's port may be, planned: a token bucket on the host end for what the container receives, and for
//! what it sends one on a device of its own that all of it is led through, where the container cannot reach it.

use rnet_kernel::{Admin, DeviceKind, KernelError, LinkOp, Links, NewDevice, QdiscPlace, Tbf};
use rnet_model::{IfName, Rate};
use rnet_plan::{Action, Place, Plan};

/// How long a packet may wait, in microseconds: a round trip on the way to another continent, so that TCP fills the rate.
const LATENCY: u32 = 50_000;
/// Operations in one message.
const AT_ONCE: usize = 128;

/// The limits of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shaping {
    /// Host end of the port.
    pub port: IfName,
    /// Bytes: frames of that size have to fit into a burst.
    pub mtu: u32,
    /// Name of the device that what the container sends is led through, if that is limited.
    pub device: IfName,
    /// Alias of that device, which marks it as ours.
    pub alias: String,
    /// Most that the container receives.
    pub ingress: Option<Rate>,
    /// Most that the container sends.
    pub egress: Option<Rate>,
}

impl Shaping {
    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }

    fn bucket(&self, dev: &IfName, rate: Rate) -> Tbf {
        Tbf {
            dev: dev.clone(),
            rate: rate.bytes(),
            burst: u32::try_from(rate.burst_bytes(self.mtu)).unwrap_or(u32::MAX),
            latency_us: LATENCY,
        }
    }

    fn make_device(&self) -> LinkOp {
        LinkOp::NewDevice(NewDevice {
            alias: Some(self.alias.clone()),
            mtu: Some(self.mtu),
            admin: Admin::Up,
            ..NewDevice::new(self.device.clone(), DeviceKind::Ifb)
        })
    }

    fn limit_ingress(&self) -> impl Iterator<Item = LinkOp> {
        self.ingress.map(|rate| LinkOp::Tbf(self.bucket(&self.port, rate))).into_iter()
    }

    fn limit_device(&self) -> impl Iterator<Item = LinkOp> {
        self.egress.map(|rate| LinkOp::Tbf(self.bucket(&self.device, rate))).into_iter()
    }

    /// All that is sent goes through the device, which has its bucket by then.
    fn lead_through(&self) -> Vec<LinkOp> {
        let port = || self.port.clone();
        vec![LinkOp::Ingress(port()), LinkOp::MirrorIngress { from: port(), to: self.device.clone() }]
    }

    /// What does not lead to the device any more goes on as before: only then the device may go.
    fn lead_past(&self) -> Vec<LinkOp> {
        vec![LinkOp::DelQdisc(self.port.clone(), QdiscPlace::Ingress), LinkOp::Delete(self.device.clone())]
    }

    /// What makes the limits of a port that has none.
    fn limit(&self) -> Vec<LinkOp> {
        let through = if self.egress.is_some() { self.lead_through() } else { Vec::new() };
        self.limit_device().chain(through).chain(self.limit_ingress()).collect()
    }
}

fn host(ops: Vec<LinkOp>) -> Action {
    Action::Links(Place::Host, ops)
}

/// The limits of a port that has just been made. Without limits nothing is planned.
pub fn add(wanted: &Shaping, plan: &mut Plan) {
    if wanted.egress.is_some() {
        let undo = vec![host(vec![LinkOp::Delete(wanted.device.clone())])];
        plan.undoable("attach.shaper", host(vec![wanted.make_device()]), undo);
    }
    if wanted.is_limited() {
        // The buckets go with the devices they are on.
        plan.step("attach.rate", host(wanted.limit()));
    }
}

/// What leads from one set of limits to another: devices to make, and all that follows.
fn between(old: &Shaping, new: &Shaping) -> (Option<LinkOp>, Vec<LinkOp>) {
    let (mut device, mut ops) = (None, Vec::new());
    match (old.egress, new.egress) {
        (None, Some(_)) => {
            device = Some(new.make_device());
            ops.extend(new.limit_device());
            ops.extend(new.lead_through());
        }
        (Some(_), None) => ops.extend(old.lead_past()),
        (Some(a), Some(b)) if a != b => {
            ops.push(LinkOp::DelQdisc(new.device.clone(), QdiscPlace::Root));
            ops.extend(new.limit_device());
        }
        _ => {}
    }
    if old.ingress != new.ingress {
        ops.extend(old.ingress.map(|_| LinkOp::DelQdisc(old.port.clone(), QdiscPlace::Root)));
        ops.extend(new.limit_ingress());
    }
    (device, ops)
}

/// The change of many ports from the first to the second of each pair.
pub fn change(ports: &[(Shaping, Shaping)], plan: &mut Plan) {
    for ports in ports.chunks(AT_ONCE / 4) {
        let (mut devices, mut ops, mut remade, mut undo) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (old, new) in ports {
            let (device, all) = between(old, new);
            devices.extend(device);
            ops.extend(all);
            let (device, all) = between(new, old);
            remade.extend(device);
            undo.extend(all);
        }
        let made: Vec<LinkOp> = ports
            .iter()
            .filter(|(old, new)| old.egress.is_none() && new.egress.is_some())
            .map(|(_, new)| LinkOp::Delete(new.device.clone()))
            .collect();
        if !devices.is_empty() {
            plan.undoable("network-edit.shaper", host(devices), vec![host(made)]);
        }
        if !ops.is_empty() {
            let remade = Some(remade).filter(|r| !r.is_empty()).map(host);
            plan.undoable("network-edit.rate", host(ops), remade.into_iter().chain([host(undo)]).collect());
        }
    }
}

/// The plan that makes the limits of a port what they should be, whatever they are; none if they are right.
///
/// # Errors
/// When the kernel cannot be read.
pub fn repair(wanted: &Shaping, links: &mut dyn Links) -> Result<Option<Plan>, KernelError> {
    if is_right(wanted, links)? {
        return Ok(None);
    }
    let mut clear = vec![LinkOp::DelQdisc(wanted.port.clone(), QdiscPlace::Root)];
    clear.extend(wanted.lead_past());
    let mut plan = Plan::default();
    plan.step("repair.shaper", host(clear));
    if wanted.egress.is_some() {
        plan.step("repair.shaper", host(vec![wanted.make_device()]));
    }
    if wanted.is_limited() {
        plan.step("repair.rate", host(wanted.limit()));
    }
    Ok(Some(plan))
}

fn is_right(wanted: &Shaping, links: &mut dyn Links) -> Result<bool, KernelError> {
    let bucket = |links: &mut dyn Links, dev: &IfName| -> Result<Option<_>, KernelError> {
        Ok(links.qdiscs(dev)?.into_iter().find_map(|q| q.tbf))
    };
    let fits = |there: Option<rnet_kernel::TbfState>, dev: &IfName, rate: Option<Rate>| match (there, rate) {
        (None, None) => true,
        (Some(there), Some(rate)) => there.is(&wanted.bucket(dev, rate)),
        _ => false,
    };
    if !fits(bucket(links, &wanted.port)?, &wanted.port, wanted.ingress) {
        return Ok(false);
    }
    let device = links.link(&wanted.device)?;
    let led = links.ingress_mirrors(&wanted.port)?;
    match (device, wanted.egress) {
        (None, None) => Ok(led.is_empty()),
        (Some(device), Some(_)) => Ok(device.up
            && led == [device.index]
            && fits(bucket(links, &wanted.device)?, &wanted.device, wanted.egress)),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shaping(ingress: Option<&str>, egress: Option<&str>) -> Shaping {
        let rate = |r: Option<&str>| r.map(|r| r.parse().unwrap());
        Shaping {
            port: "rn1".parse().unwrap(),
            mtu: 1500,
            device: "ri1".parse().unwrap(),
            alias: "rnet:shaper/1".into(),
            ingress: rate(ingress),
            egress: rate(egress),
        }
    }

    fn lines(f: impl FnOnce(&mut Plan)) -> Vec<String> {
        let mut plan = Plan::default();
        f(&mut plan);
        plan.lines()
    }

    #[test]
    fn without_limits_nothing_is_done() {
        let none = shaping(None, None);
        assert!(lines(|p| add(&none, p)).is_empty());
        assert!(lines(|p| change(&[(none.clone(), none.clone())], p)).is_empty());
    }

    #[test]
    fn a_change_touches_what_differs() {
        let (both, none) = (shaping(Some("8mbit"), Some("1mbit")), shaping(None, None));
        let to = |old: &Shaping, new: &Shaping| lines(|p| change(&[(old.clone(), new.clone())], p));
        assert_eq!(to(&none, &both), lines(|p| add(&both, p)));
        let faster = shaping(Some("8mbit"), Some("2mbit"));
        let said = to(&both, &faster);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|line| line.contains("dev ri1 root")), "{said:?}");
        let said = to(&both, &none);
        assert_eq!(said, ["ip qdisc del dev rn1 ingress", "ip link del ri1", "ip qdisc del dev rn1 root"]);
    }
}
