//! What is wrong with a call is said in the specification's words, and nothing is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rnet_netns_harness::{Container, Host, Snapshot, World, built, path_text, run};
use serde_json::{Value, json};

use super::differ::files;
use super::driver::{Answer, Attachment, Chain, Node, execute};

struct Setting<'a> {
    host: &'a Host,
    plugins: PathBuf,
    leases: PathBuf,
    container: Container,
}

type Seen = (Snapshot, Snapshot, BTreeMap<String, String>);

impl<'a> Setting<'a> {
    fn new(world: &World, host: &'a Host) -> Self {
        let leases = world.dir().join("leases");
        Setting { host, plugins: world.cni_plugins(), leases, container: host.container("c1") }
    }

    fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": path_text(&self.leases), "ranges": [[{"subnet": "10.88.0.0/30"}]],
            },
        })
    }

    fn with(&self, key: &str, value: Value) -> Vec<u8> {
        let mut config = self.config();
        config[key] = value;
        config.to_string().into_bytes()
    }

    fn without(&self, key: &str) -> Vec<u8> {
        let mut config = self.config();
        config.as_object_mut().unwrap().remove(key);
        config.to_string().into_bytes()
    }

    fn chain(&self) -> Chain {
        Chain::new("1.1.0", "net1", json!([self.config()]))
    }

    fn node(&self) -> Node<'_> {
        Node { host: &self.host.netns, plugins: &self.plugins, attachment: Attachment::of(&self.container) }
    }

    fn call(&self, plugin: &str, changed: &[(&str, &str)], input: &[u8]) -> Answer {
        let mut variables = vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", path_text(&self.container.path)),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", path_text(&self.plugins)),
        ];
        for (name, value) in changed {
            variables.retain(|(known, _)| known != name);
            variables.push((name, value));
        }
        variables.retain(|(_, value)| *value != "<unset>");
        execute(&self.plugins.join(plugin), &self.host.netns, &variables, input)
    }

    fn seen(&self) -> Seen {
        let of = |netns| Snapshot::of(netns, &self.host.root);
        (of(&self.host.netns), of(&self.container.netns), files(&self.leases.join("net1")))
    }

    /// Refused with this code, and nothing is changed by it.
    #[track_caller]
    fn refused(&self, what: &str, code: u64, words: &[&str], call: impl FnOnce() -> Answer) {
        let before = self.seen();
        let answer = call();
        assert_eq!(answer.code(), code, "{what}: {}", answer.said.out);
        assert!(answer.value["cniVersion"].is_string(), "{what}: {}", answer.said.out);
        assert!(!answer.value["msg"].as_str().unwrap().is_empty(), "{what}: {}", answer.said.out);
        for word in words {
            assert!(answer.said.out.contains(word), "{what}: no {word:?} in {}", answer.said.out);
        }
        let after = self.seen();
        before.0.same(&after.0, what);
        before.1.same(&after.1, what);
        let kept = |files: &BTreeMap<String, String>| {
            let addresses = files.iter().filter(|(name, _)| name.parse::<std::net::IpAddr>().is_ok());
            addresses.map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
        };
        assert_eq!(kept(&before.2), kept(&after.2), "{what}");
    }
}

#[test]
fn configurations() {
    run(|world| {
        let host = world.host("node");
        let s = Setting::new(world, &host);
        let cases: Vec<(&str, u64, &[&str], Vec<u8>)> = vec![
            ("no JSON", 6, &[], b"{".to_vec()),
            ("nothing at all", 6, &[], b" ".to_vec()),
            ("an array", 6, &[], b"[]".to_vec()),
            ("bytes that are no text", 6, &[], vec![b'"', 0xff, b'"']),
            ("a key of another type", 6, &["perhaps"], s.with("isGateway", json!("perhaps"))),
            ("an unknown version", 1, &["7.0.0", "1.1.0"], s.with("cniVersion", json!("7.0.0"))),
            ("no name", 7, &["name"], s.without("name")),
            ("a name that is a path", 7, &["../x"], s.with("name", json!("../x"))),
            ("a bridge's name that is none", 7, &["sixteen-bytes-xx"], s.with("bridge", json!("sixteen-bytes-xx"))),
            ("a range without a subnet", 7, &[], s.with("ipam", json!({"type": "host-local", "ranges": [[{}]]}))),
            ("no ranges", 7, &[], s.with("ipam", json!({"type": "host-local"}))),
            ("no such address plugin", 999, &["elsewhere"], s.with("ipam", json!({"type": "elsewhere"}))),
            ("an address plugin by its path", 7, &[], s.with("ipam", json!({"type": "../static"}))),
            ("hairpin and promiscuous", 7, &["hairpin"], {
                let mut config = s.config();
                config["hairpinMode"] = json!(true);
                config["promiscMode"] = json!(true);
                config.to_string().into_bytes()
            }),
        ];
        for (what, code, words, input) in cases {
            s.refused(what, code, words, || s.call("bridge", &[], &input));
        }
        s.refused("no such plugin", 7, &["elsewhere", "host-local"], || {
            let program = world.dir().join("cni/rnet-cni");
            std::os::unix::fs::symlink(built("rnet-cni"), &program).unwrap();
            s.call("rnet-cni", &[], &s.with("type", json!("elsewhere")))
        });
    });
}

#[test]
fn environments() {
    run(|world| {
        let host = world.host("node");
        let s = Setting::new(world, &host);
        let none = ("", "");
        let input = s.config().to_string().into_bytes();
        let file = path_text(&host.root.join("netd.toml")).to_owned();
        let own = path_text(&host.netns_file).to_owned();
        for (what, code, words, change) in [
            ("an unknown command", 4, &["SHRUG"][..], ("CNI_COMMAND", "SHRUG")),
            ("a namespace that is not there", 999, &["/run/netns/ghost"], ("CNI_NETNS", "/run/netns/ghost")),
            ("a file that is no namespace", 999, &["netd.toml"], ("CNI_NETNS", file.as_str())),
            ("a folder", 999, &["/run/netns"], ("CNI_NETNS", "/run/netns")),
            ("the namespace of the host itself", 8, &["NETNS"], ("CNI_NETNS", own.as_str())),
            ("an interface name that is none", 4, &["CNI_IFNAME"], ("CNI_IFNAME", "eth0/1")),
            ("an interface that is there", 999, &["\"lo\\\"", "exists"], ("CNI_IFNAME", "lo")),
            ("an id that is a path", 4, &["CNI_CONTAINERID"], ("CNI_CONTAINERID", "../c1")),
            ("arguments that are none", 4, &["CNI_ARGS"], ("CNI_ARGS", "IP")),
            ("an argument nobody knows", 4, &["COLOUR"], ("CNI_ARGS", "COLOUR=red")),
            ("no path of plugins", 4, &["CNI_PATH"], ("CNI_PATH", "")),
        ] {
            s.refused(what, code, words, || s.call("bridge", &[change, none][..1], &input));
        }
        let missing: Vec<_> =
            ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].map(|name| (name, "<unset>")).to_vec();
        s.refused("everything missing", 4, &["CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"], || {
            s.call("bridge", &missing, &input)
        });
        for (command, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
            let input = s.with("cniVersion", json!(version));
            s.refused(command, 1, &[command, version], || s.call("bridge", &[("CNI_COMMAND", command)], &input));
        }
        s.refused("CHECK without a previous result", 7, &["prevResult"], || {
            s.call("bridge", &[("CNI_COMMAND", "CHECK")], &input)
        });
    });
}

#[test]
fn hosts() {
    run(|world| {
        let host = world.host("node");
        let s = Setting::new(world, &host);
        let input = s.config().to_string().into_bytes();
        host.ip("link add cni0 type veth peer name other0");
        s.refused("a device of that name that is no bridge", 999, &["cni0", "not a bridge"], || {
            s.call("bridge", &[], &input)
        });
        host.ip("link del cni0");
        host.ip("link add cni0 type bridge");
        host.ip("address add 10.77.0.1/24 dev cni0");
        // Its switches and its address are the other network's.
        s.refused("the bridge of another network", 999, &["10.77.0.1/24", "forceAddress"], || {
            s.call("bridge", &[], &input)
        });
        host.ip("address del 10.77.0.1/24 dev cni0");
        // A /30 has one address beside the gateway's.
        s.chain().add(&s.node()).ok();
        let other = host.container("c2");
        let change = [("CNI_CONTAINERID", "c2"), ("CNI_NETNS", path_text(&other.path))];
        s.refused("no address is left", 999, &["no IP addresses available"], || s.call("bridge", &change, &input));
        s.refused("ADD twice", 999, &["c1"], || s.call("bridge", &[], &input));
        let status = s.call("bridge", &[("CNI_COMMAND", "STATUS")], &input);
        assert_eq!(status.code(), 50, "{}", status.said.out);
        s.chain().del(&s.node(), None).ok();
        s.call("bridge", &[("CNI_COMMAND", "STATUS")], &input).ok();
    });
}

#[test]
fn del_whatever_is_gone() {
    run(|world| {
        let host = world.host("node");
        let s = Setting::new(world, &host);
        let chain = s.chain();
        let reserved = || files(&s.leases.join("net1")).contains_key("10.88.0.2");
        // Never added.
        let before = s.seen();
        chain.del(&s.node(), None).ok();
        before.0.same(&s.seen().0, "DEL of what never was");

        for what in ["twice", "without a namespace", "without a previous result", "after a reboot"] {
            let result = chain.add(&s.node()).ok();
            assert!(reserved(), "{what}");
            if what == "after a reboot" {
                // The folder of links is that of an earlier boot.
                let links = s.leases.join("net1/.rnet");
                let boot = std::fs::read_dir(&links).unwrap().next().unwrap().unwrap().path();
                std::fs::rename(boot, links.join("00000000-0000-0000-0000-000000000000")).unwrap();
            }
            if what == "without a namespace" {
                let attachment = Attachment { netns: String::new(), ..Attachment::of(&s.container) };
                chain.del(&Node { attachment, ..s.node() }, Some(&result)).ok();
                assert!(!reserved(), "{what}");
                // An interface that went on would have an address that is free.
                assert!(!s.container.ip("link").contains("eth0"));
            }
            let result = (what != "without a previous result").then_some(&result);
            chain.del(&s.node(), result).ok();
            chain.del(&s.node(), result).ok();
            assert!(!reserved() && !s.container.ip("link").contains("eth0"), "{what}");
        }

        let other = host.container("c2");
        let attachment = Attachment::of(&other);
        let result = chain.add(&Node { attachment: attachment.clone(), ..s.node() }).ok();
        host.end_container(other);
        for previous in [Some(&result), None] {
            chain.del(&Node { attachment: attachment.clone(), ..s.node() }, previous).ok();
        }
        assert!(!reserved(), "the namespace is gone");
        // A previous result nobody can read is no reason to keep the address.
        chain.add(&s.node()).ok();
        chain.del(&s.node(), Some(&json!({"cniVersion": "99", "ips": 7}))).ok();
        assert!(!reserved() && !s.container.ip("link").contains("eth0"));
    });
}

#[test]
fn gc_of_a_network() {
    run(|world| {
        let host = world.host("node");
        let mut s = Setting::new(world, &host);
        s.leases = world.dir().join("many");
        let mut config = s.config();
        config["ipam"]["ranges"] = json!([[{"subnet": "10.88.0.0/24"}]]);
        config["ipMasq"] = json!(true);
        let chain = Chain::new("1.1.0", "net1", json!([config]));
        let containers = ["c2", "c3"].map(|name| host.container(name));
        for container in &containers {
            chain.add(&Node { attachment: Attachment::of(container), ..s.node() }).ok();
        }
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c3", "ifname": "eth0"}]});
        chain.maintain(&s.node(), "GC", &valid).ok();
        let leases = files(&s.leases.join("net1"));
        assert!(!leases.contains_key("10.88.0.2") && leases.contains_key("10.88.0.3"), "{leases:?}");
        let rules = host.run("nft list ruleset").ok().out;
        assert!(!rules.contains("10.88.0.2") && rules.contains("10.88.0.3"), "{rules}");
        chain.maintain(&s.node(), "GC", &json!({"cni.dev/valid-attachments": []})).ok();
        assert_eq!(host.run("nft list ruleset").ok().out, "");
        assert!(!files(&s.leases.join("net1")).contains_key("10.88.0.3"));
    });
}

/// Every link is a plugin of its own name.
#[test]
fn installed_links() {
    run(|world| {
        let host = world.host("node");
        let plugins = world.cni_plugins();
        let listed = host.run(&format!("{} list", built("rnet-cni").display())).ok();
        let mut listed: Vec<&str> = listed.out.lines().collect();
        listed.sort_unstable();
        let mut links: Vec<String> =
            std::fs::read_dir(&plugins).unwrap().map(|e| e.unwrap().file_name().display().to_string()).collect();
        links.sort();
        assert_eq!(links, listed);
        assert!(["bridge", "host-local", "static", "loopback"].iter().all(|name| listed.contains(name)));
        for name in &links {
            let call = |command: &str, input: &[u8]| {
                let variables = [("CNI_COMMAND", command), ("CNI_PATH", path_text(&plugins))];
                execute(&plugins.join(name), &host.netns, &variables, input)
            };
            let versions = call("VERSION", br#"{"cniVersion": "0.4.0"}"#).ok();
            assert_eq!(versions["cniVersion"], "0.4.0", "{name}");
            let oldest = match name.as_str() {
                "firewall" => "0.4.0",
                "vrf" => "0.3.1",
                "bandwidth" => "0.3.0",
                _ => "0.1.0",
            };
            let spoken = versions["supportedVersions"].as_array().unwrap();
            assert_eq!((&spoken[0], spoken.last().unwrap()), (&json!(oldest), &json!("1.1.0")), "{name}");
            // The name of the link decides, not the type.
            let error = call("STATUS", br#"{"cniVersion": "7", "name": "n", "type": "elsewhere"}"#);
            assert_eq!(error.code(), 1, "{name}: {}", error.said.out);
            let about = execute(Path::new(&plugins.join(name)), &host.netns, &[], b"").said.ok();
            assert!(about.out.is_empty() && about.err.contains(name.as_str()) && about.err.contains("1.1.0"), "{name}");
        }
    });
}
