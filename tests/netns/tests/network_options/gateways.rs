//! Which of its networks gives a container the way out.

use rnet_api::{ConnectRequest, OnNetwork, SandboxRequest};
use rnet_kernel::Netns;
use rnet_model::{ContainerName, EndpointOptions};
use rnet_netns_harness::{Container, Host, SOON, World, run, run_in, wait_for};

fn host(world: &World, networks: &[(&str, &str)]) -> Host {
    let host = world.host("h1");
    host.forwarding_may_stay();
    host.start();
    for (name, options) in networks {
        host.rnet(&format!("network create {name} {options}")).ok();
    }
    host
}

/// The device of the way out, of one family.
fn way(container: &Container, family: &str) -> String {
    let address = if family == "-4" { "198.51.100.1" } else { "2001:db8::1" };
    let said = container.run(&format!("ip {family} route get {address}"));
    said.out.split(" dev ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("none").to_owned()
}

const V4: [(&str, &str); 4] = [
    ("blue", "--subnet 10.1.0.0/24"),
    ("green", "--subnet 10.2.0.0/24"),
    ("red", "--subnet 10.3.0.0/24"),
    ("inside", "--subnet 10.4.0.0/24 --internal"),
];

#[test]
fn the_first_connected_gives_it_and_the_next_takes_over() {
    run(|world| {
        let host = host(world, &V4);
        let web = host.container("web");
        host.rnet("network connect inside web --ifname inside").ok();
        assert_eq!(way(&web, "-4"), "none");
        for name in ["green", "blue", "red"] {
            host.rnet(&format!("network connect {name} web --ifname {name}")).ok();
            assert_eq!(way(&web, "-4"), "green");
        }
        for (gone, then) in [("blue", "green"), ("green", "red"), ("red", "none")] {
            host.rnet(&format!("network disconnect {gone} web")).ok();
            match then {
                // The last one's goes with its device.
                "none" => wait_for("no way out to be left", SOON, || way(&web, "-4") == then),
                _ => assert_eq!(way(&web, "-4"), then, "after {gone} went"),
            }
        }
        // Whoever comes back comes last.
        host.rnet("network connect blue web --ifname blue").ok();
        host.rnet("network connect green web --ifname green").ok();
        assert_eq!(way(&web, "-4"), "blue");
    });
}

#[test]
fn a_higher_priority_takes_it_at_once() {
    run(|world| {
        let host = host(world, &V4);
        let web = host.container("web");
        host.rnet("network connect blue web --ifname blue").ok();
        host.rnet("network connect green web --ifname green --gw-priority 5").ok();
        assert_eq!(way(&web, "-4"), "green");
        host.rnet("network connect red web --ifname red --gw-priority 3").ok();
        assert_eq!(way(&web, "-4"), "green");
        // Three routes, one for each, and a restart of netd leaves them.
        let routes = web.ip("-4 route show default");
        assert_eq!(routes.lines().count(), 3, "{routes}");
        host.stop();
        host.start();
        assert_eq!(web.ip("-4 route show default"), routes);
        host.rnet("network disconnect green web").ok();
        assert_eq!(way(&web, "-4"), "red");
        host.rnet("network connect green web --ifname green --gw-priority -1").ok();
        assert_eq!(way(&web, "-4"), "red");
        host.rnet("network disconnect red web").ok();
        assert_eq!(way(&web, "-4"), "blue");
        host.rnet("network disconnect blue web").ok();
        assert_eq!(way(&web, "-4"), "green");
        let shown = host.rnet_json("network inspect green");
        assert_eq!(shown[0]["endpoints"][0]["gw_priority"], -1);
        // The same again is the same; another priority is another wish.
        host.rnet("network connect green web --gw-priority -1").ok();
        host.rnet("network connect green web --gw-priority 7").fails(4, &["connected", "green"]);
    });
}

#[test]
fn each_family_has_a_choice_of_its_own() {
    run(|world| {
        let host = host(
            world,
            &[
                ("blue", "--subnet 10.1.0.0/24"),
                ("green", "--subnet 10.2.0.0/24 --subnet fd00:2::/64"),
                ("red", "--subnet 10.3.0.0/24 --subnet fd00:3::/64"),
            ],
        );
        let web = host.container("web");
        for name in ["green", "red"] {
            host.rnet(&format!("network connect {name} web --ifname {name}")).ok();
        }
        host.rnet("network connect blue web --ifname blue --gw-priority 1").ok();
        assert_eq!((way(&web, "-4"), way(&web, "-6")), ("blue".into(), "green".into()));
        host.rnet("network disconnect green web").ok();
        assert_eq!((way(&web, "-4"), way(&web, "-6")), ("blue".into(), "red".into()));
        host.rnet("network connect green web --ifname green --gw-priority 9").ok();
        assert_eq!((way(&web, "-4"), way(&web, "-6")), ("green".into(), "green".into()));
        host.rnet("network disconnect blue web").ok();
        host.rnet("network disconnect green web").ok();
        assert_eq!((way(&web, "-4"), way(&web, "-6")), ("red".into(), "red".into()));
    });
}

#[test]
fn an_attachment_with_a_metric_decides_by_metrics() {
    run(|world| {
        let host = host(world, &V4);
        let web = host.container("web");
        host.rnet("attach br9 web 10.9.0.5/24@10.9.0.1 -i lan --metric 50").ok();
        host.rnet("network connect blue web --ifname blue --gw-priority 9").ok();
        assert_eq!(way(&web, "-4"), "lan");
        host.rnet("detach web lan").ok();
        assert_eq!(way(&web, "-4"), "blue");
    });
}

#[test]
fn a_container_that_starts_again_has_the_same_way_out() {
    run(|world| {
        let host = host(world, &V4);
        let on = |network: &str, gw_priority| {
            let options = EndpointOptions { gw_priority, ..EndpointOptions::default() };
            OnNetwork { network: network.parse().unwrap(), options }
        };
        let networks = vec![on("blue", 0), on("green", 4), on("red", 4)];
        let id: ContainerName = "box1".parse().unwrap();
        let start = || {
            let names = networks.iter().map(|n| n.network.clone()).collect();
            let request = SandboxRequest { container_id: id.clone(), container_name: id.clone(), networks: names };
            let sandbox = host.client().create_sandbox(&request).unwrap();
            let request = ConnectRequest { networks: networks.clone(), ..ConnectRequest::default() };
            host.client().connect_sandbox(&id, &request).unwrap();
            let netns = Netns::open(&sandbox.netns).unwrap();
            let mut ip = std::process::Command::new("ip");
            run_in(&netns, ip.args(["-4", "route", "get", "198.51.100.1"])).ok().out
        };
        let first = start();
        assert!(first.contains("via 10.2.0.1 "), "{first}");
        host.client().release_sandbox(&id, false).unwrap();
        assert_eq!(start(), first);
        host.client().release_sandbox(&id, true).unwrap();
    });
}
