//! Which plugin a `type` is, and which keys it has.

use rnet_plugin_protocol::{Error, Plugin, Request, Version};
use serde_json::{Map, Value};

use crate::{
    bandwidth, bridge, dhcp, dummy, firewall, host_device, host_local, ipvlan, loopback, macvlan, portmap, ptp, sbr,
    static_ipam, tap, tuning, vlan, vrf,
};

/// A plugin of this crate.
struct Entry {
    /// As in `type`.
    name: &'static str,
    /// Its page. Every key it has stands there, in backquotes.
    page: &'static str,
    make: Make,
}

/// From a request and its `ipam`.
type Make = fn(&Request, &Map<String, Value>) -> Result<Box<dyn Plugin>, Error>;

/// An entry, its page from the plugin's folder.
macro_rules! entry {
    ($name:literal, $folder:literal, $make:expr) => {
        Entry { name: $name, page: include_str!(concat!($folder, "/README.md")), make: $make }
    };
}

const ENTRIES: &[Entry] = &[
    entry!("bandwidth", "bandwidth", |r, _| Ok(Box::new(bandwidth::Bandwidth::new(r)))),
    entry!("bridge", "bridge", |r, _| Ok(Box::new(bridge::Bridge::new(r)))),
    entry!("dhcp", "dhcp", |r, ipam| Ok(Box::new(dhcp::Dhcp::new(r, ipam)?))),
    entry!("dummy", "dummy", |_, _| Ok(Box::new(dummy::Dummy))),
    entry!("firewall", "firewall", |r, _| Ok(Box::new(firewall::Firewall::new(r)))),
    entry!("host-device", "host_device", |r, _| Ok(Box::new(host_device::HostDevice::new(r)))),
    entry!("host-local", "host_local", |r, ipam| Ok(Box::new(host_local::HostLocal::new(r, ipam)))),
    entry!("ipvlan", "ipvlan", |r, _| Ok(Box::new(ipvlan::Ipvlan::new(r)))),
    entry!("loopback", "loopback", |_, _| Ok(Box::new(loopback::Loopback))),
    entry!("macvlan", "macvlan", |r, _| Ok(Box::new(macvlan::Macvlan::new(r)))),
    entry!("portmap", "portmap", |r, _| Ok(Box::new(portmap::Portmap::new(r)))),
    entry!("ptp", "ptp", |r, _| Ok(Box::new(ptp::Ptp::new(r)))),
    entry!("sbr", "sbr", |r, _| Ok(Box::new(sbr::Sbr::new(r)))),
    entry!("static", "static_ipam", |_, ipam| Ok(Box::new(static_ipam::Static::new(ipam)))),
    entry!("tap", "tap", |r, _| Ok(Box::new(tap::Tap::new(r)))),
    entry!("tuning", "tuning", |r, _| Ok(Box::new(tuning::Tuning::new(r)))),
    entry!("vlan", "vlan", |r, _| Ok(Box::new(vlan::Vlan::new(r)))),
    entry!("vrf", "vrf", |r, _| Ok(Box::new(vrf::Vrf::new(r)))),
];

/// Every `type` this crate has, as the reference plugins are called, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.name)
}

fn entry(kind: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == kind)
}

/// The oldest version of the specification a plugin speaks: results have to be handed on in its words.
pub fn oldest(kind: &str) -> Version {
    match kind {
        "firewall" => Version::V0_4_0,
        "vrf" => Version::V0_3_1,
        "bandwidth" => Version::V0_3_0,
        _ => Version::V0_1_0,
    }
}

/// The plugin of a `type` with the configuration of a request; `None` when this crate has no such one.
///
/// # Errors
/// What is wrong with the configuration, in the codes of the CNI specification.
pub fn configure(kind: &str, request: &Request) -> Result<Option<Box<dyn Plugin>>, Error> {
    let none = Map::new();
    let ipam = request.ipam.as_ref().unwrap_or(&none);
    entry(kind).map(|entry| (entry.make)(request, ipam)).transpose()
}

/// Keys of a request that its plugin, or its `ipam`, has no use for.
pub fn unknown_keys(kind: &str, request: &Request) -> Vec<String> {
    let unknown = |kind: &str, keys: &Map<String, Value>| {
        let page = entry(kind).map(|entry| entry.page);
        let known = |key: &str| key == "type" || page.is_none_or(|page| page.contains(&format!("`{key}`")));
        let keys: Vec<String> = keys.keys().filter(|key| !known(key)).map(|key| format!("{kind}: {key}")).collect();
        keys
    };
    let ipam = request.ipam.as_ref();
    let delegate = ipam.and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
    let mut all = unknown(kind, &request.own);
    all.extend(ipam.zip(delegate).into_iter().flat_map(|(ipam, kind)| unknown(kind, ipam)));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn plugins_are_found_by_their_names_in_order() {
        let all: Vec<&str> = names().collect();
        assert!(all.is_sorted(), "{all:?}");
        for entry in ENTRIES {
            assert!(entry.page.starts_with(&format!("# `{}`", entry.name)), "{}", entry.name);
        }
    }

    /// What was made has to go, whatever has become of the configuration.
    #[test]
    fn only_del_and_gc_do_without_a_configuration() {
        let Some(mut bench) = crate::testing::Bench::real() else { return };
        bench.veth(&["10.1.0.2/24"]);
        for (kind, own, code) in [
            ("bandwidth", json!({"ingressRate": 5}), 7),
            ("firewall", json!({"ingressPolicy": "x"}), 7),
            ("host-local", json!({"ipam": {"type": "host-local"}}), 7),
            ("portmap", json!({"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}}), 7),
            ("portmap", json!({"conditionsV4": ["-s", "192.0.2.1"]}), 2),
            ("sbr", json!({"table": 0}), 7),
            ("static", json!({"ipam": {"type": "static", "addresses": [{"address": "x"}]}}), 7),
            ("tuning", json!({"sysctl": {"kernel.x": "1"}}), 7),
            ("vrf", json!({}), 7),
            ("vrf", json!({"vrfname": "eth0"}), 999),
        ] {
            let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "type": kind, "cni.dev/valid-attachments": []});
            conf["prevResult"] = bench.previous(&["10.1.0.2/24"]);
            conf.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            assert_eq!(bench.add(&conf).unwrap_err().code, code, "{conf}");
            bench.del(&conf).unwrap();
            bench.gc(&conf).unwrap();
            if code != 999 {
                assert_eq!(bench.check(&conf).unwrap_err().code, code, "{conf}");
                assert_eq!(bench.status(&conf).unwrap_err().code, code, "{conf}");
            }
        }
    }

    #[test]
    fn keys_of_nobody_are_named() {
        let request = Request::from_value(json!({
            "cniVersion": "1.0.0", "name": "n", "type": "bridge", "isGateway": true, "isGatway": true,
            "ipam": {"type": "host-local", "ranges": [], "dataDri": "/x"}, "runtimeConfig": {"mac": "x"},
        }))
        .unwrap();
        assert_eq!(unknown_keys("bridge", &request), ["bridge: isGatway", "host-local: dataDri"]);
        assert_eq!(unknown_keys("theirs", &request), ["host-local: dataDri"]);
    }
}
