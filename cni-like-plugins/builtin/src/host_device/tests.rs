#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rnet_kernel::Route;
use serde_json::json;

use super::*;
use crate::testbed::{Bed, addressed, assert_alike, config, refusal, request};

fn bed() -> Option<Bed> {
    let bed = Bed::new()?;
    bed.on_host("ip link add hd0 type veth peer name hd1; ip link set hd0 up; ip link set hd1 up");
    Some(bed)
}

#[test]
fn contradictions_are_refused() {
    for (own, word) in [
        (json!({}), "specify either"),
        (json!({"device": ""}), "specify either"),
        (json!({"device": "a/b"}), "a/b"),
        (json!({"hwaddr": "zz"}), "zz"),
        (json!({"kernelpath": "/nope"}), "begin with /sys/devices/"),
        (json!({"kernelpath": "/sys/devices/../class"}), "begin with /sys/devices/"),
        (json!({"pciBusID": "../net"}), "no address"),
    ] {
        let error = refusal("host-device", &own);
        assert_eq!(error.code, Error::INVALID_NETWORK_CONFIG, "{own}");
        assert!(error.msg.contains(word), "{own}: {error}");
    }
    assert_eq!(refusal("host-device", &json!({"device": 5})).code, Error::DECODING_FAILURE);
}

#[test]
fn a_device_goes_and_comes_back_as_with_the_reference() {
    let (Some(bed), Some(other)) = (bed(), bed()) else { return };
    let config = addressed("host-device", &json!({"device": "hd0"}));
    let before = bed.link(&bed.host, "hd0").unwrap();
    let ours = bed.add(&config).unwrap();
    let link = bed.link(&bed.inside, "eth0").unwrap();
    assert_eq!((bed.link(&bed.host, "hd0"), link.mac, link.up), (None, before.mac, true));
    assert_eq!(link.alias.as_deref(), Some("hd0"));
    bed.check(&config, &ours).unwrap();
    if let Some(theirs) = other.reference("ADD", &config) {
        let mut theirs = theirs.unwrap();
        theirs.interfaces[0].sandbox.clone_from(&ours.interfaces[0].sandbox);
        assert_alike(&ours, &theirs);
        assert_eq!(bed.picture(), other.picture());
    }
    bed.del(&config).unwrap();
    let after = bed.link(&bed.host, "hd0").unwrap();
    assert_eq!((after.up, after.alias, after.mac, bed.link(&bed.inside, "eth0")), (false, None, before.mac, None));
    bed.del(&config).unwrap();
    assert!(bed.link(&bed.host, "hd0").is_some());
    bed.call(&config, None, |pair, call, kernel| pair.del(call, kernel)).unwrap();
}

#[test]
fn names_may_clash_on_either_side() {
    let Some(bed) = bed() else { return };
    let config = config("host-device", &json!({"device": "hd0"}));
    bed.within("ip link add hd0 type veth peer name x");
    let result = bed.add(&config).unwrap();
    assert_eq!(result.ips.len(), 0);
    assert!(bed.link(&bed.inside, "hd0").is_some());
    bed.on_host("ip link add hd0 type veth peer name y");
    let taken = bed.link(&bed.host, "hd0");
    bed.del(&config).unwrap();
    assert_eq!((bed.link(&bed.inside, "eth0"), bed.link(&bed.host, "hd0")), (None, taken));
    assert!(bed.on_host("ip -o link").contains(": dev"), "it is back under another name");
}

#[test]
fn a_failure_gives_the_device_back_as_it_was() {
    let Some(bed) = bed() else { return };
    bed.on_host("ip link set hd0 alias uplink");
    let mut config = addressed("host-device", &json!({"device": "hd0"}));
    config["ipam"]["routes"] = json!([{"dst": "203.0.113.0/24", "gw": "192.0.2.77"}]);
    let before = bed.link(&bed.host, "hd0").unwrap();
    bed.add(&config).unwrap_err();
    let after = bed.link(&bed.host, "hd0").unwrap();
    assert_eq!((after.up, after.alias, after.mac), (true, Some("uplink".into()), before.mac));
    bed.within("ip link add eth0 type veth peer name x");
    let error = bed.add(&config).unwrap_err();
    assert!(error.msg.contains("already exists"), "{error}");
    // A device that was not lent is not taken.
    bed.del(&config).unwrap();
    assert!(bed.link(&bed.inside, "eth0").is_some());
}

#[test]
fn a_device_is_found_by_its_address() {
    let Some(bed) = bed() else { return };
    bed.on_host("ip link set hd0 address 02:00:00:00:00:77");
    let of = |mac: &str| config("host-device", &json!({"hwaddr": mac}));
    bed.add(&of("02-00-00-00-00-77")).unwrap();
    let error = bed.add(&of("02:00:00:00:00:99")).unwrap_err();
    assert!(error.code == Error::INTERNAL, "{error}");
    bed.del(&of("02:00:00:00:00:77")).unwrap();
    let mut status = of("02:00:00:00:00:99");
    assert_eq!(bed.status(&status).unwrap_err().code, Error::NOT_AVAILABLE);
    status["hwaddr"] = json!("02:00:00:00:00:77");
    bed.status(&status).unwrap();
}

fn sysfs(own: &serde_json::Value, root: &Path) -> find::Config {
    let mut config = find::Config::new(&request(&config("host-device", own))).unwrap();
    config.sysfs = root.to_path_buf();
    config
}

#[test]
fn a_device_is_found_on_its_bus() {
    let Some(bed) = bed() else { return };
    let root = tempfile::tempdir().unwrap();
    let folder = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
    folder("bus/pci/devices/0000:00:03.0/net/hd0");
    folder("bus/pci/devices/0000:00:04.0/virtio1/net/hd1");
    folder("bus/auxiliary/devices/mlx5_core.sf.4/net/hd1");
    folder("devices/pci0000:00/0000:00:03.0/net/hd0");
    let mut links = Route::open(&bed.host).unwrap();
    let mut name = |own| sysfs(&own, root.path()).find(&mut links).map(|l| l.name.to_string());
    assert_eq!(name(json!({"pciBusID": "0000:00:03.0"})).unwrap(), "hd0");
    assert_eq!(name(json!({"pciBusID": "0000:00:04.0"})).unwrap(), "hd1");
    assert_eq!(name(json!({"pciBusID": "x", "runtimeConfig": {"deviceID": "mlx5_core.sf.4"}})).unwrap(), "hd1");
    assert_eq!(name(json!({"kernelpath": "/sys/devices/pci0000:00/0000:00:03.0"})).unwrap(), "hd0");
    assert!(name(json!({"pciBusID": "0000:00:05.0"})).unwrap_err().msg.contains("0000:00:05.0"));
}

#[test]
fn a_driver_of_user_space_is_seen() {
    let root = tempfile::tempdir().unwrap();
    for (id, driver) in [("0000:00:03.0", "vfio-pci"), ("0000:00:04.0", "virtio-pci")] {
        fs::create_dir_all(root.path().join("drivers").join(driver)).unwrap();
        let device = root.path().join("bus/pci/devices").join(id);
        fs::create_dir_all(&device).unwrap();
        symlink(root.path().join("drivers").join(driver), device.join("driver")).unwrap();
    }
    fs::create_dir_all(root.path().join("bus/auxiliary/devices/sf.4")).unwrap();
    let of = |id: &str| sysfs(&json!({"pciBusID": id}), root.path());
    assert!(of("0000:00:03.0").in_user_space().unwrap());
    assert!(!of("0000:00:04.0").in_user_space().unwrap());
    assert!(!of("sf.4").in_user_space().unwrap());
    assert_eq!((of("0000:00:03.0").pci(), of("sf.4").pci()), (Some("0000:00:03.0"), None));
    assert!(of("0000:00:05.0").in_user_space().unwrap_err().msg.contains("error with host device"));
}

#[test]
fn a_device_that_only_says_so_itself_is_not_taken() {
    let Some(bed) = bed() else { return };
    bed.within("ip link add eth0 type veth peer name x; ip link set eth0 alias evil0");
    for own in [json!({"device": "hd0"}), json!({"hwaddr": "02:00:00:00:00:77"}), json!({"pciBusID": "0:0"}), json!({})]
    {
        bed.del(&config("host-device", &own)).unwrap();
        assert!(bed.link(&bed.inside, "eth0").is_some(), "{own}");
        assert_eq!(bed.link(&bed.host, "evil0"), None, "{own}");
    }
}

#[test]
fn the_name_is_the_configured_one_or_the_device_that_of_the_result() {
    let Some(bed) = bed() else { return };
    let config = config("host-device", &json!({"device": "hd0"}));
    let result = bed.add(&config).unwrap();
    bed.within("ip link set eth0 alias evil0");
    bed.del(&crate::testbed::with_previous(&config, &result)).unwrap();
    assert!(bed.link(&bed.host, "hd0").is_some());
    // What is wrong with a configuration keeps no device in the container.
    let result = bed.add(&config).unwrap();
    let none = crate::testbed::config("host-device", &json!({}));
    bed.del(&crate::testbed::with_previous(&none, &result)).unwrap();
    assert!(bed.link(&bed.host, "hd0").is_some());
}
