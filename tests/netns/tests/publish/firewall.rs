//! A firewall of the host that drops what comes in.

use rnet_netns_harness::{Host, SOON, run, wait_for};

use super::HOST;
use super::stage::{Bed, Station as _, Web};

fn drop_input(host: &Host, policy: &str) {
    for rule in [
        "add table inet mine".to_owned(),
        format!("add chain inet mine input {{ type filter hook input priority 0; policy {policy}; }}"),
        "add rule inet mine input ct state established,related accept".to_owned(),
        "add rule inet mine input iif lo accept".to_owned(),
    ] {
        host.run(&format!("nft {rule}")).ok();
    }
}

#[test]
fn a_host_that_lets_nothing_in_closes_published_ports() {
    run(|world| {
        let bed = Bed::new(world);
        let neighbour = bed.container("db");
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        bed.host.rnet("publish web 8080:80").ok();
        assert_eq!(bed.peer.netns.ask(HOST, 8080).as_deref(), Ok("web"));
        drop_input(&bed.host, "drop");
        wait_for("the port to be closed", SOON, || bed.peer.netns.ask(HOST, 8080).is_err());
        assert!(bed.peer.netns.ask(super::HOST6, 8080).is_err());
        let listed = bed.host.rnet("port web").ok();
        assert!(listed.err.contains("the host's firewall drops what comes in"), "{}", listed.err);
        assert_eq!(bed.host.netns.ask("127.0.0.1", 8080).as_deref(), Ok("web"), "the host itself is not outside");
        assert_eq!(neighbour.netns.ask(HOST, 8080).as_deref(), Ok("web"), "nor are containers");
        let more = bed.host.rnet("publish web 8081:80").ok();
        assert!(more.err.contains("8081"), "{}", more.err);
        bed.host.stop();
        bed.host.start();
        assert!(bed.peer.netns.ask(HOST, 8080).is_err(), "after a restart of netd");
        bed.host.run("nft delete table inet mine").ok();
        wait_for("the port to be open again", SOON, || bed.peer.netns.ask(HOST, 8080).is_ok());
        assert_eq!(bed.host.rnet("port web").ok().err, "");
    });
}

#[test]
fn accept_opens_them_all_the_same() {
    run(|world| {
        let bed = Bed::with(world, "published_ports = \"accept\"\n");
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        drop_input(&bed.host, "drop");
        bed.host.rnet("publish web 8080:80").ok();
        assert_eq!(bed.peer.netns.ask(HOST, 8080).as_deref(), Ok("web"));
        assert_eq!(bed.host.rnet("port web").ok().err, "");
        bed.host.run("nft delete table inet mine").ok();
    });
}

/// What iptables(8) makes of `-P FORWARD DROP`.
fn drop_forward(host: &Host) {
    for rule in
        ["add table ip filter", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"]
    {
        host.run(&format!("nft {rule}")).ok();
    }
}

fn behind_a_forward_policy(config: &str, open: bool) {
    run(|world| {
        let bed = Bed::with(world, config);
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        drop_forward(&bed.host);
        bed.host.rnet("publish web 8080:80").ok();
        assert_eq!(bed.peer.netns.ask(HOST, 8080).is_ok(), open);
        let admitted = || bed.host.run("nft list table ip filter").ok().out.contains("RNET-CNI");
        assert_eq!(admitted(), open);
        bed.host.rnet("unpublish web --all").ok();
        assert!(!admitted(), "it goes with the last one");
        bed.host.run("nft delete table ip filter").ok();
    });
}

#[test]
fn a_forward_policy_of_others_stays_theirs() {
    behind_a_forward_policy("", false);
}

#[test]
fn a_forward_policy_of_others_is_passed_when_asked_to() {
    behind_a_forward_policy("published_ports = \"accept\"\n", true);
}
