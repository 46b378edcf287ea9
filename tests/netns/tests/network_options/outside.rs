//! How traffic leaves a network and how answers come back.

use rnet_kernel::Netns;
use rnet_netns_harness::{Host, Peer, SOON, World, run, run_in, run_or_skip, wait_for};

fn with_uplink(world: &World) -> (Host, Peer) {
    let host = world.host("h1");
    world.plug(&host, "eth0", &["198.51.100.2/24", "198.51.100.7/24", "2001:db8::2/64"]);
    host.ip("route add default via 198.51.100.1");
    host.ip("-6 route add default via 2001:db8::1");
    host.forwarding_may_stay();
    (host, world.peer("outside", &["198.51.100.1/24", "2001:db8::1/64"]))
}

#[test]
fn traffic_leaves_under_the_outbound_address() {
    run(|world| {
        let (host, outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --outbound-address 198.51.100.7").ok();
        let web = host.container("web");
        host.rnet("network connect blue web").ok();
        // Nobody else at the other end: only what comes from .7 is answered.
        outside.run("ip route add blackhole 198.51.100.2/32").ok();
        web.ping("198.51.100.1");
        host.rnet("network edit blue --no-outbound-address").ok();
        wait_for("the other address to be used", SOON, || !web.reaches("198.51.100.1"));
        host.rnet("network edit blue --outbound-address 198.51.100.7").ok();
        web.ping("198.51.100.1");
    });
}

#[test]
fn an_outbound_address_that_goes_away_is_a_problem() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --outbound-address 198.51.100.7").ok();
        let problems = || host.rnet_json("network inspect blue")[0].get("problems").cloned();
        assert_eq!(problems(), None);
        host.ip("address del 198.51.100.7/24 dev eth0");
        wait_for("the problem to be seen", SOON, || problems().is_some_and(|p| p.to_string().contains("198.51.100.7")));
        assert!(host.rnet("network ls").ok().err.contains("198.51.100.7"));
        host.ip("address add 198.51.100.7/24 broadcast + dev eth0");
        wait_for("the problem to go", SOON, || problems().is_none());
    });
}

#[test]
fn a_routed_network_keeps_addresses_and_answers_find_back() {
    run(|world| {
        let (host, outside) = with_uplink(world);
        host.start();
        let made = host
            .rnet_json("network create dmz --type routed --subnet 203.0.113.0/28 --subnet 2001:db8:1::/64 --label a=b");
        assert_eq!(made["spec"]["gateway_mode"], "routed");
        let bridge = made["spec"]["bridge"].as_str().unwrap();
        let web = host.container("web");
        host.rnet("network connect dmz web").ok();
        assert!(!web.reaches("198.51.100.1"), "nothing translates, and nobody knows the way back");
        outside.run("ip route add 203.0.113.0/28 via 198.51.100.2").ok();
        outside.run("ip -6 route add 2001:db8:1::/64 via 2001:db8::2").ok();
        for address in ["198.51.100.1", "2001:db8::1"] {
            web.ping(address);
            // The kernel has to ask for the container before it can pass an answer on.
            host.ip(&format!("neighbour flush dev {bridge}"));
            assert!(web.run(&format!("ping -c 1 -W 3 {address}")).code == 0, "{address} after a flush");
        }
        assert!(!outside.reaches("203.0.113.2"), "what is not published is closed");
    });
}

#[test]
fn the_bridge_of_an_ipv6_network_can_ask_for_neighbours() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        let made = host.rnet_json("network create blue --subnet 10.9.0.0/24 --ipv6");
        let bridge = made["spec"]["bridge"].as_str().unwrap();
        let own = || host.ip(&format!("-6 -o address show dev {bridge} scope link"));
        assert_eq!(own().lines().count(), 1);
        let mac = host.run(&format!("ip -j link show {bridge}")).json()[0]["address"].clone();
        // As a network of an earlier version is found.
        let address = own().split_whitespace().nth(3).unwrap().to_owned();
        host.stop();
        host.ip(&format!("address del {address} dev {bridge}"));
        host.start();
        assert_eq!(own().lines().count(), 1, "a start adds it");
        host.ip(&format!("link del {bridge}"));
        wait_for("the bridge to be back", SOON, || host.has_link(bridge) && own().lines().count() == 1);
        assert_eq!(host.run(&format!("ip -j link show {bridge}")).json()[0]["address"], mac, "containers know it");
        // Without IPv6, and inside, there is nothing to ask for.
        for words in ["four --subnet 10.8.0.0/24", "inside --subnet fd00:7::/64 --internal"] {
            let made = host.rnet_json(&format!("network create {words}"));
            let bridge = made["spec"]["bridge"].as_str().unwrap();
            assert_eq!(host.ip(&format!("-6 -o address show dev {bridge}")), "", "{words}");
        }
    });
}

#[test]
fn a_macvlan_network_is_the_lan_of_its_parent() {
    run(|world| {
        let (host, outside) = with_uplink(world);
        host.start();
        let words = "network create lan --type macvlan --parent eth0 --subnet 198.51.100.0/24 --gateway 198.51.100.1 \
                     --ip-range 198.51.100.100-198.51.100.110 --mtu 1400";
        let made = host.rnet_json(words);
        assert_eq!(host.rnet_json(words)["id"], made["id"]);
        let web = host.container("web");
        let connected = host.rnet_json("network connect lan web");
        assert_eq!(connected["endpoint"]["addresses"][0], "198.51.100.100/24");
        wait_for("the LAN to reach it", SOON, || outside.reaches("198.51.100.100"));
        assert!(web.ip("-4 route show default").starts_with("default via 198.51.100.1 dev eth0"));
        assert_eq!(web.ip_json("link show eth0")[0]["mtu"], 1400);
        assert!(host.rnet("network ls --filter type=macvlan").ok().out.contains("lan"));
        // Of a list everything but labels is the plugins'.
        host.rnet("network edit lan --label-add a=b").ok();
        host.rnet("network edit lan --mtu 1300").fails(2, &["lan", "conflist"]);
        host.rnet("network rm -f lan").ok();
    });
}

/// What this kernel's bridges lack.
fn lacks_vlan_filtering() -> Option<String> {
    let netns = Netns::create().unwrap();
    let mut ip = std::process::Command::new("ip");
    let said = run_in(&netns, ip.args("link add probe0 type bridge vlan_filtering 1".split(' ')));
    (said.code != 0).then(|| "bridges with VLAN filtering".to_owned())
}

#[test]
fn a_vlan_aware_bridge() {
    run_or_skip(lacks_vlan_filtering, |world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --vlan-aware --bridge-name blue0").ok();
        assert!(host.ip("-d link show blue0").contains("vlan_filtering 1"));
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("network connect blue web").ok();
        host.rnet("network connect blue db --ip 10.9.0.7").ok();
        web.ping("10.9.0.7");
    });
}

#[test]
fn a_vlan_aware_bridge_is_refused_where_the_kernel_has_none() {
    let has = || lacks_vlan_filtering().map_or_else(|| Some("bridges without VLAN filtering".to_owned()), |_| None);
    run_or_skip(has, |world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        let made = host.rnet("network create blue --subnet 10.9.0.0/24 --vlan-aware --bridge-name blue0");
        made.fails(6, &["VLAN", "CONFIG_BRIDGE_VLAN_FILTERING"]);
        assert!(!host.has_link("blue0"));
    });
}

#[test]
fn without_icc_containers_reach_the_outside_alone() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --ipv6 --icc off").ok();
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("network connect blue web --ip 10.9.0.6").ok();
        let made = host.rnet_json("network connect blue db --ip 10.9.0.7");
        let v6 = made["endpoint"]["addresses"][1].as_str().unwrap().split('/').next().unwrap().to_owned();
        for container in [&web, &db] {
            container.ping("10.9.0.1");
            container.ping("198.51.100.1");
        }
        assert!(!web.reaches("10.9.0.7") && !db.reaches("10.9.0.6") && !web.reaches(&v6));
        host.rnet("network edit blue --icc on").ok();
        web.ping("10.9.0.7");
        web.ping(&v6);
        host.rnet("network edit blue --icc off").ok();
        assert!(!web.reaches("10.9.0.7") && !web.reaches(&v6));
        web.ping("198.51.100.1");
    });
}
