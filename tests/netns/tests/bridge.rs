//! `rnet bridge`: bridges alone, and with one of the host's NICs in them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rnet_netns_harness::{Host, Peer, SOON, World, run, wait_for};

/// A host with a NIC in a LAN: both families, a default route each, static routes. And its router.
fn with_nic(world: &World) -> (Host, Peer) {
    let host = world.host("h1");
    world.plug(&host, "eth0", &["192.168.115.2/24", "10.77.0.2/16", "fd00::2/64"]);
    host.ip("address add 10.78.0.2/16 dev eth0");
    host.ip("route add default via 192.168.115.1");
    host.ip("route add 10.50.0.0/16 via 192.168.115.9 metric 50");
    host.ip("route add 10.51.0.0/16 via 192.168.115.9 src 10.77.0.2 proto static");
    host.ip("-6 route add default via fd00::1");
    host.ip("-6 route add fd50::/32 via fd00::9 metric 77");
    (host, world.peer("router", &["192.168.115.1/24", "fd00::1/64"]))
}

#[test]
fn an_uplink_gives_its_addresses_and_routes_to_the_bridge_and_gets_them_back() {
    run(|world| {
        let (host, router) = with_nic(world);
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        assert_eq!(host.ip("-o address show dev eth0 scope global"), "");
        for address in ["192.168.115.2/24 brd 192.168.115.255", "10.77.0.2/16", "fd00::2/64"] {
            assert!(host.ip("-o address show dev br0").contains(address), "{address}");
        }
        let routes = host.ip("route") + &host.ip("-6 route");
        for route in [
            "default via 192.168.115.1 dev br0",
            "10.50.0.0/16 via 192.168.115.9 dev br0 metric 50",
            "10.51.0.0/16 via 192.168.115.9 dev br0 proto static src 10.77.0.2",
            "default via fd00::1 dev br0",
            "fd50::/32 via fd00::9 dev br0 metric 77",
        ] {
            assert!(routes.contains(route), "no {route:?} in\n{routes}");
        }
        assert!(!routes.lines().any(|l| l.contains("dev eth0") && !l.starts_with("fe80")), "{routes}");
        assert!(router.reaches("192.168.115.2") && router.reaches("fd00::2"));
        let web = host.container("web");
        host.rnet("attach br0 web 192.168.115.10/24@gw").ok();
        web.ping("192.168.115.1");
        web.ping("192.168.115.2");
        host.rnet("bridge create br0 --uplink eth0").ok();
        host.rnet("bridge rm br0").fails(4, &["br0", "netns:web eth0", "rnet detach"]);
        host.rnet("detach web").ok();
        host.rnet("bridge rm br0").ok();
        host.before().same(&host.snapshot(), "after the bridge was removed");
        assert!(router.reaches("192.168.115.2") && router.reaches("fd00::2"));
    });
}

#[test]
fn an_open_connection_survives() {
    run(|world| {
        let (host, router) = with_nic(world);
        host.start();
        let listener = router.netns.run(|| TcpListener::bind("192.168.115.1:7000")).unwrap().unwrap();
        let mut ours = host.netns.run(|| TcpStream::connect("192.168.115.1:7000")).unwrap().unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.set_read_timeout(Some(rnet_netns_harness::SOON)).unwrap();
        let mut talk = || {
            theirs.write_all(b"ping").unwrap();
            let mut heard = [0; 4];
            ours.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"ping");
        };
        talk();
        host.rnet("bridge create br0 --uplink eth0").ok();
        talk();
        host.rnet("bridge rm br0").ok();
        talk();
    });
}

#[test]
fn a_gateway_with_a_route_of_its_own_and_other_tables_move_too() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["10.128.0.5/32", "fd00::5/128"]);
        let router = world.peer("router", &["10.128.0.1/24", "fd00::1/64"]);
        // As clouds do it: the gateway lies in no subnet of the host.
        host.ip("route add 10.128.0.1 dev eth0 proto dhcp metric 100");
        host.ip("route add default via 10.128.0.1 dev eth0 proto dhcp metric 100");
        host.ip("route add 10.60.0.0/16 via 10.99.0.1 dev eth0 onlink");
        host.ip("-6 route add fd00::1 dev eth0");
        host.ip("-6 route add default via fd00::1 dev eth0");
        for (table, number) in [("77", 77), ("7777", 7777)] {
            host.ip(&format!("route add 10.128.0.1 dev eth0 table {table}"));
            host.ip(&format!("route add default via 10.128.0.1 dev eth0 table {table}"));
            host.ip(&format!("-6 route add fd77::/64 via fd00::1 dev eth0 table {table}"));
            host.ip(&format!("rule add from 10.128.0.5 lookup {table} priority {number}"));
        }
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        let routes = host.ip("route show table all") + &host.ip("-6 route show table all");
        for route in [
            "10.128.0.1 dev br0 proto dhcp scope link metric 100",
            "default via 10.128.0.1 dev br0 proto dhcp metric 100",
            "10.60.0.0/16 via 10.99.0.1 dev br0 onlink",
            "default via 10.128.0.1 dev br0 table 77",
            "default via 10.128.0.1 dev br0 table 7777",
            "fd77::/64 via fd00::1 dev br0 table 7777",
        ] {
            assert!(routes.contains(route), "no {route:?} in\n{routes}");
        }
        wait_for("the LAN to be reached", SOON, || router.reaches("10.128.0.5"));
        host.rnet("bridge rm br0").ok();
        host.before().same(&host.snapshot(), "after the bridge was removed");
        wait_for("the LAN to be reached", SOON, || router.reaches("10.128.0.5"));
    });
}

#[test]
fn a_nic_that_is_down_comes_back_down() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &[]);
        host.ip("link set eth0 down");
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        host.rnet("bridge rm br0").ok();
        host.before().same(&host.snapshot(), "after the bridge was removed");
    });
}

#[test]
fn refused_bridges_change_nothing() {
    run(|world| {
        let (host, _router) = with_nic(world);
        host.ip("link add other type bridge");
        host.ip("link add port0 type veth peer name port1");
        host.ip("link set port0 master other");
        host.start();
        for (words, code, said) in [
            ("create br0 --uplink eth9", 3, ["eth9", "hint: "]),
            ("create br0 --uplink other", 2, ["other", "bridge"]),
            ("create br0 --uplink lo", 2, ["lo", "loopback"]),
            ("create br0 --uplink port0", 4, ["port0", "nomaster"]),
            ("create other", 4, ["other", "already"]),
            ("create eth0", 4, ["eth0", "already"]),
            ("create br0 --vlan-filtering", 6, ["br0", "VLAN"]),
            ("create a-name-of-16-byt", 2, ["a-name-of-16-byt", "15"]),
            ("create br0 --addr 10.0.0.0/24", 2, ["10.0.0.0/24", "network"]),
            ("rm other", 4, ["other", "not made by rnet"]),
            ("rm br9", 3, ["br9", "hint: "]),
        ] {
            host.rnet(&format!("bridge {words}")).fails(code, &said);
        }
        host.before().same(&host.snapshot(), "after refused bridges");
        assert_eq!(host.rnet_json("bridge ls"), serde_json::json!([]));
        host.rnet("bridge create br0 --uplink eth0").ok();
        let said = ["eth0 is the uplink of br0", "hint: rnet bridge rm br0 gives it back"];
        host.rnet("bridge create br1 --uplink eth0").fails(4, &said);
        host.rnet("bridge rm br0").ok();
    });
}

#[test]
fn a_bridge_that_cannot_be_finished_is_taken_back() {
    run(|world| {
        let (host, router) = with_nic(world);
        host.start();
        // The address is on another device already, which the kernel allows; the same one twice on the bridge is not
        // asked for, but an IPv6 address where IPv6 is off fails after everything else was done.
        host.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1").ok();
        let failed = host.rnet("bridge create br0 --uplink eth0 --addr fd99::1/64");
        assert_ne!(failed.code, 0, "{}", failed.out);
        host.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=0").ok();
        host.wait_until_like(&host.before(), "after a bridge that could not be made");
        assert!(router.reaches("192.168.115.2") && router.reaches("fd00::2"));
    });
}

#[test]
fn bridges_are_listed_and_the_same_again_is_fine() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.rnet("bridge create br1 --addr 10.1.0.1/24 --addr fd01::1/64 --mtu 1400").ok();
        let before = host.snapshot();
        host.rnet("bridge create br1 --addr 10.1.0.1/24 --addr fd01::1/64 --mtu 1400").ok();
        before.same(&host.snapshot(), "after the same again");
        host.rnet("bridge create br1").fails(4, &["br1", "other options"]);
        let listed = host.rnet_json("bridge ls");
        assert_eq!(listed[0]["addresses"], serde_json::json!(["10.1.0.1/24", "fd01::1/64"]));
        assert_eq!((&listed[0]["mtu"], &listed[0]["ours"]), (&1400.into(), &true.into()));
        // A port somebody else put in keeps the bridge.
        host.ip("link add port0 master br1 type veth peer name port1");
        host.rnet("bridge rm br1").fails(4, &["br1", "port0"]);
        host.ip("link del port0");
        host.rnet("bridge rm br1").ok();
    });
}

#[test]
fn containers_of_two_hosts_share_a_lan() {
    run(|world| {
        let (one, two) = (world.host("h1"), world.host("h2"));
        world.plug(&one, "eth0", &["192.168.115.2/24"]);
        world.plug(&two, "eth0", &["192.168.115.3/24"]);
        let (web, db) = (one.container("web"), two.container("db"));
        for (host, container, address) in [(&one, "web", "192.168.115.10/24"), (&two, "db", "192.168.115.11/24")] {
            host.start();
            host.rnet("bridge create br0 --uplink eth0").ok();
            host.rnet(&format!("attach br0 {container} {address}")).ok();
        }
        web.ping("192.168.115.11");
        web.ping("192.168.115.3");
        db.ping("192.168.115.2");
        // The other host's container is found by the probe.
        two.container("late");
        two.rnet("attach br0 late 192.168.115.10/24").fails(4, &["192.168.115.10", "in use"]);
    });
}

#[test]
fn an_uplink_bridge_comes_back_after_a_reboot() {
    run(|world| {
        let (host, router) = with_nic(world);
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        let with_bridge = host.snapshot();
        host.stop();
        // What a reboot does: the bridge is gone, the NIC has what the system's configuration gives it.
        host.ip("link del br0");
        for address in ["192.168.115.2/24 broadcast +", "10.77.0.2/16 broadcast +", "fd00::2/64"] {
            host.ip(&format!("address add {address} dev eth0"));
        }
        for route in [
            "address add 10.78.0.2/16 dev eth0",
            "route add default via 192.168.115.1",
            "route add 10.50.0.0/16 via 192.168.115.9 metric 50",
            "route add 10.51.0.0/16 via 192.168.115.9 src 10.77.0.2 proto static",
            "-6 route add default via fd00::1",
            "-6 route add fd50::/32 via fd00::9 metric 77",
        ] {
            host.ip(route);
        }
        std::fs::remove_dir_all(host.root.join("run")).unwrap();
        host.start();
        assert!(host.ip("-o link show eth0").contains("master br0"));
        // The bridge has another number.
        let differs = with_bridge.differences(&host.snapshot());
        assert!(differs.iter().all(|d| d.contains(": br0")), "{differs:#?}");
        assert!(router.reaches("192.168.115.2") && router.reaches("fd00::2"));
    });
}

#[test]
fn an_uplink_and_its_bridge_are_put_back_when_somebody_takes_them_apart() {
    run(|world| {
        let (host, router) = with_nic(world);
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        host.ip("link set eth0 nomaster");
        wait_for("the uplink to be a port again", SOON, || host.ip("-o link show eth0").contains("master br0"));
        wait_for("the LAN to be reached", SOON, || router.reaches("192.168.115.2"));
        // Whether the NIC is up is its owner's affair.
        host.ip("link set eth0 down");
        host.ip("link set eth0 nomaster");
        wait_for("the uplink to be a port again", SOON, || host.ip("-o link show eth0").contains("master br0"));
        assert!(!host.ip("-o link show eth0").contains(",UP"));
        host.ip("link set eth0 up");
        host.ip("link del br0");
        wait_for("the bridge to be made again", SOON, || {
            host.has_link("br0") && host.ip("-o link show eth0").contains("master br0")
        });
        wait_for("the LAN to be reached", SOON, || router.reaches("192.168.115.2") && router.reaches("fd00::2"));
        assert!(host.ip("route").contains("default via 192.168.115.1 dev br0"));
        assert!(host.ip("-6 route").contains("default via fd00::1 dev br0"));
    });
}

#[test]
fn two_instances_in_one_namespace_leave_each_other_alone() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let other = world.beside(&host, "h2");
        other.forwarding_may_stay();
        other.start();
        other.rnet("attach br0 db 10.0.0.6/24").ok();
        other.rnet("network create blue").ok();
        let before = host.snapshot();
        web.ping("10.0.0.6");
        for instance in [&host, &other] {
            instance.crash();
            instance.start();
        }
        before.same(&host.snapshot(), "after both were started again");
        other.rnet("bridge rm br0").fails(4, &["br0", "not made by rnet"]);
        host.rnet("bridge rm br0").fails(4, &["br0", "netns:web"]);
        other.rnet("network create green --subnet 10.9.0.0/25").fails(4, &["10.9.0.0/24"]);
        db.ping("10.0.0.5");
    });
}
