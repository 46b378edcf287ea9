//! `rnet network`: what networks reach, what they keep out, and what is left of them.

use rnet_netns_harness::{Host, Peer, SOON, World, run, wait_for};
use serde_json::json;

/// A host with an uplink, and a station in the same LAN that has no route to any container.
fn with_uplink(world: &World) -> (Host, Peer) {
    let host = world.host("h1");
    world.plug(&host, "eth0", &["198.51.100.2/24", "2001:db8::2/64"]);
    host.ip("route add default via 198.51.100.1");
    host.ip("-6 route add default via 2001:db8::1");
    host.forwarding_may_stay();
    (host, world.peer("outside", &["198.51.100.1/24", "2001:db8::1/64"]))
}

#[test]
fn containers_reach_each_other_the_gateway_and_the_outside() {
    run(|world| {
        let (host, outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --ipv6").ok();
        let (web, db) = (host.container("web"), host.container("db"));
        let reply = host.rnet_json("network connect blue web");
        host.rnet("network connect blue db --ip 10.9.0.77 --ifname lan --mac 02:00:00:00:00:09").ok();
        let v6 = reply["endpoint"]["addresses"][1].as_str().unwrap().split('/').next().unwrap().to_owned();
        web.ping("10.9.0.1");
        web.ping("10.9.0.77");
        db.ping(&v6);
        // The outside knows no way back: only masquerade brings the answer.
        web.ping("198.51.100.1");
        web.ping("2001:db8::1");
        assert!(db.ip("link show lan").contains("02:00:00:00:00:09"));
        outside.run("ip route add 10.9.0.0/24 via 198.51.100.2").ok();
        assert!(!outside.reaches("10.9.0.77"), "a container is not open to the LAN, even with a route to it");
    });
}

#[test]
fn without_masquerade_the_address_is_kept() {
    run(|world| {
        let (host, outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --no-masq").ok();
        let web = host.container("web");
        host.rnet("network connect blue web").ok();
        assert!(!web.reaches("198.51.100.1"));
        outside.run("ip route add 10.9.0.0/24 via 198.51.100.2").ok();
        web.ping("198.51.100.1");
    });
}

#[test]
fn networks_are_apart_unless_both_say_otherwise() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        for (name, net, more) in
            [("blue", 1, ""), ("green", 2, ""), ("open", 3, "--isolate off"), ("free", 4, "--isolate off")]
        {
            host.rnet(&format!("network create {name} --subnet 10.9.{net}.0/24 {more}")).ok();
        }
        let c = ["blue", "green", "open", "free"].map(|name| {
            let container = host.container(&format!("c-{name}"));
            host.rnet(&format!("network connect {name} c-{name} --ip {}", address(name))).ok();
            container
        });
        let [blue, green, open, free] = &c;
        assert!(!blue.reaches(address("green")) && !green.reaches(address("blue")));
        assert!(!blue.reaches(address("open")) && !open.reaches(address("blue")));
        open.ping(address("free"));
        free.ping(address("open"));
        // A container in both reaches both.
        host.rnet("network connect green c-blue").ok();
        blue.ping(address("green"));
    });
}

fn address(network: &str) -> &'static str {
    match network {
        "blue" => "10.9.1.10",
        "green" => "10.9.2.10",
        "open" => "10.9.3.10",
        _ => "10.9.4.10",
    }
}

#[test]
fn an_internal_network_reaches_nothing_outside() {
    run(|world| {
        let (host, outside) = with_uplink(world);
        host.start();
        host.rnet("network create backend --internal --subnet 10.9.0.0/24").ok();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("network connect backend web").ok();
        host.rnet("network connect backend db --ip 10.9.0.9").ok();
        web.ping("10.9.0.9");
        assert_eq!(web.ip("route show default"), "");
        // Not even with a route of the container's own.
        web.ip("route add default dev eth0");
        assert!(!web.reaches("198.51.100.1"));
        outside.run("ip route add 10.9.0.0/24 via 198.51.100.2").ok();
        assert!(!outside.reaches("10.9.0.9"));
        host.rnet("network create odd --internal --subnet 10.8.0.0/24 --gateway 10.8.0.1")
            .fails(2, &["odd", "internal"]);
    });
}

#[test]
fn a_default_subnet_avoids_what_the_host_uses() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["172.17.3.2/24"]);
        host.ip("route add 172.18.128.0/17 via 172.17.3.1");
        host.forwarding_may_stay();
        host.start();
        let subnet = |name: &str| host.rnet_json(&format!("network create {name}"))["spec"]["subnets"].clone();
        assert_eq!(subnet("blue"), json!(["172.19.0.0/16"]));
        assert_eq!(subnet("green"), json!(["172.20.0.0/16"]));
        let before = host.snapshot();
        for (words, said) in [
            ("172.17.0.0/16", ["172.17.3.0/24", "address of the host"]),
            ("172.18.0.0/16", ["172.18.128.0/17", "route of the host via eth0"]),
            ("172.19.5.0/24", ["172.19.0.0/16", "network blue"]),
        ] {
            host.rnet(&format!("network create odd --subnet {words}")).fails(4, &said);
        }
        before.same(&host.snapshot(), "after refused networks");
    });
}

#[test]
fn listed_shown_and_the_same_again() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.ip("link set eth0 mtu 1400");
        host.start();
        let words = "network create blue --subnet 10.9.0.0/24 --label team=net --exclude 10.9.0.2-10.9.0.9";
        let made = host.rnet_json(words);
        let before = host.snapshot();
        assert_eq!(host.rnet_json(words)["id"], made["id"]);
        before.same(&host.snapshot(), "after the same network again");
        host.rnet("network create blue --subnet 10.8.0.0/24").fails(4, &["blue", "other options"]);
        assert_eq!(made["spec"]["mtu"], 1400, "the host's default routes' smallest");
        host.container("web");
        let reply = host.rnet_json("network connect blue web");
        assert_eq!(reply["endpoint"]["addresses"], json!(["10.9.0.10/24"]), "past the excluded ones");
        assert_eq!(host.rnet_json("network connect blue web")["outcome"], "unchanged");
        let shown = host.rnet("network inspect blue").json();
        assert_eq!(shown[0]["endpoints"][0]["container"], "web");
        assert_eq!(shown[0]["spec"]["labels"]["team"], "net");
        let prefix = &made["id"].as_str().unwrap()[..20];
        assert_eq!(host.rnet(&format!("network inspect {prefix}")).json()[0]["id"], made["id"]);
        assert!(host.rnet("network ls").ok().out.contains("10.9.0.0/24"));
        let held = host.rnet_json("network allocations blue");
        let owners: Vec<_> = held.as_array().unwrap().iter().map(|a| a["owner"].clone()).collect();
        assert_eq!(owners, ["gateway", "netns:web"]);
        host.rnet("network disconnect blue web").ok();
        host.rnet("network disconnect blue web").fails(3, &["web", "blue"]);
        assert_eq!(host.rnet_json("network allocations blue")[1]["state"], "resting");
    });
}

#[test]
fn a_network_in_use_is_not_removed() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue").ok();
        let web = host.container("web");
        host.rnet("network connect blue web").ok();
        let before = host.snapshot();
        host.rnet("network rm blue").fails(4, &["blue", "netns:web", "-f"]);
        before.same(&host.snapshot(), "after a refused removal");
        host.rnet("network rm -f blue").ok();
        wait_for("the interface to be gone", SOON, || !web.ip("-o link").contains("eth0"));
        host.rnet("network rm blue").fails(3, &["blue"]);
        host.before().but_forwarding().same(&host.snapshot().but_forwarding(), "after the last network");
    });
}

#[test]
fn connecting_to_what_is_not_right() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/29 --bridge-name blue0").ok();
        let (_web, _db) = (host.container("web"), host.container("db"));
        host.rnet("network connect blue db --ip 10.9.0.3").ok();
        let before = host.snapshot();
        for (words, code, said) in [
            ("connect red web", 3, ["red", "rnet network ls"]),
            ("connect blue ghost", 3, ["ghost", "hint: "]),
            ("connect blue web --ip 10.8.0.3", 2, ["10.8.0.3", "10.9.0.0/29"]),
            ("connect blue web --ip 10.9.0.3", 4, ["10.9.0.3", "db"]),
            ("connect blue web --ip 10.9.0.1", 2, ["10.9.0.1", "gateway"]),
            ("connect blue db --ip 10.9.0.4", 4, ["blue", "db"]),
            ("create green --bridge-name blue0", 4, ["blue0", "already"]),
            ("create green --bridge-name eth0", 4, ["eth0", "already"]),
            ("create bad/name", 2, ["bad/name", "error: "]),
            ("create green --subnet 10.7.0.1/24", 2, ["10.7.0.1/24", "error: "]),
            ("create green --subnet 10.7.0.0/24 --gateway 10.6.0.1", 2, ["10.6.0.1", "error: "]),
        ] {
            host.rnet(&format!("network {words}")).fails(code, &said);
        }
        before.same(&host.snapshot(), "after refused requests");
        // Six addresses, one the gateway's, one db's.
        for n in 0..4 {
            host.container(&format!("c{n}"));
            host.rnet(&format!("network connect blue c{n}")).ok();
        }
        host.rnet("network connect blue web").fails(4, &["blue", "10.9.0.0/29"]);
    });
}

#[test]
fn a_static_attach_to_a_networks_bridge_holds_its_address() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/29 --bridge-name blue0").ok();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("attach blue0 web 10.9.0.2/29@gw").ok();
        web.ping("10.9.0.1");
        host.rnet("network connect blue db --ip 10.9.0.2").fails(4, &["10.9.0.2", "web"]);
        let given = host.rnet_json("network connect blue db")["endpoint"]["addresses"].clone();
        assert_eq!(given, json!(["10.9.0.3/29"]), "the next free one");
        host.container("late");
        host.rnet("attach blue0 late 10.9.0.3/29").fails(4, &["10.9.0.3", "db"]);
        host.rnet("attach blue0 late 10.9.0.1/29").fails(4, &["10.9.0.1"]);
        host.crash();
        host.start();
        host.rnet("network connect blue late --ip 10.9.0.2").fails(4, &["10.9.0.2", "web"]);
        host.rnet("network rm blue").fails(4, &["netns:web", "netns:db"]);
    });
}

#[test]
fn a_freed_address_rests() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let (_web, _db) = (host.container("web"), host.container("db"));
        let first = host.rnet_json("network connect blue web")["endpoint"]["addresses"].clone();
        host.rnet("network disconnect blue web").ok();
        assert_ne!(host.rnet_json("network connect blue db")["endpoint"]["addresses"], first);
        assert_eq!(host.rnet_json("network connect blue web")["endpoint"]["addresses"], first, "its own comes back");
    });
}

#[test]
fn a_replacement_on_another_bridge_gives_the_address_back() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/29").ok();
        host.container("web");
        host.rnet("network connect blue web").ok();
        host.rnet("attach br9 web 10.9.0.2/29 -i eth0 --replace").ok();
        let held = host.rnet_json("network allocations");
        let of_blue = held.as_array().unwrap().iter().find(|a| a["network"] == "blue" && a["address"] == "10.9.0.2");
        assert_eq!(of_blue.unwrap()["state"], "resting", "{held}");
    });
}

#[test]
fn an_attach_that_fails_takes_no_address_away() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/30 --bridge-name blue0").ok();
        let web = host.container("web");
        web.ip("link add eth5 type veth peer name eth6");
        host.rnet("attach blue0 web auto -i eth5").fails(4, &["eth5"]);
        host.rnet("attach blue0 web 10.9.0.2/30 -i eth5").fails(4, &["eth5"]);
        host.container("db");
        host.rnet("attach blue0 db auto").ok();
        web.ip("link del eth5");
    });
}

#[test]
fn a_network_that_cannot_be_made_leaves_nothing() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1").ok();
        let before = host.snapshot();
        let failed = host.rnet("network create blue --ipv6");
        assert_ne!(failed.code, 0, "{}", failed.out);
        host.wait_until_like(&before, "after a network that could not be made");
        host.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=0").ok();
        assert_eq!(host.rnet_json("network ls"), json!([]));
    });
}
