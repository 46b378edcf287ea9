#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::testbed::{Bed, addressed, refusal};

#[test]
fn contradictions_are_refused() {
    for (own, code, word) in [
        (json!({"vlanId": 5}), 7, "\"master\" field is required"),
        (json!({"master": "up0", "vlanId": -1}), 7, "invalid VLAN ID -1"),
        (json!({"master": "up0", "vlanId": 4095}), 7, "invalid VLAN ID 4095"),
        (json!({"master": "up0", "mtu": -1}), 7, "invalid MTU -1"),
        (json!({"master": "up0", "vlanId": "5"}), 6, ""),
    ] {
        let error = refusal("vlan", &own);
        assert_eq!(error.code, code, "{own}: {error}");
        assert!(error.msg.contains(word), "{own}: {error}");
    }
}

#[test]
fn the_master_has_to_be_there_and_large_enough() {
    let Some(bed) = Bed::with_uplink() else { return };
    for (own, word) in [
        (json!({"master": "up0", "vlanId": 4, "mtu": 9000}), "must be [0, master MTU(1500)]"),
        (json!({"master": "nope", "vlanId": 4}), "nope"),
    ] {
        let config = addressed("vlan", &own);
        let error = bed.add(&config).unwrap_err();
        assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains(word), "{error}");
        bed.del(&config).unwrap();
    }
    let mut bare = addressed("vlan", &json!({"master": "up0", "vlanId": 4}));
    bare.as_object_mut().unwrap().remove("ipam");
    assert!(bed.add(&bare).unwrap_err().msg.contains("IPAM is required"));
}

#[test]
fn a_container_gets_what_the_reference_gives() {
    let (Some(bed), Some(other)) = (Bed::with_uplink(), Bed::with_uplink()) else { return };
    if !bed.makes("vlan", "link up0 type vlan id 9") {
        return;
    }
    let config = addressed("vlan", &json!({"master": "up0", "vlanId": 5, "mtu": 1400}));
    let ours = bed.add(&config).unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!((link.kind, link.mtu), (LinkKind::Vlan { id: 5 }, 1400));
    assert_eq!(link.mac.unwrap().to_string(), ours.interfaces[0].mac);
    bed.check(&config, &ours).unwrap();
    let changed = addressed("vlan", &json!({"master": "up0", "vlanId": 6}));
    assert!(bed.check(&changed, &ours).unwrap_err().msg.contains("VLAN 6"));
    if let Some(theirs) = other.reference("ADD", &config) {
        theirs.unwrap();
        assert_eq!(bed.picture(), other.picture());
    }
    bed.on_host("ip link del up0");
    bed.del(&config).unwrap();
    bed.del(&config).unwrap();
}

/// Also where the kernel makes no such device.
#[test]
fn it_is_born_in_the_container_in_one_message() {
    let Some(bed) = Bed::with_uplink() else { return };
    let (lines, result) = bed.plan(&addressed("vlan", &json!({"master": "up0", "vlanId": 5, "mtu": 1400}))).unwrap();
    assert_eq!(lines[0], "ip link add eth0 link up0 mtu 1400 netns NS type vlan id 5");
    assert!(lines.contains(&"[NS] ip addr add 198.51.100.5/24 dev eth0".to_owned()), "{lines:?}");
    assert!(lines.contains(&"[NS] ip link set eth0 up".to_owned()), "{lines:?}");
    assert!(lines.contains(&"[NS] ip route add default via 198.51.100.1 dev eth0".to_owned()), "{lines:?}");
    let up0 = bed.link(&bed.host, "up0").unwrap();
    assert_eq!(result.interfaces[0].mac, up0.mac.unwrap().to_string());
    assert_eq!(result.ips[1].interface, Some(0));
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
}

#[test]
fn the_master_may_be_in_the_container() {
    let Some(bed) = Bed::new() else { return };
    bed.within("ip link add in0 type veth peer name in1");
    let own = json!({"master": "in0", "vlanId": 5, "linkInContainer": true});
    let (lines, _) = bed.plan(&addressed("vlan", &own)).unwrap();
    assert_eq!(lines[0], "[NS] ip link add eth0 link in0 type vlan id 5");
}
