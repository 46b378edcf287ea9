//! `rnet hook` called by the real runc.

use std::path::{Path, PathBuf};
use std::process::Command;

use rnet_netns_harness::{Host, Output, World, path_text, run_in, run_or_skip};
use serde_json::{Value, json};

fn lacks() -> Option<String> {
    let there = |program: &str| Command::new(program).arg("--help").output().is_ok();
    ["runc", "busybox"].into_iter().find(|p| !there(p)).map(|p| format!("{p} (package {p})"))
}

/// runc with a root of its own, and bundles of busybox.
struct Runc<'a> {
    host: &'a Host,
    dir: PathBuf,
}

impl<'a> Runc<'a> {
    fn new(world: &World, host: &'a Host) -> Self {
        let dir = world.dir().join("runc");
        std::fs::create_dir_all(dir.join("bundle/rootfs/bin")).unwrap();
        let busybox = host.run("which busybox").ok().out;
        std::fs::copy(busybox.trim(), dir.join("bundle/rootfs/bin/busybox")).unwrap();
        for name in ["proc", "sys", "dev"] {
            std::fs::create_dir_all(dir.join("bundle/rootfs").join(name)).unwrap();
        }
        Runc { host, dir }
    }

    fn run(&self, words: &[&str]) -> Output {
        // Not by a pipe: the container keeps the descriptors of its creator open.
        let log = self.dir.join("output");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new("setsid");
        command.args(["--wait", "sh", "-c", "exec \"$@\" >\"$0\" 2>&1 </dev/null", path_text(&log)]);
        command.arg("runc").arg("--root").arg(self.dir.join("state")).args(words);
        drop(file);
        let mut output = run_in(&self.host.netns, &mut command);
        output.out = std::fs::read_to_string(&log).unwrap();
        output
    }

    /// Writes a bundle's config.json with what `rnet hook install` says belongs there.
    fn bundle(&self, annotations: &Value) -> PathBuf {
        let bundle = self.dir.join("bundle");
        let _ = std::fs::remove_file(bundle.join("config.json"));
        self.run(&["spec", "--bundle", path_text(&bundle)]).ok();
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let hooks = self.host.rnet(&format!("hook install --dir {}", self.dir.join("hooks.d").display())).ok();
        let fragment: Value = serde_json::from_str(&hooks.out).unwrap();
        config["hooks"] = fragment["hooks"].clone();
        config["annotations"] = annotations.clone();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sleep", "600"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_NET_RAW"));
        }
        // Raising limits takes a capability that a test machine may lack.
        config["process"].as_object_mut().unwrap().remove("rlimits");
        std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
        bundle
    }

    fn start(&self, id: &str, bundle: &Path) -> Output {
        let created = self.run(&["create", "--bundle", path_text(bundle), id]);
        if created.code != 0 { created } else { self.run(&["start", id]) }
    }

    fn inside(&self, id: &str, words: &str) -> String {
        let words: Vec<&str> = ["exec", id, "/bin/busybox"].into_iter().chain(words.split(' ')).collect();
        self.run(&words).ok().out
    }

    fn delete(&self, id: &str) {
        self.run(&["delete", "--force", id]).ok();
    }
}

impl Drop for Runc<'_> {
    fn drop(&mut self) {
        for id in self.run(&["list", "-q"]).out.split_whitespace() {
            let _ = self.run(&["delete", "--force", id]);
        }
    }
}

fn id(name: &str) -> String {
    // Cgroups are the machine's: another run at the same time must not share them.
    format!("rnet-test-{}-{name}", std::process::id())
}

#[test]
fn a_container_has_its_address_as_long_as_it_lives() {
    run_or_skip(lacks, |world| {
        let host = world.host("h1");
        host.start();
        host.rnet("bridge create br0 --addr 192.168.115.1/24").ok();
        let before = host.snapshot();
        let runc = Runc::new(world, &host);
        let annotations = json!({
            "rnet.attach": "br0 192.168.115.10/24@gw U:web",
            "rnet.attach.1": "br0 10.0.0.5/24",
            "org.example": "of no interest",
        });
        let (web, bundle) = (id("web"), runc.bundle(&annotations));
        runc.start(&web, &bundle).ok();
        let addresses = runc.inside(&web, "ip address");
        assert!(addresses.contains("192.168.115.10/24") && addresses.contains("10.0.0.5/24"), "{addresses}");
        assert!(runc.inside(&web, "ip route").contains("default via 192.168.115.1 dev eth0"));
        assert!(runc.inside(&web, "ping -c 1 -W 2 192.168.115.1").contains("1 packets received"));
        let known = host.rnet_json("attachments ls");
        assert_eq!(known.as_array().unwrap().len(), 2);
        assert_eq!((&known[0]["engine"], &known[0]["container_id"]), (&json!("oci"), &json!(web)));
        runc.delete(&web);
        assert_eq!(host.rnet_json("attachments ls"), json!([]));
        host.wait_until_like(&before, "after the container was deleted");
        // The same id again.
        runc.start(&web, &bundle).ok();
        assert!(runc.inside(&web, "ip address").contains("192.168.115.10/24"));
        runc.delete(&web);
    });
}

#[test]
fn a_container_on_a_network() {
    run_or_skip(lacks, |world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let runc = Runc::new(world, &host);
        let (web, bundle) = (id("net"), runc.bundle(&json!({"rnet.network": "blue"})));
        runc.start(&web, &bundle).ok();
        assert!(runc.inside(&web, "ip route").contains("default via 10.9.0.1"));
        assert!(runc.inside(&web, "ping -c 1 -W 2 10.9.0.1").contains("1 packets received"));
        assert_eq!(host.rnet("network inspect blue").json()[0]["endpoints"][0]["container_id"], json!(web));
        runc.delete(&web);
        assert_eq!(host.rnet("network inspect blue").json()[0]["endpoints"], json!([]));
    });
}

#[test]
fn a_container_that_cannot_be_attached_does_not_start() {
    run_or_skip(lacks, |world| {
        let host = world.host("h1");
        host.start();
        host.container("other");
        host.rnet("attach br0 other 192.168.115.10/24").ok();
        let before = host.snapshot();
        let runc = Runc::new(world, &host);
        for (annotations, words) in [
            (json!({"rnet.attach": "br0 192.168.115.11/24;br0 192.168.115.10/24"}), "192.168.115.10"),
            (json!({"rnet.attach": "eth7 192.168.115.11/24"}), "eth7"),
            (json!({"rnet.network": "nowhere"}), "nowhere"),
            (json!({"rnet.atach": "br0 192.168.115.11/24"}), "rnet.atach"),
            (json!({"rnet.attach": "br0 192.168.115.11"}), "192.168.115.11"),
        ] {
            let (web, bundle) = (id("bad"), runc.bundle(&annotations));
            let said = runc.start(&web, &bundle);
            assert_ne!(said.code, 0, "{annotations}");
            assert!(said.out.contains(words), "no {words:?} in\n{}", said.out);
            assert_eq!(runc.run(&["list", "-q"]).out, "", "{annotations}");
            assert_eq!(host.rnet_json("attachments ls").as_array().unwrap().len(), 1);
            host.wait_until_like(&before, &format!("after {annotations}"));
        }
        host.crash();
        let (web, bundle) = (id("down"), runc.bundle(&json!({"rnet.attach": "br0 192.168.115.11/24"})));
        let said = runc.start(&web, &bundle);
        assert!(said.code != 0 && said.out.contains("netd is not running"), "{}", said.out);
        let plain = runc.bundle(&json!({}));
        runc.start(&web, &plain).ok();
        host.start();
        runc.delete(&web);
    });
}
