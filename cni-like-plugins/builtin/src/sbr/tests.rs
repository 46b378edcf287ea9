#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use crate::Kernel;
use crate::testing::{Bench, refused, with};

const ADDRESSES: &[&str] = &["10.1.0.2/24", "10.2.0.2/24", "fd00::2/64"];

fn base() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "sbr"})
}

fn conf(bench: &Bench<Kernel>, keys: Value) -> Value {
    let mut conf = with(base(), json!({"prevResult": bench.previous(ADDRESSES)}));
    conf["prevResult"]["ips"][0]["gateway"] = json!("10.1.0.1");
    conf["prevResult"]["ips"][2]["gateway"] = json!("fd00::1");
    with(conf, keys)
}

fn bench() -> Option<Bench<Kernel>> {
    let mut bench = Bench::real()?;
    bench.veth(ADDRESSES);
    bench.on_host("ip", &["link", "set", "veth1", "up"]);
    bench.in_container("ip", &["route", "add", "192.168.7.0/24", "via", "10.1.0.9"]);
    Some(bench)
}

fn table(bench: &Bench<Kernel>, args: &[&str]) -> Vec<String> {
    bench.in_container("ip", args).lines().map(|l| l.trim().to_owned()).collect()
}

#[test]
fn configurations_that_are_none() {
    refused(
        &base(),
        &[
            (json!({"gateways": ["10.1.0.1", "10.1.0.2"]}), 7, "more than one IPv4"),
            (json!({"gateways": ["fd00::1", "fd00::2"]}), 7, "more than one IPv6"),
            (json!({"gateways": ["x"]}), 6, "sbr"),
            (json!({"table": 0}), 7, "table 0"),
            (json!({"table": -1}), 6, "sbr"),
            (json!({"cniVersion": "0.2.0"}), 1, "0.2.0"),
        ],
    );
    let mut bench = Bench::fake([]);
    bench.veth(&[]);
    assert_eq!(bench.add(&base()).unwrap_err().code, 7);
    let error = bench.add(&with(base(), json!({"prevResult": bench.previous(&[])}))).unwrap_err();
    assert!(error.msg.contains("No IP addresses supplied"), "{error}");
}

#[test]
fn each_address_has_a_table() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, json!({}));
    let before = table(&bench, &["route"]);
    bench.add(&conf).unwrap();
    let rules = table(&bench, &["rule"]).join("\n");
    assert!(rules.contains("from 10.1.0.2 lookup 100") && rules.contains("from 10.2.0.2 lookup 101"), "{rules}");
    let first = table(&bench, &["route", "show", "table", "100"]).join("\n");
    for route in ["default via 10.1.0.1", "192.168.7.0/24 via 10.1.0.9", "10.1.0.0/24"] {
        assert!(first.contains(route), "{route}: {first}");
    }
    let second = table(&bench, &["route", "show", "table", "101"]).join("\n");
    assert!(second.contains("10.2.0.0/24") && !second.contains("192.168.7") && !second.contains("default"), "{second}");
    let six = table(&bench, &["-6", "route", "show", "table", "102"]).join("\n");
    assert!(six.contains("default via fd00::1") && six.contains("fd00::/64"), "{six}");
    assert_eq!(table(&bench, &["route", "show", "dev", "eth0"]), Vec::<String>::new());
    bench.check(&conf).unwrap();
    bench.in_container("ip", &["route", "del", "default", "table", "100"]);
    assert!(bench.check(&conf).unwrap_err().msg.contains("no default route by 10.1.0.1"));

    bench.del(&conf).unwrap();
    let rules = table(&bench, &["rule"]).join("\n");
    assert!(!rules.contains("from 10."), "{rules}");
    assert!(table(&bench, &["route", "show", "table", "all"]).iter().all(|l| !l.contains("table 10")));
    assert!(bench.check(&conf).unwrap_err().msg.contains("no rule for packets from 10.1.0.2"));
    bench.del(&conf).unwrap();
    bench.del_late(&conf).unwrap();
    assert_eq!(before.len(), 3);
}

#[test]
fn rules_go_after_their_interface() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, json!({"gateways": ["10.1.0.254"], "addSourceHints": true}));
    bench.in_container("ip", &["rule", "add", "from", "10.9.0.0/16", "lookup", "100"]);
    bench.add(&conf).unwrap();
    let routes = table(&bench, &["route", "show", "table", "101"]).join("\n");
    assert!(routes.contains("default via 10.1.0.254 dev eth0 src 10.1.0.2"), "{routes}");
    bench.on_host("ip", &["link", "del", "veth1"]);
    bench.del(&conf).unwrap();
    let rules = table(&bench, &["rule"]).join("\n");
    assert!(!rules.contains("10.1.0.2") && rules.contains("10.9.0.0/16"), "{rules}");
}

#[test]
fn a_given_table_is_left_alone() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, json!({"table": 5001}));
    bench.in_container("ip", &["route", "add", "10.77.0.0/16", "via", "10.1.0.1", "table", "5001"]);
    let before = table(&bench, &["route", "show", "table", "main"]);
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    assert_eq!(table(&bench, &["route", "show", "table", "main"]), before);
    let rules = table(&bench, &["rule"]).join("\n");
    assert!(rules.contains("from 10.1.0.2 lookup 5001") && rules.contains("from 10.2.0.2 lookup 5001"), "{rules}");
    bench.del(&conf).unwrap();
    assert_eq!(table(&bench, &["route", "show", "table", "5001"]).len(), 1);
}

#[test]
fn a_failure_leaves_everything_as_it_was() {
    let Some(mut bench) = bench() else { return };
    let before = (table(&bench, &["rule"]), table(&bench, &["route", "show", "table", "all"]));
    // Outside of every subnet, so that the kernel refuses it.
    let mut conf = conf(&bench, json!({}));
    conf["prevResult"]["ips"][1]["gateway"] = json!("172.16.0.1");
    bench.add(&conf).unwrap_err();
    assert_eq!((table(&bench, &["rule"]), table(&bench, &["route", "show", "table", "all"])), before);
}
