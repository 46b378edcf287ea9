#![doc = include_str!("README.md")]

use rnet_kernel::{DeviceKind, LinkKind, LinkOp, NewDevice};
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Delegation, Error, Plugin, View, Work};

use crate::{common, device};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct Dummy;

fn ours(kind: &LinkKind) -> bool {
    *kind == LinkKind::Dummy
}

impl Plugin for Dummy {
    fn delegation(&self) -> Delegation {
        Delegation::Required
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        common::refuse_existing(call, view)?;
        let (netns, ifname) = (call.netns()?, call.ifname()?);
        let mac = common::random_mac();
        let new = NewDevice { mac: Some(mac), ..NewDevice::new(ifname.clone(), DeviceKind::Dummy) };
        let undo = vec![common::inside(netns, vec![LinkOp::Delete(ifname.clone())])];
        let mut plan = Plan::default();
        plan.undoable("cni.device", common::inside(netns, vec![LinkOp::NewDevice(new)]), undo);
        let result = device::result(call, vec![device::interface(call, Some(mac), None)?]);
        device::dress(call, view, &result, &mut plan)?;
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        device::remove(call, view, ours, &mut plan)?;
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        device::check(call, view, ours).map(drop)
    }

    /// The device goes with its namespace.
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
