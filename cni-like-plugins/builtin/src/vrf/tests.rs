#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;
use crate::common::name;
use crate::testing::{Bench, Fakes, refused, with};

fn base() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "vrf", "vrfname": "red"})
}

fn bench() -> (Bench<Fakes>, Value) {
    let mut bench = Bench::fake([]);
    bench.veth(&["10.1.0.2/24", "fd00::2/64"]);
    let route = RouteEntry {
        via: Some("10.1.0.1".parse().unwrap()),
        protocol: 3,
        ..RouteEntry::new("0.0.0.0/0".parse().unwrap(), name("eth0"))
    };
    let place = bench.place();
    bench.ops(&place, &[LinkOp::AddRoute(route)]);
    let conf = with(base(), json!({"prevResult": bench.previous(&["10.1.0.2/24"])}));
    bench.surfaces.net.forget();
    (bench, conf)
}

fn links(bench: &mut Bench<Fakes>) -> rnet_kernel::fake::FakeLinks {
    bench.surfaces.net.inside(bench.inside.as_ref().unwrap())
}

#[test]
fn configurations_that_are_none() {
    refused(
        &base(),
        &[
            (json!({"vrfname": ""}), 7, "valid vrf name"),
            (json!({"vrfname": null}), 7, "valid vrf name"),
            (json!({"vrfname": "a name"}), 7, "a name"),
            (json!({"table": -1}), 6, "vrf"),
            (json!({"cniVersion": "0.3.0"}), 1, "0.3.0"),
        ],
    );
    let (mut bench, _) = bench();
    assert_eq!(bench.add(&base()).unwrap_err().code, 7);
}

#[test]
fn made_with_the_first_and_removed_with_the_last() {
    let (mut bench, conf) = bench();
    bench.add(&conf).unwrap();
    let done: Vec<String> =
        bench.surfaces.net.done().into_iter().map(|l| l.split("] ").last().unwrap().to_owned()).collect();
    assert_eq!(
        done,
        [
            "link add red up type vrf table 1",
            "link set eth0 master red",
            "addr add fd00::2/64 dev eth0",
            "route add default via 10.1.0.1 dev eth0 table 1",
        ]
    );
    bench.check(&conf).unwrap();
    bench.check(&with(conf.clone(), json!({"table": 1}))).unwrap();
    assert!(bench.check(&with(conf.clone(), json!({"table": 2}))).unwrap_err().msg.contains("table 1, not 2"));
    let error = bench.add(&conf).unwrap_err();
    assert!(error.msg.contains("eth0 has already a master set: red"), "{error}");
    bench.del(&conf).unwrap();
    assert!(bench.check(&conf).unwrap_err().msg.contains("VRF red not found"));
    bench.del(&conf).unwrap();
    bench.del_late(&conf).unwrap();
}

#[test]
fn shared_until_the_last_one_leaves() {
    let (mut bench, conf) = bench();
    let place = bench.place();
    let device = |n: &str, kind| LinkOp::NewDevice(NewDevice::new(name(n), kind));
    bench.ops(&place, &[device("red", DeviceKind::Vrf { table: 9 }), device("dummy0", DeviceKind::Dummy)]);
    bench.ops(&place, &[LinkOp::Master(name("dummy0"), name("red"))]);
    let error = bench.add(&with(conf.clone(), json!({"table": 8}))).unwrap_err();
    assert!(error.code == 7 && error.msg.contains("different routing table 9"), "{error}");
    bench.add(&conf).unwrap();
    bench.del(&conf).unwrap();
    assert!(links(&mut bench).link(&name("red")).unwrap().is_some());
    bench.ops(&place, &[LinkOp::Delete(name("dummy0"))]);
    bench.del(&conf).unwrap();
    assert!(links(&mut bench).link(&name("red")).unwrap().is_none());
}

#[test]
fn a_device_of_that_name_may_be_no_vrf() {
    let (mut bench, conf) = bench();
    let place = bench.place();
    bench.ops(&place, &[LinkOp::NewDevice(NewDevice::new(name("red"), DeviceKind::Dummy))]);
    assert!(bench.add(&conf).unwrap_err().msg.contains("red is not a VRF"));
}

#[test]
fn a_failure_leaves_nothing() {
    let (mut bench, conf) = bench();
    let routes = links(&mut bench).routes().unwrap();
    bench.surfaces.net.fail_next("table 1", 95);
    bench.add(&conf).unwrap_err();
    bench.surfaces.net.fail_next("master red", 22);
    bench.add(&conf).unwrap_err();
    assert!(links(&mut bench).link(&name("red")).unwrap().is_none());
    assert_eq!(links(&mut bench).routes().unwrap(), routes);
}
