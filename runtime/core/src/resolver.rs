//! A container's /etc/resolv.conf on disk: made before it starts, and again when `rnet network connect` or `disconnect`
//! changes whether netd answers for names. One that was changed inside is left as it is from then on: what was made is
//! kept beside it, to tell.

use std::fs;
use std::path::Path;

use rnet_api::{ApiError, Client};
use rnet_model::{DnsName, NetworkName, NetworkType};

use crate::files::resolv;
use crate::{Container, file_error};

/// Files of the host.
const HOST: &str = "/etc/resolv.conf";
const HOST_DIRECT: &str = "/run/systemd/resolve/resolv.conf";

/// Largest file that is looked at, in bytes: the container itself can make it any size.
const LARGEST: u64 = 64 * 1024;

/// What names depend on, of a network that a container is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Full name of the network.
    pub name: NetworkName,
    /// Whether netd answers for names on it.
    pub dns: bool,
    /// Its domain.
    pub domain: Option<DnsName>,
}

impl Zone {
    /// Asks netd about a network.
    ///
    /// # Errors
    /// When netd does not answer, or there is no such network.
    pub fn look(client: &Client, network: &NetworkName) -> Result<Self, ApiError> {
        let spec = client.network(network.as_str())?.spec;
        let dns = spec.dns.is_on() && spec.kind != NetworkType::Conflist;
        Ok(Zone { name: spec.name, dns, domain: spec.domain })
    }
}

/// For a container in a namespace of its own.
///
/// # Errors
/// When it cannot be written.
pub fn write(container: &Container, zones: &[Zone]) -> Result<(), ApiError> {
    let dns = &container.record.spec.network.dns;
    let host = fs::read_to_string(HOST).unwrap_or_default();
    let text = if zones.iter().any(|zone| zone.dns) {
        let domains: Vec<DnsName> = zones.iter().filter(|z| z.dns).filter_map(|z| z.domain.clone()).collect();
        resolv::of_netd(&host, &domains, dns)
    } else {
        resolv::reachable(&host, fs::read_to_string(HOST_DIRECT).ok().as_deref(), dns)
    };
    put(container, &text)
}

/// For a container in the host's namespace.
///
/// # Errors
/// When it cannot be written.
pub fn write_of_the_host(container: &Container) -> Result<(), ApiError> {
    let host = fs::read_to_string(HOST).unwrap_or_default();
    put(container, &resolv::of_the_host(&host, &container.record.spec.network.dns))
}

/// In place: it may be mounted.
fn put(container: &Container, text: &str) -> Result<(), ApiError> {
    let (path, made) = (container.own_files().resolv_conf, container.lib("resolv.conf.made"));
    if changed(&path, &made) {
        return Ok(());
    }
    for path in [&path, &made] {
        fs::write(path, text).map_err(|e| file_error("write", path, &e))?;
    }
    Ok(())
}

/// Whether it is another one than was made. Records of the version before do not say what that was.
fn changed(path: &Path, made: &Path) -> bool {
    let Ok(made) = fs::read(made) else { return false };
    match fs::metadata(path) {
        Ok(data) if data.len() <= LARGEST => fs::read(path).is_ok_and(|now| now != made),
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn what_was_changed_inside_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&rnet_api::Root::from_option(Some(dir.path().to_owned())));
        let record = crate::store::tests::record("web", "00001111000011110000111100001111");
        let container = store.create(record).unwrap();
        let path = container.own_files().resolv_conf;
        let zone = |dns| Zone { name: "blue".parse().unwrap(), dns, domain: Some("blue.test".parse().unwrap()) };
        let text = || fs::read_to_string(&path).unwrap();
        fs::write(&path, "of the version before").unwrap();
        write(&container, &[zone(true)]).unwrap();
        assert_eq!(text(), "nameserver 127.0.0.11\nsearch blue.test\noptions ndots:0\n");
        write(&container, &[zone(false)]).unwrap();
        assert!(!text().contains("127.0.0.11"));
        write(&container, &[zone(false), zone(true)]).unwrap();
        fs::write(&path, "mine").unwrap();
        write(&container, &[]).unwrap();
        assert_eq!(text(), "mine");
    }
}
