//! `rnet explain`: names what stops a packet, and leaves nothing behind.

use std::net::{SocketAddr, TcpListener};

use rnet_netns_harness::{Container, Host, Peer, SOON, World, run, wait_for};
use serde_json::Value;

/// A host with an uplink and a station behind it, two networks, and containers web and db on blue, far on green.
struct Stage {
    host: Host,
    outside: Peer,
    web: Container,
    db: Container,
    _far: Container,
}

impl Stage {
    fn new(world: &World) -> Self {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["198.51.100.2/24", "2001:db8::2/64"]);
        host.ip("route add default via 198.51.100.1");
        host.forwarding_may_stay();
        let outside = world.peer("outside", &["198.51.100.1/24", "2001:db8::1/64"]);
        host.start();
        host.rnet("network create blue --subnet 10.9.1.0/24 --subnet fd00:9::/64").ok();
        host.rnet("network create green --subnet 10.9.2.0/24").ok();
        let [web, db, far] = ["web", "db", "far"].map(|name| host.container(name));
        host.rnet("network connect blue web --ip 10.9.1.2 --ip6 fd00:9::2").ok();
        host.rnet("network connect blue db --ip 10.9.1.3 --ip6 fd00:9::3").ok();
        host.rnet("network connect green far --ip 10.9.2.3").ok();
        web.ping("10.9.1.3");
        web.ping("fd00:9::3");
        Stage { host, outside, web, db, _far: far }
    }

    /// Explains; checks exit code and outcome, that the last line says each of `words`, and that nothing stays.
    #[track_caller]
    fn explains(&self, path: &str, outcome: &str, words: &[&str]) -> Value {
        let before = self.host.snapshot();
        let code = i32::from(!matches!(outcome, "connected" | "delivered"));
        let said = self.host.rnet(&format!("explain {path}"));
        assert_eq!(said.code, code, "{}{}", said.out, said.err);
        let last = said.out.lines().last().expect("a verdict").to_owned();
        let words_missing: Vec<_> = words.iter().filter(|w| !last.contains(**w)).collect();
        assert!(words_missing.is_empty(), "no {words_missing:?} in\n{}", said.out);
        let json = self.host.rnet(&format!("explain {path} --json"));
        let value: Value = serde_json::from_str(&json.out).unwrap_or_else(|e| panic!("{e}: {}{}", json.out, json.err));
        assert_eq!(value["outcome"], outcome, "{value:#}");
        self.nothing_stays();
        before.same(&self.host.snapshot(), &format!("after explain {path}"));
        value
    }

    #[track_caller]
    fn nothing_stays(&self) {
        let tables = self.host.run("nft list tables").ok().out;
        assert!(!tables.contains("rnet_trace"), "{tables}");
    }

    #[track_caller]
    fn nft(&self, words: &str) {
        self.host.run(&format!("nft {words}")).ok();
    }
}

fn listen(container: &Container, at: &str) -> TcpListener {
    let at: SocketAddr = at.parse().unwrap();
    container.netns.run(|| TcpListener::bind(at)).unwrap().unwrap()
}

fn places(value: &Value) -> Vec<&str> {
    value["hops"].as_array().unwrap().iter().map(|h| h["place"].as_str().unwrap()).collect()
}

#[test]
fn what_works_is_shown_hop_by_hop() {
    run(|world| {
        let stage = Stage::new(world);
        let _service = listen(&stage.db, "10.9.1.3:80");
        let _service6 = listen(&stage.db, "[fd00:9::3]:80");
        let value = stage.explains("web db:80", "connected", &["db (10.9.1.3) port 80"]);
        assert_eq!(places(&value)[..2], ["source", "port"]);
        assert!(value["hops"][1]["text"].as_str().unwrap().contains("network blue"), "{value:#}");
        assert!(value.to_string().contains("leaves by rn") && value.to_string().contains("db eth0"), "{value:#}");
        stage.explains("web 10.9.1.3", "connected", &["db"]);
        stage.explains("web [fd00:9::3]:80", "connected", &["db"]);
        stage.explains("web fd00:9::3/icmp", "connected", &["db"]);
        stage.explains("host db:80", "connected", &["db"]);
        stage.explains("web 10.9.1.1", "connected", &["the host"]);
        // Out, with another source address.
        let value = stage.explains("web 198.51.100.1", "connected", &["198.51.100.1"]);
        assert!(places(&value).contains(&"nat"), "{value:#}");
        assert!(value.to_string().contains("the source is 198.51.100.2"), "{value:#}");
    });
}

#[test]
fn a_rule_of_somebody_else_is_named_with_its_text() {
    run(|world| {
        let stage = Stage::new(world);
        stage.nft("add table inet mine");
        stage.nft("add chain inet mine mid { type filter hook forward priority 10 ; }");
        stage.nft("add chain inet mine deep");
        stage.nft("add rule inet mine mid ip protocol tcp jump deep");
        stage.nft("add rule inet mine deep tcp dport 81 counter drop");
        stage.nft("add rule inet mine deep tcp dport 82 reject with tcp reset");
        let words = ["inet mine deep", "tcp dport 81", "drop", "nft -a list chain inet mine deep"];
        let value = stage.explains("web 198.51.100.1:81", "dropped", &words);
        let stop = value["hops"].as_array().unwrap().iter().find(|h| h["stops"] == true).unwrap();
        assert_eq!((&stop["rule"]["table"], &stop["rule"]["chain"]), (&"mine".into(), &"deep".into()));
        assert!(stop["rule"]["handle"].is_u64(), "{value:#}");
        stage.explains("web 198.51.100.1:82", "dropped", &["inet mine deep", "reject"]);
        stage.nft("add chain inet mine mid { policy drop ; }");
        let words = ["inet mine mid", "policy drop", "policy accept"];
        stage.explains("web 198.51.100.1", "dropped", &words);
        stage.nft("delete table inet mine");
    });
}

#[test]
fn an_answer_that_is_dropped_is_told_from_a_packet() {
    run(|world| {
        let stage = Stage::new(world);
        stage.nft("add table ip mine");
        stage.nft("add chain ip mine pre { type filter hook prerouting priority -150 ; }");
        stage.nft("add rule ip mine pre icmp type echo-reply iifname eth0 drop");
        stage.explains("web 198.51.100.1", "dropped", &["the answer stops", "ip mine pre", "echo-reply"]);
        stage.nft("delete table ip mine");
    });
}

#[test]
fn a_rule_on_the_bridge_is_named() {
    run(|world| {
        let stage = Stage::new(world);
        stage.nft("add table bridge mine");
        stage.nft("add chain bridge mine mid { type filter hook forward priority 0 ; }");
        stage.nft("add rule bridge mine mid ip daddr 10.9.1.3 udp dport 53 drop");
        stage.explains("web db:53/udp", "dropped", &["bridge mine mid", "udp dport 53"]);
        stage.nft("delete table bridge mine");
    });
}

#[test]
fn networks_that_are_apart() {
    run(|world| {
        let stage = Stage::new(world);
        stage.explains("web far", "dropped", &["isolated", "rnet network connect green web"]);
        stage.host.rnet("network create backend --internal --subnet 10.9.3.0/24").ok();
        let inner = stage.host.container("inner");
        stage.host.rnet("network connect backend inner").ok();
        stage.explains("inner 198.51.100.1", "no-route", &["inner has no route", "backend", "internal"]);
        inner.ip("route add default dev eth0");
        let value = stage.host.rnet("explain inner 198.51.100.1 --json");
        assert_eq!(value.code, 1, "{}", value.err);
        stage.nothing_stays();
    });
}

#[test]
fn what_never_reaches_the_packet_filter() {
    run(|world| {
        let stage = Stage::new(world);
        stage.explains("web db:81", "refused", &["db (10.9.1.3) port 81", "nothing listens"]);
        stage.explains("web 10.9.1.1:81", "not-published", &["10.9.1.1", "published"]);
        stage.explains("web 10.9.1.99", "no-neighbour", &["10.9.1.99", "eth0 of web"]);
        stage.explains("web 198.51.100.77", "no-neighbour", &["198.51.100.77", "eth0"]);
        stage.db.ip("link set eth0 down");
        stage.explains("web 10.9.1.3:80", "interface-down", &["eth0 of db is down"]);
        stage.web.ip("route del default");
        stage.explains("web 198.51.100.1", "no-route", &["web has no route", "ip route add default via 10.9.1.1"]);
        stage.web.ip("link set eth0 down");
        stage.explains("web db", "interface-down", &["eth0 of web is down", "ip link set eth0 up"]);
        // The host itself.
        stage.web.ip("link set eth0 up");
        stage.web.ip("route add default via 10.9.1.1");
        stage.host.ip("route del default");
        stage.explains("web 203.0.113.1", "no-route", &["the host has no route to 203.0.113.1"]);
        stage.host.ip("route add default via 198.51.100.1");
        stage.outside.run("ip route add blackhole 203.0.113.1").ok();
        stage.db.ip("link set eth0 up");
    });
}

#[test]
fn a_datagram_need_not_be_answered() {
    run(|world| {
        let stage = Stage::new(world);
        let service = stage.db.netns.run(|| std::net::UdpSocket::bind("10.9.1.3:53")).unwrap().unwrap();
        stage.explains("web db:53/udp", "delivered", &["db (10.9.1.3) port 53"]);
        let mut byte = [0; 8];
        assert_eq!(service.recv(&mut byte).unwrap(), 1, "it was a real one");
        stage.explains("web db:54/udp", "refused", &["port 54"]);
    });
}

#[test]
fn requests_that_are_wrong() {
    run(|world| {
        let stage = Stage::new(world);
        stage.host.rnet("explain ghost db").fails(3, &["ghost"]);
        stage.host.rnet("explain web ghost:80").fails(3, &["ghost"]);
        stage.host.rnet("explain web db/tcp").fails(2, &["need a port"]);
        stage.host.rnet("explain web db:80/icmp").fails(2, &["no ports"]);
        stage.nothing_stays();
    });
}

/// The tables of a trace go with the process, however it ends.
#[test]
fn nothing_stays_of_a_daemon_that_is_killed() {
    run(|world| {
        let stage = Stage::new(world);
        let host = &stage.host;
        let before = host.snapshot();
        // Nobody answers there: the trace lasts its second.
        let client = host.client();
        let request =
            rnet_api::ExplainRequest { source: "web".parse().unwrap(), target: "198.51.100.77:9".parse().unwrap() };
        let asking = std::thread::spawn(move || client.explain(&request));
        let traced = || host.run("nft list tables").ok().out.contains("rnet_trace");
        wait_for("the trace to begin", SOON, traced);
        host.crash();
        assert!(asking.join().unwrap().is_err());
        wait_for("the tables to be gone", SOON, || !traced());
        // What an older kernel would have left.
        stage.nft("add table inet rnet_trace_999999999_0");
        stage.nft("add table bridge rnet_trace_999999999_0");
        host.start();
        wait_for("the old tables to be gone", SOON, || !traced());
        host.wait_until_like(&before, "after a crash during explain");
        // A client that goes away does not end the trace, and its tables go all the same.
        let mut gone = std::process::Command::new(host.rnet_program());
        gone.args(["explain", "web", "198.51.100.77:9"]).env("RNET_ROOT", &host.root);
        gone.stdout(std::process::Stdio::null());
        let mut gone = host.netns.run(|| gone.spawn()).unwrap().unwrap();
        wait_for("the trace to begin", SOON, traced);
        gone.kill().unwrap();
        gone.wait().unwrap();
        wait_for("the tables to be gone", SOON, || !traced());
        host.wait_until_like(&before, "after a client that went away");
    });
}

#[test]
fn published_ports_are_followed_to_their_container() {
    run(|world| {
        let stage = Stage::new(world);
        let _service = listen(&stage.db, "10.9.1.3:80");
        stage.host.rnet("publish db 8080:80").ok();
        let value = stage.explains("web 198.51.100.2:8080", "connected", &["db (10.9.1.3) port 80"]);
        assert!(value.to_string().contains("the destination is 10.9.1.3 port 80"), "{value:#}");
        stage.explains("host 198.51.100.2:8080", "connected", &["port 80"]);
        stage.explains("host 127.0.0.1:8080", "connected", &[]);
        let words = ["198.51.100.2", "no container's port", "8080/tcp of db"];
        stage.explains("web 198.51.100.2:8081", "not-published", &words);
        stage.host.rnet("unpublish db --all").ok();
    });
}

/// What happens inside a container is not traced, its chains are read.
#[test]
fn a_firewall_inside_a_container_is_named() {
    run(|world| {
        let stage = Stage::new(world);
        let nft = |container: &Container, words: &str| drop(container.run(&format!("nft {words}")).ok());
        nft(&stage.db, "add table inet own");
        nft(&stage.db, "add chain inet own in { type filter hook input priority 0 ; policy drop ; }");
        stage.explains("web db", "unanswered", &["inside db chain inet own in has policy drop"]);
        stage.explains("web db:53/udp", "delivered", &["inside db chain inet own in"]);
        nft(&stage.db, "delete table inet own");
        nft(&stage.web, "add table inet own");
        nft(&stage.web, "add chain inet own out { type filter hook output priority 0 ; }");
        nft(&stage.web, "add rule inet own out meta l4proto icmp drop");
        stage.explains("web db", "dropped", &["inside web chain inet own out", "icmp"]);
        nft(&stage.web, "delete table inet own");
    });
}
