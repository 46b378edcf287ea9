//! What a container's /etc/hosts says of addresses, its own and those of containers it is linked to, and how it is kept
//! right while it runs: addresses change when a linked container is started again, and with `rnet network connect` and
//! `disconnect`.
//!
//! `LIB/containers/TARGET/linked/ID` says who is linked to a container. A hosts file is changed in place, since it is
//! mounted, under `hosts.lock` of its container; what netd says is asked under that lock, so that of two who write the
//! one who writes last knows the newest addresses.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;

use rnet_api::{ApiError, Client, Endpoint};
use rnet_model::{Engine, Kind, NetworkMode, NetworkName};

use crate::files::hosts;
use crate::resolver::{self, Zone};
use crate::store::remove_file;
use crate::{Container, ContainerId, LinkSpec, Record, Store, file_error};

const LOCK: &str = "hosts.lock";

/// Largest hosts file that is read, in bytes: the container itself can make it any size.
const LARGEST: u64 = 1 << 20;

/// Interfaces of one container of rnet's own.
pub fn of<'a>(endpoints: &'a [Endpoint], id: &'a ContainerId) -> impl Iterator<Item = &'a Endpoint> {
    endpoints.iter().filter(move |e| e.engine == Engine::Rnet && e.container_id == id.as_str())
}

/// Addresses of a container on some networks, in the order of its interfaces.
pub fn addresses_on(endpoints: &[Endpoint], id: &ContainerId, networks: &[NetworkName]) -> Vec<IpAddr> {
    let common = |e: &&Endpoint| e.network.as_ref().is_some_and(|n| networks.contains(n));
    of(endpoints, id).filter(common).flat_map(|e| &e.addresses).map(|a| a.ip()).collect()
}

/// The names of a linked container in the hosts file of the one that is linked to it.
pub fn link_names(link: &LinkSpec, target: &Record) -> String {
    hosts::link_names(link.alias.as_str(), target.hostname(), target.name.as_str())
}

/// Notes that a container is linked to another one.
///
/// # Errors
/// When it cannot be written.
pub fn note_link(target: &Container, linked: &ContainerId) -> Result<(), ApiError> {
    let dir = target.lib("linked");
    fs::create_dir_all(&dir).map_err(|e| file_error("make", &dir, &e))?;
    let path = dir.join(linked.as_str());
    fs::write(&path, "").map_err(|e| file_error("write", &path, &e))
}

/// Changes a container's hosts file in place.
///
/// # Errors
/// When it cannot be read or written, or is too large.
pub fn edit(container: &Container, change: impl FnOnce(String) -> Result<String, ApiError>) -> Result<(), ApiError> {
    let _lock = container.locked(LOCK)?;
    let path = container.own_files().hosts;
    let failed = |e: io::Error| file_error("change", &path, &e);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > LARGEST {
        return Err(ApiError::new(Kind::Conflict, format!("{} is too large to be changed", path.display()))
            .hint("the container made it so; it is made anew at its next start"));
    }
    let mut bytes = Vec::new();
    (&file).take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    let before = String::from_utf8_lossy(&bytes).into_owned();
    let after = change(before.clone())?;
    if after == before {
        return Ok(());
    }
    file.rewind()
        .and_then(|()| file.write_all(after.as_bytes()))
        .and_then(|()| file.set_len(u64::try_from(after.len()).unwrap_or(u64::MAX)))
        .map_err(failed)
}

/// Writes the addresses of a container and of those it is linked to into its hosts file. Called when it is connected
/// and its program does not run yet. `start` is the file without them.
///
/// # Errors
/// When the file cannot be written, or netd does not answer about a linked container.
pub fn write(store: &Store, container: &Container, start: String, own: &[IpAddr]) -> Result<(), ApiError> {
    edit(container, |_| {
        let text = hosts::follow(&start, &container.record.own_names(), own);
        match container.record.spec.network.links.is_empty() {
            true => Ok(text),
            false => with_links(store, container, text, &Client::new(store.root()).attachments()?),
        }
    })
}

/// Brings the files right that a container's networks stand in: its own hosts and resolv.conf, and the hosts of the
/// running containers that are linked to it.
///
/// # Errors
/// When netd does not answer, or the container's own file cannot be changed. Those of others do not matter to it.
pub fn refresh(store: &Store, container: &Container) -> Result<(), ApiError> {
    if matches!(container.record.spec.network.mode, NetworkMode::Networks(_) | NetworkMode::None) {
        let mut networks = Vec::new();
        edit(container, |text| {
            let endpoints = Client::new(store.root()).attachments()?;
            let own: Vec<IpAddr> =
                of(&endpoints, &container.record.id).flat_map(|e| &e.addresses).map(|a| a.ip()).collect();
            networks = of(&endpoints, &container.record.id).filter_map(|e| e.network.clone()).collect();
            let text = hosts::follow(&text, &container.record.own_names(), &own);
            with_links(store, container, text, &endpoints)
        })?;
        let client = Client::new(store.root());
        let zones: Vec<Zone> = networks.iter().map(|n| Zone::look(&client, n)).collect::<Result<_, _>>()?;
        resolver::write(container, &zones)?;
    }
    tell_linked(store, container)
}

/// Brings the hosts files of the running containers right that are linked to this one.
///
/// # Errors
/// When a list cannot be read. A file that cannot be changed is passed over.
pub fn tell_linked(store: &Store, target: &Container) -> Result<(), ApiError> {
    let dir = target.lib("linked");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(file_error("list", &dir, &e)),
    };
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok());
        let Some(linked) = id.and_then(|id| store.by_id(&id).ok()) else {
            remove_file(&entry.path())?;
            continue;
        };
        // One that is being started counts: it may have asked for the address before.
        if linked.live()?.is_none() {
            continue;
        }
        let told = edit(&linked, |text| {
            let endpoints = Client::new(store.root()).attachments()?;
            with_links(store, &linked, text, &endpoints)
        });
        if let Err(error) = told {
            eprintln!("the hosts file of {} still has the old address: {}", linked.record.name, error.chain());
        }
    }
    Ok(())
}

/// The lines of all links. A container that is not there now keeps the line it has.
fn with_links(store: &Store, container: &Container, text: String, endpoints: &[Endpoint]) -> Result<String, ApiError> {
    let networks: Vec<NetworkName> = of(endpoints, &container.record.id).filter_map(|e| e.network.clone()).collect();
    let mut text = text;
    for link in &container.record.spec.network.links {
        let target = match store.find(&link.target) {
            Ok(target) => target,
            Err(e) if e.kind == Kind::Missing => continue,
            Err(e) => return Err(e),
        };
        let addresses = addresses_on(endpoints, &target.record.id, &networks);
        if !addresses.is_empty() {
            text = hosts::follow(&text, &link_names(link, &target.record), &addresses);
        }
    }
    Ok(text)
}
