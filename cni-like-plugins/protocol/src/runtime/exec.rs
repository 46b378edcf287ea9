//! Executables of others as plugins: found, called and understood by sections 2 and 5 of the CNI specification.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::Signal;
use rnet_plan::Plan;
use serde_json::{Value, json};

use super::list::is_file_name;
use super::run::{Limits, Output, run};
use crate::{AttachmentId, Call, CniResult, Command, Environment, Error, Plugin, Version, View, Work};

/// Used when this process has no PATH: some plugins look for programs of the system.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Versions by executable, and what the executable was when it was asked: modification time and inode.
type Versions = HashMap<PathBuf, ((i64, i64, u64), Vec<Version>)>;

/// Where executables are looked for, in order, and what they may take.
#[derive(Debug, Clone)]
pub struct Directories {
    folders: Vec<PathBuf>,
    limits: Limits,
    versions: Arc<Mutex<Versions>>,
}

impl Directories {
    /// `/opt/cni/bin` and the like.
    ///
    /// # Errors
    /// Code 7 for one that is not absolute or has a colon, which separates folders in `CNI_PATH`.
    pub fn new(folders: Vec<PathBuf>, limits: Limits) -> Result<Self, Error> {
        for folder in &folders {
            if !folder.is_absolute() || folder.to_str().is_none_or(|text| text.contains(':')) {
                return Err(Error::config(format!("{} can be no folder of plugins", folder.display()))
                    .details("it is an absolute path without ':'"));
            }
        }
        Ok(Directories { folders, limits, versions: Arc::default() })
    }

    /// The folders as in `CNI_PATH`.
    pub fn path(&self) -> Vec<String> {
        self.folders.iter().map(|folder| folder.display().to_string()).collect()
    }

    /// The executable of a `type`: the first regular file of that name. Nobody but root and the user this process runs
    /// as may be able to change it or its folder, as it runs with this process's rights.
    ///
    /// # Errors
    /// Code 7 for a type that is no file name, 999 when there is no such file or somebody else could change it.
    pub fn find(&self, kind: &str) -> Result<Executable, Error> {
        is_file_name(kind)?;
        for folder in &self.folders {
            let link = folder.join(kind);
            // Links are followed: one binary stands under many names.
            let Ok(metadata) = std::fs::metadata(&link) else { continue };
            if !metadata.is_file() {
                continue;
            }
            safe(folder, &std::fs::metadata(folder).map_err(|e| Error::io(folder.display(), &e))?)?;
            safe(&link, &metadata)?;
            let real = std::fs::canonicalize(&link).map_err(|e| Error::io(link.display(), &e))?;
            if let Some(parent) = real.parent() {
                safe(parent, &std::fs::metadata(parent).map_err(|e| Error::io(parent.display(), &e))?)?;
            }
            return Ok(Executable { path: link, folders: self.clone() });
        }
        Err(Error::internal(format!("failed to find plugin {kind:?} in path {:?}", self.path())))
    }
}

fn safe(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    safe_for(rustix::process::geteuid().as_raw(), path, metadata.uid(), metadata.mode())
}

/// Whether only root and the user `us` can change a file.
pub(super) fn safe_for(us: u32, path: &Path, owner: u32, mode: u32) -> Result<(), Error> {
    let why = if owner != 0 && owner != us {
        format!("it belongs to user {owner}")
    } else if mode & 0o022 != 0 {
        format!("its mode {:04o} lets others write", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::internal(format!("{} is not run: {why}", path.display()))
        .details("a plugin and its folder belong to root and are writable by the owner alone"))
}

/// An executable that speaks CNI. It asks its `ipam` by itself.
#[derive(Debug, Clone)]
pub struct Executable {
    path: PathBuf,
    folders: Directories,
}

impl Executable {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The versions it speaks, less those unknown here, asked once and again when the file has changed.
    ///
    /// # Errors
    /// When it cannot be run or gives no answer of the right shape.
    pub fn versions(&self) -> Result<Vec<Version>, Error> {
        let metadata = std::fs::metadata(&self.path).map_err(|e| Error::io(self.path.display(), &e))?;
        let state = (metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
        let lock = || self.folders.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, versions)) = lock().get(&self.path).filter(|(seen, _)| *seen == state) {
            return Ok(versions.clone());
        }
        let versions = self.probe()?;
        lock().insert(self.path.clone(), (state, versions.clone()));
        Ok(versions)
    }

    fn probe(&self) -> Result<Vec<Version>, Error> {
        let env = Environment {
            command: Command::Version,
            // Plugins of 0.1.0 look at these before they look at the command.
            container: "dummy".to_owned(),
            netns: "dummy".to_owned(),
            ifname: Some("dummy".parse()?),
            args: Vec::new(),
            path: self.folders.path(),
            netns_override: false,
        };
        let input = json!({"cniVersion": Version::NEWEST.as_str()}).to_string();
        let stdout = match self.execute(Command::Version, &env, input.as_bytes()) {
            Ok(stdout) => stdout,
            // The command came with 0.2.0.
            Err(e) if e.msg.ends_with("unknown CNI_COMMAND: VERSION") => return Ok(vec![Version::V0_1_0]),
            Err(e) => return Err(e),
        };
        let answer = json_of(&stdout).map_err(|e| e.context(self.what()))?;
        match answer.get("supportedVersions") {
            Some(Value::Array(list)) => {
                Ok(list.iter().filter_map(Value::as_str).filter_map(|text| text.parse().ok()).collect())
            }
            // Some of that version answer without a list.
            _ if answer.get("cniVersion").and_then(Value::as_str) == Some(Version::V0_2_0.as_str()) => {
                Ok(vec![Version::V0_1_0, Version::V0_2_0])
            }
            _ => Err(Error::new(Error::DECODING_FAILURE, "the answer has no supportedVersions").context(self.what())),
        }
    }

    fn call(&self, command: Command, call: &Call<'_>) -> Result<Vec<u8>, Error> {
        self.execute(command, call.env, call.request.whole.to_string().as_bytes())
    }

    /// Calls it. What `env` says of the command does not count: the undo of an ADD is a DEL.
    fn execute(&self, command: Command, env: &Environment, input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut process = Process::new(&self.path);
        process.env_clear();
        process.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
        process.envs(variables(command, env));
        match run(&mut process, input, &self.folders.limits) {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(output) => Err(self.fault(&output)),
            Err((failure, stderr)) => {
                let details = labelled("stderr", &stderr).unwrap_or_default();
                Err(Error::internal(failure.to_string()).details(details).context(self.what()))
            }
        }
    }

    /// The error object of a plugin that failed, or one that says how it ended.
    fn fault(&self, output: &Output) -> Error {
        let said = serde_json::from_slice::<Value>(&output.stdout).ok().filter(Value::is_object);
        let said = said.and_then(|value| serde_json::from_value::<Error>(value).ok());
        let stderr = labelled("stderr", &output.stderr);
        let join = |parts: [Option<String>; 2]| parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if let Some(mut error) = said.filter(|e| e.code != 0 || !e.msg.is_empty()) {
            if error.code == 0 {
                error.code = Error::INTERNAL;
            }
            error.details = join([Some(std::mem::take(&mut error.details)).filter(|d| !d.is_empty()), stderr]);
            return error;
        }
        let details = join([labelled("stdout", &output.stdout), stderr]);
        Error::internal(how(output.status)).details(details).context(self.what())
    }

    fn what(&self) -> String {
        self.path.display().to_string()
    }
}

impl Plugin for Executable {
    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        let stdout = self.call(Command::Add, call)?;
        let version = call.request.version;
        if stdout.trim_ascii().is_empty() && version < Version::V0_3_0 {
            return Ok(Work::Done(CniResult::default()));
        }
        let result = json_of(&stdout).and_then(|value| CniResult::from_json(&value, version));
        result.map(Work::Done).map_err(|e| e.context(self.what()))
    }

    fn del(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        self.call(Command::Del, call).map(|_| Plan::default())
    }

    fn check(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        self.call(Command::Check, call).map(|_| ())
    }

    fn gc(&self, call: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        self.call(Command::Gc, call).map(|_| Plan::default())
    }

    fn status(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        self.call(Command::Status, call).map(|_| ())
    }
}

fn variables(command: Command, env: &Environment) -> Vec<(&'static str, String)> {
    let args: Vec<String> = env.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut variables = vec![
        ("CNI_COMMAND", command.as_str().to_owned()),
        ("CNI_CONTAINERID", env.container.clone()),
        ("CNI_NETNS", env.netns.clone()),
        ("CNI_IFNAME", env.ifname.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("CNI_ARGS", args.join(";")),
        ("CNI_PATH", env.path.join(":")),
    ];
    if env.netns_override {
        variables.push(("CNI_NETNS_OVERRIDE", "1".to_owned()));
    }
    variables
}

fn json_of(stdout: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(stdout).map_err(|e| {
        Error::new(Error::DECODING_FAILURE, format!("the answer is no JSON: {e}"))
            .details(labelled("stdout", stdout).unwrap_or_default())
    })
}

/// How an executable ended that gave no error object.
fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(number), _) => match Signal::try_from(number) {
            Ok(signal) => format!("was ended by {}", signal.as_str()),
            Err(_) => format!("was ended by signal {number}"),
        },
        (None, Some(code)) => format!("ended with exit code {code} and without an error object"),
        (None, None) => "failed".to_owned(),
    }
}

/// The end of what was written, if anything was.
fn labelled(name: &str, bytes: &[u8]) -> Option<String> {
    const SHOWN: usize = 2048;
    let bytes = bytes.trim_ascii();
    let tail = bytes.get(bytes.len().saturating_sub(SHOWN)..).unwrap_or_default();
    let cut = if tail.len() < bytes.len() { "..." } else { "" };
    (!bytes.is_empty()).then(|| format!("{name}: {cut}{}", String::from_utf8_lossy(tail)))
}
