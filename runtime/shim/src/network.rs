//! The network of a container: asked of netd between *created* and *started*, given back after the end.

use std::path::Path;

use rnet_api::{
    ApiError, Client, ConnectRequest, ContainerNames, Endpoint, OnNetwork, Sandbox, SandboxRequest,
    Status as EndpointStatus,
};
use rnet_kernel::{KernelError, LinkOp, Links as _, Netns, Route};
use rnet_model::{ContainerName, Kind, NetworkMode, NetworkName};
use rnet_runtime::bundle::{NetworkNamespace, OwnFiles, Sysctls, ping_groups};
use rnet_runtime::process::ProcessId;
use rnet_runtime::releases::{self, Addresses, Released};
use rnet_runtime::resolver::Zone;
use rnet_runtime::{Container, EnvVar, Phase, Store, neighbours, sharing};

use crate::cannot;
use crate::links::{self, Links};
use crate::own_files::{self, read};

/// What a container holds.
#[derive(Debug)]
enum Held {
    /// Nothing: the host's namespace, or one without netd.
    Nothing,
    /// A sandbox of netd.
    Sandbox,
    /// A place in the namespace of this one.
    Place(Box<Container>),
}

/// A namespace for a container that is about to be made.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) sysctls: Sysctls,
    pub(crate) hostname: String,
    pub(crate) files: OwnFiles,
    networks: Vec<Zone>,
    /// Networks it is on already: the namespace was left to others, see [`sharing`].
    connected: Vec<NetworkName>,
    links: Links,
    held: Held,
}

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
        Network {
            namespace,
            sysctls,
            hostname: container.record.hostname().to_owned(),
            files: container.own_files(),
            networks: Vec::new(),
            connected: Vec::new(),
            links: Links::default(),
            held,
        }
    }

    fn of_host(container: &Container) -> Result<Self, ApiError> {
        let mut network = Network::own(container, NetworkNamespace::Host, Sysctls::Leave, Held::Nothing);
        if container.record.spec.hostname.is_none() {
            let name = nix::unistd::gethostname().map_err(|e| cannot("read the host's name", &e))?;
            network.hostname = name.to_string_lossy().into_owned();
        }
        Ok(network)
    }

    /// Looked up at each start; from then on the other one leaves its namespace to this one when it ends.
    fn of_other(store: &Store, container: &Container, other: &ContainerName) -> Result<Self, ApiError> {
        let found = store
            .find(other)
            .map_err(|e| ApiError { message: format!("cannot join the network of {other}: {}", e.message), ..e })?;
        if found.record.id == container.record.id {
            return Err(ApiError::new(Kind::Invalid, "a container cannot join its own network"));
        }
        let running = found.live()?.filter(|l| l.phase == Phase::Running).and_then(|l| l.init);
        let Some(init) = running.filter(|init| init.open().is_some()) else {
            return Err(ApiError::new(Kind::Conflict, format!("cannot join the network of {other}: it does not run"))
                .hint(format!("start it first: rnet start {other}")));
        };
        let owner = sharing::owner(store, container)?.unwrap_or(found);
        let files = owner.own_files();
        let held = match owner.record.spec.network.mode {
            NetworkMode::Host => Held::Nothing,
            _ => Held::Place(Box::new(owner)),
        };
        let mut network = Network::own(container, namespace_of(init), Sysctls::Leave, held);
        network.files = files;
        if container.record.spec.hostname.is_none() {
            network.hostname = read(&network.files.hostname).trim().to_owned();
        }
        Ok(network)
    }

    /// From netd, so that `rnet attach` finds it; when netd does not run, without it.
    fn without_interfaces(store: &Store, container: &Container) -> Result<Self, ApiError> {
        // Others may be in the one that was made without netd: then it is that one.
        let others = if container.known_to_netd() { Vec::new() } else { sharing::others(store, container)? };
        if others.is_empty() {
            match Network::of_netd(store, container) {
                Err(error) if error.kind == Kind::Unavailable => {}
                other => return other,
            }
        }
        let path = container.netns();
        let made = (|| {
            if let Some(other) = others.first() {
                return Netns::open(Path::new(&format!("/proc/{}/ns/net", other.pid)))?.bind(&path);
            }
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
        let networks = record.spec.network.networks.iter().map(|on| on.network.clone()).collect();
        releases::catch_up(store.root())?;
        let request = SandboxRequest { container_id: record.id.name(), container_name: record.name.clone(), networks };
        let known = container.known_to_netd();
        container.mark_known_to_netd()?;
        sharing::take_up(container)?;
        let sandbox = match Client::new(store.root()).create_sandbox(&request) {
            Err(error) if error.kind == Kind::Unavailable && !known => {
                container.unmark_known_to_netd()?;
                return Err(error);
            }
            Err(error) => {
                // Others may still be in it.
                sharing::let_go(store, container, Addresses::Keep)?;
                return Err(error);
            }
            Ok(sandbox) => sandbox,
        };
        let connected = connected(&sandbox);
        let namespace = NetworkNamespace::File(sandbox.netns);
        Ok(Network { connected, ..Network::own(container, namespace, sysctls(), Held::Sandbox) })
    }

    /// Learns what its networks are and finds the containers it is linked to. Its networks exist since it has a sandbox.
    pub(crate) fn look_around(&mut self, store: &Store, container: &Container) -> Result<(), ApiError> {
        let client = Client::new(store.root());
        for on in &container.record.spec.network.networks {
            self.networks.push(Zone::look(&client, &on.network)?);
        }
        let names: Vec<NetworkName> = self.networks.iter().map(|n| n.name.clone()).collect();
        self.links = links::look(store, container, &names)?;
        Ok(())
    }

    /// What the program is told of the containers it is linked to.
    pub(crate) fn linked(&self) -> Vec<EnvVar> {
        self.links.env.clone()
    }

    /// Interfaces and addresses; the container is created and does not run yet.
    pub(crate) fn connect(&self, store: &Store, container: &Container) -> Result<Vec<Endpoint>, ApiError> {
        match &self.held {
            Held::Nothing => Ok(Vec::new()),
            Held::Place(owner) => sharing::join(owner, &container.record.id).map(|()| Vec::new()),
            Held::Sandbox => {
                let request = self.request(container);
                Client::new(store.root()).connect_sandbox(&container.record.id.name(), &request)
            }
        }
    }

    fn request(&self, container: &Container) -> ConnectRequest {
        let settings = &container.record.spec.network;
        let known = |on: &OnNetwork| self.networks.iter().find(|n| n.name == on.network).map(|n| &n.name);
        // One it is on already must not be taken away from others should something here fail.
        let absent = |on: &&OnNetwork| !self.connected.contains(known(on).unwrap_or(&on.network));
        ConnectRequest {
            networks: settings.networks.iter().filter(absent).cloned().collect(),
            ports: settings.ports.clone(),
            expose: settings.expose.clone(),
            publish_all: settings.publish_all,
            names: ContainerNames { hostname: self.hostname.parse().ok(), servers: settings.dns.servers.clone() },
            links: self.links.targets.clone(),
        }
    }

    /// Writes hosts, hostname and resolv.conf before the container is made, so that they can be mounted.
    pub(crate) fn write_files(&self, container: &Container) -> Result<(), ApiError> {
        match (&container.record.spec.network.mode, &self.namespace) {
            (NetworkMode::Container(_), _) => Ok(()),
            (_, NetworkNamespace::Host) => own_files::of_the_host(container, &self.hostname),
            (_, NetworkNamespace::File(_)) => own_files::before(container, &self.hostname, &self.networks),
        }
    }

    /// Writes the addresses into its hosts file, and into those of the containers that are linked to it.
    pub(crate) fn write_hosts(
        &self,
        store: &Store,
        container: &Container,
        endpoints: &[Endpoint],
    ) -> Result<(), ApiError> {
        match (&container.record.spec.network.mode, &self.namespace) {
            (NetworkMode::Container(_), _) | (_, NetworkNamespace::Host) => Ok(()),
            (_, NetworkNamespace::File(_)) => {
                own_files::with_addresses(store, container, endpoints)?;
                neighbours::tell_linked(store, container)
            }
        }
    }

    /// Gives it back; a remark when that has to wait.
    pub(crate) fn release(&self, store: &Store, container: &Container, addresses: Addresses) -> Option<String> {
        let released = match &self.held {
            Held::Nothing => return None,
            Held::Place(owner) => sharing::leave(store, owner, &container.record.id),
            Held::Sandbox => sharing::let_go(store, container, addresses),
        };
        match released {
            Ok(Released::Now | Released::Kept) => None,
            Ok(Released::Later) => {
                Some("netd is not running: the container's network is given back with the next command".to_owned())
            }
            Err(error) => Some(format!("the container's network could not be given back: {}", error.chain())),
        }
    }
}

/// The networks that a sandbox is on, when it is not a new one.
fn connected(sandbox: &Sandbox) -> Vec<NetworkName> {
    let ready = sandbox.endpoints.iter().filter(|e| e.status == EndpointStatus::Ready);
    ready.filter_map(|e| e.network.clone()).collect()
}

fn namespace_of(process: ProcessId) -> NetworkNamespace {
    NetworkNamespace::File(format!("/proc/{}/ns/net", process.pid).into())
}

fn sysctls() -> Sysctls {
    Sysctls::Set { ping_groups: ping_groups(&read(Path::new("/proc/self/gid_map"))) }
}
