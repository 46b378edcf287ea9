#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use crate::table;
use crate::testbed::{Bed, addressed};

fn of_network(config: &Value, name: &str) -> Value {
    let mut config = config.clone();
    config["name"] = json!(name);
    config
}

#[test]
fn an_interface_of_another_network_stays() {
    let Some(bed) = Bed::new() else { return };
    for (kind, own) in [("ptp", json!({})), ("bridge", json!({"bridge": "br7"}))] {
        let config = addressed(kind, &own);
        let other = of_network(&config, "other");
        bed.add(&config).unwrap();
        assert!(bed.add(&other).unwrap_err().msg.contains("already exists"), "{kind}");
        bed.del(&other).unwrap();
        assert!(bed.link(&bed.inside, "eth0").is_some(), "{kind}");
        bed.del(&config).unwrap();
        assert_eq!(bed.link(&bed.inside, "eth0"), None, "{kind}");
    }
}

#[test]
fn an_interface_without_a_mark_goes() {
    let Some(bed) = Bed::new() else { return };
    let config = addressed("ptp", &json!({}));
    for alias in ["", "uplink", "0123456789ab the rest is no tag"] {
        bed.add(&config).unwrap();
        bed.within(&format!("ip link set eth0 alias '{alias}'"));
        bed.del(&of_network(&config, "other")).unwrap();
        assert_eq!(bed.link(&bed.inside, "eth0"), None, "{alias:?}");
    }
}

/// Also where the kernel makes no such device.
#[test]
fn every_interface_says_whose_it_is() {
    let Some(bed) = Bed::with_uplink() else { return };
    bed.within("ip link add br0 type bridge");
    let id = rnet_plugin_protocol::AttachmentId { container: "c1".into(), ifname: "eth0".into() };
    let line = format!("[NS] ip link set eth0 alias {:?}", table::owner("net", &id));
    for (kind, own) in [
        ("bridge", json!({})),
        ("bridge", json!({"disableContainerInterface": true})),
        ("dummy", json!({})),
        ("ipvlan", json!({"master": "up0"})),
        ("macvlan", json!({"master": "up0"})),
        ("ptp", json!({})),
        ("tap", json!({})),
        ("vlan", json!({"master": "up0", "vlanId": 5})),
    ] {
        let mut config = addressed(kind, &own);
        if own.get("disableContainerInterface").is_some() {
            config.as_object_mut().unwrap().remove("ipam");
        }
        let (lines, _) = bed.plan(&config).unwrap();
        assert_eq!(lines.iter().filter(|l| **l == line).count(), 1, "{kind}: {lines:#?}");
    }
}
