#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::testbed::{Bed, addressed, config, refusal};

fn bed() -> Option<Bed> {
    if !Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return None;
    }
    Bed::new()
}

#[test]
fn contradictions_are_refused() {
    for (own, code) in [
        (json!({"selinuxContext": "system_u:system_r:x_t:s0"}), Error::UNSUPPORTED_FIELD),
        (json!({"mtu": -1}), Error::INVALID_NETWORK_CONFIG),
        (json!({"bridge": "a/b"}), Error::INVALID_NETWORK_CONFIG),
        (json!({"owner": -1}), Error::DECODING_FAILURE),
        (json!({"multiQueue": "yes"}), Error::DECODING_FAILURE),
    ] {
        assert_eq!(refusal("tap", &own).code, code, "{own}");
    }
    let empty = config("tap", &json!({"selinuxContext": ""}));
    assert_eq!(Tap::new(&crate::testbed::request(&empty)).configured(), Ok(()));
}

#[test]
fn every_key_is_the_kernels() {
    let Some(bed) = bed() else { return };
    let own = json!({"multiQueue": true, "mtu": 1400, "mac": "02:00:00:00:00:41", "owner": 41007, "group": 41008});
    let config = addressed("tap", &own);
    let result = bed.add(&config).unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!((link.kind, link.mtu, link.up), (LinkKind::Tap, 1400, true));
    assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:41");
    assert_eq!(result.interfaces[0].mac, "02:00:00:00:00:41");
    let shown = bed.within("ip -d link show eth0");
    for word in ["type tap", "multi_queue", "user 41007", "group 41008", "persist on"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(bed.picture().contains("198.51.100.5/24"));
    bed.check(&config, &result).unwrap();
    bed.del(&config).unwrap();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    bed.del(&config).unwrap();
}

#[test]
fn it_becomes_a_port() {
    let Some(bed) = bed() else { return };
    let config = config("tap", &json!({"bridge": "br0"}));
    assert!(bed.add(&config).unwrap_err().msg.contains("br0"));
    bed.within("ip link add br0 type bridge");
    let result = bed.add(&config).unwrap();
    let master = bed.link(&bed.inside, "br0").unwrap().index;
    assert_eq!(bed.link(&bed.inside, "eth0").unwrap().master, Some(master));
    bed.check(&config, &result).unwrap();
    bed.within("ip link set eth0 nomaster");
    assert!(bed.check(&config, &result).unwrap_err().msg.contains("port"));
    let again = bed.add(&config).unwrap_err();
    assert!(again.msg.contains("already exists"), "{again}");
}

#[test]
fn a_failure_leaves_nothing() {
    let Some(bed) = bed() else { return };
    let mut config = addressed("tap", &json!({}));
    config["ipam"]["routes"] = json!([{"dst": "203.0.113.0/24", "gw": "192.0.2.77"}]);
    bed.add(&config).unwrap_err();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
}
