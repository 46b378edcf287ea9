#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::testbed::{Bed, addressed, assert_alike, config, refusal, sysctl};

fn bed() -> Option<Bed> {
    let bed = Bed::with_uplink()?;
    bed.makes("macvlan", "link up0 type macvlan").then_some(bed)
}

#[test]
fn contradictions_are_refused() {
    for (own, code, word) in [
        (json!({"mode": "x"}), 7, "unknown macvlan mode"),
        (json!({"mtu": -1}), 7, "invalid MTU -1"),
        (json!({"master": "a/b"}), 7, "a/b"),
        (json!({"mode": 5}), 6, "mode"),
        (json!({"linkInContainer": "yes"}), 6, "linkInContainer"),
    ] {
        let error = refusal("macvlan", &own);
        assert_eq!(error.code, code, "{own}: {error}");
        assert!(code == 6 || error.msg.contains(word), "{own}: {error}");
    }
}

#[test]
fn a_container_gets_what_the_reference_gives() {
    let (Some(bed), Some(other)) = (bed(), bed()) else { return };
    let config = addressed("macvlan", &json!({"master": "up0", "mtu": 1400}));
    let ours = bed.add(&config).unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!(link.kind, LinkKind::Macvlan { mode: MacvlanMode::Bridge });
    assert_eq!((link.mtu, link.up, link.mac.unwrap().to_string()), (1400, true, ours.interfaces[0].mac.clone()));
    assert_eq!(sysctl(&bed.inside, "net/ipv4/conf/eth0/arp_notify"), "1");
    bed.check(&config, &ours).unwrap();
    if let Some(theirs) = other.reference("ADD", &config) {
        let mut theirs = theirs.unwrap();
        theirs.interfaces[0].sandbox.clone_from(&ours.interfaces[0].sandbox);
        assert_alike(&ours, &theirs);
        assert_eq!(bed.picture(), other.picture());
    }
    bed.del(&config).unwrap();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    bed.del(&config).unwrap();
}

#[test]
fn the_host_may_have_a_device_of_that_name() {
    let Some(bed) = bed() else { return };
    bed.on_host("ip link add eth0 type veth peer name other0");
    let config = config("macvlan", &json!({"master": "up0"}));
    let result = bed.add(&config).unwrap();
    assert!(matches!(bed.link(&bed.inside, "eth0").unwrap().kind, LinkKind::Macvlan { .. }));
    assert!(matches!(bed.link(&bed.host, "eth0").unwrap().kind, LinkKind::Veth { .. }));
    bed.check(&config, &result).unwrap();
    bed.del(&config).unwrap();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    assert!(bed.link(&bed.host, "eth0").is_some());
}

#[test]
fn without_keys_it_stands_on_the_default_route() {
    let Some(bed) = bed() else { return };
    let config = config("macvlan", &json!({}));
    let result = bed.add(&config).unwrap();
    let up0 = bed.link(&bed.host, "up0").unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!((link.parent, link.up, result.ips.len()), (Some(up0.index), true, 0));
    let again = bed.add(&config).unwrap_err();
    assert!(again.code == Error::INTERNAL && again.msg.contains("already exists"), "{again}");
    // A failed ADD leaves the interface of the other.
    bed.check(&config, &result).unwrap();
    bed.on_host("ip route del default");
    bed.del(&config).unwrap();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    assert!(bed.add(&config).unwrap_err().msg.contains("no default route interface found"));
    assert_eq!(bed.status(&config).unwrap_err().code, Error::NOT_AVAILABLE);
}

#[test]
fn the_master_has_to_be_there_and_large_enough() {
    let Some(bed) = bed() else { return };
    for (own, word) in [(json!({"mtu": 9000}), "must be [0, master MTU(1500)]"), (json!({"master": "nope"}), "nope")] {
        let error = bed.add(&config("macvlan", &own)).unwrap_err();
        assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains(word), "{error}");
    }
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    // DEL needs no right configuration.
    bed.add(&config("macvlan", &json!({}))).unwrap();
    bed.del(&config("macvlan", &json!({"mode": "x", "master": "nope"}))).unwrap();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
}

#[test]
fn what_another_made_stays() {
    let Some(bed) = bed() else { return };
    bed.within("ip link add eth0 type veth peer name x");
    bed.del(&config("macvlan", &json!({}))).unwrap();
    assert!(bed.link(&bed.inside, "eth0").is_some());
}

#[test]
fn the_master_may_be_in_the_container() {
    let Some(bed) = bed() else { return };
    bed.within("ip link add in0 type veth peer name in1");
    let config = config("macvlan", &json!({"master": "in0", "linkInContainer": true, "mode": "private"}));
    let result = bed.add(&config).unwrap();
    let (link, in0) = (bed.link(&bed.inside, "eth0").unwrap(), bed.link(&bed.inside, "in0").unwrap());
    assert_eq!((link.parent, link.parent_elsewhere), (Some(in0.index), false));
    assert_eq!(link.kind, LinkKind::Macvlan { mode: MacvlanMode::Private });
    bed.check(&config, &result).unwrap();
    bed.del(&config).unwrap();
}

#[test]
fn passing_through_shares_the_address() {
    let Some(bed) = bed() else { return };
    let given = config("macvlan", &json!({"mode": "passthru", "mac": "02:00:00:00:00:19"}));
    let before = bed.link(&bed.host, "up0").unwrap().mac;
    for (config, mac) in [(config("macvlan", &json!({"mode": "passthru"})), None), (given, Some("02:00:00:00:00:19"))] {
        let result = bed.add(&config).unwrap();
        let expected = mac.map(|m| m.parse().unwrap()).or(before);
        assert_eq!(bed.link(&bed.inside, "eth0").unwrap().mac, expected);
        assert_eq!(result.interfaces[0].mac, expected.unwrap().to_string());
        bed.del(&config).unwrap();
        assert_eq!(bed.link(&bed.host, "up0").unwrap().mac, before);
    }
}

#[test]
fn check_finds_differences() {
    let Some(bed) = bed() else { return };
    let config = addressed("macvlan", &json!({"master": "up0"}));
    let result = bed.add(&config).unwrap();
    let changed = |own| addressed("macvlan", &own);
    for (config, word) in
        [(changed(json!({"master": "up0", "mode": "vepa"})), "mode"), (changed(json!({"master": "up1"})), "stand on")]
    {
        let error = bed.check(&config, &result).unwrap_err();
        assert!(error.msg.contains(word), "{error}");
    }
    for (change, word) in [
        ("ip addr del 198.51.100.5/24 dev eth0", "198.51.100.5"),
        ("ip addr add 198.51.100.5/24 dev eth0; ip link set eth0 mtu 1300", "route"),
        ("ip route add default via 198.51.100.1; ip route add 203.0.113.0/24 via 198.51.100.7", "MTU"),
        ("ip link del eth0; ip link add eth0 type veth peer name x", "not found on eth0"),
        ("ip link del eth0", "not found"),
    ] {
        bed.within(change);
        let error = bed.check(&config, &result).unwrap_err();
        let other = error.msg.contains("Failed to match addr") && change.contains("veth");
        assert!(error.msg.contains(word) || other, "{change}: {error}");
    }
}

#[test]
fn name_servers_of_ipam_stay_unless_the_network_has_its_own() {
    let Some(bed) = bed() else { return };
    let mut config = addressed("macvlan", &json!({}));
    config["ipam"]["dns"] = json!({"nameservers": ["192.0.2.53"]});
    assert_eq!(bed.add(&config).unwrap().dns.nameservers, ["192.0.2.53"]);
    bed.del(&config).unwrap();
    config["dns"] = json!({"nameservers": []});
    assert!(bed.add(&config).unwrap().dns.nameservers.is_empty());
    bed.del(&config).unwrap();
}

#[test]
fn several_gateways_share_a_destination() {
    let Some(bed) = bed() else { return };
    let mut config = addressed("macvlan", &json!({}));
    let via = |gw: &str| json!({"dst": "203.0.113.0/24", "gw": gw});
    config["ipam"]["routes"] = json!([via("198.51.100.7"), via("198.51.100.8"), via("198.51.100.7"), {"dst": "::/0"}]);
    let result = bed.add(&config).unwrap();
    let shown = bed.within("ip route show 203.0.113.0/24");
    assert_eq!(shown.matches("nexthop via").count(), 2, "{shown}");
    assert_eq!(result.routes.len(), 4);
    bed.check(&config, &result).unwrap();
}

#[test]
fn addresses_of_ipv6_are_taken_where_it_is_off() {
    let Some(bed) = bed() else { return };
    bed.within("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    let config = addressed("macvlan", &json!({}));
    let result = bed.add(&config).unwrap();
    assert_eq!(sysctl(&bed.inside, "net/ipv6/conf/eth0/disable_ipv6"), "0");
    bed.check(&config, &result).unwrap();
}

#[test]
fn no_address_is_asked_for_with_a_wrong_configuration() {
    let Some(bed) = bed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ipam = json!({"type": "host-local", "subnet": "198.51.100.0/24", "dataDir": folder.path()});
    let of = |mode: &str| config("macvlan", &json!({"mode": mode, "ipam": ipam}));
    assert!(bed.add(&of("x")).unwrap_err().msg.contains("unknown macvlan mode"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    bed.add(&of("bridge")).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("net")).unwrap().filter(is_address).count(), 1);
    bed.del(&of("x")).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("net")).unwrap().filter(is_address).count(), 0);
}

fn is_address(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().file_name().to_str().unwrap().parse::<std::net::IpAddr>().is_ok()
}
