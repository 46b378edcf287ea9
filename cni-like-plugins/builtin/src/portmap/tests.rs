#![allow(clippy::unwrap_used)]
use rnet_kernel::Netns;
use serde_json::{Value, json};

use crate::Kernel;
use crate::testing::{Bench, listen, refused, with};

const ADDRESSES: &[&str] = &["10.1.0.2/24", "fd00::2/64"];

fn base() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "portmap"})
}

fn ports(ports: &Value) -> Value {
    json!({"runtimeConfig": {"portMappings": ports}})
}

fn conf(bench: &Bench<Kernel>, mappings: &Value) -> Value {
    with(with(base(), json!({"prevResult": bench.previous(ADDRESSES)})), ports(mappings))
}

fn bench() -> Option<Bench<Kernel>> {
    let mut bench = Bench::real()?;
    bench.veth(ADDRESSES);
    for address in ["10.1.0.1/24", "fd00::1/64"] {
        bench.on_host("ip", &["addr", "add", address, "dev", "veth1", "nodad"]);
    }
    bench.on_host("ip", &["link", "set", "veth1", "up"]);
    Some(bench)
}

fn tcp(host: u16) -> Value {
    json!([{"hostPort": host, "containerPort": 80, "protocol": "tcp"}])
}

fn at(ip: &str, host: u16) -> Value {
    json!([{"hostPort": host, "containerPort": 80, "protocol": "tcp", "hostIP": ip}])
}

/// The same configuration for a container of these addresses.
fn of(conf: &Value, addresses: &[&str]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|a| json!({"interface": 1, "address": a})).collect();
    let mut conf = conf.clone();
    conf["prevResult"]["ips"] = json!(ips);
    conf
}

fn localnet(bench: &Bench<Kernel>) -> String {
    bench.on_host("cat", &["/proc/sys/net/ipv4/conf/veth1/route_localnet"]).trim().to_owned()
}

fn own_subnets(bench: &Bench<Kernel>) -> String {
    bench.on_host("nft", &["list", "set", "inet", "rnet_cni", "own4"])
}

/// What a listener in the container says to a caller at this address of the host.
fn reached(bench: &Bench<Kernel>, address: &str) -> bool {
    let listener = listen(bench.inside.as_ref().unwrap());
    let address: std::net::SocketAddr = address.parse().unwrap();
    let second = std::time::Duration::from_secs(1);
    // A pair that has just come up may lose the first packet.
    let attempt = || std::net::TcpStream::connect_timeout(&address, second).is_ok();
    let done = bench.host.as_ref().unwrap().run(|| (0..3).any(|_| attempt())).unwrap();
    drop(listener);
    done
}

#[test]
fn configurations_that_are_none() {
    let one = |keys: Value| ports(&json!([with(json!({"hostPort": 1, "containerPort": 2, "protocol": "tcp"}), keys)]));
    refused(
        &base(),
        &[
            (one(json!({"hostPort": 0})), 7, "Invalid host port number: 0"),
            (one(json!({"containerPort": 0})), 7, "Invalid container port number: 0"),
            (one(json!({"hostPort": 65536})), 7, "Invalid host port number: 65536"),
            (one(json!({"protocol": "icmp"})), 7, "icmp"),
            (one(json!({"hostIP": "x"})), 7, "hostIP"),
            (one(json!({"hostPort": "1"})), 6, "portMappings"),
            (json!({"backend": "ebtables"}), 7, "ebtables"),
            (json!({"markMasqBit": 32}), 7, "between 0 and 31"),
            (json!({"markMasqBit": 1, "externalSetMarkChain": "X"}), 7, "Cannot specify"),
            (json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), 2, "KUBE-MARK-MASQ"),
            (json!({"conditionsV4": ["!", "-d", "192.0.2.0/24"]}), 2, "conditionsV4"),
            (json!({"conditionsV6": ["x"]}), 2, "conditionsV6"),
        ],
    );
}

#[test]
fn reached_from_the_host_and_gone_again() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    assert!(!reached(&bench, "10.1.0.1:8080"));
    bench.status(&conf).unwrap();
    let result = bench.add(&conf).unwrap();
    assert_eq!(result.ips.len(), 2);
    bench.check(&conf).unwrap();
    for address in ["10.1.0.1:8080", "127.0.0.1:8080", "[fd00::1]:8080"] {
        assert!(reached(&bench, address), "{address}: {}", bench.on_host("nft", &["list", "ruleset"]));
    }
    bench.add(&conf).unwrap();
    bench.del(&conf).unwrap();
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
    assert!(bench.check(&conf).unwrap_err().msg.contains("is not in ports4"));
    bench.del(&conf).unwrap();
    bench.del_late(&conf).unwrap();
}

#[test]
fn a_port_belongs_to_one_container() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    bench.add(&conf).unwrap();
    bench.container = "c2".into();
    let mut other = conf.clone();
    other["prevResult"]["ips"] = json!([{"interface": 1, "address": "10.1.0.3/24"}]);
    let error = bench.add(&other).unwrap_err();
    assert_eq!(error.msg, "host port 8080/tcp is in use by container c1");
    // Nothing of c1 goes with it.
    bench.del(&other).unwrap();
    bench.container = "c1".into();
    bench.check(&conf).unwrap();
    // A port of every address is one of each.
    bench.container = "c2".into();
    let error = bench.add(&with(other.clone(), ports(&at("10.1.0.1", 8080)))).unwrap_err();
    assert_eq!(error.msg, "host port 10.1.0.1 8080/tcp is in use by container c1");
    // The other protocol and another address are other ports.
    let free = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "UDP"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "sctp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "10.1.0.1"},
    ]);
    bench.add(&with(other.clone(), ports(&free))).unwrap();
    bench.check(&with(other.clone(), ports(&free))).unwrap();
    bench.container = "c4".into();
    let mut third = conf.clone();
    third["prevResult"]["ips"] = json!([{"interface": 1, "address": "10.1.0.4/24"}]);
    let error = bench.add(&with(third.clone(), ports(&tcp(8081)))).unwrap_err();
    assert_eq!(error.msg, "host port 8081/tcp is in use by container c2");
    bench.add(&with(third.clone(), ports(&at("10.1.0.9", 8081)))).unwrap();
    bench.del(&with(third, ports(&at("10.1.0.9", 8081)))).unwrap();
    bench.container = "c2".into();
    bench.del(&with(other, ports(&free))).unwrap();
    // An address that is somebody else's now says that its owner is gone.
    bench.container = "c3".into();
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    bench.container = "c1".into();
    bench.del(&conf).unwrap();
    bench.container = "c3".into();
    bench.check(&conf).unwrap();
}

#[test]
fn elements_are_found_without_a_result() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    bench.add(&conf).unwrap();
    bench.del_late(&base()).unwrap();
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
}

#[test]
fn collection_spares_the_valid() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    bench.add(&conf).unwrap();
    let gc = |valid: Value| with(base(), json!({"cni.dev/valid-attachments": valid}));
    bench.gc(&gc(json!([{"containerID": "c1", "ifname": "eth0"}]))).unwrap();
    bench.gc(&with(gc(json!([])), json!({"name": "other"}))).unwrap();
    bench.check(&conf).unwrap();
    bench.gc(&gc(json!([]))).unwrap();
    assert!(bench.check(&conf).is_err());
}

#[test]
fn without_snat_nothing_is_translated_and_loopback_stays_closed() {
    let Some(mut bench) = bench() else { return };
    let conf = with(conf(&bench, &tcp(8080)), json!({"snat": false}));
    bench.add(&conf).unwrap();
    assert!(reached(&bench, "10.1.0.1:8080"));
    assert_eq!(bench.on_host("cat", &["/proc/sys/net/ipv4/conf/veth1/route_localnet"]).trim(), "0");
    assert!(!reached(&bench, "127.0.0.1:8080"));
}

#[test]
fn loopback_is_closed_to_the_outside() {
    let Some(mut bench) = bench() else { return };
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]);
    bench.add(&conf(&bench, &mapping)).unwrap();
    assert!(reached(&bench, "127.0.0.1:8080"));
    assert!(!reached(&bench, "10.1.0.1:8080"));
    let outside = Netns::clone(bench.inside.as_ref().unwrap());
    bench.in_container("ip", &["route", "del", "local", "127.0.0.0/8", "table", "local", "dev", "lo"]);
    bench.in_container("ip", &["route", "add", "127.0.0.1", "via", "10.1.0.1", "src", "10.1.0.2"]);
    std::fs::metadata("/proc/self/ns/net").unwrap();
    let place = bench.place();
    bench.ops(
        &place,
        &[rnet_kernel::LinkOp::Devconf4("eth0".parse().unwrap(), rnet_kernel::Devconf4::RouteLocalnet, 1)],
    );
    let listener = listen(bench.inside.as_ref().unwrap());
    let address: std::net::SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let wait = std::time::Duration::from_millis(500);
    let called = outside.run(|| std::net::TcpStream::connect_timeout(&address, wait)).unwrap();
    drop(listener);
    assert!(called.is_err());
    let rules = bench.on_host("nft", &["list", "chain", "inet", "rnet_cni", "guard"]);
    assert!(rules.contains("127.0.0.0/8"), "{rules}");
}

#[test]
fn sixteen_at_once_leave_one_table_and_none() {
    let Some(bench) = bench() else { return };
    let host = bench.host.clone().unwrap();
    let result = |n: u16| {
        json!({"interfaces": [{"name": "eth0", "sandbox": crate::testing::SANDBOX}, {"name": "veth1"}],
        "ips": [{"interface": 0, "address": format!("10.1.0.{}/24", 10 + n)}]})
    };
    let all = |undo: bool| {
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (host, inside) = (host.clone(), bench.inside.clone());
                scope.spawn(move || {
                    let mut one = Bench {
                        surfaces: Kernel::new(host.clone()),
                        host: Some(host),
                        inside,
                        container: format!("c{n}"),
                        ifname: "eth0",
                    };
                    let conf = with(with(base(), json!({"prevResult": result(n)})), ports(&tcp(9000 + n)));
                    if undo { one.del(&conf).unwrap() } else { drop(one.add(&conf).unwrap()) }
                });
            }
        });
    };
    all(false);
    let rules = bench.on_host("nft", &["list", "table", "inet", "rnet_cni"]);
    assert_eq!(rules.matches("snat asked for").count(), 2, "{rules}");
    for n in 0..16 {
        assert!(rules.contains(&format!("tcp . {}", 9000 + n)), "{rules}");
    }
    assert_eq!(localnet(&bench), "1");
    all(true);
    assert_eq!(localnet(&bench), "0");
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
}

#[test]
fn a_configuration_that_is_none_keeps_no_port() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    bench.add(&conf).unwrap();
    bench.del(&with(conf, ports(&tcp(0)))).unwrap();
    assert_eq!(bench.on_host("nft", &["list", "tables"]), "");
}

#[test]
fn an_address_of_another_machine_is_left_alone() {
    let Some(mut bench) = bench() else { return };
    // The other machine, which has nothing at this port, is the container under another address.
    bench.in_container("ip", &["addr", "add", "192.0.2.9/32", "dev", "eth0"]);
    bench.on_host("ip", &["route", "add", "192.0.2.9", "via", "10.1.0.2"]);
    let conf = conf(&bench, &at("192.0.2.9", 8080));
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    assert!(!reached(&bench, "192.0.2.9:8080"));
    bench.in_container("ip", &["addr", "del", "192.0.2.9/32", "dev", "eth0"]);
    bench.on_host("ip", &["route", "del", "192.0.2.9"]);
    bench.on_host("ip", &["addr", "add", "192.0.2.9/32", "dev", "veth1"]);
    bench.in_container("ip", &["route", "add", "192.0.2.9", "via", "10.1.0.1"]);
    assert!(reached(&bench, "192.0.2.9:8080"));
}

#[test]
fn the_last_port_of_a_device_closes_it() {
    let Some(mut bench) = bench() else { return };
    let first = conf(&bench, &tcp(8080));
    let second = with(of(&first, &["10.1.0.3/24"]), ports(&tcp(8081)));
    bench.add(&first).unwrap();
    bench.container = "c2".into();
    bench.add(&second).unwrap();
    bench.container = "c1".into();
    bench.del(&first).unwrap();
    assert_eq!(localnet(&bench), "1");
    bench.gc(&with(base(), json!({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}))).unwrap();
    assert_eq!(localnet(&bench), "1");
    bench.container = "c2".into();
    bench.del(&second).unwrap();
    assert_eq!(localnet(&bench), "0");
    bench.add(&second).unwrap();
    assert_eq!(localnet(&bench), "1");
    bench.gc(&with(base(), json!({"cni.dev/valid-attachments": []}))).unwrap();
    assert_eq!(localnet(&bench), "0");
    // The device may go first.
    bench.add(&second).unwrap();
    bench.on_host("ip", &["link", "del", "veth1"]);
    bench.del(&second).unwrap();
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
}

#[test]
fn networks_within_each_other() {
    let Some(mut bench) = bench() else { return };
    let one = conf(&bench, &tcp(8080));
    let container = |bench: &mut Bench<Kernel>, name: &str, port: u16, address: &str| {
        bench.container = name.into();
        let conf = with(of(&one, &[address]), ports(&tcp(port)));
        bench.add(&conf).unwrap();
        bench.check(&conf).unwrap();
    };
    container(&mut bench, "c1", 8081, "10.1.1.2/24");
    container(&mut bench, "c2", 8082, "10.1.2.2/24");
    assert_eq!(own_subnets(&bench).matches(" . ").count(), 3, "{}", own_subnets(&bench));
    container(&mut bench, "c3", 8083, "10.1.0.2/16");
    let widened = own_subnets(&bench);
    assert!(widened.contains("10.1.0.0/16 . 10.1.0.0/16") && !widened.contains("/24"), "{widened}");
    container(&mut bench, "c4", 8084, "10.1.2.5/24");
    container(&mut bench, "c5", 8085, "10.1.2.6/32");
    assert_eq!(own_subnets(&bench), widened);
    container(&mut bench, "c6", 8086, "10.2.0.2/24");
    assert!(own_subnets(&bench).contains("10.2.0.0/24"));
}

#[test]
fn rules_that_were_taken_away_are_missed_and_put_back() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    bench.add(&conf).unwrap();
    let before = bench.on_host("nft", &["list", "table", "inet", "rnet_cni"]);
    bench.on_host("nft", &["flush", "chain", "inet", "rnet_cni", "postrouting"]);
    assert!(bench.check(&conf).unwrap_err().msg.contains("rules of table inet rnet_cni are gone"));
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    assert_eq!(bench.on_host("nft", &["list", "table", "inet", "rnet_cni"]), before);
    // Of another version.
    bench.on_host("nft", &["add", "chain", "inet", "rnet_cni", "version_1"]);
    assert!(bench.check(&conf).is_err());
    bench.add(&conf).unwrap();
    assert_eq!(bench.on_host("nft", &["list", "table", "inet", "rnet_cni"]), before);
}

#[test]
fn ports_go_whatever_the_removal_was_told() {
    let Some(mut bench) = bench() else { return };
    let conf = conf(&bench, &tcp(8080));
    bench.add(&conf).unwrap();
    bench.del(&with(conf.clone(), ports(&tcp(9090)))).unwrap();
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
    bench.add(&conf).unwrap();
    bench.del(&of(&conf, &["10.1.0.77/24"])).unwrap();
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
}

#[test]
fn a_port_leads_to_one_place() {
    let Some(mut bench) = bench() else { return };
    let both = |second: u16| {
        json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8080, "containerPort": second, "protocol": "tcp"},
        ])
    };
    let error = bench.add(&conf(&bench, &both(81))).unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (7, "portMappings: host port 8080/tcp is there twice"));
    // Said twice.
    let conf = conf(&bench, &both(80));
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    bench.del(&conf).unwrap();
    assert!(!bench.on_host("nft", &["list", "ruleset"]).contains("rnet_cni"));
}
