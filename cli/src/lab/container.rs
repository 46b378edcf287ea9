//! Nodes with a root file system: containers of the runtime, made by this same program's `run`, `start`, `exec` and `rm`.
//!
//! A child process for each: the runtime forks, and wants to do so from a process without other threads.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rnet_api::{ApiError, Root};
use rnet_model::{ContainerName, Kind};
use rnet_topology::Process;
use serde::Deserialize;

use super::cannot;
use crate::Context;

/// What `rnet ps -a --json` says of a container, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    status: String,
}

/// The runtime of one instance.
#[derive(Debug)]
pub(super) struct Containers {
    root: Root,
}

impl Containers {
    pub(super) fn new(context: &Context) -> Self {
        Containers { root: context.root.clone() }
    }

    fn rnet(&self, words: &[&str]) -> Result<Command, ApiError> {
        let program = std::env::current_exe().map_err(|e| cannot("find", &PathBuf::from("/proc/self/exe"), &e))?;
        let mut command = Command::new(program);
        command.args(words).env_remove(Root::ENV);
        if let Some(dir) = &self.root.private {
            command.env(Root::ENV, dir);
        }
        Ok(command)
    }

    /// Runs a command of the runtime to its end; what it printed.
    fn finish(&self, mut command: Command, what: &str) -> Result<String, ApiError> {
        let failed = |why: &str| ApiError { causes: vec![why.to_owned()], ..ApiError::new(Kind::Retry, what) };
        let output = command.stdin(Stdio::null()).output().map_err(|e| failed(&e.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            return Err(failed(text(&output.stderr).trim_start_matches("error: ")));
        }
        Ok(text(&output.stdout))
    }

    /// The id of the container.
    pub(super) fn start(&self, name: &ContainerName, process: &Process) -> Result<ContainerName, ApiError> {
        let mut command = self.rnet(&["run", "-d", "--name", name.as_str(), "--net", "none"])?;
        command.args(["--hostname", &process.hostname]);
        for (key, value) in &process.env {
            command.args(["-e", &format!("{key}={value}")]);
        }
        for bind in &process.binds {
            let mut text = OsString::from(&bind.source);
            text.push(":");
            text.push(&bind.destination);
            if let Some(options) = &bind.options {
                text.push(format!(":{options}"));
            }
            command.arg("-v").arg(text);
        }
        if let Some(user) = &process.user {
            command.args(["-u", user]);
        }
        for capability in &process.cap_add {
            command.args(["--cap-add", capability]);
        }
        command.arg("--rootfs").arg(&process.rootfs).arg("--").args(&process.command);
        let printed = self.finish(command, &format!("cannot start the node {name}"))?;
        Ok(printed.lines().last().unwrap_or_default().parse()?)
    }

    pub(super) fn restart(&self, name: &ContainerName) -> Result<(), ApiError> {
        self.finish(self.rnet(&["start", name.as_str()])?, &format!("cannot start the node {name} again")).map(|_| ())
    }

    pub(super) fn remove(&self, name: &ContainerName) -> Result<(), ApiError> {
        if !self.all()?.iter().any(|c| c.name == name.as_str()) {
            return Ok(());
        }
        self.finish(self.rnet(&["rm", "-f", name.as_str()])?, &format!("cannot remove the node {name}")).map(|_| ())
    }

    fn all(&self) -> Result<Vec<Listed>, ApiError> {
        let text = self.finish(self.rnet(&["ps", "-a", "--json"])?, "cannot list the containers")?;
        serde_json::from_str(&text)
            .map_err(|e| ApiError::new(Kind::Bug, "the list of containers cannot be read").because(&e))
    }

    /// Names of the containers that do not run.
    pub(super) fn stopped(&self) -> Result<BTreeSet<ContainerName>, ApiError> {
        let all = self.all()?;
        Ok(all.iter().filter(|c| c.status != "running").filter_map(|c| c.name.parse().ok()).collect())
    }

    /// The command that runs `words` in the container.
    pub(super) fn exec_command(&self, name: &ContainerName, words: &[String]) -> Result<Command, ApiError> {
        let mut command = self.rnet(&["exec", name.as_str()])?;
        command.args(words);
        Ok(command)
    }
}
