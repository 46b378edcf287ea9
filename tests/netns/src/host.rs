//! A host: a network namespace with a netd of its own.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use rnet_api::{Client, DetachRequest, DetachWhich, Endpoint, Root};
use rnet_kernel::Netns;
use rnet_model::{ContainerRef, Engine};
use serde_json::Value;

use crate::container::{inside, signal};
use crate::process::{built, lasting};
use crate::{Container, Output, Process, SOON, Snapshot, World, path_text, run_in, wait_for};

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// The file of its namespace.
    pub netns_file: PathBuf,
    /// Root directory of its netd.
    pub root: PathBuf,
    netd: RefCell<Option<Child>>,
    before: RefCell<Option<Snapshot>>,
    containers: RefCell<Vec<Container>>,
    forwarding_may_stay: Cell<bool>,
}

/// How netd is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// `RNET_FAIL_POINT`.
    pub fail_point: Option<String>,
    /// A program that is not there for netd, by its absolute path.
    pub without: Option<String>,
    /// More environment.
    pub env: Vec<(&'static str, String)>,
    /// More words.
    pub args: Vec<String>,
}

impl Host {
    pub(crate) fn new(world: &World, name: &str) -> Self {
        let netns = Netns::create().expect("root may make a namespace");
        let host = Host::within(world, name, netns);
        // An address is there when it is given, not a second later: snapshots are compared.
        host.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0").ok();
        host.ip("link set lo up");
        host
    }

    /// With a namespace that may be another host's too.
    pub(crate) fn within(world: &World, name: &str, netns: Netns) -> Self {
        let netns_file = world.dir().join(format!("{name}.host"));
        netns.bind(&netns_file).expect("a namespace can be bound");
        let root = world.dir().join(name);
        std::fs::create_dir(&root).expect("the directory of a test can be written");
        let host = Host {
            name: name.to_owned(),
            netns,
            netns_file,
            root,
            netd: RefCell::default(),
            before: RefCell::default(),
            containers: RefCell::default(),
            forwarding_may_stay: Cell::new(false),
        };
        host.config("");
        host
    }

    /// Writes its netd.toml. The machine's Docker is never asked.
    pub fn config(&self, text: &str) {
        let docker = format!("\n[docker]\nhost = \"unix://{}/docker.sock\"\n", self.root.display());
        let docker = if text.contains("[docker]") { "" } else { &docker };
        std::fs::write(self.root.join("netd.toml"), format!("{text}{docker}")).expect("a test's files can be written");
    }

    /// Starts netd and waits until it answers.
    #[track_caller]
    pub fn start(&self) -> &Self {
        self.start_with(&Start::default())
    }

    /// The same with environment, arguments or a fail point.
    #[track_caller]
    pub fn start_with(&self, start: &Start) -> &Self {
        self.before.borrow_mut().get_or_insert_with(|| Snapshot::of(&self.netns, &self.root));
        *self.netd.borrow_mut() = Some(self.spawn(start));
        wait_for("netd to answer", SOON, || {
            assert!(self.has_ended().is_none(), "netd ended:\n{}", self.log());
            self.client().version().is_ok()
        });
        self
    }

    /// Starts netd, which is to fail: how it ended and what it said.
    #[track_caller]
    pub fn start_fails(&self, start: &Start) -> (i32, String) {
        self.before.borrow_mut().get_or_insert_with(|| Snapshot::of(&self.netns, &self.root));
        let from = self.log().len();
        let mut child = self.spawn(start);
        let mut status = None;
        wait_for("netd to end", SOON, || {
            status = child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        (status.and_then(|s| s.code()).unwrap_or(-1), self.log()[from..].to_owned())
    }

    fn spawn(&self, start: &Start) -> Child {
        let log = File::options().create(true).append(true).open(self.root.join("netd.log")).expect("a log");
        let netd = built("netd");
        let mut command = match &start.without {
            None => lasting(Some(&self.netns_file), &netd),
            Some(program) => {
                let mut command = lasting(Some(&self.netns_file), Path::new("unshare"));
                let hide = "mount --bind /dev/null \"$0\" && exec \"$@\"";
                command.args(["--mount", "--", "sh", "-c", hide, program.as_str()]).arg(&netd);
                command
            }
        };
        command.arg("--root").arg(&self.root).args(&start.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        command.env_remove("RNET_FAIL_POINT").env_remove("DOCKER_HOST").env("RUST_LOG", "debug");
        command.envs(start.env.iter().map(|(k, v)| (*k, v.as_str())));
        if let Some(point) = &start.fail_point {
            command.env("RNET_FAIL_POINT", point);
        }
        command.spawn().expect("setpriv and nsenter are installed")
    }

    /// Number of netd's process.
    ///
    /// # Panics
    /// When none runs.
    pub fn netd_pid(&self) -> u32 {
        self.netd.borrow().as_ref().expect("netd runs").id()
    }

    /// Whether netd has ended, and how.
    pub fn has_ended(&self) -> Option<ExitStatus> {
        self.netd.borrow_mut().as_mut()?.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end of netd: the signal that ended it, if one did.
    #[track_caller]
    pub fn ended_by(&self) -> Option<i32> {
        let mut status = None;
        wait_for("netd to end", SOON, || {
            status = self.has_ended();
            status.is_some()
        });
        self.netd.borrow_mut().take();
        status.and_then(|s| std::os::unix::process::ExitStatusExt::signal(&s))
    }

    /// Ends netd as a crash does.
    #[track_caller]
    pub fn crash(&self) {
        signal(self.netd.borrow().as_ref().expect("netd runs"), Signal::SIGKILL);
        self.ended_by();
    }

    /// Ends netd in order.
    #[track_caller]
    pub fn stop(&self) {
        signal(self.netd.borrow().as_ref().expect("netd runs"), Signal::SIGTERM);
        assert_eq!(self.ended_by(), None, "netd did not end in order:\n{}", self.log());
    }

    /// What netd has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.root.join("netd.log")).unwrap_or_default()).into_owned()
    }

    /// A client of its netd.
    pub fn client(&self) -> Client {
        Client::new(&Root::from_option(Some(self.root.clone())))
    }

    /// Runs `rnet` with words that are separated by spaces.
    pub fn rnet(&self, words: &str) -> Output {
        self.rnet_words(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `rnet`.
    pub fn rnet_words(&self, words: &[&str]) -> Output {
        run_in(&self.netns, Command::new(built("rnet")).args(words).env("RNET_ROOT", &self.root))
    }

    /// Runs `netd` for what it only says.
    pub fn netd_says(&self, words: &[&str]) -> Output {
        run_in(&self.netns, Command::new(built("netd")).args(words))
    }

    /// The path of the `netd` program.
    pub fn netd_program(&self) -> PathBuf {
        built("netd")
    }

    /// The path of the `rnet` program.
    pub fn rnet_program(&self) -> PathBuf {
        built("rnet")
    }

    /// Runs `rnet --json`.
    #[track_caller]
    pub fn rnet_json(&self, words: &str) -> Value {
        self.rnet(&format!("{words} --json")).json()
    }

    /// Runs a program on the host.
    pub fn run(&self, words: &str) -> Output {
        inside(&self.netns, words)
    }

    /// What `ip` says on the host, on success.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.run(&format!("ip {words}")).ok().out
    }

    /// Whether the host has a link of that name.
    pub fn has_link(&self, name: &str) -> bool {
        self.run(&format!("ip link show {name}")).code == 0
    }

    /// The number of a link.
    #[track_caller]
    pub fn ifindex(&self, name: &str) -> u64 {
        self.run(&format!("ip -j link show {name}")).json()[0]["ifindex"].as_u64().expect("a link has a number")
    }

    /// A new container: a named namespace.
    pub fn container(&self, name: &str) -> Container {
        let container = Container::create(name);
        self.containers.borrow_mut().push(container.clone());
        container
    }

    /// Ends a container before the test does.
    pub fn end_container(&self, container: Container) {
        self.containers.borrow_mut().retain(|c| c.name != container.name);
        Netns::unbind(&container.path).expect("a namespace can be unbound");
    }

    /// A process with a namespace of its own.
    pub fn process(&self) -> Process {
        Process::start()
    }

    /// The host as it is.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.netns, &self.root)
    }

    /// The host as it was before netd first started.
    ///
    /// # Panics
    /// When it never started.
    pub fn before(&self) -> Snapshot {
        self.before.borrow().clone().expect("netd was started")
    }

    /// Networks turn forwarding on and leave it on.
    pub fn forwarding_may_stay(&self) {
        self.forwarding_may_stay.set(true);
    }

    /// Waits until the host is as in `wanted`.
    #[track_caller]
    pub fn wait_until_like(&self, wanted: &Snapshot, when: &str) {
        let begun = std::time::Instant::now();
        let mut found = wanted.differences(&self.snapshot());
        while !found.is_empty() && begun.elapsed() < SOON / 2 {
            found = wanted.differences(&self.snapshot());
        }
        assert!(found.is_empty(), "{when}:\n{}", found.join("\n"));
    }

    /// Takes back everything that was asked of netd.
    fn take_all_back(&self) -> Result<(), rnet_api::ApiError> {
        let client = self.client();
        for endpoint in client.attachments()? {
            client.detach(&DetachRequest {
                container: reference(&endpoint),
                which: DetachWhich::Ifname(endpoint.ifname.clone()),
            })?;
        }
        for sandbox in client.sandboxes()? {
            client.release_sandbox(&sandbox.container_id.parse()?, true)?;
        }
        for network in client.networks()? {
            client.remove_network(network.spec.name.as_str(), true)?;
        }
        for bridge in client.bridges()?.iter().filter(|b| b.ours) {
            client.remove_bridge(&bridge.name)?;
        }
        Ok(())
    }

    /// Ends the host and compares it with what it was.
    fn close(&self) -> Result<(), String> {
        let Some(before) = self.before.borrow().clone() else { return Ok(()) };
        if self.netd.borrow().is_none() {
            self.start();
        }
        self.take_all_back().map_err(|e| format!("cannot take back what was asked for: {}", e.chain()))?;
        self.stop();
        let plain = |s: Snapshot| if self.forwarding_may_stay.get() { s.but_forwarding() } else { s };
        let found = plain(before).differences(&plain(self.snapshot()));
        if found.is_empty() { Ok(()) } else { Err(format!("left behind on {}:\n{}", self.name, found.join("\n"))) }
    }

    fn end_netd(&self) {
        if let Some(mut child) = self.netd.borrow_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Everything that helps to see why a test failed.
    fn dump(&self) {
        let commands = [
            "ip -d link",
            "ip address",
            "ip route show table all",
            "ip -6 route",
            "bridge fdb",
            "ip neighbour",
            "nft list ruleset",
        ];
        eprintln!("==== host {} ====", self.name);
        for words in commands {
            let said = self.run(words);
            eprintln!("---- {words}\n{}{}", said.out, said.err);
        }
        for container in self.containers.borrow().iter() {
            let said = container.run("ip address");
            eprintln!("---- container {}\n{}{}{}", container.name, said.out, container.run("ip route").out, said.err);
        }
        eprintln!("---- netd.log\n{}", self.log());
    }
}

/// The words that name the container of an endpoint for certain.
fn reference(endpoint: &Endpoint) -> ContainerRef {
    let words = match endpoint.engine {
        Engine::Netns => format!("netns:{}", endpoint.container_id),
        engine => format!("{engine}:{}", endpoint.container_id),
    };
    words.parse().unwrap_or_else(|_| ContainerRef::Of(endpoint.engine, endpoint.container_id.parse().expect("an id")))
}

impl Drop for Host {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut left = None;
        if failed {
            self.dump();
        } else {
            left = self.close().err();
            if let Some(left) = &left {
                self.dump();
                eprintln!("{left}");
            }
        }
        self.end_netd();
        for container in self.containers.take() {
            let _ = Netns::unbind(&container.path);
        }
        unmount_below(&self.root);
        let _ = Netns::unbind(&self.netns_file);
        assert!(left.is_none() || failed, "{}", left.unwrap_or_default());
    }
}

/// Namespaces that a failed netd or a Docker has left mounted would keep the directory.
pub(crate) fn unmount_below(root: &Path) {
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| p.starts_with(path_text(root)));
    // What was mounted last lies on top.
    for path in below.collect::<Vec<_>>().into_iter().rev() {
        let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    }
}
