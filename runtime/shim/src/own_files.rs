//! A container's own hosts, hostname and resolv.conf.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rnet_api::{ApiError, Endpoint};
use rnet_model::Kind;
use rnet_runtime::files::{self, hosts, resolv};
use rnet_runtime::{Container, ExtraHost, HostTarget, Store, neighbours};

use crate::network::Known;

/// Files of the host.
const HOST_HOSTS: &str = "/etc/hosts";
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
const HOST_DIRECT_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// Where the host is for a program in the host's own namespace.
const HOST_ITSELF: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Of a container in the host's namespace: the host's, with what was asked for.
pub(crate) fn of_the_host(container: &Container, hostname: &str) -> Result<(), ApiError> {
    let (own, asked) = (container.own_files(), &container.record.spec.network);
    write(&own.hostname, &files::hostname(hostname))?;
    let extra: Vec<(IpAddr, &str)> = asked.extra_hosts.iter().map(|h| (reached(h, HOST_ITSELF), name(h))).collect();
    write(&own.hosts, &hosts::of_the_host(&read(Path::new(HOST_HOSTS)), &extra))?;
    let text = resolv::of_the_host(&read(Path::new(HOST_RESOLV_CONF)), &asked.dns);
    resolv_conf(container, &text)
}

/// Of a container in a namespace of its own, before it is made, so that they can be mounted. Without addresses.
pub(crate) fn before(container: &Container, hostname: &str, networks: &[Known]) -> Result<(), ApiError> {
    let (own, dns) = (container.own_files(), &container.record.spec.network.dns);
    write(&own.hostname, &files::hostname(hostname))?;
    write(&own.hosts, &hosts::new(&[]))?;
    let host = read(Path::new(HOST_RESOLV_CONF));
    let text = if networks.iter().any(|n| n.dns) {
        let domains: Vec<_> = networks.iter().filter(|n| n.dns).filter_map(|n| n.domain.clone()).collect();
        resolv::of_netd(&host, &domains, dns)
    } else {
        let direct = std::fs::read_to_string(HOST_DIRECT_RESOLV_CONF).ok();
        resolv::reachable(&host, direct.as_deref(), dns)
    };
    resolv_conf(container, &text)
}

/// The hosts file with the addresses, in place: it is mounted already.
pub(crate) fn with_addresses(store: &Store, container: &Container, endpoints: &[Endpoint]) -> Result<(), ApiError> {
    let settings = &container.record.spec.network;
    let mut extra = Vec::new();
    for host in &settings.extra_hosts {
        match host.target {
            HostTarget::Address(address) => extra.push((address, name(host))),
            HostTarget::Gateway => extra.extend(gateways(container, endpoints, host)?.iter().map(|g| (*g, name(host)))),
        }
    }
    let own: Vec<IpAddr> = endpoints.iter().flat_map(|e| &e.addresses).map(|a| a.ip()).collect();
    neighbours::write(store, container, hosts::new(&extra), &own)
}

/// The host on the container's first network.
fn gateways<'a>(container: &Container, endpoints: &'a [Endpoint], host: &ExtraHost) -> Result<&'a [IpAddr], ApiError> {
    let of_networks = || endpoints.iter().filter(|e| e.network.is_some());
    let first = container.record.spec.network.networks.first().map(|on| &on.network);
    let found = of_networks().find(|e| e.network.as_ref() == first).or_else(|| of_networks().next());
    found.map(|e| e.gateways.as_slice()).filter(|gateways| !gateways.is_empty()).ok_or_else(|| {
        let network = first.map(ToString::to_string).unwrap_or_default();
        ApiError::new(Kind::Conflict, format!("--add-host {host}: network {network} has no gateway"))
            .hint("give the address itself, or another network first")
    })
}

fn reached(host: &ExtraHost, gateway: IpAddr) -> IpAddr {
    match host.target {
        HostTarget::Address(address) => address,
        HostTarget::Gateway => gateway,
    }
}

fn name(host: &ExtraHost) -> &str {
    host.name.as_str()
}

/// One that was changed inside is left as it is: what was made is kept beside it to tell.
fn resolv_conf(container: &Container, text: &str) -> Result<(), ApiError> {
    let (path, made) = (container.own_files().resolv_conf, container.lib("resolv.conf.made"));
    if let (Ok(now), Ok(then)) = (std::fs::read(&path), std::fs::read(&made))
        && now != then
    {
        return Ok(());
    }
    write(&path, text)?;
    write(&made, text)
}

/// A file of the host or of another container; absent is empty.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The files are read by programs that are not root.
fn write(path: &PathBuf, text: &str) -> Result<(), ApiError> {
    std::fs::write(path, text).map_err(|e| rnet_runtime::file_error("write", path, &e))
}
