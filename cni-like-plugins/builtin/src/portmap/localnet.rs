//! `route_localnet` of the devices behind which published ports are reached at 127.0.0.1.
//!
//! It is set after the elements of a port are there, and with them the rule that keeps outsiders away from the host's
//! loopback addresses; it is taken back before the last element of its device goes, which goes only if nobody has
//! changed anything since it was found to be the last.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rnet_kernel::rules::{Changes, Element, Field};
use rnet_kernel::{Devconf4, LinkOp};
use rnet_model::IfName;
use rnet_plan::Plan;
use rnet_plugin_protocol::{Error, View};

use super::Entry;
use crate::common::host;
use crate::table;

/// That the device is open for the sake of this address.
pub(super) fn entry(dev: &IfName, target: IpAddr, owner: &str) -> Entry {
    (table::localnet(), Element::key([Field::Ifname(dev.clone()), Field::from(target)]).comment(owner))
}

/// Plans what opens the device.
pub(super) fn open(dev: IfName, plan: &mut Plan) {
    plan.step("cni.portmap.localnet", host(vec![set(dev, true)]));
}

/// Plans what closes the devices that are open for nobody but these owners, and adds the removal of their elements.
/// Whether there are any: then the changes have to be committed against a generation read before.
pub(super) fn close(
    view: &mut View<'_>,
    whose: &dyn Fn(&str) -> bool,
    changes: &mut Changes,
    plan: &mut Plan,
) -> Result<bool, Error> {
    let set_of = table::localnet();
    let (mine, others): (Vec<Element>, Vec<Element>) =
        table::elements(view.tables()?, &set_of)?.into_iter().partition(|e| e.comment.as_deref().is_some_and(whose));
    if mine.is_empty() {
        return Ok(false);
    }
    let others: BTreeSet<&IfName> = others.iter().filter_map(device).collect();
    let mut ops = Vec::new();
    for dev in mine.iter().filter_map(device).collect::<BTreeSet<_>>() {
        if view.host()?.link(dev)?.is_some() {
            // Said for one that stays open too: a plan that was overtaken may have closed it.
            ops.push(set(dev.clone(), others.contains(dev)));
        }
    }
    if !ops.is_empty() {
        plan.step("cni.portmap.localnet", host(ops));
    }
    changes.destroy_elements(&table::table(), &set_of, mine);
    Ok(true)
}

fn device(element: &Element) -> Option<&IfName> {
    match element.key.first() {
        Some(Field::Ifname(name)) => Some(name),
        _ => None,
    }
}

fn set(dev: IfName, open: bool) -> LinkOp {
    LinkOp::Devconf4(dev, Devconf4::RouteLocalnet, i32::from(open))
}
