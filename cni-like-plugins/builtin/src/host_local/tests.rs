#![allow(clippy::unwrap_used)]
use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use rnet_kernel::Netns;
use rnet_plugin_protocol::{Command, Environment};
use serde_json::json;

use super::*;
use crate::Kernel;

struct Bed {
    dir: tempfile::TempDir,
    ipam: Value,
    args: Vec<(String, String)>,
}

impl Bed {
    fn new(ipam: Value) -> Self {
        Bed { dir: tempfile::tempdir().unwrap(), ipam, args: Vec::new() }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("net")
    }

    fn config(&self) -> Value {
        let mut ipam = self.ipam.clone();
        ipam["type"] = json!("host-local");
        ipam["dataDir"] = json!(self.dir.path());
        json!({"cniVersion": "1.0.0", "name": "net", "type": "x", "ipam": ipam})
    }

    fn call<T>(
        &self,
        container: &str,
        f: impl FnOnce(&HostLocal, &Call<'_>, &mut View<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.call_with(self.config(), container, f)
    }

    fn call_with<T>(
        &self,
        config: Value,
        container: &str,
        f: impl FnOnce(&HostLocal, &Call<'_>, &mut View<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let request = Request::from_value(config)?;
        let plugin = HostLocal::new(&request, request.ipam.as_ref().unwrap());
        let env = Environment {
            command: Command::Add,
            container: container.into(),
            netns: String::new(),
            ifname: Some("eth0".parse().unwrap()),
            args: self.args.clone(),
            path: Vec::new(),
            netns_override: false,
        };
        let previous = request.previous()?;
        let call = Call { env: &env, request: &request, netns: None, previous, leased: None };
        let mut kernel = Kernel::new(Netns::current().unwrap());
        f(&plugin, &call, &mut View::new(&mut kernel))
    }

    fn add(&self, container: &str) -> Result<Vec<String>, Error> {
        self.call(container, |p, call, view| match p.add(call, view)? {
            Work::Done(result) => Ok(result.ips.iter().map(|ip| ip.address.to_string()).collect()),
            Work::Planned(..) => unreachable!("an address is taken under a lock"),
        })
    }

    fn del(&self, container: &str) {
        self.call(container, |p, call, view| p.del(call, view)).unwrap();
    }

    fn check(&self, container: &str, ip: &str) -> Result<(), Error> {
        let mut config = self.config();
        config["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": ip}]});
        self.call_with(config, container, |p, call, view| p.check(call, view))
    }

    /// The reference plugin on the same folder.
    fn reference(&self, command: &str, container: &str) -> Value {
        let mut child = Process::new("/usr/lib/cni/host-local")
            .env_clear()
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_NETNS", "/run/netns/none")])
            .envs([("CNI_IFNAME", "eth0"), ("CNI_PATH", "/usr/lib/cni")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), &self.config()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn reserved(&self) -> Vec<String> {
        Files::existing(self.dir.path(), "net")
            .unwrap()
            .unwrap()
            .addresses()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

fn small() -> Bed {
    Bed::new(json!({"ranges": [[{"subnet": "10.0.0.0/29"}]]}))
}

#[test]
fn addresses_go_round_and_come_back() {
    let bed = small();
    for n in 2..=6 {
        assert_eq!(bed.add(&format!("c{n}")).unwrap(), [format!("10.0.0.{n}/29")]);
    }
    let error = bed.add("c7").unwrap_err();
    assert!(error.msg.contains("no IP addresses available in range set: 10.0.0.1-10.0.0.6"), "{error}");
    bed.call("x", |p, call, view| p.status(call, view)).unwrap_err();
    bed.del("c3");
    bed.del("c3");
    bed.del("never");
    assert_eq!(bed.add("c7").unwrap(), ["10.0.0.3/29"]);
    let error = bed.add("c7").unwrap_err();
    assert!(error.msg.contains("duplicate allocation"), "{error}");
    assert_eq!(fs::read_to_string(bed.folder().join("10.0.0.3")).unwrap(), "c7\r\neth0");
    assert_eq!(fs::read_to_string(bed.folder().join("last_reserved_ip.0")).unwrap(), "10.0.0.3");
}

#[test]
fn one_address_of_each_set_or_none() {
    let bed = Bed::new(json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/126"}]]}));
    assert_eq!(bed.add("a").unwrap(), ["10.0.0.2/24", "fd00::2/126"]);
    assert_eq!(bed.add("b").unwrap(), ["10.0.0.3/24", "fd00::3/126"]);
    bed.add("c").unwrap_err();
    assert_eq!(bed.reserved().len(), 4, "the address of the first set was given back");
    bed.del("a");
    assert_eq!(bed.reserved(), ["10.0.0.3", "fd00::3"]);
    assert!(bed.check("b", "10.0.0.3/24").is_ok());
    bed.check("b", "10.0.0.9/24").unwrap_err();
    bed.check("a", "10.0.0.2/24").unwrap_err();
}

#[test]
fn addresses_asked_for() {
    let mut bed = Bed::new(json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}));
    bed.args = vec![("IP".into(), "10.0.0.77".into())];
    assert_eq!(bed.add("a").unwrap(), ["10.0.0.77/24", "fd00::2/64"]);
    for (ip, word) in [("10.0.0.77", "not available"), ("10.0.0.1", "gateway"), ("10.9.0.1", "failed to allocate all")]
    {
        bed.args = vec![("IP".into(), ip.into())];
        let error = bed.add("b").unwrap_err();
        assert!(error.msg.contains(word), "{ip}: {error}");
        assert_eq!(bed.reserved().len(), 2, "{ip}");
    }
}

#[test]
fn the_reference_works_on_the_same_folder() {
    if !Path::new("/usr/lib/cni/host-local").exists() {
        eprintln!("skipped: the reference plugins are not installed");
        return;
    }
    let bed = Bed::new(json!({"ranges": [[{"subnet": "10.0.0.0/24"}]]}));
    let theirs = |container: &str| bed.reference("ADD", container)["ips"][0]["address"].as_str().unwrap().to_owned();
    assert_eq!(bed.add("a").unwrap(), ["10.0.0.2/24"]);
    assert_eq!(theirs("b"), "10.0.0.3/24");
    assert_eq!(bed.add("c").unwrap(), ["10.0.0.4/24"]);
    // What the other reserved is known: as taken, as a duplicate, and to DEL without a previous result.
    bed.add("b").unwrap_err();
    bed.del("b");
    bed.reference("DEL", "a");
    assert_eq!(bed.reserved(), ["10.0.0.4"]);
    assert_eq!(bed.add("a").unwrap(), ["10.0.0.5/24"], "freed by the other, taken again");
    bed.reference("DEL", "c");
    bed.reference("DEL", "a");
    assert!(bed.reserved().is_empty());
    let links = fs::read_dir(bed.folder().join(".rnet")).unwrap().next().unwrap().unwrap().path();
    let mut rest: Vec<_> = fs::read_dir(links).unwrap().map(|e| e.unwrap().file_name()).collect();
    rest.sort();
    assert_eq!(rest, ["began", "seen"], "the other removes our links with the addresses");
}

#[test]
fn a_reboot_frees_what_was_reserved_before() {
    let bed = small();
    bed.add("a").unwrap();
    bed.add("b").unwrap();
    let parent = bed.folder().join(".rnet");
    let now = fs::read_dir(&parent).unwrap().next().unwrap().unwrap().path();
    let old = parent.join("00000000-0000-0000-0000-000000000000");
    fs::rename(now, &old).unwrap();
    let began: u64 = fs::read_to_string(old.join(files::BEGAN)).unwrap().parse().unwrap();
    // The same kernel under another boot id frees nothing.
    assert_eq!(bed.add("x").unwrap(), ["10.0.0.4/29"]);
    bed.del("x");
    for index in fs::read_dir(&parent).unwrap().map(|e| e.unwrap().path()).filter(|p| *p != old) {
        fs::remove_dir_all(index).unwrap();
    }
    fs::write(parent.join("stray"), "").unwrap();
    fs::write(old.join(files::BEGAN), (began - 3600).to_string()).unwrap();
    // Given to somebody else by the reference after the reboot.
    fs::write(bed.folder().join("10.0.0.3"), "z\r\neth0").unwrap();
    assert_eq!(bed.add("c").unwrap(), ["10.0.0.5/29"]);
    assert_eq!(bed.reserved(), ["10.0.0.3", "10.0.0.5"]);
    bed.del("z");
    assert_eq!(bed.reserved(), ["10.0.0.5"]);
}

#[test]
fn a_crash_between_two_writes_leaves_nothing_in_the_way() {
    let bed = small();
    bed.add("a").unwrap();
    let index = fs::read_dir(bed.folder().join(".rnet")).unwrap().next().unwrap().unwrap().path();
    // After the link, before the address.
    let owner = |c: &str| AttachmentId { container: c.into(), ifname: "eth0".into() };
    let files = Files::open(bed.dir.path(), "net").unwrap();
    drop(files);
    std::os::unix::fs::symlink("../../10.0.0.3", index.join(format!("{}.0", files::link_name(&owner("b"))))).unwrap();
    assert_eq!(bed.add("b").unwrap(), ["10.0.0.3/29"]);
    bed.del("b");
    // After the address, before what says that it was the last.
    fs::write(bed.folder().join("10.0.0.4"), "d\r\neth0").unwrap();
    std::os::unix::fs::symlink("../../10.0.0.4", index.join(format!("{}.0", files::link_name(&owner("d"))))).unwrap();
    bed.del("d");
    assert_eq!(bed.reserved(), ["10.0.0.2"]);
    // A file of an old version names no interface.
    fs::write(bed.folder().join("10.0.0.5"), "old").unwrap();
    fs::write(bed.folder().join("last_reserved_ip.0"), "10.0.0.5").unwrap();
    bed.del("old");
    assert_eq!(bed.reserved(), ["10.0.0.2"]);
}

#[test]
fn gc_frees_what_is_not_valid() {
    let bed = small();
    for c in ["a", "b", "c"] {
        bed.add(c).unwrap();
    }
    let valid = [AttachmentId { container: "b".into(), ifname: "eth0".into() }];
    bed.call("x", |p, call, view| p.gc(call, &valid, view)).unwrap();
    assert_eq!(bed.reserved(), ["10.0.0.3"]);
    bed.call("x", |p, call, view| p.status(call, view)).unwrap();
}

#[test]
fn what_the_container_resolves_names_with() {
    let text = "# c\nnameserver 10.0.0.1\ndomain a.example\nsearch a.example b.example\noptions ndots:2 timeout:1\n";
    let bed = tempfile::NamedTempFile::new().unwrap();
    fs::write(bed.path(), text).unwrap();
    let dns = resolv_conf(bed.path().to_str().unwrap()).unwrap();
    assert_eq!(
        serde_json::to_value(dns).unwrap(),
        json!({"nameservers": ["10.0.0.1"], "domain": "a.example", "search": ["a.example", "b.example"],
            "options": ["ndots:2", "timeout:1"]})
    );
}

#[test]
fn ranges_that_are_none_keep_no_address() {
    let bed = small();
    let wrong = || {
        let mut config = bed.config();
        config["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.0/33"}]]);
        config
    };
    bed.add("a").unwrap();
    bed.call_with(wrong(), "a", |p, call, view| p.del(call, view)).unwrap();
    assert!(bed.reserved().is_empty());
    bed.add("a").unwrap();
    bed.call_with(wrong(), "x", |p, call, view| p.gc(call, &[], view)).unwrap();
    assert!(bed.reserved().is_empty());
}
