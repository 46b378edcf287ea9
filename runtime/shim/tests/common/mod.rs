//! A private instance of rnet in private network and mount namespaces, with a root file system of busybox.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest time for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Everything ends with it.
pub(crate) struct Bed {
    dir: TempDir,
    holder: Child,
    netd: Option<Child>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: code(output.status), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

/// Waits until it holds.
pub(crate) fn wait_for(what: &str, predicate: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !predicate() {
        assert!(Instant::now() < deadline, "{what} did not happen within {LIMIT:?}");
        nix::poll::poll(&mut [], 10u16).unwrap();
    }
}

impl Bed {
    /// `None`, said aloud, without root.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED {test}: needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        let script = "ip link set lo up && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["-n", "-m", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux and iproute2 are installed");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the private namespaces were not made");
        Some(Bed { dir, holder, netd: None })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    fn program(&self, name: &str) -> PathBuf {
        let path = Path::new(env!("CARGO_BIN_EXE_rnet-shim")).with_file_name(name);
        assert!(path.exists(), "{} is not built; build it first: cargo build -p rnet-cli -p netd", path.display());
        path
    }

    /// A command in the private namespaces.
    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", "-m", "--"]).arg(program);
        command.env("RNET_ROOT", self.root()).stdin(Stdio::null());
        command
    }

    /// `rnet` with these words.
    pub(crate) fn rnet(&self, words: &[&str]) -> Command {
        let mut command = self.inside(&self.program("rnet"));
        command.args(words);
        command
    }

    /// Runs `rnet` to its end, started by another program.
    pub(crate) fn wrapped(&self, wrapper: &[&str], words: &[String]) -> Ran {
        let mut command = self.inside(Path::new(wrapper[0]));
        command.args(&wrapper[1..]).arg(self.program("rnet")).args(words);
        Ran::from(command.output().unwrap())
    }

    /// Runs another program, of busybox or the system, beside netd: on the host, as the containers see it.
    pub(crate) fn on_host(&self, words: &[&str]) -> Ran {
        Ran::from(self.inside(Path::new(words[0])).args(&words[1..]).output().unwrap())
    }

    /// What `inspect` says of one.
    pub(crate) fn inspect(&self, name: &str) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.ok(&["inspect", name])).unwrap()[0].take()
    }

    /// Runs `rnet` to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        Ran::from(self.rnet(words).output().unwrap())
    }

    /// The same with something on its input.
    pub(crate) fn run_with(&self, words: &[&str], input: &[u8]) -> Ran {
        let mut child =
            self.rnet(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).unwrap());
            Ran::from(child.wait_with_output().unwrap())
        })
    }

    /// Its output, when it succeeds.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "rnet {words:?}: {}{}", ran.err, self.shim_log());
        ran.out
    }

    /// `rnet run` with the root file system.
    pub(crate) fn container(&self, options: &[&str], command: &[&str]) -> Vec<String> {
        let mut words = vec!["run".to_owned()];
        words.extend(options.iter().map(|o| (*o).to_owned()));
        words.extend(["--rootfs".to_owned(), self.rootfs().display().to_string(), "--".to_owned()]);
        words.extend(command.iter().map(|c| (*c).to_owned()));
        words
    }

    pub(crate) fn run_container(&self, options: &[&str], command: &[&str]) -> Ran {
        let words = self.container(options, command);
        self.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts one in the background: its id.
    pub(crate) fn start_container(&self, options: &[&str], command: &[&str]) -> String {
        let ran = self.run_container(&[&["-d"], options].concat(), command);
        assert_eq!(ran.code, 0, "{}{}", ran.err, self.shim_log());
        ran.out.trim().to_owned()
    }

    pub(crate) fn shim_log(&self) -> String {
        fs::read_to_string(self.root().join("run/shim.log")).unwrap_or_default()
    }

    /// Starts netd.
    pub(crate) fn start_netd(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.dir.path().join("netd.log")).unwrap();
        let netd = self.inside(&self.program("netd")).stderr(log).spawn().unwrap();
        self.netd = Some(netd);
        wait_for("netd's readiness", || self.run(&["version"]).code == 0);
    }

    /// Ends netd.
    pub(crate) fn stop_netd(&mut self) {
        if let Some(mut netd) = self.netd.take() {
            let pid = nix::unistd::Pid::from_raw(netd.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            netd.wait().unwrap();
        }
    }

    /// Names of all containers.
    pub(crate) fn names(&self) -> Vec<String> {
        let all: serde_json::Value = serde_json::from_str(&self.ok(&["ps", "-a", "--json"])).unwrap();
        all.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What `ps` says of one.
    pub(crate) fn status(&self, name: &str) -> String {
        let all: serde_json::Value = serde_json::from_str(&self.ok(&["ps", "-a", "--json"])).unwrap();
        let found = all.as_array().unwrap().iter().find(|c| c["name"] == name);
        found.map_or_else(|| "gone".to_owned(), |c| c["status"].as_str().unwrap().to_owned())
    }

    /// A process of a container from what its shim wrote down.
    pub(crate) fn process(&self, id: &str, which: &str) -> i32 {
        let text = fs::read_to_string(self.root().join("run/containers").join(id).join("state.json")).unwrap();
        let live: serde_json::Value = serde_json::from_str(&text).unwrap();
        i32::try_from(live[which]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Nothing of any container is left.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.names(), [""; 0]);
        for dir in ["lib/containers", "lib/names", "run/containers"] {
            let left: Vec<_> = fs::read_dir(self.root().join(dir)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "left in {dir}: {left:?}");
        }
    }
}

/// Whether a process runs: there, and no zombie.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether a container has control groups.
pub(crate) fn has_cgroup(id: &str) -> bool {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    hierarchies.map(|h| h.path().join("rnet").join(id)).any(|dir| dir.exists())
        || Path::new("/sys/fs/cgroup/rnet").join(id).exists()
}

fn make_rootfs(rootfs: &Path) {
    let bin = rootfs.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for dir in ["etc", "tmp", "root"] {
        fs::create_dir(rootfs.join(dir)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|p| p.exists());
    let busybox = busybox.expect("busybox is installed (Debian: busybox-static)");
    fs::copy(busybox, bin.join("busybox")).unwrap();
    let list = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/tmp:/bin/sh\n").unwrap();
    fs::write(rootfs.join("etc/group"), "root:x:0:\nlogs:x:50:web\n").unwrap();
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.shim_log());
            eprintln!("{}", fs::read_to_string(self.dir.path().join("netd.log")).unwrap_or_default());
        }
        let all = self.run(&["ps", "-aq"]);
        for id in all.out.lines() {
            self.run(&["rm", "-f", id]);
        }
        self.stop_netd();
        // Its input ends with it.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        // The parents of groups are shared with others; they go with the last of them.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join("rnet"));
        }
    }
}
