//! The network of a container: asked of netd between *created* and *started*, given back after the end.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rnet_api::{ApiError, Client, ConnectRequest, OnNetwork, SandboxRequest};
use rnet_kernel::{KernelError, LinkOp, Links as _, Netns, Route};
use rnet_model::{ContainerName, Kind, NetworkMode};
use rnet_runtime::bundle::{NetworkNamespace, OwnFiles, Sysctls, ping_groups};
use rnet_runtime::releases::{self, Addresses, Released};
use rnet_runtime::{Container, Phase, Store, files};

use crate::cannot;

/// What a container holds of netd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Nothing: the host's namespace, another container's, or one without netd.
    Nothing,
    /// A sandbox.
    Sandbox,
}

/// A namespace for a container that is about to be made.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) sysctls: Sysctls,
    pub(crate) hostname: String,
    pub(crate) files: OwnFiles,
    held: Held,
}

/// Containers that join each other's network in a row.
const LONGEST_CHAIN: usize = 16;

/// Files of the host.
const HOST_HOSTS: &str = "/etc/hosts";
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
const HOST_DIRECT_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

impl Network {
    /// Gets the namespace; nothing is held when it fails.
    pub(crate) fn prepare(store: &Store, container: &Container) -> Result<Self, ApiError> {
        match &container.record.spec.network.mode {
            NetworkMode::Host => Network::of_host(container),
            NetworkMode::Container(other) => Network::of_other(store, container, other),
            NetworkMode::None => Network::without_interfaces(store, container),
            NetworkMode::Networks(_) => Network::of_netd(store, container),
        }
    }

    fn own(container: &Container, namespace: NetworkNamespace, sysctls: Sysctls, held: Held) -> Self {
        let given = container.record.spec.hostname.as_ref();
        let hostname = given.map_or_else(|| container.record.id.short().to_owned(), ToString::to_string);
        Network { namespace, sysctls, hostname, files: container.own_files(), held }
    }

    fn of_host(container: &Container) -> Result<Self, ApiError> {
        let mut network = Network::own(container, NetworkNamespace::Host, Sysctls::Leave, Held::Nothing);
        if container.record.spec.hostname.is_none() {
            let name = nix::unistd::gethostname().map_err(|e| cannot("read the host's name", &e))?;
            network.hostname = name.to_string_lossy().into_owned();
        }
        Ok(network)
    }

    /// Looked up at each start, so that it is where the other one is now.
    fn of_other(store: &Store, container: &Container, other: &ContainerName) -> Result<Self, ApiError> {
        let found = store
            .find(other)
            .map_err(|e| ApiError { message: format!("cannot join the network of {other}: {}", e.message), ..e })?;
        let running = found.live()?.filter(|l| l.phase == Phase::Running).and_then(|l| l.init);
        let Some(init) = running.filter(|init| init.open().is_some()) else {
            return Err(ApiError::new(Kind::Conflict, format!("cannot join the network of {other}: it does not run"))
                .hint(format!("start it first: rnet start {other}")));
        };
        if found.record.id == container.record.id {
            return Err(ApiError::new(Kind::Invalid, "a container cannot join its own network"));
        }
        let namespace = NetworkNamespace::File(format!("/proc/{}/ns/net", init.pid).into());
        let mut network = Network::own(container, namespace, Sysctls::Leave, Held::Nothing);
        network.files = files_of(store, found, other)?;
        if container.record.spec.hostname.is_none() {
            network.hostname = read(&network.files.hostname).trim().to_owned();
        }
        Ok(network)
    }

    /// From netd, so that `rnet attach` finds it; when netd does not run, without it.
    fn without_interfaces(store: &Store, container: &Container) -> Result<Self, ApiError> {
        match Network::of_netd(store, container) {
            Err(error) if error.kind == Kind::Unavailable => {}
            other => return other,
        }
        let path = container.netns();
        let made = (|| {
            let netns = Netns::create()?;
            let lo = LinkOp::Up("lo".parse().expect("lo is an interface name"));
            if let Some(fault) = Route::open(&netns)?.batch(&[lo])?.into_iter().next() {
                return Err(fault.error);
            }
            netns.bind(&path)
        })();
        made.map_err(|e: KernelError| ApiError::new(e.kind(), "cannot make a network namespace").because(&e))?;
        Ok(Network::own(container, NetworkNamespace::File(path), sysctls(), Held::Nothing))
    }

    fn of_netd(store: &Store, container: &Container) -> Result<Self, ApiError> {
        let record = &container.record;
        let networks = match &record.spec.network.mode {
            NetworkMode::Networks(networks) => networks.clone(),
            _ => Vec::new(),
        };
        releases::catch_up(store.root())?;
        let request = SandboxRequest { container_id: record.id.name(), container_name: record.name.clone(), networks };
        let known = container.known_to_netd();
        container.mark_known_to_netd()?;
        let sandbox = match Client::new(store.root()).create_sandbox(&request) {
            Err(error) if error.kind == Kind::Unavailable && !known => {
                container.unmark_known_to_netd()?;
                return Err(error);
            }
            other => other?,
        };
        let namespace = NetworkNamespace::File(sandbox.netns);
        Ok(Network::own(container, namespace, sysctls(), Held::Sandbox))
    }

    /// Interfaces and addresses; the container is created and does not run yet.
    pub(crate) fn connect(&self, store: &Store, container: &Container) -> Result<Vec<IpAddr>, ApiError> {
        if self.held == Held::Nothing {
            return Ok(Vec::new());
        }
        let settings = &container.record.spec.network;
        let networks = match &settings.mode {
            NetworkMode::Networks(networks) => networks.clone(),
            _ => Vec::new(),
        };
        let mut networks: Vec<OnNetwork> = networks.into_iter().map(OnNetwork::from).collect();
        if let Some(first) = networks.first_mut() {
            first.options.ips.clone_from(&settings.ips);
            first.options.mac = settings.mac;
        }
        let request = ConnectRequest { networks, ..ConnectRequest::default() };
        let endpoints = Client::new(store.root()).connect_sandbox(&container.record.id.name(), &request)?;
        Ok(endpoints.iter().flat_map(|e| &e.addresses).map(|a| a.ip()).collect())
    }

    /// Writes hosts, hostname and resolv.conf before the container is made, so that they can be mounted.
    pub(crate) fn write_files(&self, container: &Container) -> Result<(), ApiError> {
        let own = container.own_files();
        if self.files.hosts != own.hosts {
            return Ok(());
        }
        write(&own.hostname, &files::hostname(&self.hostname))?;
        let host = read(Path::new(HOST_RESOLV_CONF));
        if self.namespace == NetworkNamespace::Host {
            write(&own.resolv_conf, &host)?;
            return write(&own.hosts, &read(Path::new(HOST_HOSTS)));
        }
        let direct = std::fs::read_to_string(HOST_DIRECT_RESOLV_CONF).ok();
        write(&own.resolv_conf, &files::resolv_conf(&host, direct.as_deref()))?;
        self.write_hosts(container, &[])
    }

    /// Writes the addresses into hosts, in place: the file is mounted already.
    pub(crate) fn write_hosts(&self, container: &Container, addresses: &[IpAddr]) -> Result<(), ApiError> {
        let own = container.own_files().hosts;
        if self.files.hosts != own || self.namespace == NetworkNamespace::Host {
            return Ok(());
        }
        write(&own, &files::hosts(&self.hostname, addresses))
    }

    /// Gives it back; a remark when that has to wait.
    pub(crate) fn release(&self, store: &Store, container: &Container, addresses: Addresses) -> Option<String> {
        if self.held == Held::Nothing {
            return None;
        }
        match releases::release(store.root(), &container.record.id, addresses) {
            Ok(Released::Now) => None,
            Ok(Released::Later) => {
                Some("netd is not running: the container's network is given back with the next command".to_owned())
            }
            Err(error) => Some(format!("the container's network could not be given back: {}", error.chain())),
        }
    }
}

/// The hosts, hostname and resolv.conf that a container uses: its own, or those of the one whose network it joined.
fn files_of(store: &Store, container: Container, name: &ContainerName) -> Result<OwnFiles, ApiError> {
    let mut owner = container;
    for _ in 0..LONGEST_CHAIN {
        match &owner.record.spec.network.mode {
            NetworkMode::Container(next) => owner = store.find(next)?,
            _ => return Ok(owner.own_files()),
        }
    }
    Err(ApiError::new(
        Kind::Invalid,
        format!("cannot join the network of {name}: it joined that of another, and so on"),
    ))
}

fn sysctls() -> Sysctls {
    Sysctls::Set { ping_groups: ping_groups(&read(Path::new("/proc/self/gid_map"))) }
}

/// A file of the host or of another container; absent is empty.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The files are read by programs that are not root.
fn write(path: &PathBuf, text: &str) -> Result<(), ApiError> {
    std::fs::write(path, text).map_err(|e| rnet_runtime::file_error("write", path, &e))
}
