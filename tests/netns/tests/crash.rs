//! `kill -9` at every fail point, restarts, and things that somebody else takes away.

use std::collections::BTreeSet;

use rnet_api::{BridgeRequest, LinkEnd, LinkRequest, NetworkConnect, SandboxRequest};
use rnet_netns_harness::{Container, Flow, Host, SOON, Start, World, run, wait_for};
use serde_json::{Value, json};

/// Operations with their fail points, what makes them ready, and what they do until it succeeds.
struct Scenario {
    what: &'static str,
    points: &'static [&'static str],
    prepare: fn(&Host),
    step: fn(&Host) -> bool,
}

const SCENARIOS: [Scenario; 17] = [
    Scenario {
        what: "attach",
        points: &["attach.log", "attach.veth", "attach.inside", "attach.commit"],
        prepare: nothing,
        step: attach,
    },
    Scenario { what: "connect to a network", points: &["attach.guard"], prepare: with_network, step: connect },
    Scenario {
        what: "attach to a new bridge",
        points: &["attach.bridge"],
        prepare: nothing,
        step: attach_to_new_bridge,
    },
    Scenario {
        what: "connect to a network with limits",
        points: &["attach.shaper", "attach.rate"],
        prepare: with_limits,
        step: connect_limited,
    },
    Scenario {
        what: "connect with a higher priority",
        points: &["gateway.order", "gateway.commit"],
        prepare: on_two_networks,
        step: connect_first_choice,
    },
    Scenario {
        what: "detach",
        points: &["detach.log", "detach.retire", "detach.commit"],
        prepare: attached,
        step: detach,
    },
    Scenario {
        what: "network create",
        points: &[
            "network.log",
            "network.bridge",
            "network.address",
            "network.sysctl",
            "network.filter",
            "network.commit",
        ],
        prepare: nothing,
        step: create_network,
    },
    Scenario {
        what: "network edit",
        points: &[
            "network-edit.log",
            "network-edit.mtu",
            "network-edit.filter",
            "network-edit.shaper",
            "network-edit.rate",
            "network-edit.commit",
        ],
        prepare: on_network,
        step: edit_network,
    },
    Scenario {
        what: "network rm",
        points: &["network-rm.commit", "network-rm.kernel"],
        prepare: with_network,
        step: remove_network,
    },
    Scenario {
        what: "connect to a network of plugins",
        points: &["chain.log", "chain.add", "chain.commit"],
        prepare: with_plugins,
        step: connect_plugins,
    },
    Scenario {
        what: "disconnect from a network of plugins",
        points: &["chain-rm.log", "chain-rm.del", "chain-rm.commit"],
        prepare: on_plugins,
        step: disconnect_plugins,
    },
    Scenario {
        what: "bridge create",
        points: &["bridge.log", "bridge.make", "bridge.move", "bridge.commit"],
        prepare: nothing,
        step: create_bridge,
    },
    Scenario {
        what: "bridge rm",
        points: &["bridge-rm.log", "bridge-rm.commit", "bridge-rm.kernel"],
        prepare: with_bridge,
        step: remove_bridge,
    },
    Scenario {
        what: "sandbox create",
        points: &["sandbox.log", "sandbox.namespace"],
        prepare: nothing,
        step: create_sandbox,
    },
    Scenario {
        what: "links between sandboxes",
        points: &["links.log", "links.kernel"],
        prepare: with_boxes,
        step: create_links,
    },
    Scenario { what: "publish", points: &["publish.filter", "publish.commit"], prepare: on_network, step: publish },
    Scenario {
        what: "unpublish",
        points: &["unpublish.commit", "unpublish.filter"],
        prepare: published,
        step: unpublish,
    },
];

fn attach(host: &Host) -> bool {
    host.rnet("attach br0 web 10.0.0.5/24@10.0.0.1").code == 0
}

fn connect(host: &Host) -> bool {
    host.rnet("network connect blue web").code == 0
}

fn attach_to_new_bridge(host: &Host) -> bool {
    host.rnet("attach br7 web 10.7.0.5/24").code == 0
}

fn detach(host: &Host) -> bool {
    let gone = host.rnet("detach web");
    // The answer to the first one may have been lost.
    gone.code == 0 || gone.code == 3
}

fn create_network(host: &Host) -> bool {
    host.rnet("network create blue --subnet 10.9.0.0/24 --bridge-name blue0").code == 0
}

fn connect_limited(host: &Host) -> bool {
    host.rnet("network connect slow web").code == 0
}

fn connect_first_choice(host: &Host) -> bool {
    let connected = host.rnet("network connect red web --gw-priority 5").code == 0;
    // Done or not, and whatever was written down of it: the way out is the one that was asked for.
    let way = host.ip("-n web route show default");
    let first = way.lines().min_by_key(|l| l.rsplit("metric ").next().and_then(|m| m.trim().parse().ok()).unwrap_or(0));
    assert!(!connected || first.is_some_and(|l| l.contains("10.6.0.1")), "{way}");
    connected
}

fn edit_network(host: &Host) -> bool {
    host.rnet("network edit blue --rate 50mbit --mtu 1400 --isolate off").code == 0
}

fn remove_network(host: &Host) -> bool {
    let gone = host.rnet("network rm blue");
    gone.code == 0 || gone.code == 3
}

fn connect_plugins(host: &Host) -> bool {
    host.rnet("network connect mesh web").code == 0
}

fn disconnect_plugins(host: &Host) -> bool {
    let gone = host.rnet("network disconnect mesh web");
    gone.code == 0 || gone.code == 3
}

fn create_bridge(host: &Host) -> bool {
    let request = BridgeRequest {
        name: "br8".parse().unwrap(),
        uplink: Some("eth0".parse().unwrap()),
        vlan_filtering: false,
        addresses: Vec::new(),
        mtu: None,
    };
    host.client().create_bridge(&request).is_ok()
}

fn remove_bridge(host: &Host) -> bool {
    let gone = host.rnet("bridge rm br8");
    gone.code == 0 || gone.code == 3
}

fn on_network(host: &Host) {
    with_network(host);
    host.rnet("network connect blue web --ip 10.9.0.5").ok();
}

fn publish(host: &Host) -> bool {
    host.rnet("publish web 8080:80 127.0.0.1:9090:90 53:53/udp").code == 0
}

fn published(host: &Host) {
    on_network(host);
    assert!(publish(host));
}

fn unpublish(host: &Host) -> bool {
    host.rnet("unpublish web --all").code == 0
}

fn make_box(host: &Host, id: &str) -> bool {
    let request =
        SandboxRequest { container_id: id.parse().unwrap(), container_name: id.parse().unwrap(), networks: Vec::new() };
    host.client().create_sandbox(&request).is_ok()
}

fn create_sandbox(host: &Host) -> bool {
    make_box(host, "0123456789")
}

fn create_links(host: &Host) -> bool {
    let end = |id: &str, address: &str| LinkEnd {
        container_id: id.parse().unwrap(),
        ifname: "eth1".parse().unwrap(),
        mac: None,
        addresses: vec![address.parse().unwrap()],
    };
    let request = LinkRequest { ends: [end("box1", "10.1.0.1/30"), end("box2", "10.1.0.2/30")], mtu: None };
    match host.client().create_links(&[request]) {
        Ok(_) => true,
        // It had been made: the first answer was lost.
        Err(error) => error.kind == rnet_model::Kind::Conflict,
    }
}

/// A host with two containers that talk to each other, and a third one for the test.
struct Bed {
    host: Host,
    web: Container,
    flow: Flow,
}

fn bed(world: &World) -> Bed {
    let host = world.host("h1");
    // A bridge for plugins: they leave theirs behind.
    host.ip("link add mesh0 address 02:00:00:00:00:0a type bridge");
    host.ip("link set mesh0 addrgenmode none up");
    world.plug(&host, "eth0", &["192.168.115.2/24", "fd00::2/64"]);
    host.ip("route add default via 192.168.115.1");
    host.forwarding_may_stay();
    host.start();
    let (one, _two, web) = (host.container("one"), host.container("two"), host.container("web"));
    host.rnet("attach br0 one 10.0.0.11/24").ok();
    host.rnet("attach br0 two 10.0.0.12/24").ok();
    let flow = one.flow("10.0.0.12");
    Bed { host, web, flow }
}

/// Dies at `point`, starts again, finds it done or not done but not half done, and succeeds when it is repeated.
fn dies_at(world: &World, point: &str, scenario: &Scenario) {
    let what = scenario.what;
    let Bed { host, web, flow } = bed(world);
    (scenario.prepare)(&host);
    let before = host.snapshot();
    // A namespace's lo that has come up may stay up.
    let address =
        || web.ip("-o address").lines().filter(|l| !l.starts_with("1: lo")).map(str::to_owned).collect::<Vec<_>>();
    let inside = address();
    host.stop();
    host.start_with(&Start { fail_point: Some(point.to_owned()), ..Start::default() });
    assert!(!(scenario.step)(&host), "{what} succeeded though netd was to die at {point}");
    assert_eq!(host.ended_by(), Some(9), "netd did not die at {point} of {what}");
    host.start();
    let now = host.snapshot();
    let undone = before.differences(&now).is_empty() && address() == inside;
    assert!((scenario.step)(&host), "{what} cannot be repeated after a crash at {point}:\n{}", host.log());
    if !undone {
        now.same(&host.snapshot(), &format!("{what} was neither done nor undone after a crash at {point}"));
    }
    let (sent, lost) = flow.stop();
    assert!(sent > 0 && lost == 0, "{lost} of {sent} packets were lost between others at {point}");
}

fn nothing(_: &Host) {}

fn attached(host: &Host) {
    host.rnet("attach br0 web 10.0.0.5/24@10.0.0.1").ok();
}

fn with_network(host: &Host) {
    assert!(create_network(host));
}

fn with_limits(host: &Host) {
    host.rnet("network create slow --subnet 10.5.0.0/24 --rate 50mbit").ok();
}

fn on_two_networks(host: &Host) {
    for (name, net) in [("blue", 4), ("green", 5), ("red", 6)] {
        host.rnet(&format!("network create {name} --subnet 10.{net}.0.0/24")).ok();
    }
    host.rnet("network connect blue web").ok();
    host.rnet("network connect green web").ok();
}

fn with_plugins(host: &Host) {
    let data = host.root.join("leases");
    let list = json!({"cniVersion": "1.1.0", "name": "mesh", "plugins": [{"type": "bridge", "bridge": "mesh0",
        "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.8.0.0/24"}]]}}]});
    let file = host.root.join("mesh.conflist");
    std::fs::write(&file, list.to_string()).unwrap();
    host.rnet(&format!("network create mesh --conflist {}", file.display())).ok();
    host.rnet("network connect mesh two").ok();
}

fn on_plugins(host: &Host) {
    with_plugins(host);
    assert!(connect_plugins(host));
}

fn with_bridge(host: &Host) {
    assert!(create_bridge(host));
}

fn with_boxes(host: &Host) {
    assert!(make_box(host, "box1") && make_box(host, "box2"));
}

fn killed_while(what: &str) {
    let scenario = SCENARIOS.iter().find(|s| s.what == what).unwrap();
    for point in scenario.points {
        for suffix in ["", ".done"] {
            run(|world| dies_at(world, &format!("{point}{suffix}"), scenario));
        }
    }
}

#[test]
fn killed_while_attaching() {
    killed_while("attach");
    killed_while("attach to a new bridge");
    killed_while("connect to a network");
}

#[test]
fn killed_while_detaching() {
    killed_while("detach");
}

#[test]
fn killed_while_creating_a_network() {
    killed_while("network create");
}

#[test]
fn killed_while_editing_a_network() {
    killed_while("network edit");
}

#[test]
fn killed_while_limiting() {
    killed_while("connect to a network with limits");
}

#[test]
fn killed_while_choosing_the_way_out() {
    killed_while("connect with a higher priority");
}

#[test]
fn killed_while_removing_a_network() {
    killed_while("network rm");
}

#[test]
fn killed_while_plugins_run() {
    killed_while("connect to a network of plugins");
    killed_while("disconnect from a network of plugins");
}

#[test]
fn killed_while_creating_a_bridge() {
    killed_while("bridge create");
}

#[test]
fn killed_while_removing_a_bridge() {
    killed_while("bridge rm");
}

#[test]
fn killed_while_making_sandboxes() {
    killed_while("sandbox create");
    killed_while("links between sandboxes");
}

#[test]
fn killed_while_publishing() {
    killed_while("publish");
    killed_while("unpublish");
}

#[test]
fn every_fail_point_is_passed_by_one_of_these() {
    run(|world| {
        let host = world.host("h1");
        let listed = host.netd_says(&["--list-fail-points"]).ok().out;
        let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
        let passed = SCENARIOS.iter().flat_map(|s| s.points);
        let passed: BTreeSet<String> = passed.flat_map(|p| [(*p).to_owned(), format!("{p}.done")]).collect();
        assert_eq!(listed, passed);
    });
}

fn endpoints(host: &Host) -> Vec<Value> {
    host.rnet_json("attachments ls").as_array().unwrap().clone()
}

#[test]
fn a_bridge_made_by_an_attach_outlives_a_crash_right_after_it() {
    run(|world| {
        for (n, point) in ["attach.commit", "attach.commit.done"].into_iter().enumerate() {
            let host = world.host(&format!("h{n}"));
            let (one, _two) = (host.container(&format!("one{n}")), host.container(&format!("two{n}")));
            host.start_with(&Start { fail_point: Some(point.to_owned()), ..Start::default() });
            assert_ne!(host.rnet(&format!("attach br7 one{n} 10.7.0.5/24")).code, 0);
            assert_eq!(host.ended_by(), Some(9));
            host.start();
            host.rnet(&format!("attach br7 one{n} 10.7.0.5/24")).ok();
            host.rnet(&format!("attach br7 two{n} 10.7.0.6/24")).ok();
            one.ping("10.7.0.6");
            assert_eq!(host.rnet_json("bridge ls")[0]["ours"], true, "{point}");
        }
    });
}

#[test]
fn what_was_made_and_not_yet_marked_is_removed() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        let web = host.container("web");
        // Making a device and marking it are two messages; what the first one leaves is made here by hand.
        let dies = |point: &str, step: &dyn Fn() -> bool| {
            host.start_with(&Start { fail_point: Some(point.to_owned()), ..Start::default() });
            assert!(!step());
            assert_eq!(host.ended_by(), Some(9));
        };
        host.start();
        host.rnet("bridge create br0").ok();
        host.stop();
        dies("attach.log.done", &|| attach(&host));
        let log = std::fs::read_to_string(host.root.join("run/endpoints.log")).unwrap();
        let name = log.rsplit("\"host_ifname\":\"").next().unwrap().split('"').next().unwrap().to_owned();
        let file = web.path.display();
        host.ip(&format!("link add {name} up master br0 type veth peer name eth0 netns {file}"));
        host.start();
        assert!(!host.has_link(&name));
        assert!(attach(&host));
        host.stop();
        dies("network.log.done", &|| create_network(&host));
        host.ip("link add blue0 type bridge");
        host.start();
        assert!(!host.has_link("blue0"));
        assert!(create_network(&host));
        host.stop();
        dies("bridge.log.done", &|| host.rnet("bridge create br5").code == 0);
        host.ip("link add br5 type bridge");
        host.start();
        assert!(!host.has_link("br5"));
        host.rnet("bridge create br5").ok();
    });
}

#[test]
fn a_crash_in_a_replacement_leaves_one_of_the_two() {
    run(|world| {
        for (n, point) in
            ["detach.commit.done", "attach.veth", "attach.commit", "attach.commit.done"].into_iter().enumerate()
        {
            let host = world.host(&format!("h{n}"));
            let web = host.container(&format!("web{n}"));
            host.start();
            host.rnet(&format!("attach br0 web{n} 10.0.0.5/24 -i lan")).ok();
            host.stop();
            host.start_with(&Start { fail_point: Some(point.to_owned()), ..Start::default() });
            assert_ne!(host.rnet(&format!("attach br0 web{n} 10.0.0.6/24 --replace")).code, 0);
            assert_eq!(host.ended_by(), Some(9));
            for _ in 0..2 {
                host.start();
                wait_for("the attachment to be there", SOON, || {
                    endpoints(&host).iter().all(|e| e["status"]["state"] == "ready")
                });
                let there = endpoints(&host);
                assert_eq!(there.len(), 1, "{point}: {there:?}");
                assert_eq!(web.ip("-4 -o address show scope global").lines().count(), 1, "{point}");
                host.stop();
            }
            host.start();
            host.rnet(&format!("attach br0 web{n} 10.0.0.6/24 --replace")).ok();
            assert_eq!(endpoints(&host)[0]["addresses"][0], "10.0.0.6/24", "{point}");
            assert_eq!(endpoints(&host).len(), 1, "{point}");
        }
    });
}

#[test]
fn a_restart_touches_nothing_that_is_right() {
    run(|world| {
        let Bed { host, web, flow } = bed(world);
        attached(&host);
        with_network(&host);
        host.rnet("network connect blue web").ok();
        let (before, inside, known) = (host.snapshot(), web.ip("-d address"), endpoints(&host));
        for crash in [true, false] {
            if crash {
                host.crash()
            } else {
                host.stop()
            }
            before.same(&host.snapshot(), "while netd is down");
            host.start();
            before.same(&host.snapshot(), "after a restart of netd");
            assert_eq!(inside, web.ip("-d address"));
            assert_eq!(known, endpoints(&host));
        }
        let (sent, lost) = flow.stop();
        assert!(sent > 0 && lost == 0, "{lost} of {sent} packets were lost in a restart of netd");
    });
}

#[test]
fn addresses_stay_with_their_owners_over_a_restart() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/28").ok();
        for n in 0..5 {
            host.container(&format!("c{n}"));
            host.rnet(&format!("network connect blue c{n}")).ok();
        }
        host.crash();
        host.start();
        let mut seen = BTreeSet::new();
        for n in 5..13 {
            host.container(&format!("c{n}"));
            host.rnet(&format!("network connect blue c{n}")).ok();
        }
        for endpoint in endpoints(&host) {
            assert!(seen.insert(endpoint["addresses"][0].to_string()), "{} twice", endpoint["addresses"]);
        }
        assert_eq!(seen.len(), 13);
    });
}

#[test]
fn an_attachment_comes_back_after_a_reboot() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24@10.0.0.1 -i lan").ok();
        host.container("short");
        host.rnet("attach br0 short 10.0.0.6/24 --no-persist").ok();
        let was = endpoints(&host)[0].clone();
        host.stop();
        // What a reboot does: links and run files go, the store stays.
        host.ip("link del br0");
        let port = was["host_ifname"].as_str().unwrap();
        host.ip(&format!("link del {port}"));
        let other = host.run("ip -o link show type veth").out;
        for line in other.lines() {
            let name = line.split(": ").nth(1).and_then(|n| n.split('@').next()).unwrap();
            host.ip(&format!("link del {name}"));
        }
        std::fs::remove_dir_all(host.root.join("run")).unwrap();
        host.start();
        assert!(host.has_link("br0"));
        let now = endpoints(&host);
        assert_eq!(now.len(), 1, "one was not to come back");
        assert_eq!(now[0]["id"], was["id"]);
        wait_for("the attachment to be back", SOON, || endpoints(&host)[0]["status"]["state"] == "ready");
        let back = endpoints(&host)[0].clone();
        for key in ["addresses", "mac", "ifname", "gateways"] {
            assert_eq!(back[key], was[key], "{key}");
        }
        assert_eq!(back["status"]["state"], "ready");
        assert!(web.ip("-o address show lan").contains("10.0.0.5/24"));
    });
}

#[test]
fn a_recreated_container_gets_its_interface_back() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        let was = endpoints(&host)[0].clone();
        host.end_container(web);
        wait_for("the attachment to wait", SOON, || endpoints(&host)[0]["status"]["state"] == "pending");
        let web = host.container("web");
        wait_for("the attachment to be back", SOON, || endpoints(&host)[0]["status"]["state"] == "ready");
        let now = endpoints(&host)[0].clone();
        for key in ["id", "addresses", "mac", "ifname"] {
            assert_eq!(now[key], was[key], "{key}");
        }
        assert!(web.ip("-o address").contains("10.0.0.5/24"));
        assert_eq!(host.rnet_json("attach br0 web 10.0.0.5/24")["outcome"], "unchanged");
    });
}

#[test]
fn what_somebody_takes_away_is_made_again() {
    run(|world| {
        let Bed { host, web, flow } = bed(world);
        attached(&host);
        with_network(&host);
        let db = host.container("db");
        host.rnet("network connect blue db").ok();
        host.ip("link add mine type bridge");
        host.ip("address add 10.200.0.1/24 dev mine");
        let bridge = |name: &str| host.ip(&format!("-o link show {name}")).contains(",UP");
        let address = db.ip("-4 -o address show eth0");

        let port = endpoints(&host).iter().find(|e| e["container"] == "web").unwrap()["host_ifname"].clone();
        host.ip(&format!("link del {}", port.as_str().unwrap()));
        wait_for("an interface to be made again", SOON, || {
            web.run("ip -o address show eth0").out.contains("10.0.0.5/24")
        });
        wait_for("its gateway", SOON, || web.ip("route").contains("default via 10.0.0.1"));
        wait_for("its neighbours", SOON, || web.reaches("10.0.0.11"));
        let (sent, lost) = flow.stop();
        assert!(sent > 0 && lost == 0, "{lost} of {sent} packets were lost between others");

        host.ip("link del blue0");
        wait_for("a network's bridge to be made again", SOON, || host.has_link("blue0") && bridge("blue0"));
        wait_for("its ports", SOON, || db.reaches("10.9.0.1"));
        assert_eq!(db.ip("-4 -o address show eth0"), address);

        host.ip("link del br0");
        wait_for("a bridge to be made again", SOON, || host.has_link("br0") && bridge("br0"));
        wait_for("its ports", SOON, || web.reaches("10.0.0.11"));

        host.ip("address del 10.9.0.1/24 dev blue0");
        wait_for("a gateway to be back", SOON, || host.ip("-o address show blue0").contains("10.9.0.1/24"));

        host.ip(&format!("link set {} nomaster", endpoints(&host)[0]["host_ifname"].as_str().unwrap()));
        wait_for("a port to be back", SOON, || !host.ip("-o link show master br0").is_empty() && all_ports(&host));
        let port = endpoints(&host)[0]["host_ifname"].as_str().unwrap().to_owned();
        host.ip(&format!("link set {port} master mine"));
        wait_for("a port to be back from another bridge", SOON, || all_ports(&host));
        host.ip(&format!("link set {port} down"));
        wait_for("a port to be up again", SOON, || host.ip(&format!("-o link show {port}")).contains(",UP"));
        let connected = || host.ip("route show dev blue0").contains("10.9.0.0/24 proto kernel scope link src 10.9.0.1");
        assert!(connected(), "{}", host.ip("route"));
        host.ip("route flush dev blue0");
        wait_for("a flushed route to be back", SOON, connected);
        host.ip("link set blue0 down");
        wait_for("a network's bridge to be up again", SOON, || bridge("blue0") && connected());
        assert!(host.has_link("mine"), "what is not ours stays");
        assert!(host.ip("-o address show mine").contains("10.200.0.1/24"));
        host.ip("link del mine");
    });
}

#[test]
fn what_was_taken_away_while_netd_did_not_listen_is_made_again() {
    run(|world| {
        let Bed { host, web, flow } = bed(world);
        attached(&host);
        with_network(&host);
        with_bridge(&host);
        let signal =
            |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(host.netd_pid().cast_signed()), signal).unwrap();
        signal(nix::sys::signal::Signal::SIGSTOP);
        // More than the kernel keeps for a listener.
        host.ip("link add mine up type bridge");
        let changes = world.dir().join("changes");
        let text: String = (0..20_000).map(|n| format!("link set mine alias {}-{n}\n", "x".repeat(200))).collect();
        std::fs::write(&changes, text).unwrap();
        host.ip(&format!("-b {}", changes.display()));
        host.ip("link del br0");
        host.ip("link del blue0");
        host.ip("link set eth0 nomaster");
        host.ip("link del mine");
        signal(nix::sys::signal::Signal::SIGCONT);
        wait_for("bridges to be made again", SOON, || host.has_link("br0") && host.has_link("blue0"));
        wait_for("the uplink to be a port again", SOON, || host.ip("-o link show eth0").contains("master br8"));
        web.ping("10.0.0.11");
        flow.stop();
    });
}

fn all_ports(host: &Host) -> bool {
    let ports = host.ip("-o link show master br0");
    let on_br0 = |e: &&Value| e["bridge"] == "br0";
    endpoints(host).iter().filter(on_br0).all(|e| ports.contains(e["host_ifname"].as_str().unwrap()))
}

#[test]
fn a_flushed_ruleset_is_put_back() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let before = host.snapshot();
        host.run("nft flush ruleset").ok();
        host.wait_until_like(&before, "after a flushed ruleset");
        host.run("nft add table inet foreign").ok();
        let before = host.snapshot();
        let table = host.run("nft list tables").out;
        let ours: Vec<&str> = table.lines().filter(|l| l.contains("rnet")).collect();
        assert_eq!(ours.len(), 2, "{ours:?}");
        for table in ours {
            let table = table.trim_start_matches("table ");
            // A kernel that knows owners of tables (6.9) leaves ours alone, and refuses; on others it is made again.
            if host.run(&format!("nft delete table {table}")).code != 0 {
                before.same(&host.snapshot(), "after a table was not deleted");
            }
            host.wait_until_like(&before, "after a deleted table");
        }
        host.run("nft delete table inet foreign").ok();
    });
}

#[test]
fn what_was_taken_away_while_netd_was_down_is_made_again() {
    run(|world| {
        let Bed { host, web, flow } = bed(world);
        attached(&host);
        with_network(&host);
        let client = host.client();
        let request = NetworkConnect {
            container: "web".parse().unwrap(),
            identity: None,
            options: rnet_model::EndpointOptions::default(),
        };
        client.connect_network("blue", &request).unwrap();
        host.crash();
        host.ip("link del blue0");
        host.run("nft flush ruleset").ok();
        let port = |e: &Value| e["host_ifname"].as_str().unwrap().to_owned();
        web.ip("link del eth0");
        host.start();
        let known = endpoints(&host);
        assert!(known.iter().all(|e| e["status"]["state"] == "ready"), "{known:?}");
        assert!(known.iter().all(|e| host.has_link(&port(e))));
        web.ping("10.0.0.11");
        web.ping("10.9.0.1");
        assert!(host.run("nft list ruleset").out.contains("10.9.0.0/24"));
        let (sent, lost) = flow.stop();
        assert!(sent > 0 && lost == 0, "{lost} of {sent} packets were lost between others");
    });
}
