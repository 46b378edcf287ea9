//! A container's own hosts, hostname and resolv.conf.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rnet_api::{ApiError, Endpoint};
use rnet_model::Kind;
use rnet_runtime::files::{self, hosts};
use rnet_runtime::resolver::{self, Zone};
use rnet_runtime::{Container, ExtraHost, HostTarget, Store, neighbours};

const HOST_HOSTS: &str = "/etc/hosts";

/// Where the host is for a program in the host's own namespace.
const HOST_ITSELF: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Of a container in the host's namespace: the host's, with what was asked for.
pub(crate) fn of_the_host(container: &Container, hostname: &str) -> Result<(), ApiError> {
    let (own, asked) = (container.own_files(), &container.record.spec.network);
    write(&own.hostname, &files::hostname(hostname))?;
    let extra: Vec<(IpAddr, &str)> = asked.extra_hosts.iter().map(|h| (reached(h, HOST_ITSELF), name(h))).collect();
    write(&own.hosts, &hosts::of_the_host(&read(Path::new(HOST_HOSTS)), &extra))?;
    resolver::write_of_the_host(container)
}

/// Of a container in a namespace of its own, before it is made, so that they can be mounted. Without addresses.
pub(crate) fn before(container: &Container, hostname: &str, networks: &[Zone]) -> Result<(), ApiError> {
    let own = container.own_files();
    write(&own.hostname, &files::hostname(hostname))?;
    write(&own.hosts, &hosts::new(&[]))?;
    resolver::write(container, networks)
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

/// A file of the host or of another container; absent is empty.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The files are read by programs that are not root.
fn write(path: &PathBuf, text: &str) -> Result<(), ApiError> {
    std::fs::write(path, text).map_err(|e| rnet_runtime::file_error("write", path, &e))
}
