#![allow(clippy::unwrap_used)]
use rnet_kernel::Netns;
use rnet_plugin_protocol::Version;
use serde_json::{Value, json};

use super::*;
use crate::testbed::{Bed, addressed, assert_alike, config, picture, refusal, sysctl, with_previous};

fn host_end(bed: &Bed, result: &CniResult) -> Option<LinkState> {
    bed.link(&bed.host, &result.interfaces[0].name)
}

#[test]
fn contradictions_are_refused() {
    for (own, code) in [
        (json!({"mtu": -1}), 7),
        (json!({"ipMasqBackend": "ebpf"}), 7),
        (json!({"ipMasq": "yes"}), 6),
        (json!({"mtu": "x"}), 6),
    ] {
        assert_eq!(refusal("ptp", &own).code, code, "{own}");
    }
}

#[test]
fn addresses_are_required_and_each_needs_a_gateway() {
    let Some(bed) = Bed::new() else { return };
    let error = bed.add(&config("ptp", &json!({}))).unwrap_err();
    assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains("IPAM is required"), "{error}");
    let ipam = json!({"ipam": {"type": "static", "addresses": [{"address": "198.51.100.5/24"}]}});
    let error = bed.add(&config("ptp", &ipam)).unwrap_err();
    assert!(error.code == Error::INVALID_NETWORK_CONFIG && error.msg.contains("no gateway"), "{error}");
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
}

#[test]
fn both_ends_get_what_the_reference_gives() {
    let (Some(bed), Some(other)) = (Bed::with_uplink(), Bed::with_uplink()) else { return };
    let config = addressed("ptp", &json!({"mtu": 1450}));
    let ours = bed.add(&config).unwrap();
    let end = host_end(&bed, &ours).unwrap();
    assert_eq!((end.mtu, end.up, end.mac.unwrap().to_string()), (1450, true, ours.interfaces[0].mac.clone()));
    assert_eq!(bed.link(&bed.inside, "eth0").unwrap().mac.unwrap().to_string(), ours.interfaces[1].mac);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        assert_eq!(sysctl(&bed.host, key), "1");
    }
    assert_eq!(sysctl(&bed.host, &format!("net/ipv6/conf/{}/accept_ra", end.name)), "0");
    bed.within("ping -c 1 -W 2 198.51.100.1 && ping -c 1 -W 2 2001:db8::1 && ping -c 1 -W 2 192.0.2.2");
    bed.check(&config, &ours).unwrap();
    if let Some(theirs) = other.reference("ADD", &config) {
        let mut theirs = theirs.unwrap();
        theirs.interfaces[1].sandbox.clone_from(&ours.interfaces[1].sandbox);
        assert_alike(&ours, &theirs);
        assert_eq!(bed.picture(), other.picture());
        assert_eq!(picture(&bed.host), picture(&other.host));
    }
    bed.del(&config).unwrap();
    assert_eq!((bed.link(&bed.inside, "eth0"), host_end(&bed, &ours)), (None, None));
    bed.del(&config).unwrap();
}

#[test]
fn only_the_family_in_use_is_forwarded() {
    let Some(bed) = Bed::new() else { return };
    let ipam = json!({"type": "static", "addresses": [{"address": "198.51.100.5/32", "gateway": "198.51.100.1"}]});
    let config = config("ptp", &json!({"ipam": ipam}));
    let result = bed.add(&config).unwrap();
    assert_eq!(sysctl(&bed.host, "net/ipv4/ip_forward"), "1");
    assert_eq!(sysctl(&bed.host, "net/ipv6/conf/all/forwarding"), "0");
    bed.within("ping -c 1 -W 2 198.51.100.1");
    bed.check(&config, &result).unwrap();
}

#[test]
fn the_name_servers_of_the_network_come_first() {
    let Some(bed) = Bed::new() else { return };
    let mut config = addressed("ptp", &json!({}));
    config["ipam"]["dns"] = json!({"nameservers": ["192.0.2.53"]});
    let dns = |own: Option<Value>| {
        let mut config = config.clone();
        if let Some(own) = own {
            config["dns"] = own;
        }
        let result = bed.add(&config).unwrap();
        bed.del(&config).unwrap();
        result.dns.nameservers
    };
    assert_eq!(dns(None), ["192.0.2.53"]);
    assert_eq!(dns(Some(json!({}))), ["192.0.2.53"]);
    assert_eq!(dns(Some(json!({"nameservers": ["192.0.2.54"]}))), ["192.0.2.54"]);
    assert_eq!(dns(Some(json!({"nameservers": []}))), [""; 0]);
    assert_eq!(dns(Some(json!({"search": ["example"]}))), [""; 0]);
}

#[test]
fn masquerading_comes_and_goes() {
    let Some(bed) = Bed::new() else { return };
    let config = addressed("ptp", &json!({"ipMasq": true}));
    let result = match bed.add(&config) {
        Err(e) if e.msg.contains("nf_tables") => return println!("skipped: {e}"),
        other => other.unwrap(),
    };
    let rules = bed.on_host("nft list table inet rnet_cni");
    assert!(rules.contains("198.51.100.5") && rules.contains("2001:db8::5"), "{rules}");
    bed.check(&config, &result).unwrap();
    bed.on_host("nft flush set inet rnet_cni masquerade4");
    assert!(bed.check(&config, &result).unwrap_err().msg.contains("masquerading"));
    // Without the namespace and without the previous result.
    bed.call(&config, None, |pair, call, kernel| pair.del(call, kernel)).unwrap();
    assert_eq!(bed.on_host("nft list tables"), "");
    assert_eq!(host_end(&bed, &result), None);
}

#[test]
fn what_is_left_of_others_is_swept() {
    let Some(bed) = Bed::new() else { return };
    let config = addressed("ptp", &json!({}));
    let result = bed.add(&config).unwrap();
    let of = |container: &str| AttachmentId { container: container.into(), ifname: "eth0".into() };
    let mut request = config.clone();
    request["cniVersion"] = json!("1.1.0");
    bed.gc(&request, &[of("c1"), of("c2")]).unwrap();
    assert!(host_end(&bed, &result).is_some());
    let mut foreign = request.clone();
    foreign["name"] = json!("another");
    bed.gc(&foreign, &[]).unwrap();
    assert!(host_end(&bed, &result).is_some());
    bed.gc(&request, &[of("c2")]).unwrap();
    assert_eq!(host_end(&bed, &result), None);
}

#[test]
fn check_finds_differences_on_the_host() {
    let Some(bed) = Bed::new() else { return };
    let config = addressed("ptp", &json!({}));
    let result = bed.add(&config).unwrap();
    let end = &result.interfaces[0].name;
    bed.on_host(&format!("ip addr del 198.51.100.1/32 dev {end}"));
    assert!(bed.check(&config, &result).unwrap_err().msg.contains("198.51.100.1"));
    let mut renamed = result.clone();
    renamed.interfaces[0].name = "vethffffffff".into();
    assert!(bed.check(&config, &renamed).unwrap_err().msg.contains("host's end"));
    assert_eq!(with_previous(&config, &result)["prevResult"], result.to_json(Version::V1_1_0));
}

#[test]
fn a_failure_leaves_nothing() {
    let Some(bed) = Bed::new() else { return };
    let mut config = addressed("ptp", &json!({}));
    // A next hop that is nowhere on the link.
    config["ipam"]["routes"] = json!([{"dst": "203.0.113.0/24", "gw": "192.0.2.77"}]);
    bed.add(&config).unwrap_err();
    let links = |netns: &Netns| picture(netns);
    assert_eq!(bed.link(&bed.inside, "eth0"), None);
    assert_eq!(links(&bed.host), "");
    assert!(!bed.on_host("ip -o link").contains("veth"));
}
