//! The containers that one is linked to (`--link`): found running and on a common network, or the container is not made.

use std::net::IpAddr;

use rnet_api::{ApiError, Client, Endpoint};
use rnet_model::{ContainerName, Kind, NetworkName};
use rnet_runtime::link::Linked;
use rnet_runtime::{Container, EnvVar, LinkSpec, Status, Store, neighbours};

/// What comes of the links of a container.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Full ids of the others.
    pub(crate) targets: Vec<ContainerName>,
    /// What the program is told by.
    pub(crate) env: Vec<EnvVar>,
}

/// Looks for the others. The container will be on `networks`.
pub(crate) fn look(store: &Store, container: &Container, networks: &[NetworkName]) -> Result<Links, ApiError> {
    let mut links = Links::default();
    if container.record.spec.network.links.is_empty() {
        return Ok(links);
    }
    let endpoints = Client::new(store.root()).attachments()?;
    for link in &container.record.spec.network.links {
        let target = running(store, container, link)?;
        let address = address(&endpoints, container, &target, networks)?;
        let linked = Linked {
            from: &container.record.name,
            alias: &link.alias,
            address,
            ports: &target.record.spec.network.listening(),
            env: &target.record.spec.env,
        };
        links.env.extend(linked.environment());
        links.targets.push(target.record.id.name());
        // Noted before the hosts file is written: whoever changes the address from now on knows of it.
        neighbours::note_link(&target, &container.record.id)?;
    }
    Ok(links)
}

fn running(store: &Store, container: &Container, link: &LinkSpec) -> Result<Container, ApiError> {
    let name = &link.target;
    let target =
        store.find(name).map_err(|e| ApiError { message: format!("cannot link to {name}: {}", e.message), ..e })?;
    if target.record.id == container.record.id {
        return Err(ApiError::new(Kind::Invalid, "a container cannot be linked to itself"));
    }
    if target.status()? != Status::Running {
        return Err(ApiError::new(Kind::Conflict, format!("cannot link to a container that does not run: {name}"))
            .hint(format!("start it first: rnet start {name}")));
    }
    Ok(target)
}

/// IPv4 if there is one, as programs that read these variables expect.
fn address(
    endpoints: &[Endpoint],
    container: &Container,
    target: &Container,
    networks: &[NetworkName],
) -> Result<IpAddr, ApiError> {
    let all = neighbours::addresses_on(endpoints, &target.record.id, networks);
    all.iter().find(|ip| ip.is_ipv4()).or_else(|| all.first()).copied().ok_or_else(|| {
        let (name, from) = (&target.record.name, &container.record.name);
        let on: Vec<&str> = networks.iter().map(NetworkName::as_str).collect();
        ApiError::new(
            Kind::Conflict,
            format!("cannot link to {name}: it is on none of the networks of {from}, {}", on.join(", ")),
        )
        .hint(format!("connect it: rnet network connect {} {name}", on.first().unwrap_or(&"NETWORK")))
    })
}
