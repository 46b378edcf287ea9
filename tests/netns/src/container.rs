//! What stands for a container: a named namespace, or a process with a namespace of its own.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rnet_kernel::Netns;
use serde_json::Value;

use crate::process::lasting;
use crate::{Output, SOON, run_in, wait_for};

/// A named namespace.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name in `/run/netns`.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// The file of the name.
    pub path: PathBuf,
}

impl Container {
    pub(crate) fn create(name: &str) -> Self {
        let path = Path::new("/run/netns").join(name);
        let netns = Netns::create().expect("root may make a namespace");
        netns.bind(&path).expect("a namespace can be bound");
        Container { name: name.to_owned(), netns, path }
    }

    /// Runs a program inside.
    pub fn run(&self, words: &str) -> Output {
        inside(&self.netns, words)
    }

    /// What `ip` says inside, on success.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.run(&format!("ip {words}")).ok().out
    }

    /// What `ip -j` says inside.
    #[track_caller]
    pub fn ip_json(&self, words: &str) -> Value {
        self.run(&format!("ip -j {words}")).json()
    }

    /// Whether an address answers within a second.
    pub fn reaches(&self, address: &str) -> bool {
        self.run(&format!("ping -c 1 -W 1 {address}")).code == 0
    }

    /// Asserts that an address answers, as soon as the kernel has let new ports forward.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ping(&self, address: &str) {
        wait_for(&format!("{address} to answer {}", self.name), SOON, || self.reaches(address));
    }

    /// Sends a packet every few milliseconds until it is asked for the count.
    #[track_caller]
    pub fn flow(&self, address: &str) -> Flow {
        self.ping(address);
        let mut command = lasting(Some(&self.path), Path::new("ping"));
        let child = command
            .args(["-q", "-i", "0.02", "-W", "1", address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ping is installed");
        Flow { child }
    }
}

/// A running `ping`.
#[derive(Debug)]
pub struct Flow {
    child: Child,
}

impl Flow {
    /// Ends it: packets sent and packets lost.
    ///
    /// # Panics
    /// When ping does not say.
    #[track_caller]
    pub fn stop(mut self) -> (u32, u32) {
        signal(&self.child, Signal::SIGINT);
        let mut said = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("ping writes text");
        self.child.wait().expect("a child can be waited for");
        // 50 packets transmitted, 50 received, 0% packet loss, time 981ms
        let line = said.lines().find(|l| l.contains("transmitted")).unwrap_or_else(|| panic!("ping said {said:?}"));
        let mut numbers = line.split(", ").map(|part| part.split(' ').next().and_then(|n| n.parse::<u32>().ok()));
        let (sent, received) = (numbers.next().flatten(), numbers.next().flatten());
        let (sent, received) = sent.zip(received).unwrap_or_else(|| panic!("ping said {line:?}"));
        (sent, sent - received)
    }
}

/// A process in a network namespace of its own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its namespace.
    pub netns: Netns,
}

impl Process {
    pub(crate) fn start() -> Self {
        let mut command = lasting(None, Path::new("unshare"));
        let child = command
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let here = Netns::current().expect("/proc is there");
        let mut netns = None;
        wait_for("a process to have its namespace", SOON, || {
            netns = Netns::of_process(child.id()).ok().filter(|ns| *ns != here);
            netns.is_some()
        });
        Process { child, netns: netns.expect("it was waited for") }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a program in its namespace.
    pub fn run(&self, words: &str) -> Output {
        inside(&self.netns, words)
    }

    /// Ends it; its namespace ends with it.
    pub fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn inside(netns: &Netns, words: &str) -> Output {
    let mut words = words.split_whitespace();
    let program = words.next().expect("a program");
    run_in(netns, Command::new(program).args(words))
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
    kill(pid, signal).expect("a child that was not waited for can be signalled");
}
