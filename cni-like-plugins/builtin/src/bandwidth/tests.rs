#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;
use crate::testing::{Bench, refused, with};

const ADDRESS: &[&str] = &["10.1.0.2/24"];

fn conf<S: rnet_plan::Surfaces>(bench: &Bench<S>, keys: Value) -> Value {
    with(json!({"cniVersion": "1.1.0", "name": "n", "type": "bandwidth", "prevResult": bench.previous(ADDRESS)}), keys)
}

fn both() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000})
}

#[test]
fn configurations_that_are_none() {
    let base = json!({"cniVersion": "1.1.0", "name": "n", "type": "bandwidth"});
    refused(
        &base,
        &[
            (json!({"ingressRate": 1}), 7, "burst must also be set"),
            (json!({"egressBurst": 1}), 7, "rate must also be set"),
            (json!({"egressRate": 1, "egressBurst": 34_359_738_360_u64}), 7, "4GB"),
            (json!({"egressRate": "1"}), 6, "bandwidth"),
            (json!({"runtimeConfig": {"bandwidth": {"egressRate": 1}}}), 7, "burst must also be set"),
            (json!({"shapedSubnets": ["10.0.0.0/8"]}), 2, "shapedSubnets"),
            (json!({"cniVersion": "0.2.0"}), 1, "0.2.0"),
        ],
    );
}

#[test]
fn the_configuration_beats_the_runtime_as_a_whole() {
    let limits = |keys: Value| {
        let base = json!({"cniVersion": "1.1.0", "name": "n", "type": "bandwidth",
            "runtimeConfig": {"bandwidth": {"ingressRate": 80, "ingressBurst": 160}}});
        let limits = Limits::new(&Request::from_value(with(base, keys)).unwrap()).unwrap();
        (limits.ingress, limits.egress)
    };
    assert_eq!(limits(json!({})), (Some(Limit { rate: 10, burst: 20 }), None));
    assert_eq!(limits(json!({"egressRate": 8, "egressBurst": 8})), (None, Some(Limit { rate: 1, burst: 1 })));
    assert_eq!(limits(json!({"egressRate": 0, "egressBurst": 0})), (None, None));
}

#[test]
fn the_interface_has_to_be_a_veth_the_result_knows() {
    let mut bench = Bench::fake([]);
    bench.veth(ADDRESS);
    let mut lost = conf(&bench, both());
    lost["prevResult"]["interfaces"][0]["name"] = json!("veth9");
    assert!(bench.add(&lost).unwrap_err().msg.contains("no veth peer of container interface found"));
    let none = conf(&bench, with(both(), json!({"prevResult": {}})));
    assert!(bench.add(&none).unwrap_err().msg.contains("no interfaces provided"));
    let missing = conf(&bench, with(both(), json!({"prevResult": null})));
    assert_eq!(bench.add(&missing).unwrap_err().code, 7);
    // Nothing to do is done without looking.
    let nothing = conf(&bench, json!({"prevResult": {}}));
    bench.add(&nothing).unwrap();
}

#[test]
fn a_failure_leaves_nothing() {
    let mut bench = Bench::fake([]);
    bench.veth(ADDRESS);
    let conf = conf(&bench, both());
    bench.surfaces.net.fail_next("filter add", 22);
    bench.add(&conf).unwrap_err();
    let ifb = Bandwidth::new(&Request::from_value(conf.clone()).unwrap());
    let ifb = ifb.ifb(&AttachmentId { container: "c1".into(), ifname: "eth0".into() });
    let links = &mut bench.surfaces.net.host() as &mut dyn rnet_kernel::Links;
    assert_eq!(links.link(&ifb).unwrap(), None);
    assert_eq!(links.qdiscs(&name("veth1")).unwrap(), []);
    bench.add(&conf).unwrap();
}

#[test]
fn on_the_real_kernel() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(ADDRESS);
    let conf = conf(&bench, both());
    let result = bench.add(&conf).unwrap();
    let ifb = &result.interfaces[2];
    // printf 'n\0c1\0eth0' | sha512sum
    assert_eq!(ifb.name, "bwp21e05bb5dd2b");
    let link = bench.on_host("ip", &["link", "show", &ifb.name]);
    assert!(link.contains(&ifb.mac) && link.contains("UP"), "{link}");
    let qdiscs = bench.on_host("tc", &["qdisc", "show"]);
    assert!(qdiscs.contains("rate 8Mbit") && qdiscs.contains("rate 16Mbit"), "{qdiscs}");
    bench.check(&conf).unwrap();
    assert!(bench.add(&conf).is_err());
    bench.check(&conf).unwrap();
    let slower = with(conf.clone(), json!({"egressRate": 8_000_000}));
    assert!(bench.check(&slower).unwrap_err().msg.contains("Rate of bwp"));

    let gc = |valid: Value| with(conf.clone(), json!({"cni.dev/valid-attachments": valid}));
    bench.gc(&gc(json!([{"containerID": "c1", "ifname": "eth0"}]))).unwrap();
    bench.check(&conf).unwrap();
    bench.gc(&with(gc(json!([])), json!({"name": "other"}))).unwrap();
    bench.check(&conf).unwrap();

    bench.del(&conf).unwrap();
    let qdiscs = bench.on_host("tc", &["qdisc", "show", "dev", "veth1"]);
    assert!(!qdiscs.contains("ingress"), "{qdiscs}");
    assert!(bench.check(&conf).unwrap_err().msg.contains("get ifb device"));
    bench.del(&conf).unwrap();
    bench.del_late(&conf).unwrap();
}

#[test]
fn collection_removes_what_belongs_to_nobody() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(ADDRESS);
    let conf = conf(&bench, json!({"egressRate": 16_000_000, "egressBurst": 1_600_000}));
    bench.add(&conf).unwrap();
    bench.gc(&with(conf.clone(), json!({"cni.dev/valid-attachments": []}))).unwrap();
    assert!(!bench.on_host("ip", &["link"]).contains("bwp"));
}

#[test]
fn the_other_interface_of_a_container_keeps_its_device() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(ADDRESS);
    let first = conf(&bench, both());
    bench.add(&first).unwrap();
    bench.on_host("ip", &["link", "add", "veth2", "type", "veth", "peer", "name", "p2"]);
    let pid = format!("/proc/{}/fd/{}", std::process::id(), {
        use std::os::fd::{AsFd, AsRawFd};
        bench.inside.as_ref().unwrap().as_fd().as_raw_fd()
    });
    bench.on_host("ip", &["link", "set", "p2", "netns", &pid, "name", "eth1"]);
    let mut second = first.clone();
    second["prevResult"]["interfaces"][0]["name"] = json!("veth2");
    second["prevResult"]["interfaces"][1]["name"] = json!("eth1");
    bench.ifname = "eth1";
    bench.del(&second).unwrap();
    bench.ifname = "eth0";
    bench.check(&first).unwrap();
    bench.ifname = "eth1";
    bench.add(&second).unwrap();
    bench.check(&second).unwrap();
    bench.del(&second).unwrap();
    bench.ifname = "eth0";
    bench.check(&first).unwrap();
}

#[test]
fn what_the_reference_made_goes_unless_it_is_said_to_be_of_another() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(ADDRESS);
    let conf = conf(&bench, both());
    // As the reference calls it: printf nc1 | sha512sum.
    bench.on_host("ip", &["link", "add", "bwp9b00b9b7c279", "type", "ifb"]);
    bench.ifname = "eth1";
    let other = owner("n", &AttachmentId { container: "c1".into(), ifname: "eth0".into() });
    bench.on_host("ip", &["link", "set", "bwp9b00b9b7c279", "alias", &other]);
    bench.del(&conf).unwrap();
    assert!(bench.on_host("ip", &["link"]).contains("bwp9b00b9b7c279"));
    bench.ifname = "eth0";
    bench.del(&conf).unwrap();
    assert!(!bench.on_host("ip", &["link"]).contains("bwp"));
    bench.on_host("ip", &["link", "add", "bwp9b00b9b7c279", "type", "ifb"]);
    bench.del(&conf).unwrap();
    assert!(!bench.on_host("ip", &["link"]).contains("bwp"));
}

#[test]
fn a_configuration_that_is_none_keeps_no_device() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(ADDRESS);
    let conf = conf(&bench, both());
    bench.add(&conf).unwrap();
    bench.del(&with(conf, json!({"egressBurst": 0}))).unwrap();
    assert!(!bench.on_host("ip", &["link"]).contains("bwp"));
    assert!(!bench.on_host("tc", &["qdisc", "show", "dev", "veth1"]).contains("ingress"));
}
