//! Tests by the numbers of the checklist: C1 to C14 for configurations, R3 to R20 for what a runtime does. R1, R2 and R15
//! are the caller's.
#![allow(clippy::unwrap_used)]

mod cache;
mod chain;
mod exec;
mod faults;
mod gate;
mod list;

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rnet_plan::Plan;
use serde_json::{Value, json};

use super::{Directories, Limits};
use crate::testing::Nothing;
use crate::{
    AttachmentId, Call, CniResult, Delegation, Environment, Error, Interface, Plugin, Request, Version, View, Work,
};

/// A folder with executables that note what they were called with: `order` has a line per call, `KIND.COMMAND` the stdin
/// of the last one.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::set_permissions(dir.path().join("bin"), Permissions::from_mode(0o755)).unwrap();
        Bench { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bin(&self) -> PathBuf {
        self.path("bin")
    }

    /// A shell script as a plugin.
    fn script(&self, kind: &str, body: &str) -> PathBuf {
        let path = self.bin().join(kind);
        write_script(&path, body);
        path
    }

    /// A plugin that notes its calls and then goes on with `body`.
    fn noting(&self, kind: &str, body: &str) -> PathBuf {
        let dir = self.dir.path().display();
        self.script(
            kind,
            &format!("echo \"$CNI_COMMAND {kind}\" >> {dir}/order\ncat > {dir}/{kind}.$CNI_COMMAND\n{body}"),
        )
    }

    /// A noting plugin whose ADD makes an interface of that name.
    fn maker(&self, kind: &str, ifname: &str, version: Version) -> PathBuf {
        let result = result(ifname).to_json(version);
        self.noting(kind, &format!("if [ $CNI_COMMAND = ADD ]; then echo '{result}'; fi"))
    }

    fn stdin(&self, kind: &str, command: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(&format!("{kind}.{command}"))).unwrap()).unwrap()
    }

    fn order(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("order")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(self.path("order"));
    }

    fn directories(&self) -> Directories {
        self.limited(Limits { busy: Duration::from_millis(200), ..Limits::default() })
    }

    fn limited(&self, limits: Limits) -> Directories {
        Directories::new(vec![self.bin()], limits).unwrap()
    }

    /// A plugin in process that notes its calls in `order`.
    fn built_in(&self, kind: &str) -> BuiltIn {
        BuiltIn { kind: kind.to_owned(), order: self.path("order"), delegation: Delegation::Allowed, fails: Vec::new() }
    }
}

fn write_script(path: &Path, body: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

fn note(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// What a built-in plugin looks like to the chain.
#[derive(Debug, Clone)]
struct BuiltIn {
    kind: String,
    order: PathBuf,
    delegation: Delegation,
    /// Commands that fail, with their code.
    fails: Vec<(&'static str, u32)>,
}

impl BuiltIn {
    fn does(&self, command: &'static str, previous: Option<&CniResult>) -> Result<(), Error> {
        let first = previous.and_then(|p| p.interfaces.first());
        let before = first.map(|first| format!(" after {}", first.name)).unwrap_or_default();
        note(&self.order, &format!("{command} {}{before}", self.kind));
        match self.fails.iter().find(|(c, _)| *c == command) {
            Some((_, code)) => Err(Error::new(*code, format!("{} cannot {command}", self.kind))),
            None => Ok(()),
        }
    }
}

impl Plugin for BuiltIn {
    fn delegation(&self) -> Delegation {
        self.delegation
    }
    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        self.does("ADD", call.previous.as_ref())?;
        let mut made = result(&self.kind);
        made.ips = call.leased.clone().unwrap_or_default().ips;
        if self.kind.ends_with("ipam") {
            made.interfaces.clear();
            made.ips = vec![serde_json::from_value(json!({"address": "10.1.2.3/24"})).unwrap()];
        }
        Ok(Work::Done(made))
    }
    fn del(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        self.does("DEL", call.previous.as_ref()).map(|()| Plan::default())
    }
    fn check(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        self.does("CHECK", call.previous.as_ref())
    }
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        self.does("GC", None).map(|()| Plan::default())
    }
    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        self.does("STATUS", None)
    }
}

/// An interface of that name.
fn result(ifname: &str) -> CniResult {
    let mut result = CniResult::default();
    result.interfaces.push(Interface { name: ifname.to_owned(), ..Interface::default() });
    // The words of 0.2.0 have addresses alone.
    result.ips = vec![serde_json::from_value(json!({"address": "10.1.2.3/24"})).unwrap()];
    result
}

fn request(version: Version, kind: &str) -> Request {
    Request::from_value(json!({"cniVersion": version.as_str(), "name": "net", "type": kind, "key": "value"})).unwrap()
}

fn environment(bench: &Bench) -> Environment {
    Environment {
        command: crate::Command::Add,
        container: "c1".to_owned(),
        netns: "/run/netns/c1".to_owned(),
        ifname: Some("eth0".parse().unwrap()),
        args: vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())],
        path: vec![bench.bin().display().to_string(), "/second".to_owned()],
        netns_override: false,
    }
}

/// Waits for something that is about to happen.
fn wait_for(what: &str, mut predicate: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !predicate() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
