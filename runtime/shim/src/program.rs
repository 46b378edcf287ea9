//! The last steps of a container's process before it becomes its program, and how their failure is told.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{AccessFlags, access, execv};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_runtime::process::Handle;
use serde::{Deserialize, Serialize};

use crate::{Failure, cannot};

const NOT_EXECUTABLE: u8 = Failure::NOT_EXECUTABLE;
/// The program was not found.
const NOT_FOUND: u8 = 127;

/// What a child tells its shim when it cannot become the program.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    code: u8,
    text: String,
}

/// libcontainer calls this in the container's process: once to see whether the program can be run at all, before
/// anything else is done for it, and once to become it.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Closed by execve(2); that is how the shim sees that it succeeded.
    reports: Rc<OwnedFd>,
    /// For a program that joins a container: libcontainer sets the filter for a container's first process only.
    seccomp: Option<Rc<LinuxSeccomp>>,
    /// The process that made this one, whose number means nothing in another pid namespace.
    shim: Rc<Handle>,
}

/// The shim's side.
#[derive(Debug)]
pub(crate) struct Refusals {
    pipe: File,
}

impl Program {
    /// With what the shim will hear.
    pub(crate) fn new(seccomp: Option<LinuxSeccomp>) -> Result<(Self, Refusals), ApiError> {
        let (reader, writer) = std::io::pipe().map_err(|e| cannot("make a pipe", &e))?;
        let shim = Rc::new(Handle::of_number(std::process::id().cast_signed())?);
        let program = Program { reports: Rc::new(writer.into()), seccomp: seccomp.map(Rc::new), shim };
        Ok((program, Refusals { pipe: File::from(OwnedFd::from(reader)) }))
    }

    fn refuse(&self, code: u8, text: String) -> String {
        let body = serde_json::to_vec(&Refusal { code, text: text.clone() }).unwrap_or_default();
        // A shim that is gone needs no report.
        let _ = self.reports.as_fd().try_clone_to_owned().map(File::from).and_then(|mut pipe| pipe.write_all(&body));
        text
    }

    fn become_it(&self, spec: &Spec) -> Result<(), (u8, String)> {
        let words = arguments(spec);
        let program = find(&words[0], &search_path(spec))?;
        default_signals();
        let _ = set_pdeathsig(None);
        if let Some(filter) = &self.seccomp {
            libcontainer::seccomp::initialize_seccomp(filter)
                .map_err(|e| (Failure::OWN, format!("cannot set the filter of system calls: {e}")))?;
        }
        let text = |s: &str| CString::new(s).map_err(|e| (NOT_EXECUTABLE, format!("{s:?}: {e}")));
        let path = text(&program.to_string_lossy())?;
        let words = words.iter().map(|w| text(w)).collect::<Result<Vec<_>, _>>()?;
        let Err(errno) = execv(&path, &words);
        // ENOENT now is the interpreter of a script or a dynamic program.
        let code = if errno == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE };
        let part = if errno == Errno::ENOENT { " or its interpreter" } else { "" };
        Err((code, format!("{}{part}: {}", program.display(), errno.desc())))
    }
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        self.become_it(spec).map_err(|(code, text)| ExecutorError::Other(self.refuse(code, text)))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // Until it is the program it must not outlive the shim: nobody would know of it, and it would wait for ever to
        // be started. The signal first, then a look, so that no moment is left in between.
        let _ = set_pdeathsig(Signal::SIGKILL);
        if !self.shim.ended(Duration::ZERO).is_ok_and(|ended| !ended) {
            return Err(ExecutorValidationError::ArgValidationError("the shim was killed".to_owned()));
        }
        find(&arguments(spec)[0], &search_path(spec))
            .map(drop)
            .map_err(|(code, text)| ExecutorValidationError::ArgValidationError(self.refuse(code, text)))
    }
}

impl Refusals {
    /// Waits until the program runs or was refused. Every process that could write must have the pipe closed on exec.
    ///
    /// # Errors
    /// Says why it was refused.
    pub(crate) fn wait(mut self, program: &str) -> Result<(), Failure> {
        let mut body = Vec::new();
        self.pipe.read_to_end(&mut body).map_err(|e| cannot("wait for the program", &e))?;
        if body.is_empty() {
            return Ok(());
        }
        let refusal: Refusal = serde_json::from_slice(&body)
            .map_err(|e| ApiError::new(Kind::Bug, "the container's process said something odd").because(&e))?;
        let kind = if refusal.code == NOT_FOUND { Kind::Missing } else { Kind::Invalid };
        let mut error = ApiError::new(kind, format!("cannot run {program:?}"));
        error.causes.push(refusal.text);
        Err(Failure::new(refusal.code, error))
    }
}

/// Never empty: the command line asks for one word at least.
fn arguments(spec: &Spec) -> Vec<String> {
    let words = spec.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default();
    if words.is_empty() { vec![String::new()] } else { words }
}

fn search_path(spec: &Spec) -> String {
    let env = spec.process().as_ref().and_then(|p| p.env().as_ref());
    env.into_iter().flatten().find_map(|v| v.strip_prefix("PATH=")).unwrap_or_default().to_owned()
}

/// As execvp(3) finds it: a name with a slash is a path, others are looked for. Called inside the container, as the
/// user the program will be.
fn find(name: &str, path: &str) -> Result<PathBuf, (u8, String)> {
    if name.contains('/') {
        return runnable(Path::new(name)).map(|()| name.into()).map_err(|(code, why)| (code, format!("{name}: {why}")));
    }
    let mut refused = None;
    for dir in path.split(':').filter(|d| !d.is_empty() && !name.is_empty()) {
        let candidate = Path::new(dir).join(name);
        match runnable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err((NOT_EXECUTABLE, why)) => {
                refused = refused.or_else(|| Some((NOT_EXECUTABLE, format!("{}: {why}", candidate.display()))));
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| (NOT_FOUND, format!("no such program in the container's PATH, {path}"))))
}

fn runnable(path: &Path) -> Result<(), (u8, &'static str)> {
    let data = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => (NOT_EXECUTABLE, "permission denied"),
        _ => (NOT_FOUND, "no such file in the container"),
    })?;
    if data.is_dir() {
        return Err((NOT_EXECUTABLE, "is a directory"));
    }
    access(path, AccessFlags::X_OK).map_err(|_| (NOT_EXECUTABLE, "permission denied"))
}

/// Rust ignores SIGPIPE, and ignoring is inherited (signal(7)).
fn default_signals() {
    for number in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action is no function of this program (signal(2)), and there is one thread.
        #[allow(unsafe_code)]
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let (good, bad) = (file("good", 0o755), file("bad", 0o644));
        let path = format!("/nonexistent:{}", dir.path().display());
        assert_eq!(find("good", &path), Ok(good.clone().into()));
        assert_eq!(find(&good, ""), Ok(good.into()));
        for (name, code) in [("bad", 126), (bad.as_str(), 126), ("none", 127), ("/none", 127), ("/", 126), ("", 127)] {
            assert_eq!(find(name, &path).map_err(|(code, _)| code), Err(code), "{name:?}");
        }
    }
}
