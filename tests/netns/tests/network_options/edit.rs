//! Networks that are changed while containers are on them.

use rnet_netns_harness::{Host, Peer, World, run};
use serde_json::json;

fn with_uplink(world: &World) -> (Host, Peer) {
    let host = world.host("h1");
    world.plug(&host, "eth0", &["198.51.100.2/24"]);
    host.ip("route add default via 198.51.100.1");
    host.forwarding_may_stay();
    host.start();
    (host, world.peer("outside", &["198.51.100.1/24"]))
}

#[test]
fn isolation_and_masquerade_follow_at_once() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        for (name, net) in [("blue", 1), ("green", 2)] {
            host.rnet(&format!("network create {name} --subnet 10.9.{net}.0/24")).ok();
        }
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("network connect blue web --ip 10.9.1.7").ok();
        host.rnet("network connect green db --ip 10.9.2.7").ok();
        web.ping("198.51.100.1");
        assert!(!web.reaches("10.9.2.7"));
        host.rnet("network edit blue --isolate off").ok();
        assert!(!web.reaches("10.9.2.7"), "the other network has not said off");
        host.rnet("network edit green --isolate off").ok();
        web.ping("10.9.2.7");
        db.ping("10.9.1.7");
        host.rnet("network edit blue --isolate on --masq off").ok();
        assert!(!web.reaches("10.9.2.7") && !web.reaches("198.51.100.1"));
        host.rnet("network edit blue --masq on").ok();
        web.ping("198.51.100.1");
        // Kept over a restart.
        host.rnet("network edit blue --masq off").ok();
        host.crash();
        host.start();
        assert!(!web.reaches("198.51.100.1"));
        assert_eq!(host.rnet_json("network inspect blue")[0]["spec"]["masquerade"], "off");
    });
}

#[test]
fn a_later_create_is_compared_with_what_it_has_become() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        let made = host.rnet_json("network create blue --subnet 10.9.0.0/24 --label a=1 --label b=2");
        let edited = host.rnet_json("network edit blue --label-rm b --label-add c=3 --domain lab.test");
        assert_eq!(edited["spec"]["labels"], json!({"a": "1", "c": "3"}));
        assert_eq!(edited["id"], made["id"]);
        let now = "network create blue --subnet 10.9.0.0/24 --label a=1 --label c=3 --domain lab.test";
        assert_eq!(host.rnet_json(now)["id"], made["id"]);
        host.rnet("network create blue --subnet 10.9.0.0/24 --label a=1 --label b=2")
            .fails(4, &["blue", "other options"]);
        assert_eq!(host.rnet_json("network edit blue --no-domain")["spec"].get("domain"), None);
        // Nothing said, nothing done.
        let before = host.snapshot();
        host.rnet("network edit blue").ok();
        before.same(&host.snapshot(), "after an empty edit");
    });
}

#[test]
fn the_mtu_is_for_those_who_come_later() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("network connect blue web").ok();
        let bridge = host.rnet_json("network edit blue --mtu 1400")["spec"]["bridge"].as_str().unwrap().to_owned();
        host.rnet("network connect blue db --ip 10.9.0.7").ok();
        let mtu = |container: &rnet_netns_harness::Container| container.ip_json("link show eth0")[0]["mtu"].clone();
        assert_eq!((mtu(&web), mtu(&db)), (json!(1500), json!(1400)));
        assert!(host.ip(&format!("link show {bridge}")).contains("mtu 1400"));
        web.ping("10.9.0.7");
        host.rnet("network edit blue --mtu 20").fails(2, &["MTU", "20"]);
    });
}

#[test]
fn addresses_come_from_elsewhere_and_who_has_one_keeps_it() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let names = ["one", "two", "three"].map(|n| host.container(n));
        let address = |name: &str| {
            let made = host.rnet_json(&format!("network connect blue {name}"));
            made["endpoint"]["addresses"][0].as_str().unwrap().to_owned()
        };
        assert_eq!(address("one"), "10.9.0.2/24");
        host.rnet("network edit blue --exclude 10.9.0.2-10.9.0.99").ok();
        assert_eq!(address("two"), "10.9.0.100/24");
        names[0].ping("10.9.0.100");
        host.rnet("network edit blue --ip-range 10.9.0.200-10.9.0.210 --no-exclude").ok();
        assert_eq!(address("three"), "10.9.0.200/24");
        host.rnet("network disconnect blue three").ok();
        assert_eq!(address("three"), "10.9.0.200/24", "it still rests for who had it");
        host.crash();
        host.start();
        assert_eq!(host.rnet_json("network inspect blue")[0]["endpoints"].as_array().unwrap().len(), 3);
        host.rnet("network edit blue --exclude 10.8.0.1").fails(2, &["10.8.0.1", "subnets"]);
    });
}

#[test]
fn what_cannot_be_changed_changes_nothing() {
    run(|world| {
        let (host, _outside) = with_uplink(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let _web = host.container("web");
        host.rnet("network connect blue web").ok();
        let (before, spec) = (host.snapshot(), host.rnet_json("network inspect blue"));
        for (words, code, said) in [
            ("--gateway-mode routed", 4, ["gateway mode", "web"]),
            ("--outbound-address 203.0.113.9 --isolate off", 2, ["203.0.113.9", "host"]),
            ("--outbound-address 2001:db8::9", 2, ["2001:db8::9", "family"]),
            ("--rate 1mbit/100b --isolate off", 2, ["burst", "frame"]),
            ("--dns off --dns-forward 198.51.100.1", 2, ["198.51.100.1", "names"]),
            ("--label-add =x", 2, ["label", "key"]),
        ] {
            host.rnet(&format!("network edit blue {words}")).fails(code, &said);
        }
        host.rnet("network edit other --icc off").fails(3, &["other", "no network"]);
        before.same(&host.snapshot(), "after edits that were refused");
        assert_eq!(host.rnet_json("network inspect blue"), spec);
        host.rnet("network disconnect blue web").ok();
        let routed = host.rnet_json("network edit blue --gateway-mode routed");
        assert_eq!((&routed["spec"]["gateway_mode"], &routed["spec"]["masquerade"]), (&json!("routed"), &json!("off")));
        let nat = host.rnet_json("network edit blue --gateway-mode nat");
        assert_eq!(nat["spec"]["masquerade"], "on");
    });
}
