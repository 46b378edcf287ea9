//! Plugin `rnet`: interfaces that CNI runtimes ask for. Each is an endpoint of a network like any other, known by the
//! runtime's container and interface; it ends with DEL, with GC, or with its namespace.

use std::net::IpAddr;

use rnet_api::{ApiError, CniAdd, CniCheck, CniDel, CniGc, CniId, CniReply, CniStatus, Empty, Endpoint};
use rnet_kernel::Links;
use rnet_model::{
    EndpointId, EndpointOptions, Engine as ContainerEngine, IfAddr, IfName, Kind, MacAddr, NetworkId, NetworkName,
};
use rnet_plugins_builtin::port;

use super::Engine;
use super::connect::Asked;
use super::core::{inode, kernel};
use super::state::{EndpointRecord, Origin, Phase};
use crate::resolve::Target;

impl Engine {
    /// ADD.
    pub(super) fn cni_add(&mut self, request: &CniAdd, target: &Target) -> Result<CniReply, ApiError> {
        let network = self.network_for_cni(&request.network)?;
        self.refuse_ended(target)?;
        let asked = Asked {
            options: EndpointOptions {
                ips: request.ips.clone(),
                mac: request.mac,
                ifname: Some(request.id.ifname.clone()),
                ..EndpointOptions::default()
            },
            list: Some(request.list.clone()),
        };
        let endpoint = self.connect_to(network, target, &asked)?.endpoint;
        let bridge_mac = endpoint.bridge.as_ref().and_then(|name| self.mac_of(name));
        let host_mac = endpoint.host_ifname.as_ref().and_then(|name| self.mac_of(name));
        Ok(CniReply { bridge_mac, host_mac, endpoint, problems: Vec::new() })
    }

    /// Where plugin `rnet` puts containers: a network whose bridge netd keeps.
    fn network_for_cni(&mut self, name: &NetworkName) -> Result<NetworkId, ApiError> {
        let network = self.network_for(name)?;
        if self.is_listed(network) {
            return Err(ApiError::new(Kind::Invalid, format!("network {name} is itself a list of CNI plugins"))
                .hint("give the runtime that list"));
        }
        Ok(network)
    }

    /// Only told, so that a failure is no failure of the call.
    fn mac_of(&mut self, name: &IfName) -> Option<MacAddr> {
        self.kernel.host.link(name).ok().flatten()?.mac
    }

    /// An interface is added once. What an earlier life of the container has left is removed.
    pub(super) fn refuse_added(&mut self, target: &Target, asked: &Asked) -> Result<(), ApiError> {
        let same = |r: &&EndpointRecord| asked.options.ifname.as_ref() == Some(&r.ifname);
        let Some(found) = self.of_container(target.engine, &target.id).into_iter().find(same).cloned() else {
            return Ok(());
        };
        if found.phase == Phase::Live && found.netns == inode(target.netns.id()) {
            let network = self.network_name(found.network);
            return Err(ApiError::new(
                Kind::Conflict,
                format!("{} of container {} is on network {network} already", found.ifname, found.container),
            )
            .hint("DEL comes before the next ADD"));
        }
        self.detach_one(found.id).map(drop)
    }

    fn network_name(&self, network: Option<NetworkId>) -> String {
        let state = network.and_then(|id| self.networks.get(&id));
        state.map_or_else(String::new, |n| n.record.spec.name.to_string())
    }

    /// DEL.
    pub(super) fn cni_del(&mut self, request: &CniDel) -> Result<Vec<Endpoint>, ApiError> {
        let CniId { container_id, ifname } = &request.id;
        let of_container = self.of_container(ContainerEngine::Cni, container_id.as_str());
        let these = |r: &&EndpointRecord| r.ifname == *ifname && is_of(r, &request.list);
        let found: Vec<EndpointId> = of_container.into_iter().filter(these).map(|r| r.id).collect();
        found.into_iter().map(|id| self.detach_one(id)).collect()
    }

    /// GC.
    pub(super) fn cni_gc(&mut self, request: &CniGc) -> Result<Vec<Endpoint>, ApiError> {
        let valid = |r: &EndpointRecord| {
            request.valid.iter().any(|id| id.container_id.as_str() == r.container_id && id.ifname == r.ifname)
        };
        let stale: Vec<EndpointId> =
            self.endpoints.values().filter(|r| is_of(r, &request.list) && !valid(r)).map(|r| r.id).collect();
        let mut failure = None;
        let mut gone = Vec::new();
        for id in stale {
            match self.detach_one(id) {
                Ok(endpoint) => gone.push(endpoint),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(gone), Err)
    }

    /// STATUS.
    pub(super) fn cni_status(&mut self, request: &CniStatus) -> Result<Empty, ApiError> {
        let network = self.network_for_cni(&request.network)?;
        let bridge = self.networks[&network].record.spec.bridge.clone();
        if let Some(bridge) = bridge {
            let fail = |e| kernel(format!("cannot look for {bridge}"), &e);
            if self.kernel.host.link(&bridge).map_err(fail)?.is_none() {
                return Err(ApiError::new(Kind::Retry, format!("bridge {bridge} is gone")));
            }
        }
        self.rehearse(Some(network), |engine| engine.take_addresses(network, &[], "cni:"))?;
        Ok(Empty {})
    }

    /// CHECK: the endpoint, and what is not as it was made.
    pub(super) fn cni_check(&mut self, request: &CniCheck, target: &Target) -> Result<CniReply, ApiError> {
        let CniId { container_id, ifname } = &request.id;
        let of_container = self.of_container(ContainerEngine::Cni, container_id.as_str());
        let this = |r: &&EndpointRecord| r.ifname == *ifname && is_of(r, &request.list);
        let record = of_container.into_iter().find(this).cloned().ok_or_else(|| {
            ApiError::new(Kind::Missing, format!("netd knows of no {ifname} of container {container_id}"))
                .hint("it was not added, or its namespace has ended")
        })?;
        let mut problems = Vec::new();
        if record.netns == inode(target.netns.id()) {
            problems.extend(self.differs_on_host(&record, target)?);
            problems.extend(self.differs_inside(&record, target)?);
        } else {
            problems.push(format!("{ifname} is in another network namespace"));
        }
        Ok(CniReply { endpoint: self.show(&record), bridge_mac: None, host_mac: None, problems })
    }

    fn differs_on_host(&mut self, record: &EndpointRecord, target: &Target) -> Result<Vec<String>, ApiError> {
        let fail = |e| kernel("cannot read the host's links", &e);
        let end = self.kernel.host.link(&record.host_ifname).map_err(fail)?;
        let master = self.kernel.host.link(&record.master).map_err(fail)?;
        Ok(port::check(&self.wanted(record, &target.netns), end.as_ref(), master.as_ref()))
    }

    fn differs_inside(&mut self, record: &EndpointRecord, target: &Target) -> Result<Vec<String>, ApiError> {
        let fail = |e| kernel(format!("cannot look into the network namespace of {}", record.container), &e);
        let name = &record.ifname;
        let inside = self.kernel.inside(&target.netns).map_err(fail)?;
        let Some(link) = inside.link(name).map_err(fail)? else { return Ok(vec![format!("{name} is gone")]) };
        let mut problems = Vec::new();
        if !link.up {
            problems.push(format!("{name} is down"));
        }
        if link.mac != Some(record.mac) {
            problems.push(format!("{name} has another MAC address than {}", record.mac));
        }
        let addresses = inside.addresses_of(link.index).map_err(fail)?;
        let there = |a: &IfAddr| addresses.iter().any(|h| h.ip == a.ip() && h.prefix == a.prefix());
        let missing = record.addresses.iter().filter(|a| !there(a));
        problems.extend(missing.map(|a| format!("{name} has lost address {a}")));
        let routes = inside.routes().map_err(fail)?;
        let routed = |gateway: &IpAddr| {
            routes.iter().any(|r| r.dev == *name && r.destination.prefix() == 0 && r.via == Some(*gateway))
        };
        let missing = record.gateways.iter().filter(|g| !routed(g));
        problems.extend(missing.map(|g| format!("the default route by {g} is gone")));
        Ok(problems)
    }
}

/// Whether plugin `rnet` made it for a network of this name.
fn is_of(record: &EndpointRecord, of: &str) -> bool {
    matches!(&record.origin, Origin::Cni { list, .. } if list == of)
}
