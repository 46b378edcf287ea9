//! A dockerd of its own, in a namespace of its own: where it runs, its firewall drops what others bridge.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::bed::{Bed, Container, resident, run, timed, wait_for};

/// How long dockerd may take to answer.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running dockerd with one container.
#[derive(Debug)]
pub(crate) struct Docker {
    child: Child,
    socket: PathBuf,
    state: PathBuf,
    /// Given back when the daemon has ended.
    _host: Container,
}

/// The container that networks are connected to.
pub(crate) const CONTAINER: &str = "peer";
/// Its image, [`Bed::rootfs`].
pub(crate) const IMAGE: &str = "busybox";

impl Docker {
    pub(crate) fn start(bed: &Bed) -> anyhow::Result<Self> {
        let dockerd = super::installed(&["/usr/sbin/dockerd", "/usr/bin/dockerd"])?;
        let dir = bed.dir("docker")?;
        let (socket, state) = (dir.join("d.sock"), dir.join("exec"));
        let log = std::fs::File::create(dir.join("log"))?;
        let host = bed.namespaces("docker", 1)?.remove(0);
        let child = Command::new("nsenter")
            .arg(format!("--net={}", host.path.display()))
            .arg(dockerd)
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(&state)
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .arg("-H")
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        let mut docker = Docker { child, socket, state, _host: host };
        docker.wait_until_ready(&dir)?;
        let rootfs = bed.rootfs()?;
        let archive = dir.join("rootfs.tar");
        run(Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg("."))?;
        run(docker.cli().arg("import").arg(&archive).arg(IMAGE))?;
        run(docker.cli().args(["run", "-d", "--name", CONTAINER, IMAGE, "/bin/busybox", "sleep", "600"]))?;
        Ok(docker)
    }

    fn wait_until_ready(&mut self, dir: &std::path::Path) -> anyhow::Result<()> {
        wait_for("dockerd to answer", START_LIMIT, Duration::from_millis(50), || {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(dir.join("log"))?;
                bail!("dockerd ended with {status}: {}", log.lines().last().unwrap_or_default());
            }
            Ok(run(self.cli().arg("version")).is_ok())
        })
    }

    /// The `docker` command of this daemon.
    pub(crate) fn cli(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket.display()));
        command
    }

    /// Runs a `docker` command and takes the time.
    pub(crate) fn timed(&self, words: &[&str]) -> anyhow::Result<Duration> {
        timed(self.cli().args(words))
    }

    /// Resident memory of dockerd and its containerd, in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let containerd = std::fs::read_to_string(self.state.join("containerd/containerd.pid"))?;
        Ok(resident(self.child.id())? + resident(containerd.trim().parse()?)?)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = run(self.cli().args(["rm", "-f", CONTAINER]));
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let child = &mut self.child;
        let _ = wait_for("dockerd to end", STOP_LIMIT, Duration::from_millis(20), || Ok(child.try_wait()?.is_some()));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
