//! Networks that are lists of CNI plugins: those of rnet, and executables of others, which may do anything.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rnet_api::{ConnectRequest, Endpoint, SandboxRequest};
use rnet_netns_harness::{Container, Host, SOON, run, wait_for};
use serde_json::{Value, json};

/// A plugin of others. It writes down its calls, and does what the file `mode` says: a command and a deed.
const MARK: &str = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "ROOT/calls"
input=$(cat)
read -r command deed < "ROOT/mode" || true
if [ "$command" = "$CNI_COMMAND" ]; then
    case $deed in
    hang) sleep 1000 ;;
    crash) kill -SEGV $$ ;;
    flood) exec head -c 1073741824 /dev/zero ;;
    fail) echo '{"code": 101, "msg": "no mark today", "details": "the inkwell is empty"}'; exit 1 ;;
    esac
fi
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD) echo "$input" | sed 's/.*"prevResult":\({.*}\),"type":.*/\1/' ;;
esac
"#;

struct Bed<'a> {
    host: &'a Host,
    web: Container,
    other: Container,
}

impl Bed<'_> {
    fn mode(&self, mode: &str) {
        std::fs::write(self.host.root.join("mode"), format!("{mode}\n")).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.host.root.join("calls")).unwrap_or_default();
        let commands = text.lines().map(|l| l.split(' ').next().unwrap().to_owned());
        commands.filter(|command| command != "VERSION").collect()
    }

    /// Addresses that host-local has given away.
    fn leases(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.host.root.join("leases/mesh")).into_iter().flatten().flatten();
        let mut names: Vec<String> = names.map(|f| f.file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("10."));
        names.sort();
        names
    }

    fn endpoints(&self) -> Vec<Value> {
        self.host.rnet_json("network inspect mesh")[0]["endpoints"].as_array().unwrap().clone()
    }

    fn create(&self, list: &Value) -> rnet_netns_harness::Output {
        let file = self.host.root.join("mesh.conflist");
        std::fs::write(&file, list.to_string()).unwrap();
        self.host.rnet(&format!("network create mesh --conflist {}", file.display()))
    }
}

fn plugin(host: &Host) -> PathBuf {
    host.root.join("plugins/mark")
}

fn install(host: &Host) {
    let path = plugin(host);
    std::fs::write(&path, MARK.replace("ROOT", host.root.to_str().unwrap())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// bridge of rnet, then what else is given.
fn list(host: &Host, more: &[Value]) -> Value {
    let bridge = json!({"type": "bridge", "bridge": "mesh0", "capabilities": {"ips": true, "mac": true}, "ipam":
        {"type": "host-local", "dataDir": host.root.join("leases"), "ranges": [[{"subnet": "10.8.0.0/24"}]]}});
    let plugins: Vec<Value> = [bridge].iter().chain(more).cloned().collect();
    json!({"cniVersion": "1.1.0", "name": "mesh", "plugins": plugins})
}

/// A host with a folder of plugins. The bridge is there before: a plugin leaves it behind.
fn bed(test: impl FnOnce(&Bed<'_>) + Send) {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.ip("link add mesh0 address 02:00:00:00:00:0a type bridge");
        host.ip("link set mesh0 addrgenmode none up");
        let folder = host.root.join("plugins");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        host.config(&format!("[plugins]\ndirectories = [\"{}\"]\ntime_seconds = 2\n", folder.display()));
        install(&host);
        host.start();
        let (web, other) = (host.container("web"), host.container("other"));
        test(&Bed { host: &host, web, other });
    });
}

fn mark() -> Value {
    json!({"type": "mark"})
}

#[test]
fn a_mixed_list_from_connect_to_disconnect() {
    bed(|bed| {
        let host = bed.host;
        let mut more = vec![mark()];
        let tuning = Path::new("/usr/lib/cni/tuning");
        if tuning.exists() {
            // Under another name, so that it is theirs that runs.
            std::fs::copy(tuning, host.root.join("plugins/their-tuning")).unwrap();
            more.push(json!({"type": "their-tuning", "dataDir": host.root.join("tuning"),
                "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}));
        }
        if tuning.exists() {
            bed.create(&list(host, &more)).fails(6, &["plugin \"their-tuning\" does not speak 1.1.0", "cniVersion"]);
        }
        let with = |more: &[Value]| {
            let mut list = list(host, more);
            list["cniVersion"] = json!("1.0.0");
            list
        };
        assert!(bed.create(&with(&more)).ok().out.contains("mesh: plugins bridge, mark"));
        bed.create(&with(&more)).ok();
        bed.create(&with(&[])).fails(4, &["exists with other options"]);
        assert!(host.rnet("network ls").ok().out.contains("conflist: bridge, mark"));
        assert_eq!(host.rnet_json("network inspect mesh")[0]["spec"]["conflist"]["plugins"][1]["type"], "mark");
        let before = host.snapshot();

        host.rnet("network connect mesh web").ok();
        host.rnet("network connect mesh other --ip 10.8.0.77 --mac 02:00:00:00:00:77 -i net1").ok();
        host.rnet("network connect mesh other").ok();
        host.rnet("network connect mesh other -i net2").fails(4, &["connected to network mesh already, as net1"]);
        assert_eq!(bed.calls(), ["ADD", "ADD"]);
        bed.web.ping("10.8.0.77");
        assert_eq!(bed.other.ip_json("link show net1")[0]["address"], "02:00:00:00:00:77");
        if tuning.exists() {
            let set = bed.web.run("cat /proc/sys/net/ipv4/conf/eth0/arp_filter").ok().out;
            assert_eq!(set.trim(), "1");
        }
        let shown = bed.endpoints();
        assert_eq!(shown.len(), 2);
        let web = shown.iter().find(|e| e["container"] == "web").unwrap();
        assert_eq!((&web["network"], &web["status"]["state"]), (&json!("mesh"), &json!("ready")));
        assert_eq!((&web["ifname"], &web["bridge"]), (&json!("eth0"), &json!("mesh0")));
        assert!(host.has_link(web["host_ifname"].as_str().unwrap()));
        assert_eq!(web["mac"], bed.web.ip_json("link show eth0")[0]["address"]);
        assert!(bed.web.ip("-o address show eth0").contains(web["addresses"][0].as_str().unwrap()));
        let owners = host.rnet("network allocations").ok().out;
        assert!(owners.contains("netns:web") && owners.contains("10.8.0.77"), "{owners}");
        assert!(host.rnet("attachments ls").ok().out.contains("10.8.0.77/24"));
        host.rnet("network rm mesh").fails(4, &["in use by netns:other, netns:web"]);

        host.stop();
        host.start();
        host.crash();
        host.start();
        assert_eq!(bed.endpoints(), shown, "records survive");
        host.rnet("network disconnect mesh web").ok();
        host.rnet("network disconnect mesh web").fails(3, &["web is not connected to network mesh"]);
        host.rnet("detach other").ok();
        assert_eq!(bed.calls(), ["ADD", "ADD", "DEL", "DEL"]);
        assert_eq!(bed.leases(), [""; 0]);
        assert_ne!(bed.web.run("ip link show eth0").code, 0);
        host.wait_until_like(&before, "nothing is left of what was disconnected");
        host.rnet("network rm mesh").ok();
    });
}

#[test]
fn a_plugin_that_fails_leaves_nothing() {
    bed(|bed| {
        let host = bed.host;
        bed.create(&list(host, &[mark()])).ok();
        let before = host.snapshot();
        for (mode, said) in [
            ("ADD hang", "gave no answer within 2s"),
            ("ADD crash", "was ended by SIGSEGV"),
            ("ADD flood", "wrote more than 4194304 bytes"),
            ("ADD fail", "no mark today"),
        ] {
            bed.mode(mode);
            let refused = host.rnet("network connect mesh web");
            refused.fails(5, &["cannot connect web to network mesh", "plugin \"mark\"", said, "hint: "]);
            assert_ne!(bed.web.run("ip link show eth0").code, 0, "{mode}");
            assert_eq!((bed.leases(), bed.endpoints()), (vec![], vec![]), "{mode}");
            host.wait_until_like(&before, mode);
        }
        bed.mode("");
        host.rnet("network connect mesh web").ok();
        for (mode, said) in [("DEL hang", "gave no answer"), ("DEL fail", "the inkwell is empty")] {
            bed.mode(mode);
            let refused = host.rnet("network disconnect mesh web");
            refused.fails(5, &["cannot disconnect web from network mesh", "plugin \"mark\"", said]);
            assert_ne!(bed.web.run("ip link show eth0").code, 0, "{mode}: the others did their part");
            assert_eq!(bed.leases(), [""; 0], "{mode}");
            assert_eq!(bed.endpoints()[0]["status"]["state"], "error", "{mode}");
        }
        // One that did not let go comes first when the container comes again.
        host.rnet("network connect mesh web").fails(5, &["cannot disconnect web"]);
        bed.mode("");
        host.rnet("network connect mesh web").ok();
        host.rnet("network disconnect mesh web").ok();
        host.wait_until_like(&before, "nothing is left");
    });
}

#[test]
fn one_that_hangs_holds_up_nobody() {
    bed(|bed| {
        let host = bed.host;
        bed.create(&list(host, &[mark()])).ok();
        host.rnet("bridge create br0").ok();
        bed.mode("ADD hang");
        let calls = bed.calls().len();
        std::thread::scope(|scope| {
            let (root, program, netns) = (host.root.clone(), host.rnet_program(), host.netns.clone());
            let hung = scope.spawn(move || {
                let mut command = std::process::Command::new(program);
                command.args(["network", "connect", "mesh", "web"]).env("RNET_ROOT", root);
                rnet_netns_harness::run_in(&netns, &mut command)
            });
            wait_for("the plugin to hang", SOON, || bed.calls().len() > calls);
            host.rnet("attach br0 other 10.0.0.7/24").ok();
            assert!(!hung.is_finished(), "an attach waited for the plugin of another network");
            hung.join().unwrap().fails(5, &["gave no answer"]);
        });
    });
}

#[test]
fn a_plugin_that_is_gone_is_missed_at_the_end_alone() {
    bed(|bed| {
        let host = bed.host;
        bed.create(&list(host, &[mark()])).ok();
        host.rnet("network connect mesh web").ok();
        std::fs::remove_file(plugin(host)).unwrap();
        let folder = host.root.join("plugins");
        let gone = ["plugin \"mark\"", "network mesh", "web", "failed to find", folder.to_str().unwrap()];
        host.rnet("network disconnect mesh web").fails(5, &gone);
        assert_ne!(bed.web.run("ip link show eth0").code, 0);
        assert_eq!(bed.leases(), [""; 0]);
        host.rnet("network connect mesh other").fails(5, &["failed to find", "put it into one of"]);
        assert_eq!(bed.leases(), [""; 0]);
        host.stop();
        host.start();
        assert_eq!(bed.endpoints().len(), 1, "it can still be repeated");
        install(host);
        host.rnet("network disconnect mesh web").ok();
        assert_eq!(bed.endpoints(), [Value::Null; 0]);

        host.rnet("network connect mesh web").ok();
        std::fs::remove_file(plugin(host)).unwrap();
        host.rnet("network rm -f mesh").ok();
        assert_eq!((bed.leases(), host.rnet_json("attachments ls")), (vec![], json!([])));
        assert_ne!(bed.web.run("ip link show eth0").code, 0);
    });
}

#[test]
fn lists_that_cannot_be_run_are_refused() {
    bed(|bed| {
        let host = bed.host;
        let folder = host.root.join("plugins");
        let nobody = json!({"type": "nobody"});
        let hint = ["there is no plugin \"nobody\"", folder.to_str().unwrap(), "built in are "];
        bed.create(&list(host, &[nobody])).fails(3, &hint);
        let ourselves = json!({"type": "rnet", "network": "blue"});
        bed.create(&list(host, &[ourselves])).fails(2, &["would ask netd"]);
        bed.create(&json!({"name": "mesh", "cniVersion": "1.1.0", "plugins": []})).fails(2, &["no plugins"]);
        bed.create(&json!({"name": "mesh", "cniVersion": "9.0.0", "plugins": [mark()]})).fails(6, &["9.0.0"]);
        bed.create(&json!([])).fails(2, &["no JSON object"]);
        let mut wrong = list(host, &[]);
        wrong["plugins"][0]["isGateway"] = json!("never");
        bed.create(&wrong).fails(2, &["plugin \"bridge\"", "never"]);
        std::fs::set_permissions(plugin(host), std::fs::Permissions::from_mode(0o777)).unwrap();
        bed.create(&list(host, &[mark()])).fails(2, &["is not run", "0777"]);
        install(host);
        bed.create(&list(host, &[mark()])).ok();
        let file = host.root.join("mesh.conflist");
        let file = file.display();
        host.rnet(&format!("network create green --conflist {file}")).fails(4, &["network mesh has a list named"]);
        host.rnet(&format!("network create green --conflist {file} --internal")).fails(2, &["conflist alone"]);
        host.rnet("network create green --conflist /nowhere").fails(2, &["/nowhere"]);
        assert_eq!(host.rnet_json("network ls").as_array().unwrap().len(), 1);
    });
}

fn sandbox(host: &Host, networks: &[&str]) -> Result<Vec<Endpoint>, rnet_api::ApiError> {
    let client = host.client();
    let networks: Vec<rnet_model::NetworkName> = networks.iter().map(|n| n.parse().unwrap()).collect();
    let (id, name) = ("0123456789ab".parse().unwrap(), "box".parse().unwrap());
    client.create_sandbox(&SandboxRequest { container_id: id, container_name: name, networks: networks.clone() })?;
    client.connect_sandbox(
        &"0123456789ab".parse().unwrap(),
        &ConnectRequest { networks: networks.into_iter().map(Into::into).collect(), ..Default::default() },
    )
}

fn release(host: &Host, forget: bool) -> Result<rnet_api::Empty, rnet_api::ApiError> {
    host.client().release_sandbox(&"0123456789ab".parse().unwrap(), forget)
}

#[test]
fn containers_have_networks_of_both_sorts() {
    bed(|bed| {
        let host = bed.host;
        bed.create(&list(host, &[mark()])).ok();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        for order in [["mesh", "blue"], ["blue", "mesh"]] {
            let endpoints = sandbox(host, &order).unwrap();
            let mut names: Vec<(String, String)> =
                endpoints.iter().map(|e| (e.ifname.to_string(), e.network.as_ref().unwrap().to_string())).collect();
            names.sort();
            let wanted = [("eth0", order[0]), ("eth1", order[1])].map(|(i, n)| (i.to_owned(), n.to_owned()));
            assert_eq!(names, wanted);
            assert_eq!(bed.leases().len(), 1);
            release(host, false).unwrap();
            assert_eq!(bed.leases(), [""; 0], "DEL was run at the container's stop");
        }
        // The second network fails: the first one is taken back.
        bed.mode("ADD fail");
        let refused = sandbox(host, &["blue", "mesh"]).unwrap_err();
        assert!(refused.chain().contains("no mark today"), "{}", refused.chain());
        assert_eq!(host.rnet_json("attachments ls"), json!([]));
        bed.mode("");
        release(host, true).unwrap();
        // rm of a container whose plugin is gone: said once, and done.
        sandbox(host, &["mesh"]).unwrap();
        std::fs::remove_file(plugin(host)).unwrap();
        let missed = release(host, true).unwrap_err();
        assert!(missed.chain().contains("failed to find plugin"), "{}", missed.chain());
        release(host, true).unwrap();
        assert_eq!((bed.leases(), bed.endpoints()), (vec![], vec![]));
        assert_eq!(host.client().sandboxes().unwrap().len(), 0);
    });
}

#[test]
fn the_end_of_a_namespace_is_a_del() {
    bed(|bed| {
        let host = bed.host;
        bed.create(&list(host, &[mark()])).ok();
        let gone = host.container("gone");
        host.rnet("network connect mesh gone").ok();
        host.rnet("network connect mesh web").ok();
        host.end_container(gone);
        wait_for("DEL", SOON, || bed.endpoints().len() == 1);
        assert_eq!(bed.leases().len(), 1);
        let last = host.container("last");
        host.rnet("network connect mesh last").ok();
        host.crash();
        host.end_container(last);
        host.start();
        assert_eq!((bed.leases().len(), bed.endpoints().len()), (1, 1), "it ended while netd was down");
    });
}

#[test]
fn what_plugins_do_not_give_is_not_taken() {
    bed(|bed| {
        let host = bed.host;
        let mut plain = list(host, &[mark()]);
        plain["plugins"][0].as_object_mut().unwrap().remove("capabilities");
        plain["plugins"][0]["ipam"] = json!({"type": "static", "addresses": [{"address": "10.8.0.9/24"}]});
        bed.create(&plain).ok();
        let refused = host.rnet("network connect mesh web --ip 10.8.0.77");
        assert_ne!(refused.code, 0, "{}", refused.out);
        assert_ne!(bed.web.run("ip link show eth0").code, 0);
        assert_eq!(bed.endpoints(), [Value::Null; 0]);
        host.rnet("network connect mesh web").ok();
        assert!(bed.web.ip("-o address show eth0").contains("10.8.0.9/24"));
    });
}

#[test]
fn members_of_the_group_use_such_a_network_and_make_none() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.ip("link add mesh0 address 02:00:00:00:00:0a type bridge");
        host.ip("link set mesh0 addrgenmode none up");
        host.config("[api]\ngroup = \"nogroup\"\n");
        host.start();
        let (web, programs) = (host.container("web"), world.programs_for_all());
        std::fs::set_permissions(&host.root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = host.root.join("mesh.conflist");
        std::fs::write(&file, list(&host, &[]).to_string()).unwrap();
        let create = format!("network create mesh --conflist {}", file.display());
        let member = |words: &str| {
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
            command.arg(programs.join("rnet")).args(words.split(' ')).env("RNET_ROOT", &host.root);
            rnet_netns_harness::run_in(&host.netns, &mut command)
        };
        member("version").ok();
        member(&create).fails(8, &["only root may make a network of CNI plugins"]);
        host.rnet(&create).ok();
        member("network connect mesh web").ok();
        web.ip("link show eth0");
    });
}
