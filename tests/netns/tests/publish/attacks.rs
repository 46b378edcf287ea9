//! What neighbours and containers try, with the defence and without it.

use rnet_netns_harness::run;

use super::HOST;
use super::stage::{Bed, Station as _, Web};

#[test]
fn a_port_on_loopback_is_not_reached_from_the_lan_or_from_containers() {
    run(|world| {
        let bed = Bed::new(world);
        let neighbour = bed.container("db");
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        bed.host.rnet("publish web 127.0.0.1:8080:80").ok();
        assert_eq!(bed.host.netns.ask("127.0.0.1", 8080).as_deref(), Ok("web"));
        // The neighbour sends what is for 127.0.0.1 to the host: its own loopback is taken away.
        bed.peer.run("ip address del 127.0.0.1/8 dev lo").ok();
        bed.peer.run("sysctl -qw net.ipv4.conf.all.route_localnet=1").ok();
        bed.peer.run(&format!("ip route add 127.0.0.0/8 via {HOST} src 192.168.115.9")).ok();
        let setting = |name: &str| bed.host.run(&format!("sysctl -n net.ipv4.conf.{name}.route_localnet")).ok().out;
        for name in ["all", "default", "eth0"] {
            assert_eq!(setting(name), "0\n", "{name}");
        }
        assert!(bed.peer.netns.ask("127.0.0.1", 8080).is_err(), "by a crafted route");
        for address in [HOST, "10.9.0.1"] {
            assert!(bed.peer.netns.ask(HOST, 8080).is_err(), "{address}");
            assert!(neighbour.netns.ask(address, 8080).is_err(), "{address}");
        }
        // The twin: the way of others, with the setting and a rule that leads loopback to the container.
        bed.host.run("sysctl -qw net.ipv4.conf.all.route_localnet=1").ok();
        for rule in [
            "add table ip naive",
            "add chain ip naive pre { type nat hook prerouting priority -101; }",
            "add rule ip naive pre ip daddr 127.0.0.1 tcp dport 8080 dnat to 10.9.0.5:80",
        ] {
            bed.host.run(&format!("nft {rule}")).ok();
        }
        assert_eq!(bed.peer.netns.ask("127.0.0.1", 8080).as_deref(), Ok("web"), "the attack is none");
        bed.host.run("nft delete table ip naive").ok();
        bed.host.run("sysctl -qw net.ipv4.conf.all.route_localnet=0").ok();
    });
}

#[test]
fn what_is_not_published_is_closed_to_a_neighbour_with_a_route() {
    run(|world| {
        let bed = Bed::new(world);
        let _webs = [Web::tcp(&bed.web.netns, 80, "web"), Web::tcp(&bed.web.netns, 22, "shut")];
        bed.host.rnet("publish web 8080:80").ok();
        bed.peer.run(&format!("ip route add 10.9.0.0/24 via {HOST}")).ok();
        let closed = |when: &str| {
            assert!(bed.peer.netns.ask("10.9.0.5", 22).is_err(), "{when}");
            assert!(bed.peer.netns.ask("10.9.0.5", 80).is_err(), "not at the container's own address, {when}");
        };
        closed("while another port is published");
        bed.host.rnet("unpublish web --all").ok();
        closed("after it was");
        // The twin: without our tables the host is a router like any.
        bed.host.stop();
        bed.host.run("nft flush ruleset");
        for table in ["inet", "bridge"] {
            let own = own_table(&bed.host.run("nft list tables").out, table);
            own.map(|name| bed.host.run(&format!("nft delete table {table} {name}")).ok());
        }
        assert_eq!(bed.peer.netns.ask("10.9.0.5", 22).as_deref(), Ok("shut"), "the attack is none");
    });
}

fn own_table(tables: &str, family: &str) -> Option<String> {
    let begin = format!("table {family} rnet");
    tables.lines().find(|l| l.starts_with(&begin)).and_then(|l| l.split(' ').nth(2)).map(str::to_owned)
}

#[test]
fn a_published_port_captures_nothing_that_is_for_others() {
    run(|world| {
        let bed = Bed::new(world);
        let client = bed.container("db");
        let _servers = [
            Web::udp(&bed.web.netns, 53, "web"),
            Web::udp(&bed.peer.netns, 53, "peer"),
            Web::tcp(&bed.peer.netns, 53, "peer"),
        ];
        bed.host.rnet("publish web 53:53/udp 53:53").ok();
        assert_eq!(client.netns.send("192.168.115.9", 53).as_deref(), Ok("peer"));
        assert_eq!(client.netns.ask("192.168.115.9", 53).as_deref(), Ok("peer"));
        assert_eq!(bed.host.netns.send("192.168.115.9", 53).as_deref(), Ok("peer"));
        assert_eq!(client.netns.send(HOST, 53).as_deref(), Ok("web"));
        // The twin: a rule that looks at the port alone.
        for rule in [
            "add table ip naive",
            "add chain ip naive pre { type nat hook prerouting priority -101; }",
            "add rule ip naive pre udp dport 53 dnat to 10.9.0.5:53",
        ] {
            bed.host.run(&format!("nft {rule}")).ok();
        }
        // The answer comes from another address than was asked, or not at all: it is not the peer's.
        assert_ne!(client.netns.send("192.168.115.9", 53).as_deref(), Ok("peer"), "the attack is none");
        bed.host.run("nft delete table ip naive").ok();
    });
}

#[test]
fn the_proxy_takes_only_what_was_led_to_it() {
    run(|world| {
        let bed = Bed::new(world);
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        bed.host.rnet("publish web 127.0.0.1:8080:80").ok();
        let listening = bed.host.run("ss -Hltn src 127.0.0.1").ok().out;
        let port: u16 = listening.split_whitespace().find_map(|w| w.strip_prefix("127.0.0.1:")?.parse().ok()).unwrap();
        assert_ne!(port, 8080);
        assert!(bed.host.netns.ask("127.0.0.1", port).is_err());
        assert_eq!(bed.host.netns.ask("127.0.0.1", 8080).as_deref(), Ok("web"));
    });
}
