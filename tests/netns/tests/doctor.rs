//! `rnet doctor`: finds what is wrong, and nothing where nothing is.

use rnet_netns_harness::{Host, run};
use serde_json::Value;

#[track_caller]
fn doctor(host: &Host) -> (i32, Value) {
    let before = host.snapshot();
    let said = host.rnet("doctor --json");
    before.same(&host.snapshot(), "after a look");
    let report = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}{}", said.out, said.err));
    (said.code, report)
}

/// What a check has found, worse than a note.
fn found<'a>(report: &'a Value, check: &str) -> Vec<&'a str> {
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|f| f["check"] == check && f["severity"] != "note").map(|f| f["text"].as_str().unwrap()).collect()
}

#[test]
fn nothing_is_wrong_with_a_clean_host() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        host.container("web");
        host.rnet("network connect blue web").ok();
        let (code, report) = doctor(&host);
        assert_eq!(code, 0, "{report:#}");
        assert!(report["findings"].as_array().unwrap().iter().all(|f| f["severity"] == "note"), "{report:#}");
        assert!(report["skipped"].is_null(), "{report:#}");
        assert!(report["checks"].as_array().unwrap().len() > 15);
        let text = host.rnet("doctor").ok().out;
        assert!(text.lines().last().unwrap().contains("errors 0, warnings 0, "), "{text}");
    });
}

#[test]
fn firewalls_of_others_and_bridged_frames() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        host.run("nft add table inet mine").ok();
        host.run("nft add chain inet mine mid { type filter hook forward priority 0 ; policy drop ; }").ok();
        let bridged = |on: &str| host.run(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={on}")).code == 0;
        let has_bridge_nf = bridged("1");
        let (code, report) = doctor(&host);
        assert_eq!(code, 1, "{report:#}");
        assert!(found(&report, "firewall")[0].contains("inet mine mid"), "{report:#}");
        if has_bridge_nf {
            assert!(found(&report, "bridge-nf").iter().any(|t| t.contains("bridge-nf-call-iptables")), "{report:#}");
            assert!(bridged("0"));
            let (_, report) = doctor(&host);
            assert!(!found(&report, "bridge-nf").iter().any(|t| t.contains("bridge-nf-call-iptables")), "{report:#}");
        }
        let text = host.rnet("doctor");
        assert_eq!(text.code, 1);
        assert!(text.out.contains("warning: firewall: ") && text.out.contains("\n  fix: "), "{}", text.out);
        host.run("nft delete table inet mine").ok();
        assert_eq!(doctor(&host).0, 0);
    });
}

#[test]
fn settings_and_routes_that_break_networks() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["198.51.100.2/24"]);
        host.ip("route add default via 198.51.100.1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        assert_eq!(doctor(&host).0, 0, "{:#}", doctor(&host).1);
        host.run("sysctl -qw net.ipv4.ip_forward=0").ok();
        host.run("sysctl -qw net.ipv4.conf.all.route_localnet=1").ok();
        host.ip("link set eth0 mtu 1400");
        host.ip("route add 10.9.0.128/25 via 198.51.100.9");
        let (code, report) = doctor(&host);
        assert_eq!(code, 1);
        for check in ["forwarding", "route-localnet", "mtu", "overlap"] {
            assert!(!found(&report, check).is_empty(), "no finding of {check}: {report:#}");
        }
        assert!(report["findings"][0]["severity"] == "error", "the worst first: {report:#}");
        host.run("sysctl -qw net.ipv4.conf.all.route_localnet=0 net.ipv4.ip_forward=1").ok();
        host.ip("route del 10.9.0.128/25");
        host.ip("link set eth0 mtu 1500");
    });
}

#[test]
fn files_that_others_may_use() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let socket = host.root.join("run/netd.sock");
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let (code, report) = doctor(&host);
        assert_eq!(code, 1);
        assert!(found(&report, "files")[0].contains("netd.sock"), "{report:#}");
    });
}

#[test]
fn without_a_daemon_the_host_is_looked_at() {
    run(|world| {
        let host = world.host("h1");
        host.run("nft add table ip filter").ok();
        host.run("nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }").ok();
        let (code, report) = doctor(&host);
        assert_eq!(code, 1);
        assert!(found(&report, "netd")[0].contains("not reached"), "{report:#}");
        assert!(found(&report, "firewall")[0].contains("ip filter FORWARD"), "{report:#}");
    });
}

#[test]
fn a_program_that_listens_at_a_published_port() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["198.51.100.2/24"]);
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        host.container("web");
        host.rnet("network connect blue web").ok();
        host.rnet("publish web 8080:80 8081:81/udp").ok();
        assert_eq!(doctor(&host).0, 0, "netd's own sockets are none of those: {:#}", doctor(&host).1);
        let listener = host.netns.run(|| std::net::TcpListener::bind("198.51.100.2:8080")).unwrap().unwrap();
        let (code, report) = doctor(&host);
        assert_eq!(code, 1, "{report:#}");
        let twice = found(&report, "ports");
        let own = format!("pid {}", std::process::id());
        assert!(twice[0].contains("8080") && twice[0].contains("web") && twice[0].contains(&own), "{report:#}");
        drop(listener);
        assert_eq!(doctor(&host).0, 0);
    });
}
