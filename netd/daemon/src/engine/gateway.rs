//! Whose default route a container uses, among all the networks it is on.
//!
//! The highest `gw_priority` wins, and between equal ones who was connected first; an internal network has no gateway and
//! takes no part. Each family is chosen for itself: a network without IPv6 leaves it to the next one. The choice is made
//! of metrics, so that whoever goes leaves the route to the next without anybody's help, and only a newcomer with a
//! higher priority moves the others back. An attachment with a metric of its own has the user's word: then metrics alone
//! decide.

use std::cmp::Reverse;

use rnet_api::ApiError;
use rnet_kernel::{Family, LinkOp, Links as _, Netns, RouteEntry};
use rnet_model::{EndpointId, Engine as ContainerEngine, Subnet};
use rnet_plan::{Action, Place, Plan, apply, fail};

use super::Engine;
use super::core::{endpoint_key, kernel};
use super::state::{EndpointRecord, Origin, Phase};

/// What the kernel makes of an IPv6 route without a metric (`IP6_RT_PRIO_USER`, include/net/ip6_fib.h).
const METRIC6: u32 = 1024;

impl Engine {
    /// The interface a container's traffic to the outside leaves by, of one family: where its published ports lead to.
    /// `None` if no live interface of it has a gateway of the family.
    pub(super) fn gateway_endpoint(&self, engine: ContainerEngine, id: &str, family: Family) -> Option<EndpointId> {
        let mut ranked = self.with_gateways(engine, id);
        rank(&mut ranked);
        ranked.into_iter().find(|r| has(r, family)).map(|r| r.id)
    }

    fn with_gateways(&self, engine: ContainerEngine, id: &str) -> Vec<&EndpointRecord> {
        let leads_out = |r: &&EndpointRecord| r.phase == Phase::Live && !r.gateways.is_empty();
        self.of_container(engine, id).into_iter().filter(leads_out).collect()
    }

    /// Puts a container's default routes in the order of the choice: those that come too early are made again behind all
    /// others, new route first, so that there always is one.
    pub(super) fn order_gateways(&mut self, engine: ContainerEngine, id: &str, netns: &Netns) -> Result<(), ApiError> {
        let mut ranked = self.with_gateways(engine, id);
        rank(&mut ranked);
        let moves = moves(&ranked);
        let moved: Vec<EndpointRecord> = moves
            .into_iter()
            .map(|(r, metric)| EndpointRecord { metric: Some(metric), generation: r.generation + 1, ..r.clone() })
            .collect();
        let Some(first) = moved.first() else { return Ok(()) };
        let what = format!("cannot order the default routes of {}", first.container);
        let (mut add, mut del) = (Vec::new(), Vec::new());
        for new in &moved {
            let old = &self.endpoints[&new.id];
            add.extend(defaults(new));
            del.extend(defaults(old));
        }
        // A route without a metric, once gone, would take the one with a metric along (fib_nh_match), and a crash may
        // have left any of them.
        let fail = |e| kernel(what.clone(), &e);
        let there = self.kernel.inside(netns).and_then(|inside| inside.routes()).map_err(fail)?;
        let is_there = |wanted: &RouteEntry| there.iter().any(|r| is_same(r, wanted));
        add.retain(|r| !is_there(r));
        del.retain(is_there);
        let change = |add: &[RouteEntry], del: &[RouteEntry]| {
            let add = add.iter().cloned().map(LinkOp::AddRoute);
            Action::Links(Place::Inside(netns.clone()), add.chain(del.iter().cloned().map(LinkOp::DelRoute)).collect())
        };
        let mut plan = Plan::default();
        plan.undoable("gateway.order", change(&add, &del), vec![change(&del, &add)]);
        apply(&plan, &mut self.kernel).map_err(|f| kernel(what, &f.cause))?;
        // Until all is written down a start finds the old order, and puts it right in the same way.
        fail::point("gateway.commit");
        for record in moved {
            self.log_put(&endpoint_key(record.id), &record)?;
            self.remember(record);
        }
        fail::point("gateway.commit.done");
        Ok(())
    }

    /// The same where the newcomer has no claim of its own that would be worth failing for.
    pub(super) fn order_gateways_or_warn(&mut self, record: &EndpointRecord, netns: &Netns) {
        if let Err(error) = self.order_gateways(record.engine, &record.container_id, netns) {
            tracing::warn!(container = record.container, error = error.chain(), "cannot order default routes");
        }
    }

    /// A container's default routes through an interface that is cut off go at once, not with its device: the next
    /// network has the traffic from now on.
    pub(super) fn yield_gateway(&mut self, gone: &EndpointRecord) {
        if gone.gateways.is_empty() || self.with_gateways(gone.engine, &gone.container_id).is_empty() {
            return;
        }
        let Some(netns) = self.reopen(gone) else { return };
        let ops: Vec<LinkOp> = defaults(gone).into_iter().map(LinkOp::DelRoute).collect();
        let done = self.kernel.inside(&netns).and_then(|inside| inside.batch(&ops));
        match done {
            Ok(faults) => faults.iter().for_each(|f| tracing::debug!(error = %f.error, "a default route")),
            Err(error) => tracing::debug!(%error, "default routes of a cut off interface"),
        }
    }

    /// After a start: a crash may have come between a newcomer and the order it asks for.
    pub(super) fn recover_gateways(&mut self) {
        let leads_out = self.endpoints.values().filter(|r| r.phase == Phase::Live && !r.gateways.is_empty());
        let mut containers: Vec<_> = leads_out.map(|r| (r.engine, r.container_id.clone())).collect();
        containers.sort();
        containers.dedup();
        for (engine, id) in containers {
            let all = self.with_gateways(engine, &id);
            let (true, Some(first)) = (all.len() > 1, all.first()) else { continue };
            let Some(netns) = self.reopen(first) else { continue };
            if let Err(error) = self.order_gateways(engine, &id, &netns) {
                tracing::warn!(container = id, error = error.chain(), "cannot order default routes");
            }
        }
    }
}

/// Whether the user has given a metric.
fn has_own_metric(r: &EndpointRecord) -> bool {
    matches!(&r.origin, Origin::Attach(spec) if spec.options.metric.is_some())
}

fn has(r: &EndpointRecord, family: Family) -> bool {
    r.gateways.iter().any(|g| g.is_ipv4() == (family == Family::V4))
}

/// The metric of its default route as the kernel compares it.
fn metric(r: &EndpointRecord, family: Family) -> u32 {
    match family {
        Family::V4 => r.metric.unwrap_or(0),
        Family::V6 => r.metric.filter(|m| *m > 0).unwrap_or(METRIC6),
    }
}

/// First choice first.
fn rank(endpoints: &mut [&EndpointRecord]) {
    let by_metric = endpoints.iter().any(|r| has_own_metric(r));
    let priority = |r: &EndpointRecord| if by_metric { 0 } else { r.gw_priority };
    endpoints.sort_by_key(|r| (Reverse(priority(r)), r.metric.unwrap_or(0)));
}

/// The endpoints of a ranking whose metric comes too early for their place, with a metric behind all others.
fn moves<'a>(ranked: &[&'a EndpointRecord]) -> Vec<(&'a EndpointRecord, u32)> {
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
    if ranked.iter().any(|r| has_own_metric(r)) {
        return Vec::new();
    }
    let used = ranked.iter().flat_map(|r| FAMILIES.map(|f| if has(r, f) { metric(r, f) } else { 0 }));
    let mut next = used.max().unwrap_or(0).saturating_add(1);
    let mut before = [None; 2];
    let mut out = Vec::new();
    for r in ranked {
        let own = FAMILIES.map(|f| has(r, f).then(|| metric(r, f)));
        let fits = own.iter().zip(before).all(|(own, before)| own.is_none() || *own > before);
        if !fits {
            out.push((*r, next));
        }
        for (before, own) in before.iter_mut().zip(own) {
            *before = own.map(|own| if fits { own } else { next }).or(*before);
        }
        next = next.saturating_add(u32::from(!fits));
    }
    out
}

/// Whether a default route is the one that is wanted.
fn is_same(there: &RouteEntry, wanted: &RouteEntry) -> bool {
    let first = |v4: bool| if v4 { 0 } else { METRIC6 };
    let metric = |r: &RouteEntry| r.metric.unwrap_or_else(|| first(r.destination.is_ipv4()));
    (there.destination, there.via, &there.dev) == (wanted.destination, wanted.via, &wanted.dev)
        && metric(there) == metric(wanted)
}

/// An endpoint's default routes.
fn defaults(r: &EndpointRecord) -> Vec<RouteEntry> {
    let near = |ip| r.addresses.iter().any(|a| a.subnet().contains(ip));
    let link_local = |ip| matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
    let route = |gateway: &std::net::IpAddr| RouteEntry {
        via: Some(*gateway),
        metric: r.metric,
        onlink: !near(*gateway) && !link_local(*gateway),
        ..RouteEntry::new(
            Subnet::containing(*gateway, 0).expect("0 is a prefix length of both families"),
            r.ifname.clone(),
        )
    };
    r.gateways.iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::clock;
    use super::super::state::Source;
    use super::*;

    fn endpoint(gateways: &[&str], metric: Option<u32>, gw_priority: i32) -> EndpointRecord {
        EndpointRecord {
            id: clock::endpoint_id(),
            engine: ContainerEngine::Rnet,
            container_id: "c".into(),
            container: "c".into(),
            origin: Origin::Network(clock::network_id()),
            network: None,
            master: "br0".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
            host_ifname: "rn0".parse().unwrap(),
            mac: rnet_model::MacAddr::local(1),
            mtu: 1500,
            addresses: Vec::new(),
            gateways: gateways.iter().map(|g| g.parse().unwrap()).collect(),
            routes: Vec::new(),
            aliases: Vec::new(),
            metric,
            gw_priority,
            allow_spoof: false,
            persistent: false,
            phase: Phase::Live,
            netns: 1,
            source: Source::Sandbox,
            generation: 1,
            created: String::new(),
            replaces: None,
        }
    }

    /// Places in the list, first choice first, and the metrics that move.
    fn order(all: &[EndpointRecord]) -> (Vec<usize>, Vec<(usize, u32)>) {
        let place = |r: &EndpointRecord| all.iter().position(|o| o.id == r.id).unwrap();
        let mut ranked: Vec<_> = all.iter().collect();
        rank(&mut ranked);
        let moved = moves(&ranked).into_iter().map(|(r, m)| (place(r), m)).collect();
        (ranked.into_iter().map(place).collect(), moved)
    }

    #[test]
    fn connected_first_and_nothing_moves() {
        let all = [endpoint(&["10.0.0.1"], Some(1), 0), endpoint(&["10.1.0.1"], None, 0)];
        assert_eq!(order(&all), (vec![1, 0], vec![]));
    }

    #[test]
    fn a_higher_priority_moves_the_others_back_in_their_order() {
        let all = [
            endpoint(&["10.0.0.1"], None, 0),
            endpoint(&["10.1.0.1", "fd00::1"], Some(1), 0),
            endpoint(&["10.2.0.1"], Some(2), 5),
        ];
        assert_eq!(order(&all), (vec![2, 0, 1], vec![(0, 3), (1, 4)]));
    }

    #[test]
    fn families_are_apart() {
        // Without IPv6 the first one leaves it to the second, whose metric need not change for it.
        let all = [endpoint(&["fd00::1"], None, 0), endpoint(&["10.2.0.1"], None, 5)];
        assert_eq!(order(&all), (vec![1, 0], vec![]));
        let all = [endpoint(&["fd00::1"], None, 0), endpoint(&["fd01::1"], Some(1025), 1)];
        assert_eq!(order(&all), (vec![1, 0], vec![(0, 1026)]));
    }
}
