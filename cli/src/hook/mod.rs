//! `rnet hook`: network for the containers of any OCI runtime, asked for by annotations.
//!
//! Fails closed: when anything of what a container asks for cannot be had, what was made is undone and the exit code
//! makes the runtime give up the container. Bounded in time and input, starts no process, reads no environment but
//! `RNET_ROOT`.

mod annotations;
mod install;
mod state;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Subcommand;
use rnet_api::{ApiError, AttachRequest, Client, DetachRequest, DetachWhich, Identity, NetworkConnect, PublishRequest};
use rnet_model::{ContainerName, ContainerRef, EndpointOptions, Engine, Kind, NetworkName};

use self::annotations::Wish;
use self::state::State;
use crate::Context;

const HOOK_HELP: &str = "\
Annotations of the container:
  rnet.network = NAME[,NAME]...       an interface on each of these networks
  rnet.attach = HOSTIF ADDRESS [MAC]  the words of rnet attach; several separated by ';'
  rnet.attach.N                       more of them, in the order of N
  rnet.publish = PORT[,PORT]...       the words of rnet publish, once the interfaces are there
Any other annotation that begins with rnet. is an error.

Example for runc: put what `rnet hook install` prints into config.json, and
  \"annotations\": {\"rnet.attach\": \"br0 192.168.115.10/24@gw\"}";

#[derive(Debug, Subcommand)]
#[command(after_help = HOOK_HELP)]
pub(crate) enum HookCommand {
    /// Attach what the annotations ask for; reads the OCI state on stdin
    ///
    /// Called by the runtime when the container's namespaces are there and its program does not run yet. When it fails
    /// nothing is left behind and the runtime does not start the container. prestart is the same under the name that old
    /// configurations use.
    #[command(name = "createRuntime", alias = "prestart", after_help = HOOK_HELP)]
    CreateRuntime,
    /// Detach everything of the container; reads the OCI state on stdin
    ///
    /// Called by the runtime after the container was deleted. A container without attachments is success.
    #[command(name = "poststop", after_help = HOOK_HELP)]
    Poststop,
    /// Tell Podman, CRI-O, runc and crun about the hook
    ///
    /// Writes rnet-createruntime.json and rnet-poststop.json for engines that read a hooks directory, and prints what
    /// belongs into config.json for runc and crun.
    #[command(after_help = "\
Examples:
  rnet hook install
  rnet hook install --dir /usr/share/containers/oci/hooks.d")]
    Install {
        /// Hooks directory [default: /etc/containers/oci/hooks.d; of a private instance, hooks.d in its directory]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Longest time for everything but the undo.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest time for the state to arrive.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for the undo.
const UNDO_LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn dispatch(command: HookCommand, ctx: &Context) -> Result<u8, ApiError> {
    let read = || {
        let bytes = state::read(&mut io::stdin().lock(), Instant::now() + READ_LIMIT)?;
        State::parse(&bytes)
    };
    match command {
        HookCommand::CreateRuntime => {
            let netd = Bounded { client: ctx.client(), deadline: Instant::now() + LIMIT };
            create_runtime(&read()?, &netd)
        }
        HookCommand::Poststop => {
            let state = read()?;
            let netd = Bounded { client: ctx.client(), deadline: Instant::now() + LIMIT };
            poststop(&state, &netd)
        }
        HookCommand::Install { dir } => return install::install(dir.as_deref(), ctx),
    }?;
    Ok(0)
}

/// What the hook asks of netd.
trait Netd {
    fn connect(&self, network: &NetworkName, request: &NetworkConnect) -> Result<(), ApiError>;
    fn attach(&self, request: &AttachRequest) -> Result<(), ApiError>;
    fn publish(&self, request: &PublishRequest) -> Result<(), ApiError>;
    /// Removes every interface of this container of an OCI runtime; none is success.
    fn detach_all(&self, id: &ContainerName) -> Result<(), ApiError>;
    /// The same with fresh time to do it in.
    fn undo(&self, id: &ContainerName) -> Result<(), ApiError>;
}

/// netd behind its socket, with one deadline for all calls.
struct Bounded {
    client: Client,
    deadline: Instant,
}

impl Bounded {
    fn client(&self) -> Result<Client, ApiError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ApiError::new(Kind::Retry, format!("netd took longer than {LIMIT:?}")));
        }
        Ok(self.client.clone().with_timeout(left))
    }
}

impl Netd for Bounded {
    fn connect(&self, network: &NetworkName, request: &NetworkConnect) -> Result<(), ApiError> {
        self.client()?.connect_network(network.as_str(), request).map(drop)
    }

    fn attach(&self, request: &AttachRequest) -> Result<(), ApiError> {
        self.client()?.attach(request).map(drop)
    }

    fn publish(&self, request: &PublishRequest) -> Result<(), ApiError> {
        self.client()?.publish(request).map(drop)
    }

    fn detach_all(&self, id: &ContainerName) -> Result<(), ApiError> {
        let client = self.client()?;
        // netd also takes a unique prefix of an id for the id; a hook must only ever touch its own container.
        let own = |e: &rnet_api::Endpoint| e.engine == Engine::Oci && e.container_id == id.as_str();
        if !client.attachments()?.iter().any(own) {
            return Ok(());
        }
        let container = ContainerRef::Of(Engine::Oci, id.clone());
        match client.detach(&DetachRequest { container, which: DetachWhich::All }) {
            Err(e) if e.kind != Kind::Missing => Err(e),
            _ => Ok(()),
        }
    }

    fn undo(&self, id: &ContainerName) -> Result<(), ApiError> {
        Bounded { client: self.client.clone(), deadline: Instant::now() + UNDO_LIMIT }.detach_all(id)
    }
}

fn create_runtime(state: &State, netd: &impl Netd) -> Result<(), ApiError> {
    let Some(annotations) = state.annotations.as_ref().filter(|a| annotations::any(a)) else { return Ok(()) };
    let id: ContainerName = state.id.parse()?;
    let pid = state.pid.filter(|pid| *pid > 0).ok_or_else(|| {
        ApiError::new(Kind::Invalid, format!("the state of container {id} has no process id"))
            .hint("call this hook at the stage createRuntime, not after the container has ended")
    })?;
    let container: ContainerRef = format!("pid:{pid}").parse()?;
    let wishes = annotations::parse(annotations, &container)?;
    refuse_host_namespace(pid, &id)?;
    let identity = Identity { engine: Engine::Oci, id: id.clone(), name: id.clone() };
    let result = wishes.into_iter().try_for_each(|wish| grant(wish, &container, &identity, netd));
    // Everything of this container goes, also what an earlier one of the same id left: the answer to a failed call may
    // have been lost after netd did the work.
    result.map_err(|error| match netd.undo(&id) {
        Ok(()) => error,
        Err(undo) => error.hint(format!("undo it with: rnet detach oci:{id} --all (now it failed: {})", undo.chain())),
    })
}

fn grant(wish: Wish, container: &ContainerRef, identity: &Identity, netd: &impl Netd) -> Result<(), ApiError> {
    let identity = Some(identity.clone());
    match wish {
        Wish::Network(network) => {
            let container = container.clone();
            let request = NetworkConnect { container, identity, options: EndpointOptions::default() };
            netd.connect(&network, &request)
        }
        Wish::Attach(spec) => netd.attach(&AttachRequest { spec: *spec, dry_run: false, identity }),
        Wish::Publish(ports) => {
            let own = identity.map_or_else(|| container.clone(), |i| ContainerRef::Of(i.engine, i.id));
            netd.publish(&PublishRequest { container: own, ports })
        }
    }
}

/// A container without a network namespace of its own shares this process's; attaching it would change the host.
fn refuse_host_namespace(pid: u32, id: &ContainerName) -> Result<(), ApiError> {
    let inode = |path: String| {
        let data = std::fs::metadata(&path).map_err(|e| {
            ApiError::new(Kind::Missing, format!("cannot look at the network namespace of container {id}, {path}"))
                .because(&e)
        })?;
        Ok::<_, ApiError>((data.dev(), data.ino()))
    };
    if inode(format!("/proc/{pid}/ns/net"))? != inode("/proc/self/ns/net".to_owned())? {
        return Ok(());
    }
    Err(ApiError::new(Kind::Invalid, format!("container {id} has no network namespace of its own"))
        .hint("add {\"type\": \"network\"} to linux.namespaces in config.json, or remove the rnet annotations"))
}

fn poststop(state: &State, netd: &impl Netd) -> Result<(), ApiError> {
    // Nothing was ever attached under an id that cannot be one.
    let Ok(id) = state.id.parse() else { return Ok(()) };
    netd.detach_all(&id)
}

#[cfg(test)]
mod tests;
