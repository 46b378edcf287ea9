#![allow(clippy::unwrap_used)]
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::testing::{Bench, SANDBOX, refused, with};

const ARP: &str = "net/ipv4/conf/eth0/arp_notify";

fn conf(folder: &Path) -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "tuning", "dataDir": folder,
        "prevResult": {"interfaces": [{"name": "eth0", "sandbox": SANDBOX, "mac": "02:00:00:00:00:02", "mtu": 1500}]}})
}

fn bench() -> (Bench<crate::testing::Fakes>, tempfile::TempDir) {
    let mut bench = Bench::fake([(ARP, "0"), ("net/ipv4/ip_local_port_range", "32768\t60999")]);
    bench.veth(&[]);
    (bench, tempfile::tempdir().unwrap())
}

fn eth0<S: rnet_plan::Surfaces>(bench: &mut Bench<S>) -> LinkState {
    let place = bench.place();
    bench.surfaces.links(&place).unwrap().link(&"eth0".parse().unwrap()).unwrap().unwrap()
}

#[test]
fn everything_is_set_kept_and_put_back() {
    let (mut bench, folder) = bench();
    let conf = with(
        conf(folder.path()),
        json!({
            "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1", "net.ipv4.ip_local_port_range": "32768 60999"},
            "mac": "02-00-00-00-00-99", "promisc": true, "mtu": 1400, "txQLen": 7, "allmulti": true,
        }),
    );
    let before = eth0(&mut bench);
    let result = bench.add(&conf).unwrap();
    assert_eq!((result.interfaces[0].mac.as_str(), result.interfaces[0].mtu), ("02:00:00:00:00:99", Some(1400)));
    let link = eth0(&mut bench);
    assert_eq!((link.mtu, link.promisc, link.allmulti, link.tx_queue_len), (1400, true, true, 7));
    assert_eq!(bench.surfaces.sysctls.done(), [format!("{ARP}=1")]);
    bench.check(&conf).unwrap();
    let file = folder.path().join("c1_eth0.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value) in [
        ("mac", json!("02:00:00:00:00:02")),
        ("promisc", json!(false)),
        ("mtu", json!(1500)),
        ("allmulti", json!(false)),
        ("txQLen", json!(before.tx_queue_len)),
        ("sysctl", json!({ARP: "0"})),
    ] {
        assert_eq!(kept[key], value, "{key}");
    }
    bench.del(&conf).unwrap();
    assert_eq!(eth0(&mut bench), before);
    assert_eq!(bench.surfaces.sysctls.done().last().unwrap(), &format!("{ARP}=0"));
    assert!(!file.exists());
    bench.del(&conf).unwrap();
}

#[test]
fn what_was_before_the_first_of_two_is_what_comes_back() {
    let (mut bench, folder) = bench();
    let before = eth0(&mut bench);
    let first = with(conf(folder.path()), json!({"mtu": 1400}));
    let second = with(conf(folder.path()), json!({"mtu": 1300, "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}}));
    bench.add(&first).unwrap();
    bench.add(&second).unwrap();
    bench.del(&second).unwrap();
    bench.del(&first).unwrap();
    assert_eq!(eth0(&mut bench), before);
}

#[test]
fn a_file_of_another_namespace_is_forgotten_not_restored() {
    let (mut bench, folder) = bench();
    let conf = with(conf(folder.path()), json!({"mtu": 1400}));
    bench.add(&conf).unwrap();
    let file = folder.path().join("c1_eth0.json");
    bench.del_late(&conf).unwrap();
    assert!(!file.exists());
    assert_eq!(eth0(&mut bench).mtu, 1400);

    std::fs::write(&file, r#"{"mtu": 1200, "netns": [1, 1]}"#).unwrap();
    bench.del(&conf).unwrap();
    assert_eq!((eth0(&mut bench).mtu, file.exists()), (1400, false));
    // As the reference writes it.
    std::fs::write(&file, "{\n \"mtu\": 1200,\n \"promisc\": true\n}").unwrap();
    bench.del(&conf).unwrap();
    let link = eth0(&mut bench);
    assert_eq!((link.mtu, link.promisc), (1200, true));
    std::fs::write(&file, "{").unwrap();
    bench.del(&conf).unwrap();
    assert!(!file.exists());
}

#[test]
fn a_failure_leaves_nothing() {
    let (mut bench, folder) = bench();
    let before = eth0(&mut bench);
    let conf = with(
        conf(folder.path()),
        json!({
            "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}, "mtu": 1400, "promisc": true,
        }),
    );
    bench.surfaces.net.fail_next("mtu 1400", 22);
    bench.add(&conf).unwrap_err();
    assert_eq!(eth0(&mut bench), before);
    assert_eq!(bench.surfaces.sysctls.done(), [format!("{ARP}=1"), format!("{ARP}=0")]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn check_names_the_difference() {
    let (mut bench, folder) = bench();
    let none = conf(folder.path());
    bench.check(&none).unwrap();
    for (keys, text) in [
        (json!({"mtu": 1400}), "the MTU of eth0 is 1500, not 1400"),
        (json!({"promisc": true}), "promiscuous mode of eth0 is off, not on"),
        (json!({"allmulti": true}), "all-multicast mode"),
        (json!({"txQLen": 5}), "txQLen"),
        (json!({"mac": "02:00:00:00:00:77"}), "the MAC address"),
        (json!({"sysctl": {"net/ipv4/conf/IFNAME/arp_notify": "1"}}), "arp_notify is 1, current value is 0"),
    ] {
        let error = bench.check(&with(none.clone(), keys)).unwrap_err();
        assert!(error.msg.contains(text), "{error}");
    }
}

#[test]
fn arguments_beat_the_runtime_and_it_the_configuration() {
    let (mut bench, folder) = bench();
    let mac = |keys| with(conf(folder.path()), keys);
    let config = json!({"mac": "02:00:00:00:00:11"});
    let runtime = with(config.clone(), json!({"runtimeConfig": {"mac": "02:00:00:00:00:12"}}));
    let args = with(runtime.clone(), json!({"args": {"cni": {"mac": "02:00:00:00:00:13", "mtu": 1350}}}));
    for (keys, last) in [(config, "11"), (runtime, "12"), (args, "13")] {
        let result = bench.add(&mac(keys)).unwrap();
        assert_eq!(result.interfaces[0].mac, format!("02:00:00:00:00:{last}"));
    }
    assert_eq!(eth0(&mut bench).mtu, 1350);
}

#[test]
fn configurations_that_are_none() {
    let base = conf(Path::new("/nonexistent"));
    refused(
        &base,
        &[
            (json!({"sysctl": {"kernel.hostname": "x"}}), 7, "invalid net sysctl key"),
            (json!({"sysctl": {"net.ipv4....kernel.x": "x"}}), 7, "invalid net sysctl key"),
            (json!({"sysctl": {"net/../kernel/x": "x"}}), 7, "invalid net sysctl key"),
            (json!({"sysctl": {"net.a": "1", "net/a": "1"}}), 7, "duplicated sysctl keys"),
            (json!({"sysctl": {"net.a": 1}}), 6, "expected a string"),
            (json!({"mtu": "1400"}), 6, "tuning"),
            (json!({"mtu": -1}), 6, "tuning"),
        ],
    );
    let (mut bench, folder) = bench();
    let error = bench.add(&with(conf(folder.path()), json!({"mac": "zz"}))).unwrap_err();
    assert_eq!(error.code, 7);
    let error = bench.add(&with(conf(folder.path()), json!({"prevResult": null}))).unwrap_err();
    assert_eq!((error.code, error.msg.contains("prevResult missing")), (7, true));
    let error = bench.add(&with(conf(folder.path()), json!({"sysctl": {"net.nonsense": "1"}}))).unwrap_err();
    assert!(error.msg.contains("no such file"), "{error}");
}

#[test]
fn dots_of_an_interface() {
    let dotted = "eth0.10".parse().unwrap();
    for key in
        ["net.ipv4.conf.IFNAME.arp_notify", "net/ipv4/conf/IFNAME/arp_notify", "net.ipv4.conf.eth0/10.arp_notify"]
    {
        assert_eq!(keys::of(key, &dotted).unwrap(), "net/ipv4/conf/eth0.10/arp_notify");
    }
}

#[test]
fn only_what_the_list_allows() {
    let (mut bench, folder) = bench();
    let list = folder.path().join("allowlist.conf");
    let request =
        Request::from_value(with(conf(folder.path()), json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}})))
            .unwrap();
    let allowed = |text: &str| {
        std::fs::write(&list, text).unwrap();
        let plugin = Tuning::new(&request).allow(&list);
        AllowList::read(&plugin.allow_list).and_then(|l| l.allows(plugin.sysctl.keys()))
    };
    allowed("\n  ^net.ipv4.conf.IFNAME.[a-z_]*$  \n").unwrap();
    assert!(allowed("^net.ipv6\n^net.core").unwrap_err().msg.contains("allowed: [^net.ipv6 ^net.core]"));
    assert!(allowed("").is_err());
    assert!(allowed("(").unwrap_err().msg.contains("no regular expression"));
    bench.status(&conf(folder.path())).unwrap();
}

#[test]
fn collection_knows_its_network() {
    let (mut bench, folder) = bench();
    let of = |network: &str| with(conf(folder.path()), json!({"name": network, "mtu": 1400}));
    bench.add(&of("n")).unwrap();
    std::fs::write(folder.path().join("c2_eth0.json"), r#"{"mtu": 1}"#).unwrap();
    let file = folder.path().join("c1_eth0.json");
    let gc = |network: &str, valid: Value| with(of(network), json!({"cni.dev/valid-attachments": valid}));
    bench.gc(&gc("other", json!([]))).unwrap();
    bench.gc(&gc("n", json!([{"containerID": "c1", "ifname": "eth0"}]))).unwrap();
    assert!(file.exists());
    bench.gc(&gc("n", json!([{"containerID": "c1", "ifname": "eth1"}]))).unwrap();
    assert!(!file.exists());
    assert!(folder.path().join("c2_eth0.json").exists());
}

#[test]
fn on_the_real_kernel() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(&["10.1.0.2/24"]);
    let folder = tempfile::tempdir().unwrap();
    let conf = with(
        conf(folder.path()),
        json!({
            "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1", "net.ipv4.ip_local_port_range": "20000 30000"},
            "mac": "02:00:00:00:00:99", "promisc": true, "mtu": 1400, "txQLen": 7, "allmulti": true,
        }),
    );
    let before = eth0(&mut bench);
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    let text = bench.in_container("ip", &["-d", "link", "show", "eth0"]);
    for word in ["mtu 1400", "qlen 7", "02:00:00:00:00:99", "PROMISC", "ALLMULTI"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    bench.del(&conf).unwrap();
    assert_eq!(eth0(&mut bench), before);
    assert_eq!(bench.in_container("cat", &["/proc/sys/net/ipv4/ip_local_port_range"]).trim(), "32768\t60999");
}

#[test]
fn collection_keeps_the_file_of_an_interface_with_the_separator_in_its_name() {
    let (mut bench, folder) = bench();
    bench.ifname = "my_if";
    let file = folder.path().join("c1_my_if.json");
    std::fs::write(&file, r#"{"mtu": 1, "network": "n"}"#).unwrap();
    let gc = |valid: Value| with(conf(folder.path()), json!({"cni.dev/valid-attachments": valid}));
    bench.gc(&gc(json!([{"containerID": "c1", "ifname": "my_if"}]))).unwrap();
    assert!(file.exists());
    bench.gc(&gc(json!([{"containerID": "c1_my", "ifname": "eth0"}]))).unwrap();
    assert!(!file.exists());
}

#[test]
fn a_configuration_that_is_none_keeps_nothing() {
    let (mut bench, folder) = bench();
    let conf = with(conf(folder.path()), json!({"mtu": 1400}));
    for wrong in [json!({"sysctl": {"kernel.hostname": "x"}}), json!({"mtu": "1400"})] {
        bench.add(&conf).unwrap();
        bench.del(&with(conf.clone(), wrong)).unwrap();
        assert_eq!(eth0(&mut bench).mtu, 1500);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
