//! libcontainer, as far as it is used: create, start, join. Deleting is done here, without its waits.

use std::path::{Path, PathBuf};

use libcontainer::container::Container as Made;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_runtime::{Container, file_error};

use crate::Failure;
use crate::program::{Program, Refusals};
use crate::streams::{Console, Inside};

/// What the process gets as its standard streams.
#[derive(Debug)]
pub(crate) enum Stdio {
    Files(Inside),
    Terminal(PathBuf),
}

impl Stdio {
    pub(crate) fn terminal(console: &Console) -> Self {
        Stdio::Terminal(console.path().to_owned())
    }
}

/// Where libcontainer keeps its own state of a container.
fn state_dir(container: &Container) -> PathBuf {
    container.run_dir().join("oci")
}

fn configuration(container: &Container) -> PathBuf {
    container.run_dir().join("config.json")
}

fn builder(container: &Container, stdio: Stdio, program: Program) -> Result<ContainerBuilder, ApiError> {
    let dir = state_dir(container);
    std::fs::create_dir_all(&dir).map_err(|e| file_error("make", &dir, &e))?;
    let builder = ContainerBuilder::new(container.record.id.to_string(), SyscallType::default())
        .with_executor(program)
        .with_root_path(dir)
        .map_err(|e| failed("cannot set up the container", &e))?;
    Ok(match stdio {
        Stdio::Files(inside) => builder.with_stdin(inside.stdin).with_stdout(inside.stdout).with_stderr(inside.stderr),
        Stdio::Terminal(socket) => builder.with_console_socket(Some(socket)),
    })
}

/// A container with its namespaces and mounts, whose program does not run yet.
#[derive(Debug)]
pub(crate) struct Created {
    made: Made,
    refusals: Refusals,
    pub(crate) pid: i32,
}

/// Makes it.
pub(crate) fn create(container: &Container, spec: &Spec, stdio: Stdio) -> Result<Created, Failure> {
    let path = configuration(container);
    spec.save(&path).map_err(|e| ApiError::new(Kind::Retry, format!("cannot write {}", path.display())).because(&e))?;
    let name = program_name(spec);
    let (program, refusals) = Program::new(None)?;
    let built = builder(container, stdio, program)?
        .as_init(container.run_dir())
        .with_systemd(false)
        .with_detach(spec_terminal(spec))
        .build();
    let made = match built {
        Ok(made) => made,
        Err(error) => return Err(refused(refusals, &name, failed("cannot create the container", &error))),
    };
    let pid = made.pid().ok_or_else(|| ApiError::new(Kind::Bug, "libcontainer made a container without a process"))?;
    Ok(Created { made, refusals, pid: pid.as_raw() })
}

/// libcontainer wants a socket for the terminal exactly when the container has one and is detached.
fn spec_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(Process::terminal).unwrap_or(false)
}

fn program_name(spec: &Spec) -> String {
    let words = spec.process().as_ref().and_then(|p| p.args().as_ref());
    words.and_then(|w| w.first()).cloned().unwrap_or_default()
}

/// The program's own refusal says more than what libcontainer makes of it.
fn refused(refusals: Refusals, program: &str, otherwise: ApiError) -> Failure {
    match refusals.wait(program) {
        Err(failure) if failure.code != Failure::OWN => failure,
        _ => otherwise.into(),
    }
}

impl Created {
    /// Lets the program run, and sees it do so.
    pub(crate) fn start(mut self, program: &str) -> Result<(), Failure> {
        self.made.start().map_err(|e| failed("cannot start the container", &e))?;
        self.refusals.wait(program)
    }
}

/// Runs a program in a container that runs; its process id.
pub(crate) fn join(
    container: &Container,
    process: &Process,
    seccomp: Option<LinuxSeccomp>,
    stdio: Stdio,
) -> Result<i32, Failure> {
    let path = container.run_dir().join(format!("exec-{}.json", std::process::id()));
    let body =
        serde_json::to_vec(process).map_err(|e| ApiError::new(Kind::Bug, "cannot encode the program").because(&e))?;
    std::fs::write(&path, body).map_err(|e| file_error("write", &path, &e))?;
    let name = process.args().as_ref().and_then(|w| w.first()).cloned().unwrap_or_default();
    let (program, refusals) = Program::new(seccomp)?;
    let built = builder(container, stdio, program)?
        .as_tenant()
        .with_process(Some(&path))
        .with_detach(process.terminal().unwrap_or(false))
        .build();
    let _ = std::fs::remove_file(&path);
    match built {
        Ok(pid) => refusals.wait(&name).map(|()| pid.as_raw()),
        Err(error) => Err(refused(refusals, &name, failed("cannot join the container", &error))),
    }
}

/// The configuration a running container was made from.
pub(crate) fn configuration_of(container: &Container) -> Result<Spec, ApiError> {
    let path = configuration(container);
    Spec::load(&path).map_err(|e| ApiError::new(Kind::Retry, format!("cannot read {}", path.display())).because(&e))
}

/// libcontainer's errors hold their causes in one of two ways; repeated texts are left out.
fn failed(what: &str, error: &LibcontainerError) -> ApiError {
    let mut api = ApiError::new(Kind::Retry, what).because(error);
    api.causes.dedup();
    api
}

/// Whether a path is there; for a message that says more than libcontainer's.
pub(crate) fn require_dir(path: &Path) -> Result<(), ApiError> {
    match std::fs::metadata(path) {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => Err(ApiError::new(Kind::Invalid, format!("the root file system {} is no directory", path.display()))),
        Err(e) => Err(file_error("use the root file system", path, &e)),
    }
}
