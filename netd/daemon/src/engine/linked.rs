//! Links in the sense of `docker run --link`: the exposed ports of a container, open to another one on a network whose
//! containers do not reach each other. They follow both containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rnet_api::ApiError;
use rnet_kernel::{Filter as _, FilterChange, Linked};
use rnet_model::{ContainerName, Engine as ContainerEngine, ExposedPort, NetworkId};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::core::kernel;
use super::ports::Owner;
use super::state::Phase;

/// What a container offers to others, and whose offers it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) engine: ContainerEngine,
    pub(super) container_id: String,
    pub(super) container: String,
    /// Ports it listens on.
    pub(super) expose: Vec<ExposedPort>,
    /// Containers it is linked to, by name or id.
    pub(super) links: Vec<ContainerName>,
}

/// Key of an offer in the run log.
pub(super) fn offer_key(owner: &Owner) -> String {
    format!("offer/{}:{}", owner.0, owner.1)
}

/// All offers by container.
pub(super) type Offers = BTreeMap<Owner, Offer>;

impl Engine {
    /// Writes down what a container offers and is linked to. What it said before is replaced.
    pub(super) fn offer(&mut self, offer: Offer) -> Result<(), ApiError> {
        let owner = (offer.engine, offer.container_id.clone());
        if offer.expose.is_empty() && offer.links.is_empty() {
            self.withdraw_offer(&owner);
            return Ok(());
        }
        self.log_put(&offer_key(&owner), &offer)?;
        self.offers.insert(owner, offer);
        self.links_stale = true;
        Ok(())
    }

    /// Forgets a container that ends.
    pub(super) fn withdraw_offer(&mut self, owner: &Owner) {
        if self.offers.remove(owner).is_some() {
            self.log_remove(&offer_key(owner));
            self.links_stale = true;
        }
    }

    /// What containers offered when the last netd ended. After the endpoints are known.
    pub(super) fn recover_offers(&mut self, offers: Vec<Offer>) {
        for offer in offers {
            let owner = (offer.engine, offer.container_id.clone());
            match self.has_ended(&owner) {
                true => self.log_remove(&offer_key(&owner)),
                false => drop(self.offers.insert(owner, offer)),
            }
        }
        self.linked = self.wanted_links();
        self.links_stale = false;
    }

    /// Opens and closes what links say now. Only where there are links does it look at anything.
    pub(super) fn settle_links(&mut self) {
        if !std::mem::take(&mut self.links_stale) {
            return;
        }
        let wanted = self.wanted_links();
        let add: Vec<_> = wanted.difference(&self.linked).copied().map(FilterChange::Linked).collect();
        let remove: Vec<_> = self.linked.difference(&wanted).copied().map(FilterChange::Linked).collect();
        self.linked = wanted;
        if add.is_empty() && remove.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.filter.change(&add, &remove) {
            tracing::warn!(error = kernel("cannot open links", &error).chain(), "links wait");
            self.settle_filter_soon();
        }
    }

    /// The exceptions that all links come to.
    pub(super) fn wanted_links(&self) -> BTreeSet<Linked> {
        let mut out = BTreeSet::new();
        for offer in self.offers.values().filter(|o| !o.links.is_empty()) {
            let from = self.quiet_addresses(offer.engine, &offer.container_id);
            for name in &offer.links {
                let is = |o: &&Offer| o.container == name.as_str() || o.container_id == name.as_str();
                let Some(to) = self.offers.values().find(is) else { continue };
                for (network, address) in self.quiet_addresses(to.engine, &to.container_id) {
                    let near = |(n, a): &&(NetworkId, IpAddr)| *n == network && a.is_ipv4() == address.is_ipv4();
                    for (_, own) in from.iter().filter(near) {
                        out.extend(to.expose.iter().flat_map(|e| {
                            e.ports.ports().map(|port| Linked { from: *own, to: address, protocol: e.protocol, port })
                        }));
                    }
                }
            }
        }
        out
    }

    /// A container's addresses on networks whose containers do not reach each other.
    fn quiet_addresses(&self, engine: ContainerEngine, id: &str) -> Vec<(NetworkId, IpAddr)> {
        let live = |r: &&super::state::EndpointRecord| r.phase == Phase::Live;
        let mut out = Vec::new();
        for record in self.of_container(engine, id).into_iter().filter(live) {
            let Some(network) = record.network else { continue };
            if self.networks.get(&network).is_some_and(|n| !n.record.spec.icc.is_on()) {
                out.extend(record.addresses.iter().map(|a| (network, a.ip())));
            }
        }
        out
    }
}
