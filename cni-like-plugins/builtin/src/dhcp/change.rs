//! What a lease that changes means for the interface that has its address.

use rnet_kernel::{KernelError, LinkOp, Links, Netns, Route};
use rnet_model::IfName;
use rnet_plugin_protocol::dress::route_op;

use super::terms::Terms;
use crate::common::if_addr;

/// In order: what goes, then what comes. The address goes first: the kernel takes the second address of a subnet away
/// together with the first.
pub(super) fn operations(dev: &IfName, old: Option<&Terms>, new: Option<&Terms>) -> Vec<LinkOp> {
    let address = |terms: &Terms| if_addr(&terms.address.into()).ok();
    let moved = old.and_then(address) != new.and_then(address);
    let routes = |terms: Option<&Terms>| terms.map(|t| t.routes.clone()).unwrap_or_default();
    let (before, after) = (routes(old), routes(new));
    let gone = before.iter().filter(|r| moved || !after.contains(r));
    let mut ops: Vec<LinkOp> = gone.map(|r| LinkOp::DelRoute(route_op(dev, r, None))).collect();
    if moved {
        ops.extend(old.and_then(address).map(|a| LinkOp::DelAddress(dev.clone(), a)));
        ops.extend(new.and_then(address).map(|a| LinkOp::AddAddress(dev.clone(), a)));
    }
    let come = after.iter().filter(|r| moved || !before.contains(r));
    ops.extend(come.map(|r| LinkOp::AddRoute(route_op(dev, r, None))));
    ops
}

/// Applies them, as far as the kernel takes them.
///
/// # Errors
/// The first refusal.
pub(super) fn apply(netns: &Netns, dev: &IfName, old: Option<&Terms>, new: Option<&Terms>) -> Result<(), KernelError> {
    let ops = operations(dev, old, new);
    if ops.is_empty() {
        return Ok(());
    }
    match Route::open(netns)?.batch(&ops)?.into_iter().next() {
        Some(fault) => Err(fault.error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rnet_plugin_protocol::{Dns, Route};

    use super::*;

    fn terms(address: &str, gateway: &str) -> Terms {
        let gateway = gateway.parse().unwrap();
        Terms {
            address: address.parse().unwrap(),
            gateway: Some(gateway),
            routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), Some(gateway.into()))],
            dns: Dns::default(),
            server: gateway,
            times: None,
        }
    }

    #[test]
    fn only_what_changed_is_changed() {
        let dev: IfName = "eth0".parse().unwrap();
        let lines = |old: Option<&Terms>, new: Option<&Terms>| {
            operations(&dev, old, new).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (one, other) = (terms("10.0.0.2/24", "10.0.0.1"), terms("10.9.0.2/16", "10.9.0.1"));
        assert_eq!(lines(Some(&one), Some(&one)), [""; 0]);
        let gateway = terms("10.0.0.2/24", "10.0.0.3");
        assert_eq!(
            lines(Some(&one), Some(&gateway)),
            ["route del default via 10.0.0.1 dev eth0", "route add default via 10.0.0.3 dev eth0"]
        );
        assert_eq!(
            lines(Some(&one), Some(&other)),
            [
                "route del default via 10.0.0.1 dev eth0",
                "addr del 10.0.0.2/24 dev eth0",
                "addr add 10.9.0.2/16 dev eth0",
                "route add default via 10.9.0.1 dev eth0"
            ]
        );
        assert_eq!(
            lines(Some(&one), None),
            ["route del default via 10.0.0.1 dev eth0", "addr del 10.0.0.2/24 dev eth0"]
        );
        assert_eq!(lines(None, Some(&one)).len(), 2);
    }
}
