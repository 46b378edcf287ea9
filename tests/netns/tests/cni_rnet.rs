//! Plugin `rnet`: a CNI runtime's containers on networks of netd.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use rnet_kernel::Netns;
use rnet_netns_harness::{Container, Host, SOON, run, wait_for};
use serde_json::{Value, json};

/// What an executable answered.
struct Answer {
    code: i32,
    out: Value,
}

impl Answer {
    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.code, 0, "{}", self.out);
        self.out
    }

    #[track_caller]
    fn fails(self, code: u32, words: &[&str]) {
        assert_ne!(self.code, 0, "{}", self.out);
        assert_eq!(self.out["code"], code, "{}", self.out);
        let text = self.out.to_string();
        words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in {text}"));
    }
}

/// A call by a runtime.
struct Call<'a> {
    host: &'a Host,
    config: Value,
    env: Vec<(&'static str, String)>,
}

impl<'a> Call<'a> {
    /// For eth0 of a container on network blue.
    fn new(host: &'a Host, id: &str, container: &Container) -> Self {
        Call {
            host,
            config: json!({"cniVersion": "1.1.0", "name": "x", "type": "rnet", "network": "blue"}),
            env: vec![
                ("CNI_CONTAINERID", id.to_owned()),
                ("CNI_NETNS", container.path.display().to_string()),
                ("CNI_IFNAME", "eth0".to_owned()),
                ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ],
        }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn env(mut self, key: &'static str, value: &str) -> Self {
        self.env.retain(|(k, _)| *k != key);
        self.env.push((key, value.to_owned()));
        self
    }

    fn run(&self, command: &str) -> Answer {
        let program = self.host.netd_program().with_file_name("rnet-cni");
        let mut process = Command::new(&program);
        process.env_clear().env("RNET_ROOT", &self.host.root).env("CNI_COMMAND", command);
        process.envs(self.env.iter().map(|(k, v)| (*k, v.as_str())));
        let output = feed(&self.host.netns, process, &self.config);
        let text = String::from_utf8(output.stdout).unwrap();
        let out = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Answer { code: output.status.code().unwrap(), out }
    }

    #[track_caller]
    fn add(&self) -> Value {
        self.run("ADD").ok()
    }

    #[track_caller]
    fn del(&self) {
        assert_eq!(self.run("DEL").ok(), Value::Null, "DEL has no answer");
    }
}

/// Runs a program with a configuration on its stdin.
fn feed(netns: &Netns, mut process: Command, config: &Value) -> Output {
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = config.to_string();
    let output = netns.run(|| {
        let mut child = process.spawn().unwrap();
        // One that refuses by its environment alone reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    });
    output.unwrap()
}

fn with_blue(test: impl FnOnce(&Host) + Send) {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --bridge-name blue0").ok();
        test(&host);
    });
}

fn on_blue(host: &Host) -> Vec<Value> {
    host.rnet_json("network inspect blue")[0]["endpoints"].as_array().unwrap().clone()
}

/// Addresses of owners that begin so, with their states.
fn held(host: &Host, owner: &str) -> Vec<(String, String)> {
    let all = host.rnet_json("network allocations");
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let of = all.as_array().unwrap().iter().filter(|a| a["owner"].as_str().unwrap().starts_with(owner));
    of.map(|a| (text(&a["address"]), text(&a["state"]))).collect()
}

#[test]
fn an_interface_from_add_to_del() {
    with_blue(|host| {
        let (one, two) = (host.container("one"), host.container("two"));
        let call = Call::new(host, "c1", &one);
        let result = call.add();
        assert_eq!(result["cniVersion"], "1.1.0");
        let interfaces = result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 3, "{result}");
        assert_eq!(interfaces[0]["name"], "blue0");
        assert_eq!(interfaces[0]["mac"], host.run("ip -j link show blue0").json()[0]["address"]);
        let port = interfaces[1]["name"].as_str().unwrap();
        assert_eq!(interfaces[1]["mac"], host.run(&format!("ip -j link show {port}")).json()[0]["address"]);
        assert_eq!(interfaces[2]["name"], "eth0");
        assert_eq!(interfaces[2]["sandbox"], one.path.display().to_string());
        assert_eq!(interfaces[2]["mac"], one.ip_json("link show eth0")[0]["address"]);
        let ip = &result["ips"][0];
        assert_eq!((&ip["interface"], &ip["gateway"]), (&json!(2), &json!("10.9.0.1")));
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]));
        let address = ip["address"].as_str().unwrap();
        assert!(one.ip("-o address show eth0").contains(address), "{address}");

        let second = Call::new(host, "c2", &two).add();
        let other = second["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        one.ping(&other);
        let shown = on_blue(host);
        assert_eq!(shown.len(), 2);
        assert!(shown.iter().any(|e| e["container_id"] == "c1" && e["engine"] == "cni"), "{shown:?}");
        assert_eq!(held(host, "cni:c1/").len(), 1);
        assert!(host.rnet("network rm blue").fails(4, &["in use by cni:c1, cni:c2"]).code == 4);

        let checked = Call::new(host, "c1", &one).with("prevResult", result.clone());
        checked.run("CHECK").ok();
        one.ip("address flush dev eth0");
        checked.run("CHECK").fails(999, &["has lost address"]);

        call.del();
        assert!(!host.has_link(port) || on_blue(host).len() == 1);
        assert!(!on_blue(host).iter().any(|e| e["container_id"] == "c1"));
        assert_eq!(held(host, "cni:c1/").iter().filter(|(_, state)| state == "live").count(), 0);
        wait_for("the interface to be deleted", SOON, || one.run("ip link show eth0").code != 0);
        call.del();
        call.env("CNI_NETNS", "").del();
        checked.run("CHECK").fails(7, &["knows of no eth0"]);
    });
}

#[test]
fn what_is_asked_for_is_given_or_refused() {
    with_blue(|host| {
        let (one, two) = (host.container("one"), host.container("two"));
        let before = host.snapshot();
        let call = |id: &str, c: &Container| Call::new(host, id, c);
        let result = call("c1", &one).env("CNI_ARGS", "IgnoreUnknown=1;IP=10.9.0.77;MAC=02:00:00:00:00:77").add();
        assert_eq!(result["ips"][0]["address"], "10.9.0.77/24");
        assert_eq!(one.ip_json("link show eth0")[0]["address"], "02:00:00:00:00:77");
        let wanted = json!({"ips": ["10.9.0.78/24"], "mac": "02:00:00:00:00:78"});
        let second = call("c1", &one).env("CNI_IFNAME", "eth1").with("runtimeConfig", wanted).add();
        assert_eq!(second["ips"][0]["address"], "10.9.0.78/24", "a second interface has an address of its own");
        assert_eq!(held(host, "cni:c1/").len(), 2);

        call("c1", &one).run("ADD").fails(999, &["eth0 of container c1 is on network blue already"]);
        let taken = call("c2", &two).env("CNI_ARGS", "IP=10.9.0.77");
        taken.run("ADD").fails(999, &["10.9.0.77", "cni:c1 eth0"]);
        call("c2", &two).env("CNI_ARGS", "IP=10.1.1.1").run("ADD").fails(7, &["10.1.1.1 is not in network blue"]);
        call("c2", &two).env("CNI_ARGS", "FOO=1").run("ADD").fails(4, &["FOO"]);
        call("c2", &two).with("network", json!("green")).run("ADD").fails(7, &["no network \\\"green\\\""]);
        call("c2", &two).with("network", json!("a/b")).run("ADD").fails(7, &["a/b"]);
        call("c2", &two).with("network", Value::Null).run("ADD").fails(6, &["network"]);
        call("c2", &two).with("ipam", json!({"type": "host-local"})).run("ADD").fails(2, &["ipam"]);
        let ports = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]});
        call("c2", &two).with("runtimeConfig", ports).run("ADD").fails(2, &["portMappings", "portmap"]);
        call("c2", &two).env("CNI_NETNS", "/run/netns/none").run("ADD").fails(999, &["/run/netns/none"]);
        call("c2", &two).env("CNI_NETNS", "/proc/self/ns/net").run("ADD").fails(8, &[]);
        two.ip("link add eth0 type veth");
        call("c2", &two).run("ADD").fails(999, &["already has an interface eth0"]);
        two.ip("link del eth0");
        assert_eq!(on_blue(host).len(), 2);

        for ifname in ["eth0", "eth1"] {
            call("c1", &one).env("CNI_IFNAME", ifname).del();
        }
        call("c9", &two).with("network", json!("green")).del();
        host.wait_until_like(&before, "nothing is left of what was refused or removed");
    });
}

#[test]
fn old_versions_get_their_own_words() {
    with_blue(|host| {
        let one = host.container("one");
        for (version, has) in [("0.2.0", "/ip4/gateway"), ("0.4.0", "/ips/0/version"), ("1.0.0", "/interfaces/2/mac")] {
            let call = Call::new(host, "c1", &one).with("cniVersion", json!(version));
            let result = call.add();
            assert_eq!(result["cniVersion"], version);
            assert!(result.pointer(has).is_some(), "{version}: no {has} in {result}");
            assert!(result.pointer("/interfaces/2/mtu").is_none(), "{result}");
            call.del();
        }
        let call = Call::new(host, "c1", &one).with("cniVersion", json!("0.3.1"));
        call.run("CHECK").fails(1, &["0.3.1"]);
        call.run("STATUS").fails(1, &["0.3.1"]);
        let versions = call.run("VERSION").ok();
        assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));
    });
}

#[test]
fn collected_is_what_is_not_valid_of_the_same_network() {
    with_blue(|host| {
        let (one, two) = (host.container("one"), host.container("two"));
        Call::new(host, "c1", &one).add();
        Call::new(host, "c2", &two).add();
        Call::new(host, "c2", &two).with("name", json!("y")).env("CNI_IFNAME", "eth1").add();
        host.rnet("network connect blue one").ok();
        let valid = json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c/3", "ifname": "eth0"}]);
        Call::new(host, "", &one).with("cni.dev/valid-attachments", valid).run("GC").ok();
        let left: Vec<(Value, Value)> =
            on_blue(host).iter().map(|e| (e["container_id"].clone(), e["ifname"].clone())).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.contains(&(json!("c1"), json!("eth0"))) && left.contains(&(json!("c2"), json!("eth1"))));
    });
}

#[test]
fn status_says_whether_another_one_would_be_served() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        let one = host.container("one");
        let call = Call::new(&host, "c1", &one);
        call.run("STATUS").fails(50, &["no network"]);
        host.rnet("network create blue --subnet 10.9.0.0/30 --bridge-name blue0").ok();
        call.run("STATUS").ok();
        call.run("STATUS").ok();
        call.add();
        call.run("STATUS").fails(50, &["blue"]);
        host.stop();
        call.run("STATUS").fails(50, &["netd is not running", "netd --root"]);
        host.start();
    });
}

#[test]
fn a_restart_and_a_crash_change_nothing() {
    with_blue(|host| {
        let (one, two) = (host.container("one"), host.container("two"));
        let call = Call::new(host, "c1", &one);
        let result = call.add();
        let other = Call::new(host, "c2", &two).add();
        let flow = two.flow(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap());
        host.stop();
        call.run("DEL").fails(11, &["netd is not running", "netd --root"]);
        Call::new(host, "c3", &one).run("ADD").fails(11, &["netd is not running"]);
        host.start();
        let checked = Call::new(host, "c1", &one).with("prevResult", result);
        checked.run("CHECK").ok();
        host.crash();
        host.start();
        checked.run("CHECK").ok();
        let (sent, lost) = flow.stop();
        assert!(sent > 0 && lost == 0, "{lost} of {sent} packets were lost");
        assert_eq!(on_blue(host).len(), 2);

        // The port is taken away: while the namespace lives, its interface comes back as it was.
        host.ip(&format!("link del {}", other["interfaces"][1]["name"].as_str().unwrap()));
        let mac = other["interfaces"][2]["mac"].clone();
        wait_for("the interface to be back", SOON, || {
            let found = two.run("ip -j link show eth0");
            found.code == 0 && found.json()[0]["address"] == mac
        });
        call.del();
        // Without a DEL, the end of the namespace is the end of the interface.
        host.end_container(two);
        wait_for("the address to be free", SOON, || held(host, "cni:c2/").iter().all(|(_, state)| state != "live"));
        wait_for("nobody to be on the network", SOON, || on_blue(host).is_empty());
    });
}

#[test]
fn the_link_of_that_name_is_enough() {
    with_blue(|host| {
        let one = host.container("one");
        let folder = host.root.join("bin");
        let program = host.netd_program().with_file_name("rnet-cni");
        let installed = Command::new(&program).args(["install", "--dir"]).arg(&folder).output().unwrap();
        assert!(installed.status.success());
        let listed = Command::new(&program).arg("list").output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|l| l == "rnet"));
        let call = Call::new(host, "c1", &one);
        let mut process = Command::new(folder.join("rnet"));
        process.env_clear().env("RNET_ROOT", &host.root).env("CNI_COMMAND", "ADD").envs(call.env.iter().cloned());
        assert!(feed(&host.netns, process, &call.config).status.success());
        assert_eq!(on_blue(host).len(), 1);
    });
}
