//! Published ports, asked from the LAN, from the host, from containers, and by attackers.
//!
//! Each defence has a twin: the same attack on a host without it, which shows that the attack is one.

mod attacks;
mod changes;
mod firewall;
mod load;
mod sctp;
mod stage;

use rnet_model::{GatewayMode, NetworkSpec};
use rnet_netns_harness::run;
use serde_json::Value;

use self::stage::{Bed, Station, Web};

const HOST: &str = "192.168.115.2";
const HOST6: &str = "fd00:115::2";

#[test]
fn a_published_port_answers_everybody_and_ends_with_unpublish() {
    run(|world| {
        let bed = Bed::new(world);
        let neighbour = bed.container("db");
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        let said = bed.host.rnet("publish web 8080:80").ok().out;
        assert_eq!(said, "web 8080:80/tcp: published\n");
        let own = bed.host.netns.clone();
        let asks: [(&str, &rnet_kernel::Netns, &str); 10] = [
            ("the LAN", &bed.peer.netns, HOST),
            ("the LAN by IPv6", &bed.peer.netns, HOST6),
            ("the host by its address", &own, HOST),
            ("the host by its IPv6 address", &own, HOST6),
            ("the host by loopback", &own, "127.0.0.1"),
            ("the host by IPv6 loopback", &own, "::1"),
            ("the host by the bridge", &own, "10.9.0.1"),
            ("a neighbour through the host", &neighbour.netns, HOST),
            ("the container itself through the host", &bed.web.netns, HOST),
            ("the container itself by IPv6", &bed.web.netns, HOST6),
        ];
        for (who, netns, address) in asks {
            assert_eq!(netns.ask(address, 8080).as_deref(), Ok("web"), "{who}");
        }
        assert_eq!(bed.host.rnet("port web").ok().out, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
        assert_eq!(bed.host.rnet("port web 80").ok().out, "0.0.0.0:8080\n[::]:8080\n");
        assert_eq!(bed.host.rnet("port web 81/udp").code, 3);
        bed.host.rnet("unpublish web 8080:80").ok();
        for (who, netns, address) in asks {
            assert!(netns.ask(address, 8080).is_err(), "{who} after unpublish");
        }
        assert_eq!(bed.host.rnet("port web").ok().out, "");
        assert_eq!(bed.host.rnet("unpublish web 8080:80").code, 3);
        assert_eq!(bed.host.rnet("unpublish web --all").code, 0);
    });
}

#[test]
fn datagrams() {
    run(|world| {
        let bed = Bed::new(world);
        let _web = Web::udp(&bed.web.netns, 53, "web");
        bed.host.rnet("publish web 53:53/udp").ok();
        let own = &bed.host.netns;
        for (netns, address) in [
            (&bed.peer.netns, HOST),
            (&bed.peer.netns, HOST6),
            (own, HOST),
            (own, "127.0.0.1"),
            (own, "::1"),
            (&bed.web.netns, HOST),
        ] {
            assert_eq!(netns.send(address, 53).as_deref(), Ok("web"), "{address}");
        }
        bed.host.rnet("unpublish web --all").ok();
        for (netns, address) in [(&bed.peer.netns, HOST), (own, "127.0.0.1"), (own, "::1")] {
            assert!(netns.send(address, 53).is_err(), "{address} after unpublish");
        }
    });
}

#[test]
fn ranges_and_chosen_ports() {
    run(|world| {
        let bed = Bed::new(world);
        bed.host.run("sysctl -qw net.ipv4.ip_local_reserved_ports=49153-49160").ok();
        let _webs = [Web::tcp(&bed.web.netns, 2000, "first"), Web::tcp(&bed.web.netns, 2009, "last")];
        bed.host.rnet("publish web 1000-1009:2000-2009").ok();
        assert_eq!(bed.peer.netns.ask(HOST, 1000).as_deref(), Ok("first"));
        assert_eq!(bed.peer.netns.ask(HOST, 1009).as_deref(), Ok("last"));
        assert!(bed.peer.netns.ask(HOST, 1010).is_err());
        let port = |words: &str| bed.host.rnet_json(words)[0]["port"]["host_port"].as_u64().unwrap();
        assert_eq!(port("publish web 2000"), 49161, "what the kernel keeps for others is left out");
        assert_eq!(port("publish web 2001-2003"), 49162);
        assert_eq!(port("publish web 0:2009"), 49165);
        bed.host.rnet("unpublish web 2009").ok();
        assert_eq!(port("publish web 2004"), 49166, "not at once the same again");
        assert_eq!(port("publish web 1009-1012:2000"), 1010, "the first that is free");
        assert_eq!(port("publish web 1009-1012:2000"), 1010, "and the same when it is asked for again");
        assert_eq!(bed.peer.netns.ask(HOST, 1010).as_deref(), Ok("first"));
        assert_eq!(bed.host.rnet("unpublish web 49162-49164:2001-2003").code, 0, "as it is listed");
    });
}

#[test]
fn one_address_of_the_host() {
    run(|world| {
        let bed = Bed::new(world);
        bed.host.ip("address add 192.168.115.3/24 dev eth0");
        let db = bed.container("db");
        let _webs = [Web::tcp(&bed.web.netns, 80, "web"), Web::tcp(&db.netns, 80, "db")];
        bed.host.rnet("publish web 192.168.115.2:80:80").ok();
        bed.host.rnet("publish db 192.168.115.3:80:80").ok();
        bed.host.rnet("publish db 127.0.0.2:80:80").ok();
        assert_eq!(bed.peer.netns.ask("192.168.115.2", 80).as_deref(), Ok("web"));
        assert_eq!(bed.peer.netns.ask("192.168.115.3", 80).as_deref(), Ok("db"));
        assert_eq!(bed.host.netns.ask("127.0.0.2", 80).as_deref(), Ok("db"));
        assert!(bed.host.netns.ask("127.0.0.1", 80).is_err(), "published on other addresses only");
        for wildcard in ["80:80", "0.0.0.0:80:80"] {
            let refused = bed.host.rnet(&format!("publish db {wildcard}"));
            assert_eq!(refused.code, 4, "{wildcard}: {}", refused.err);
        }
        let foreign = bed.host.rnet("publish web 192.168.115.9:81:80");
        assert_eq!(foreign.code, 2);
        assert!(foreign.err.contains("192.168.115.9 is no address of this host"), "{}", foreign.err);
        assert!(foreign.err.contains("192.168.115.2, 192.168.115.3"), "{}", foreign.err);
        bed.host.ip("address del 192.168.115.3/24 dev eth0");
    });
}

#[test]
fn loopback_joins_the_families() {
    run(|world| {
        let bed = Bed::new(world);
        bed.host.rnet("network create four --subnet 10.4.0.0/24").ok();
        let only4 = bed.host.container("only4");
        bed.host.rnet("network connect four only4").ok();
        let _web = Web::tcp(&only4.netns, 80, "four");
        bed.host.rnet("publish only4 [::1]:80:80").ok();
        assert_eq!(bed.host.netns.ask("::1", 80).as_deref(), Ok("four"));
        assert!(bed.host.netns.ask("127.0.0.1", 80).is_err());
        let six = bed.host.rnet("publish only4 [::]:81:80");
        assert_eq!(six.code, 2, "{}", six.err);
        assert!(six.err.contains("has no IPv6 address"), "{}", six.err);
        assert_eq!(bed.host.rnet("port only4").ok().out, "80/tcp -> [::1]:80\n");
    });
}

#[test]
fn a_port_in_use_names_its_user() {
    run(|world| {
        let bed = Bed::new(world);
        bed.container("db");
        let _process = Web::tcp(&bed.host.netns, 8080, "process");
        let pid = std::process::id();
        let refused = bed.host.rnet("publish web 80:80 8080:80");
        assert_eq!(refused.code, 4);
        assert!(refused.err.contains(&format!("(process {pid})")), "{}", refused.err);
        assert!(refused.err.contains("port 8080/tcp is in use by"), "{}", refused.err);
        assert_eq!(bed.host.rnet_json("port").as_array().map(Vec::len), Some(0), "all or nothing");
        bed.host.rnet("publish web 80:80 53:53/udp").ok();
        let refused = bed.host.rnet("publish db 81:81 80:80");
        assert_eq!(refused.code, 4);
        assert!(refused.err.contains("port 80/tcp is published by container web"), "{}", refused.err);
        bed.host.rnet("publish db 81:81").ok();
        bed.host.rnet("publish db 80:80/udp 53:53").ok();
        let _resolver = Web::udp_at(&bed.host.netns, "127.0.0.53", 5353, "resolver");
        bed.host.rnet("publish db 5353:53/udp").ok();
        let _other = Web::udp(&bed.host.netns, 5354, "other");
        assert_eq!(bed.host.rnet("publish db 5354:53/udp").code, 4);
    });
}

#[test]
fn where_nothing_can_be_published() {
    run(|world| {
        let bed = Bed::new(world);
        bed.host.rnet("network create inner --internal --subnet 10.5.0.0/24").ok();
        for name in ["inside", "leg", "alone"] {
            bed.host.container(name);
        }
        bed.host.rnet("network connect inner inside").ok();
        bed.host.rnet("attach br0 leg 10.6.0.5/24@10.6.0.1").ok();
        for (name, code, says) in [
            ("inside", 2, "internal"),
            ("leg", 2, "reached at 10.6.0.5"),
            ("alone", 3, "rnet network connect NETWORK alone"),
        ] {
            let refused = bed.host.rnet(&format!("publish {name} 80:80"));
            assert_eq!(refused.code, code, "{name}: {}", refused.err);
            assert!(refused.err.contains(says), "{name}: {}", refused.err);
        }
    });
}

#[test]
fn a_routed_network_opens_the_containers_own_port() {
    run(|world| {
        let bed = Bed::new(world);
        let spec = NetworkSpec {
            gateway_mode: GatewayMode::Routed,
            subnets: vec!["10.7.0.0/24".parse().unwrap()],
            ..NetworkSpec::new("wide".parse().unwrap())
        };
        bed.host.client().create_network(&spec).unwrap();
        let box1 = bed.host.container("box1");
        bed.host.rnet("network connect wide box1 --ip 10.7.0.5").ok();
        let _webs = [Web::tcp(&box1.netns, 80, "box1"), Web::tcp(&box1.netns, 81, "shut")];
        bed.peer.run(&format!("ip route add 10.7.0.0/24 via {HOST}")).ok();
        let said = bed.host.rnet("publish box1 8080:80").ok();
        assert!(said.err.contains("the network is routed"), "{}", said.err);
        assert_eq!(bed.peer.netns.ask("10.7.0.5", 80).as_deref(), Ok("box1"));
        assert!(bed.peer.netns.ask("10.7.0.5", 81).is_err());
        assert!(bed.peer.netns.ask(HOST, 8080).is_err());
        assert_eq!(bed.host.rnet("port box1").ok().out, "80/tcp -> 10.7.0.5:80\n");
        // No port of the host is held.
        bed.host.rnet("publish web 8080:80").ok();
        bed.host.rnet("unpublish box1 --all").ok();
        assert!(bed.peer.netns.ask("10.7.0.5", 80).is_err());
    });
}

fn listed(bed: &Bed) -> Vec<Value> {
    bed.host.rnet_json("port").as_array().unwrap().clone()
}
