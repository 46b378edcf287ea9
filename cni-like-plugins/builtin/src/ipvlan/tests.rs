#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::testbed::{Bed, addressed, config, refusal};

#[test]
fn contradictions_are_refused() {
    for (own, code, word) in [
        (json!({"mode": "l4"}), 7, "unknown ipvlan mode"),
        (json!({"mtu": -1}), 7, "invalid MTU -1"),
        (json!({"master": "a/b"}), 7, "a/b"),
        (json!({"mode": 2}), 6, ""),
    ] {
        let error = refusal("ipvlan", &own);
        assert_eq!(error.code, code, "{own}: {error}");
        assert!(error.msg.contains(word), "{own}: {error}");
    }
}

#[test]
fn the_interface_of_the_plugin_before_is_the_master() {
    let below = Below::new("", false, 0).unwrap();
    let of = |names: &[&str]| {
        let interface = |n: &&str| rnet_plugin_protocol::Interface { name: (*n).into(), ..Default::default() };
        let previous = CniResult { interfaces: names.iter().map(interface).collect(), ..CniResult::default() };
        on_previous(&below, Some(&previous)).map(|b| b.master.unwrap().to_string())
    };
    assert_eq!(of(&["eth1"]).unwrap(), "eth1");
    assert_eq!(of(&[]).unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    assert_eq!(of(&["eth1", "eth2"]).unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    assert_eq!(on_previous(&below, None).unwrap(), below);
    let named = Below::new("up0", false, 0).unwrap();
    assert_eq!(on_previous(&named, Some(&CniResult::default())).unwrap(), named);
}

#[test]
fn addresses_and_a_master_are_required() {
    let Some(bed) = Bed::with_uplink() else { return };
    let error = bed.add(&config("ipvlan", &json!({}))).unwrap_err();
    assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains("IPAM is required"), "{error}");
    for (own, word) in [(json!({"mtu": 9000}), "must be [0, master MTU(1500)]"), (json!({"master": "nope"}), "nope")] {
        let error = bed.add(&addressed("ipvlan", &own)).unwrap_err();
        assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains(word), "{error}");
    }
    bed.on_host("ip link del up0");
    bed.del(&addressed("ipvlan", &json!({}))).unwrap();
}

#[test]
fn a_container_gets_what_the_reference_gives() {
    let (Some(bed), Some(other)) = (Bed::with_uplink(), Bed::with_uplink()) else { return };
    if !bed.makes("ipvlan", "link up0 type ipvlan") {
        return;
    }
    let config = addressed("ipvlan", &json!({"mode": "l3"}));
    let ours = bed.add(&config).unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!(link.kind, LinkKind::Ipvlan { mode: IpvlanMode::L3 });
    assert_eq!(link.mac.unwrap().to_string(), ours.interfaces[0].mac);
    bed.check(&config, &ours).unwrap();
    if let Some(theirs) = other.reference("ADD", &config) {
        theirs.unwrap();
        assert_eq!(bed.picture(), other.picture());
    }
    bed.on_host("ip link del up0");
    bed.del(&config).unwrap();
}

/// Also where the kernel makes no such device.
#[test]
fn it_is_born_in_the_container_in_one_message() {
    let Some(bed) = Bed::with_uplink() else { return };
    let (lines, result) = bed.plan(&addressed("ipvlan", &json!({"mode": "l3s"}))).unwrap();
    assert_eq!(lines[0], "ip link add eth0 link up0 netns NS type ipvlan mode l3s");
    assert!(lines.contains(&"[NS] ip addr add 198.51.100.5/24 dev eth0".to_owned()), "{lines:?}");
    assert!(lines.contains(&"[NS] ip link set eth0 up".to_owned()), "{lines:?}");
    assert!(lines.contains(&"[NS] ip route add default via 198.51.100.1 dev eth0".to_owned()), "{lines:?}");
    let up0 = bed.link(&bed.host, "up0").unwrap();
    assert_eq!(result.interfaces[0].mac, up0.mac.unwrap().to_string());
    assert_eq!(result.ips[1].interface, Some(0));
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
}

#[test]
fn addresses_of_the_plugin_before_are_taken_without_an_ipam() {
    let Some(bed) = Bed::with_uplink() else { return };
    let previous = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "up0"}], "ips": [{"address": "198.51.100.9/24"}],
        "routes": [{"dst": "203.0.113.0/24", "gw": "198.51.100.7"}], "dns": {"nameservers": ["192.0.2.53"]},
    });
    let (lines, result) = bed.plan(&config("ipvlan", &json!({"prevResult": previous}))).unwrap();
    assert_eq!(lines[0], "ip link add eth0 link up0 netns NS type ipvlan mode l2");
    assert!(lines.contains(&"[NS] ip addr add 198.51.100.9/24 dev eth0".to_owned()), "{lines:?}");
    assert_eq!((result.interfaces.len(), result.ips[0].interface), (1, Some(0)));
    assert_eq!(result.dns.nameservers, ["192.0.2.53"]);
    let with_ipam = addressed("ipvlan", &json!({"prevResult": previous}));
    assert_eq!(bed.plan(&with_ipam).unwrap().1.ips.len(), 2);
}
