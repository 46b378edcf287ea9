//! Links of a lab: veth pairs between two sandboxes, made in bulk, all or none.

use std::collections::BTreeMap;

use rnet_api::{ApiError, Empty, Link, LinkEnd, LinkRequest};
use rnet_kernel::{AddressGeneration, LinkOp, Links, Netns, NewVeth};
use rnet_model::{EndpointId, IfAddr, IfName, Kind, MacAddr};
use rnet_plan::fail;

use super::core::kernel;
use super::state::LinkRecord;
use super::{Engine, clock};

/// Key of a link in the run log.
pub(super) fn link_key(id: EndpointId) -> String {
    format!("link/{id}")
}

const DEFAULT_MTU: u32 = 1500;

impl Engine {
    pub(super) fn links(&self) -> Vec<Link> {
        self.links.values().map(show).collect()
    }

    /// Makes links: two batches per namespace, however many links it has.
    pub(super) fn create_links(&mut self, requests: &[LinkRequest]) -> Result<Vec<Link>, ApiError> {
        let records: Vec<LinkRecord> = requests.iter().map(|r| self.link_record(r)).collect::<Result<_, _>>()?;
        fail::point("links.log");
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = self.log_put(&link_key(record.id), record) {
                records[..index].iter().for_each(|r| self.log_remove(&link_key(r.id)));
                return Err(error);
            }
        }
        fail::point("links.log.done");
        fail::point("links.kernel");
        let result = self.make_links(&records);
        self.kernel.leave();
        fail::point("links.kernel.done");
        if let Err(error) = result {
            for record in &records {
                self.delete_link(record);
                self.log_remove(&link_key(record.id));
            }
            self.kernel.leave();
            return Err(error);
        }
        let shown = records.iter().map(show).collect();
        self.links.extend(records.into_iter().map(|r| (r.id, r)));
        Ok(shown)
    }

    fn link_record(&self, request: &LinkRequest) -> Result<LinkRecord, ApiError> {
        let id = clock::endpoint_id();
        let mut request = request.clone();
        let [a, b] = &request.ends;
        if a.container_id == b.container_id && a.ifname == b.ifname {
            let text = format!("link: both ends are {} of {}", a.ifname, a.container_id);
            return Err(ApiError::new(Kind::Invalid, text));
        }
        let mtu = *request.mtu.get_or_insert(DEFAULT_MTU);
        if !rnet_model::AttachOptions::MTU.contains(&mtu) {
            return Err(ApiError::new(Kind::Invalid, format!("link: MTU {mtu} is not from 68 to 65535")));
        }
        for end in &mut request.ends {
            self.sandbox_netns(end.container_id.as_str())?;
            end.mac.get_or_insert_with(|| MacAddr::local(clock::random()));
            let taken = |r: &LinkRecord| {
                r.request.ends.iter().any(|e| e.container_id == end.container_id && e.ifname == end.ifname)
            };
            if self.links.values().any(taken) {
                return Err(ApiError::new(
                    Kind::Conflict,
                    format!("{} already has an interface {}", end.container_id, end.ifname),
                ));
            }
        }
        Ok(LinkRecord { id, request })
    }

    /// The namespace of a container's sandbox.
    pub(super) fn sandbox_netns(&self, container: &str) -> Result<Netns, ApiError> {
        let sandbox = self.sandbox_of.get(container).and_then(|id| self.sandboxes.get(id));
        sandbox.map(|s| s.netns.clone()).ok_or_else(|| {
            ApiError::new(Kind::Missing, format!("there is no sandbox for container {container}"))
                .hint("make one first: POST /v1/sandboxes")
        })
    }

    /// The kernel's part of [`Engine::create_links`].
    pub(super) fn make_links(&mut self, records: &[LinkRecord]) -> Result<(), ApiError> {
        let mut births: BTreeMap<&str, Vec<LinkOp>> = BTreeMap::new();
        let mut settings: BTreeMap<&str, Vec<LinkOp>> = BTreeMap::new();
        for record in records {
            let [a, b] = &record.request.ends;
            let birth = births.entry(a.container_id.as_str()).or_default();
            birth.push(LinkOp::NewVeth(NewVeth {
                name: a.ifname.clone(),
                alias: self.tag.alias(&record.id.to_string()),
                master: None,
                mtu: record.request.mtu.unwrap_or(DEFAULT_MTU),
                peer: b.ifname.clone(),
                mac: None,
                ipv6: AddressGeneration::Off,
                peer_mac: mac(b),
                netns: Some(self.sandbox_netns(b.container_id.as_str())?),
            }));
            birth.push(LinkOp::Mac(a.ifname.clone(), mac(a)));
            for end in [a, b] {
                let ops = settings.entry(end.container_id.as_str()).or_default();
                ops.push(LinkOp::Up(end.ifname.clone()));
                ops.extend(end.addresses.iter().map(|ip: &IfAddr| LinkOp::AddAddress(end.ifname.clone(), *ip)));
            }
        }
        for (container, ops) in births.into_iter().chain(settings) {
            self.batch_inside(container, &ops)?;
        }
        Ok(())
    }

    fn batch_inside(&mut self, container: &str, ops: &[LinkOp]) -> Result<(), ApiError> {
        // A datagram of more operations than this outgrows the socket's send buffer.
        const AT_ONCE: usize = 128;
        let netns = self.sandbox_netns(container)?;
        let fail = |e| kernel(format!("cannot make the links of {container}"), &e);
        for ops in ops.chunks(AT_ONCE) {
            let faults = self.kernel.inside(&netns).map_err(fail)?.batch(ops).map_err(fail)?;
            if let Some(fault) = faults.into_iter().next() {
                return Err(fail(fault.error));
            }
        }
        Ok(())
    }

    /// Whether the link is there.
    pub(super) fn link_is_there(&mut self, record: &LinkRecord) -> bool {
        let [a, _] = &record.request.ends;
        let alias = self.tag.alias(&record.id.to_string());
        let Ok(netns) = self.sandbox_netns(a.container_id.as_str()) else { return false };
        let found = self.kernel.inside(&netns).and_then(|inside| inside.link(&a.ifname));
        matches!(found, Ok(Some(link)) if link.alias.as_deref() == Some(&alias))
    }

    /// Deletes a link, if it is there and ours.
    fn delete_link(&mut self, record: &LinkRecord) {
        if !self.link_is_there(record) {
            return;
        }
        let [a, _] = &record.request.ends;
        let name: IfName = a.ifname.clone();
        if let Err(error) = self.batch_inside(a.container_id.clone().as_str(), &[LinkOp::Delete(name)]) {
            tracing::warn!(error = error.chain(), "cannot delete a link");
        }
    }

    /// Removes a link; an unknown one is gone already.
    pub(super) fn remove_link(&mut self, id: EndpointId) -> Result<Empty, ApiError> {
        if let Some(record) = self.links.remove(&id) {
            self.delete_link(&record);
            self.kernel.leave();
            self.log_remove(&link_key(id));
        }
        Ok(Empty {})
    }

    /// Forgets the links of a sandbox: they end with its namespace, or are deleted from the other side.
    pub(super) fn remove_links_of(&mut self, container: &str) {
        let of = |r: &&LinkRecord| r.request.ends.iter().any(|e| e.container_id.as_str() == container);
        let ids: Vec<EndpointId> = self.links.values().filter(of).map(|r| r.id).collect();
        for id in ids {
            if let Some(record) = self.links.remove(&id) {
                self.delete_link(&record);
            }
            self.log_remove(&link_key(id));
        }
        self.kernel.leave();
    }
}

fn mac(end: &LinkEnd) -> MacAddr {
    end.mac.expect("filled in when the record was made")
}

fn show(record: &LinkRecord) -> Link {
    Link { id: record.id, request: record.request.clone() }
}
