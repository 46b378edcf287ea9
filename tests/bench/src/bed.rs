//! The place everything is measured in: private namespaces, and a netd of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rnet_kernel::{LinkOp, Links as _, Netns, Route};

/// How long a daemon may take to answer for the first time.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Directories of one run, and the binaries.
#[derive(Debug)]
pub(crate) struct Bed {
    dir: tempfile::TempDir,
    binaries: PathBuf,
}

impl Bed {
    /// Moves the process, which must have one thread, into private network and mount namespaces.
    pub(crate) fn enter(binaries: &Path) -> anyhow::Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "measuring needs root: it makes network namespaces");
        let binaries = binaries.canonicalize().with_context(|| format!("no directory {}", binaries.display()))?;
        for name in ["netd", "rnet", "rnet-cni", "rnet-shim"] {
            ensure!(binaries.join(name).exists(), "{} is missing: build it first", binaries.join(name).display());
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make private namespaces")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make mounts private")?;
        std::fs::create_dir_all("/run/netns")?;
        mount(Some("netns"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).context("cannot mount a tmpfs")?;
        let bed = Bed { dir: tempfile::tempdir()?, binaries };
        let mut route = Route::open(&Netns::current()?)?;
        route.batch(&[LinkOp::Up("lo".parse()?)])?;
        Ok(bed)
    }

    /// A directory below the run's own.
    pub(crate) fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A root file system with busybox and nothing else.
    pub(crate) fn rootfs(&self) -> anyhow::Result<PathBuf> {
        let busybox = crate::peers::installed(&["/bin/busybox", "/usr/bin/busybox"])?;
        let rootfs = self.dir("rootfs")?;
        std::fs::create_dir_all(rootfs.join("bin"))?;
        std::fs::copy(busybox, rootfs.join("bin/busybox"))?;
        Ok(rootfs)
    }

    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// `count` fresh namespaces, each a file that `netns:PATH` and `ip netns exec` can use.
    pub(crate) fn namespaces(&self, prefix: &str, count: usize) -> anyhow::Result<Vec<Container>> {
        (0..count)
            .map(|n| {
                let name = format!("{prefix}{n}");
                let path = Path::new("/run/netns").join(&name);
                let netns = Netns::create()?;
                netns.bind(&path)?;
                Ok(Container { name, path, netns })
            })
            .collect()
    }
}

/// A namespace that stands for a container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) netns: Netns,
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = Netns::unbind(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A running daemon with a root of its own.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    binary: PathBuf,
    root: PathBuf,
}

impl Daemon {
    /// Starts netd on a new root.
    pub(crate) fn start(bed: &Bed, root: &str, config: &str) -> anyhow::Result<Self> {
        let root = bed.dir(root)?;
        std::fs::write(root.join("netd.toml"), config)?;
        let binary = bed.binary("netd");
        let (child, _) = launch(&binary, &root)?;
        Ok(Daemon { child, binary, root })
    }

    /// Ends it with `signal` and starts it again; the time from the signal's effect to the first answer.
    pub(crate) fn restart(&mut self, signal: nix::sys::signal::Signal) -> anyhow::Result<Duration> {
        nix::sys::signal::kill(self.nix_pid()?, signal)?;
        self.child.wait()?;
        let (child, took) = launch(&self.binary, &self.root)?;
        self.child = child;
        Ok(took)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("run/netd.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn nix_pid(&self) -> anyhow::Result<nix::unistd::Pid> {
        Ok(nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.nix_pid().and_then(|pid| Ok(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?));
        if ended.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn launch(binary: &Path, root: &Path) -> anyhow::Result<(Child, Duration)> {
    let log = std::fs::File::options().create(true).append(true).open(root.join("netd.log"))?;
    let begun = Instant::now();
    let mut child = Command::new(binary)
        .arg("--root")
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let socket = root.join("run/netd.sock");
    wait_for("netd to answer", START_LIMIT, Duration::from_micros(200), || {
        if let Some(status) = child.try_wait()? {
            bail!("netd ended with {status}: {}", std::fs::read_to_string(root.join("netd.log"))?);
        }
        // The socket answers when the kernel has been compared with what is wanted.
        Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
    })?;
    Ok((child, begun.elapsed()))
}

/// Looks `every` so often whether it is `so`, until the limit.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    every: Duration,
    mut so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !so()? {
        ensure!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        #[allow(clippy::disallowed_methods, reason = "between two looks, with a deadline")]
        std::thread::sleep(every);
    }
    Ok(())
}

/// Resident memory of a process in bytes (`VmRSS` of proc_pid_status(5)).
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Runs a program to its end; its failure is an error with what it said.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a program to its end and takes the time.
pub(crate) fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    run(command)?;
    Ok(begun.elapsed())
}
