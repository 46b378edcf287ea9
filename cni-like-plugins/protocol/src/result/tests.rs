#![allow(clippy::unwrap_used)]
use super::*;

fn full() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "cni0", "mac": "02:00:00:00:00:01", "mtu": 1400},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x", "pciID": "0000:00:1f.6"},
        ],
        "ips": [
            {"interface": 1, "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
            {"interface": 1, "address": "fd00::3/64"},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.1.2.1", "mtu": 1300, "table": 7, "scope": 253},
            {"dst": "::/0", "gw": "fd00::1"},
        ],
        "dns": {"nameservers": ["10.1.2.1"]},
    })
}

#[test]
fn the_newest_version_keeps_everything() {
    let result = CniResult::from_json(&full(), Version::V0_1_0).unwrap();
    assert_eq!(result.to_json(Version::V1_1_0), full());
}

#[test]
fn older_versions_lose_what_they_have_no_words_for() {
    let result = CniResult::from_json(&full(), Version::V1_1_0).unwrap();
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0] {
        let old = result.to_json(version);
        assert_eq!(old["cniVersion"], version.as_str());
        assert_eq!(old["interfaces"][0], json!({"name": "cni0", "mac": "02:00:00:00:00:01"}), "{version}");
        assert_eq!(old["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.1.2.1"}), "{version}");
        let family = old["ips"][1].get("version").cloned();
        assert_eq!(family, (version < Version::V1_0_0).then(|| json!("6")), "{version}");
        assert_eq!(CniResult::from_json(&old, Version::NEWEST).unwrap().to_json(version), old);
    }
}

#[test]
fn the_first_versions_have_one_address_of_each_family() {
    let mut result = CniResult::from_json(&full(), Version::V1_1_0).unwrap();
    result.ips.push(IpConfig { interface: None, address: "10.9.9.9/8".parse().unwrap(), gateway: None });
    for version in [Version::V0_1_0, Version::V0_2_0] {
        let old = result.to_json(version);
        assert_eq!(
            old,
            json!({
                "cniVersion": version.as_str(),
                "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]},
                "ip6": {"ip": "fd00::3/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
                "dns": {"nameservers": ["10.1.2.1"]},
            })
        );
        assert_eq!(CniResult::from_json(&old, Version::NEWEST).unwrap().to_json(version), old);
    }
}

#[test]
fn an_empty_result_still_has_dns() {
    assert_eq!(CniResult::default().to_json(Version::V1_0_0), json!({"cniVersion": "1.0.0", "dns": {}}));
    let nulls =
        json!({"cniVersion": "1.0.0", "interfaces": null, "ips": null, "routes": null, "dns": {"nameservers": null}});
    assert_eq!(CniResult::from_json(&nulls, Version::NEWEST).unwrap(), CniResult::default());
}

#[test]
fn what_is_no_result_is_refused() {
    let code = |value: Value| CniResult::from_json(&value, Version::NEWEST).unwrap_err().code;
    assert_eq!(code(json!({"cniVersion": "3.0.0"})), Error::INCOMPATIBLE_VERSION);
    assert_eq!(code(json!({"ips": [{"address": "10.1.2.3/33"}]})), Error::DECODING_FAILURE);
    assert_eq!(code(json!({"ips": {}})), Error::DECODING_FAILURE);
    assert_eq!(code(json!([])), Error::DECODING_FAILURE);
    assert_eq!(code(json!({"cniVersion": "0.2.0", "ip4": {"ip": "x"}})), Error::DECODING_FAILURE);
}
