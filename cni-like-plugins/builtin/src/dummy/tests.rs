#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::testbed::{Bed, addressed, config};

#[test]
fn addresses_are_required() {
    let Some(bed) = Bed::new() else { return };
    let error = bed.add(&config("dummy", &json!({}))).unwrap_err();
    assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains("IPAM is required"), "{error}");
    bed.within("ip link add eth0 type veth peer name x");
    bed.del(&config("dummy", &json!({}))).unwrap();
    assert!(bed.link(&bed.inside, "eth0").is_some());
}

#[test]
fn a_container_gets_its_addresses() {
    let Some(bed) = Bed::new() else { return };
    if !bed.makes("dummy", "type dummy") {
        return;
    }
    let config = addressed("dummy", &json!({}));
    let result = bed.add(&config).unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!((link.kind, link.up), (LinkKind::Dummy, true));
    assert_eq!(link.mac.unwrap().to_string(), result.interfaces[0].mac);
    bed.check(&config, &result).unwrap();
    bed.del(&config).unwrap();
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    bed.del(&config).unwrap();
}

/// Also where the kernel makes no such device.
#[test]
fn it_is_born_with_the_address_of_the_result() {
    let Some(bed) = Bed::new() else { return };
    let (lines, result) = bed.plan(&addressed("dummy", &json!({}))).unwrap();
    assert_eq!(lines[0], format!("[NS] ip link add eth0 address {} type dummy", result.interfaces[0].mac));
    assert!(lines.contains(&"[NS] ip addr add 2001:db8::5/64 dev eth0".to_owned()), "{lines:?}");
}
