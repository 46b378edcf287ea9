//! The life of one container: created, connected, started, waited for, taken down.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_runtime::bundle::{self, Surroundings};
use rnet_runtime::cgroup::{self, Cgroups};
use rnet_runtime::logs::Writer;
use rnet_runtime::process::{Handle, ProcessId};
use rnet_runtime::protocol::{Channel, ContainerRun, OnFailure, Report};
use rnet_runtime::releases::Addresses;
use rnet_runtime::{
    CapName, Container, Ended, Keep, Live, Phase, Store, effective_caps, file_error, not_to_be_given, passwd, workdir,
};

use crate::engine::{self, Created, Stdio};
use crate::network::Network;
use crate::pump::Pump;
use crate::stand_in;
use crate::streams::{Client, Console, Outside, pipes};
use crate::{Failure, cannot};

/// A container in hand.
struct Life<'a> {
    store: &'a Store,
    container: Container,
    live: Live,
}

/// One whose program runs.
struct Running {
    network: Network,
    outside: Outside,
    init: Handle,
    pid: i32,
}

/// From the first step to the last.
///
/// # Errors
/// When the program was never started; nothing of the attempt is left then.
pub(crate) fn run(store: &Store, run: &ContainerRun, client: Client, channel: &Channel) -> Result<(), Failure> {
    let container = store.by_id(&run.id)?;
    container.begin_run()?;
    let live = Live { shim: ProcessId::this()?, phase: Phase::Starting, init: None, started: None };
    let mut life = Life { store, container, live };
    let begun = life.container.set_live(&life.live).map_err(Failure::from).and_then(|()| life.begin(run));
    match begun {
        Ok(running) => {
            // A command that has gone does not change what was started.
            let _ = channel.send(&Report::Started, &[]);
            life.stay(running, client, channel)?;
            Ok(())
        }
        Err(failure) => {
            life.give_up(run.on_failure, &failure);
            Err(failure)
        }
    }
}

impl Life<'_> {
    fn begin(&mut self, run: &ContainerRun) -> Result<Running, Failure> {
        let spec = &self.container.record.spec;
        engine::require_dir(&spec.rootfs)?;
        require_caps(&spec.cap_add, &spec.cap_drop)?;
        workdir::make(&spec.rootfs, &spec.workdir, &spec.binds)
            .map_err(|e| Failure::new(Failure::NOT_EXECUTABLE, e))?;
        let mut network = Network::prepare(self.store, &self.container)?;
        match self.make(&mut network, run) {
            Ok((outside, init, pid)) => Ok(Running { network, outside, init, pid }),
            Err(failure) => {
                self.kill_init();
                network.release(self.store, &self.container, forget_if(run.on_failure == OnFailure::Remove));
                Err(failure)
            }
        }
    }

    /// Created, then its network, then started.
    fn make(&mut self, network: &mut Network, run: &ContainerRun) -> Result<(Outside, Handle, i32), Failure> {
        network.look_around(self.store, &self.container)?;
        network.write_files(&self.container)?;
        let record = &self.container.record;
        let identity = passwd::resolve(&record.spec.rootfs, record.spec.user.as_ref())?;
        let (uid, gid) = (identity.uid, identity.gid);
        let cgroups = cgroup::probe();
        if cgroups == Cgroups::Shared {
            stand_in::mount(&record.id)?;
        }
        let around = Surroundings {
            network: network.namespace.clone(),
            identity,
            hostname: network.hostname.clone(),
            linked: network.linked(),
            files: network.files.clone(),
            cgroups,
            sysctls: network.sysctls.clone(),
        };
        let spec = bundle::spec(record, &around)?;
        let (created, outside) = if record.spec.streams.terminal() {
            let console = Console::listen(self.container.run_dir())?;
            let created = self.create(&spec, Stdio::terminal(&console))?;
            (created, console.accept(run.size)?)
        } else {
            let (inside, outside) = pipes(record.spec.streams, uid, gid)?;
            (self.create(&spec, Stdio::Files(inside))?, outside)
        };
        let pid = created.pid;
        let init = Handle::of_number(pid)?;
        let endpoints = network.connect(self.store, &self.container)?;
        network.write_hosts(self.store, &self.container, &endpoints)?;
        created.start(&self.container.record.spec.command[0])?;
        self.live.phase = Phase::Running;
        self.live.started = Some(jiff::Timestamp::now());
        self.container.set_live(&self.live)?;
        Ok((outside, init, pid))
    }

    /// The process is noted at once, so that it can be found should the shim be killed.
    fn create(&mut self, spec: &oci_spec::runtime::Spec, stdio: Stdio) -> Result<Created, Failure> {
        let created = engine::create(&self.container, spec, stdio).map_err(|f| suspect_workdir(f, &self.container))?;
        self.live.init = Some(ProcessId::of(created.pid)?);
        self.container.set_live(&self.live)?;
        Ok(created)
    }

    /// Moves bytes until the program ends, then takes everything down and says how it ended.
    fn stay(&self, running: Running, client: Client, channel: &Channel) -> Result<(), ApiError> {
        let Running { network, outside, init, pid } = running;
        let log = Writer::open(&self.container.lib("")).inspect_err(|e| eprintln!("rnet-shim: {}", e.chain())).ok();
        let attached = client.attached();
        let mut pump = Pump::new(&init, channel, outside, client, log)?;
        let pumped = pump.run();
        let code = reap(pid)?;
        let warning = self.take_down(&network, code)?;
        if attached {
            pump.finish()?;
            let _ = channel.send(&Report::Exited { code, warning }, &[]);
        }
        pumped
    }

    /// After the end: what is kept is how it ended, or nothing.
    fn take_down(&self, network: &Network, code: u8) -> Result<Option<String>, ApiError> {
        cgroup::remove(&self.container.record.id);
        let goes = self.container.record.spec.keep == Keep::WhileRunning;
        let warning = network.release(self.store, &self.container, forget_if(goes));
        let finished = jiff::Timestamp::now();
        self.container.set_ended(&Ended { code, started: self.live.started, finished, error: warning.clone() })?;
        match goes {
            true => self.store.remove(&self.container)?,
            false => self.container.clear_run()?,
        }
        Ok(warning)
    }

    /// The program was never started: nothing of the attempt stays.
    fn give_up(&self, on_failure: OnFailure, failure: &Failure) {
        self.kill_init();
        cgroup::remove(&self.container.record.id);
        let left = match on_failure {
            OnFailure::Remove => self.store.remove(&self.container),
            OnFailure::Keep => {
                let finished = jiff::Timestamp::now();
                let error = Some(failure.error.chain());
                let ended = Ended { code: failure.code, started: None, finished, error };
                self.container.set_ended(&ended).and_then(|()| self.container.clear_run())
            }
        };
        if let Err(error) = left {
            eprintln!("rnet-shim: {}", error.chain());
        }
    }

    fn kill_init(&self) {
        let Some(init) = self.live.init else { return };
        if let Some(handle) = init.open() {
            // It is a child, so it can be killed and waited for.
            let _ = handle.kill(Signal::SIGKILL).and_then(|()| handle.wait());
        }
        let _ = reap(init.pid);
    }
}

/// libcontainer's own refusal does not say which.
fn require_caps(add: &[CapName], drop: &[CapName]) -> Result<(), ApiError> {
    let path = Path::new("/proc/self/status");
    let status = std::fs::read_to_string(path).map_err(|e| file_error("read", path, &e))?;
    let lacking = not_to_be_given(&effective_caps(add, drop), &status);
    if lacking.is_empty() {
        return Ok(());
    }
    let names = lacking.join(", ");
    let options: Vec<String> = lacking.iter().map(|name| format!("--cap-drop {name}")).collect();
    Err(ApiError::new(Kind::Denied, format!("a container cannot be given capabilities that rnet lacks: {names}"))
        .hint(format!("leave them out: {}", options.join(" "))))
}

/// libcontainer does not say that it was the directory; the one below a mount was not made before.
fn suspect_workdir(mut failure: Failure, container: &Container) -> Failure {
    let spec = &container.record.spec;
    if failure.code == Failure::OWN && failure.error.hint.is_none() && spec.workdir != Path::new("/") {
        let dir = spec.workdir.display();
        failure.error =
            failure.error.hint(format!("is {dir} a directory there? -w makes none below what -v or rnet mounts"));
    }
    failure
}

fn forget_if(goes: bool) -> Addresses {
    if goes { Addresses::Forget } else { Addresses::Keep }
}

/// The exit code of a child that has ended.
pub(crate) fn reap(pid: i32) -> Result<u8, ApiError> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => {
                return Err(ApiError::new(Kind::Bug, "the container's process is not the shim's child"));
            }
            Err(e) => return Err(cannot("wait for the container's process", &e)),
        }
    }
}
