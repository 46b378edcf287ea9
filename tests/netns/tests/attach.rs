//! `rnet attach` and `rnet detach`: what comes out in the container and on the host.

use std::time::Duration;

use rnet_netns_harness::{Container, SOON, run, wait_for};
use serde_json::Value;

/// Addresses of an interface inside, without the link-local ones.
fn addresses(container: &Container, ifname: &str) -> Vec<String> {
    let found = container.ip_json(&format!("address show dev {ifname}"));
    let list = found[0]["addr_info"].as_array().unwrap().clone();
    let text = |a: &Value| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]);
    list.iter().filter(|a| a["scope"] != "link").map(text).collect()
}

fn default_route(container: &Container, family: &str) -> String {
    container.ip(&format!("{family} route show default")).trim().to_owned()
}

fn gone(container: &Container, ifname: &str) {
    wait_for("a detached interface to be gone", SOON, || !container.ip("-o link").contains(&format!("{ifname}@")));
}

#[test]
fn static_addresses_reach_each_other_until_detached() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let (web, db) = (host.container("web"), host.container("db"));
        let said = host.rnet("attach br0 web 192.168.115.10/24@192.168.115.1").ok();
        assert!(said.out.contains("web eth0: 192.168.115.10/24 via 192.168.115.1"), "{}", said.out);
        host.rnet("attach br0 db 192.168.115.11/24").ok();
        web.ping("192.168.115.11");
        db.ping("192.168.115.10");
        assert!(default_route(&web, "-4").starts_with("default via 192.168.115.1 dev eth0"));
        assert_eq!(default_route(&db, "-4"), "");
        host.rnet("detach web").ok();
        assert!(!db.reaches("192.168.115.10"), "it is cut off before the answer");
        gone(&web, "eth0");
        assert_eq!(web.ip("-4 route"), "");
    });
}

#[test]
fn several_addresses_of_both_families() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 10.0.0.5/24@10.0.0.1,10.1.0.5/16,fd00::5/64@fd00::1").ok();
        host.rnet("attach br0 db 10.0.0.6/24,fd00::6/64").ok();
        assert_eq!(addresses(&web, "eth0"), ["10.0.0.5/24", "10.1.0.5/16", "fd00::5/64"]);
        assert!(default_route(&web, "-6").starts_with("default via fd00::1 dev eth0"));
        db.ping("fd00::5");
        db.ping("10.0.0.5");
        let link_local = web.ip("-6 -o address show dev eth0 scope link");
        assert!(link_local.contains("fe80::"), "RFC 4291: every IPv6 interface has one\n{link_local}");
    });
}

#[test]
fn a_gateway_outside_of_the_subnet_is_on_the_link() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 10.0.0.5/32@10.9.9.1,fd00::5/128@fe80::1").ok();
        assert!(default_route(&web, "-4").contains("via 10.9.9.1 dev eth0"));
        assert!(default_route(&web, "-4").contains("onlink"));
        assert!(default_route(&web, "-6").contains("via fe80::1 dev eth0"));
    });
}

#[test]
fn the_gateway_is_found() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["192.168.115.2/24"]);
        host.ip("route add default via 192.168.115.1");
        host.start();
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 192.168.115.10/24@gw").ok();
        assert!(default_route(&web, "-4").contains("via 192.168.115.1 "), "the host's own default gateway");
        host.rnet("bridge create br1 --addr 10.1.0.1/24").ok();
        host.rnet("attach br1 db 10.1.0.5/24@gw").ok();
        assert!(default_route(&db, "-4").contains("via 10.1.0.1 "), "the bridge's address");
        let before = host.snapshot();
        let words = ["10.7.0.5/24@gw", "hint: write the gateway: 10.7.0.5/24@10.7.0.1"];
        host.rnet("attach br0 web 10.7.0.5/24@gw -i eth5").fails(2, &words);
        before.same(&host.snapshot(), "after a gateway that could not be found");
    });
}

#[test]
fn auto_takes_the_next_address_of_the_network() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        let (web, db) = (host.container("web"), host.container("db"));
        host.rnet("network create blue --subnet 10.9.0.0/24 --bridge-name blue0").ok();
        let reply = host.rnet_json("attach blue0 web auto");
        assert_eq!(reply["endpoint"]["network"], "blue");
        assert_eq!(addresses(&web, "eth0").len(), 1);
        assert!(default_route(&web, "-4").contains("via 10.9.0.1 "));
        web.ping("10.9.0.1");
        host.rnet("attach blue0 db auto@10.9.0.7").ok();
        assert!(default_route(&db, "-4").contains("via 10.9.0.7 "));
        assert_ne!(addresses(&web, "eth0"), addresses(&db, "eth0"));
    });
}

#[test]
fn link_only() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 0/0").ok();
        host.rnet("attach br0 web none -i eth7").ok();
        for ifname in ["eth0", "eth7"] {
            assert!(addresses(&web, ifname).is_empty());
            assert!(web.ip(&format!("-o link show {ifname}")).contains(",UP"));
        }
    });
}

#[test]
fn hardware_addresses() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        let mac = |ifname: &str| web.ip_json(&format!("link show {ifname}"))[0]["address"].as_str().unwrap().to_owned();
        host.rnet("attach br0 web 10.0.0.1/24 02:00:00:00:00:07").ok();
        host.rnet("attach br0 web 10.0.0.2/24 U:web.lan").ok();
        host.rnet("attach br0 web 10.0.0.3/24 --mac U:web.lan").ok();
        assert_eq!(mac("eth0"), "02:00:00:00:00:07");
        // 02: and the first five bytes of md5("web.lan\n"), as pipework makes it.
        assert_eq!(mac("eth1"), rnet_model::MacAddr::from_text("web.lan").to_string());
        assert_eq!(mac("eth1"), mac("eth2"));
        host.rnet("attach br0 web none 01:00:5e:00:00:01").fails(2, &["01:00:5e:00:00:01"]);
    });
}

#[test]
fn names_sizes_routes_and_metrics() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24@10.0.0.1").ok();
        let options = "-i lan -l weblan --mtu 1400 --route 10.8.0.0/16@10.1.0.9 --route fd08::/32 --metric 300";
        host.rnet(&format!("attach br1 web 10.1.0.5/24@10.1.0.1,fd01::5/64 {options}")).ok();
        host.rnet("attach br2 web 10.2.0.5/24@10.2.0.1 --no-default-route").ok();
        host.rnet("attach br3 web 10.3.0.5/24@10.3.0.1").ok();
        assert!(host.has_link("weblan"));
        assert_eq!(web.ip_json("link show lan")[0]["mtu"], 1400);
        assert!(web.ip("route show 10.8.0.0/16").contains("via 10.1.0.9 dev lan"));
        assert!(web.ip("-6 route show fd08::/32").contains("dev lan"));
        let defaults = default_route(&web, "-4");
        let lines: Vec<&str> = defaults.lines().collect();
        assert_eq!(lines.len(), 3, "{defaults}");
        assert!(lines[0].contains("dev eth0") && !lines[0].contains("metric"), "{defaults}");
        assert!(lines[1].contains("dev lan") && lines[1].contains("metric 300"), "{defaults}");
        assert!(lines[2].contains("dev eth2") && lines[2].contains("metric 301"), "{defaults}");
    });
}

#[test]
fn the_mtu_is_the_bridges() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("bridge create br9 --mtu 9000").ok();
        host.rnet("attach br9 web 10.0.0.5/24").ok();
        assert_eq!(web.ip_json("link show eth0")[0]["mtu"], 9000);
    });
}

#[test]
fn the_same_again_changes_nothing() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        let words = "attach br0 web 10.0.0.5/24@10.0.0.1";
        let first = host.rnet_json(words);
        let (before, inside) = (host.snapshot(), web.ip("-d address"));
        let again = host.rnet_json(words);
        assert_eq!((&first["outcome"], &again["outcome"]), (&"created".into(), &"unchanged".into()));
        assert_eq!(first["endpoint"], again["endpoint"]);
        host.rnet("attach br0 netns:web 10.0.0.5/24@10.0.0.1 -i eth0").ok();
        host.rnet("attach br0 netns:/run/netns/web 10.0.0.5/24@10.0.0.1 --no-probe").ok();
        before.same(&host.snapshot(), "after the same attach");
        assert_eq!(inside, web.ip("-d address"));
    });
}

#[test]
fn a_changed_one_is_replaced_when_asked() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24 -i eth0").ok();
        let before = host.snapshot();
        let words = ["eth0", "web", "10.0.0.5/24", "hint: --replace"];
        host.rnet("attach br0 web 10.0.0.6/24 -i eth0").fails(4, &words);
        before.same(&host.snapshot(), "after a refused change");
        let reply = host.rnet_json("attach br0 web 10.0.0.6/24 -i eth0 --replace");
        assert_eq!(reply["outcome"], "replaced");
        assert_eq!(addresses(&web, "eth0"), ["10.0.0.6/24"]);
        assert_eq!(host.rnet_json("attachments ls").as_array().unwrap().len(), 1);
        // One that cannot be done leaves the old one in place.
        web.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1").ok();
        let failed = host.rnet("attach br0 web fd00::5/64 -i eth0 --replace");
        assert_ne!(failed.code, 0, "{}", failed.out);
        assert_eq!(addresses(&web, "eth0"), ["10.0.0.6/24"]);
        assert_eq!(host.rnet_json("attachments ls")[0]["status"]["state"], "ready");
    });
}

#[test]
fn a_dry_run_shows_the_steps_and_changes_nothing() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        let said = host.rnet("attach br0 web 10.0.0.5/24@10.0.0.1 --dry-run").ok();
        for words in ["planned", "ip link add", "br0", "10.0.0.5/24", "default via 10.0.0.1"] {
            assert!(said.out.contains(words), "no {words:?} in\n{}", said.out);
        }
        host.before().same(&host.snapshot(), "after a dry run");
        host.rnet("attach br0 web 10.0.0.5/24 -i lan").ok();
        let port = host.rnet_json("attachments ls")[0]["host_ifname"].as_str().unwrap().to_owned();
        let said = host.rnet("attach br0 web 10.0.0.6/24 -i lan --replace --dry-run").ok().out;
        let taken_off = said.find(&format!("ip link set {port} down")).expect("what is replaced is shown");
        assert!(taken_off < said.find("ip link add").unwrap(), "{said}");
        host.rnet("detach web").ok();
        host.rnet("bridge rm br0").ok();
        assert!(!web.ip("-o link").contains("eth0"));
        assert_eq!(host.rnet_json("attachments ls"), serde_json::json!([]));
        assert_eq!(host.rnet_json("attach br0 web none --dry-run")["outcome"], "planned");
    });
}

#[test]
fn a_dry_run_takes_no_address() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --bridge-name blue0").ok();
        host.container("web");
        let held = host.rnet_json("network allocations");
        let planned = host.rnet_json("attach blue0 web auto --dry-run");
        assert_eq!(host.rnet_json("network allocations"), held);
        host.rnet("attach blue0 web 10.9.0.9/24 --dry-run").ok();
        assert_eq!(host.rnet_json("network allocations"), held);
        let made = host.rnet_json("attach blue0 web auto");
        assert_eq!(made["endpoint"]["addresses"], planned["endpoint"]["addresses"]);
    });
}

#[test]
fn one_container_does_not_get_an_address_twice() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --bridge-name blue0").ok();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        let before = host.snapshot();
        host.rnet("attach br0 web 10.0.0.5/24 -i lan").fails(4, &["10.0.0.5", "web", "eth0"]);
        host.rnet("attach br0 web 10.0.0.5/24,10.0.0.6/24 -i lan").fails(4, &["10.0.0.5"]);
        before.same(&host.snapshot(), "after an address was refused");
        // On another segment it is another address.
        host.rnet("attach br1 web 10.0.0.5/24 -i far").ok();
        host.rnet("attach br0 web 10.0.0.5/24 -i eth0 -l webhost --replace").ok();
        host.rnet("attach br0 web 10.0.0.5/24 -i eth0 --mtu 1400 --replace").ok();
        assert!(host.has_link("webhost"), "the name given before stays");
        assert!(web.ip("-o link show eth0").contains("mtu 1400"));
        assert!(host.ip("-o link show br0").contains("mtu 1500"), "a small port makes the bridge no smaller");

        let first = host.rnet_json("network connect blue web")["endpoint"]["addresses"][0].clone();
        let second = host.rnet_json("attach blue0 web auto -i net1")["endpoint"]["addresses"][0].clone();
        assert_ne!(first, second);
        host.rnet("detach web net1").ok();
        let ip = first.as_str().unwrap().split('/').next().unwrap().to_owned();
        host.rnet(&format!("network connect blue db --ip {ip}")).fails(4, &[&ip, "web"]);
        assert!(web.ip("-o address").contains(&ip));
    });
}

#[test]
fn results_as_json() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        let reply = host.rnet_json("attach br0 web 10.0.0.5/24@10.0.0.1,fd00::5/64");
        let endpoint = &reply["endpoint"];
        for (key, value) in [
            ("engine", "netns"),
            ("container", "web"),
            ("container_id", "/run/netns/web"),
            ("bridge", "br0"),
            ("ifname", "eth0"),
        ] {
            assert_eq!(endpoint[key], value, "{key}");
        }
        assert_eq!(endpoint["addresses"], serde_json::json!(["10.0.0.5/24", "fd00::5/64"]));
        assert_eq!(endpoint["gateways"], serde_json::json!(["10.0.0.1"]));
        assert_eq!(endpoint["status"]["state"], "ready");
        assert_eq!(endpoint["persistent"], true);
        let id = endpoint["id"].as_str().unwrap();
        assert_eq!(&host.rnet_json("attachments ls")[0], endpoint);
        let one = host.rnet(&format!("attachments inspect {id}")).json();
        assert!(one == *endpoint || one[0] == *endpoint, "{one}");
        host.rnet("attachments inspect 01zzzz").fails(3, &["01zzzz"]);
        assert_eq!(host.rnet_json("detach web")[0]["id"], endpoint["id"]);
    });
}

#[test]
fn detaching_one_of_several() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("detach web").fails(3, &["web"]);
        for n in 0..4 {
            host.rnet(&format!("attach br{n} web 10.{n}.0.5/24")).ok();
        }
        host.rnet("detach web").fails(4, &["eth0, eth1, eth2, eth3", "--all"]);
        host.rnet("detach web eth9").fails(3, &["eth9", "eth0, eth1"]);
        host.rnet("detach web eth1").ok();
        gone(&web, "eth1");
        // The name is free at once.
        host.rnet("attach br1 web 10.1.0.6/24 -i eth1").ok();
        host.rnet("detach netns:web --all").ok();
        (0..4).for_each(|n| gone(&web, &format!("eth{n}")));
        host.rnet("detach web --all").fails(3, &["web"]);
    });
}

#[test]
fn an_address_is_free_at_once_after_a_detach() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let (web, db) = (host.container("web"), host.container("db"));
        for _ in 0..5 {
            host.rnet("attach br0 web 10.0.0.5/24 -i eth0 -l same").ok();
            host.rnet("detach web").ok();
            host.rnet("attach br0 db 10.0.0.5/24 -i eth0 -l same").ok();
            assert_eq!(addresses(&db, "eth0"), ["10.0.0.5/24"]);
            host.rnet("detach db").ok();
        }
        gone(&web, "eth0");
    });
}

#[test]
fn an_ended_container_is_detached_by_name() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.end_container(web);
        wait_for("the attachment to wait for its container", SOON, || {
            host.rnet_json("attachments ls")[0]["status"]["state"] == "pending"
        });
        host.rnet("detach web").ok();
        assert_eq!(host.rnet_json("attachments ls"), serde_json::json!([]));
    });
}

#[test]
fn a_process_ends_and_takes_its_attachment_along() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let process = host.process();
        host.rnet(&format!("attach br0 pid:{} 10.0.0.5/24", process.pid())).ok();
        assert!(process.run("ip -o address").out.contains("10.0.0.5/24"));
        process.end();
        wait_for("the attachment to be forgotten", SOON, || host.rnet_json("attachments ls") == serde_json::json!([]));
    });
}

#[test]
fn waiting_for_an_interface() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        host.rnet("wait web --timeout 0.05").fails(5, &["web", "not ready"]);
        std::thread::scope(|scope| {
            let client = host.client();
            let waiter = scope.spawn(move || {
                client.wait(&rnet_api::WaitRequest {
                    container: "web".parse().unwrap(),
                    ifname: Some("eth1".parse().unwrap()),
                    timeout_ms: 10_000,
                })
            });
            let client = host.client();
            let attach = |address: &str| {
                client.attach(&rnet_api::AttachRequest {
                    spec: rnet_model::AttachSpec {
                        hostif: "br0".parse().unwrap(),
                        container: "web".parse().unwrap(),
                        address: address.parse().unwrap(),
                        options: Default::default(),
                    },
                    dry_run: false,
                    identity: None,
                })
            };
            attach("10.0.0.5/24").unwrap();
            attach("10.0.0.6/24").unwrap();
            assert_eq!(waiter.join().unwrap().unwrap().ifname.as_str(), "eth1");
        });
        host.rnet("wait web -i eth0").ok();
    });
}

#[test]
fn an_attach_waits_for_its_container() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.rnet("attach br0 late 10.0.0.5/24 --wait 0.1").fails(3, &["late"]);
        host.before().same(&host.snapshot(), "after an attach that waited in vain");
        let mut attach = std::process::Command::new(host.rnet_program())
            .args("attach br0 late 10.0.0.5/24 --wait 20".split(' '))
            .env("RNET_ROOT", &host.root)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Two more requests take longer than its first try.
        host.rnet("attachments").ok();
        host.rnet("attachments").ok();
        host.container("late");
        assert!(attach.wait().unwrap().success());
    });
}

#[test]
fn an_address_that_the_lan_uses_is_refused() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["192.168.115.2/24"]);
        let peer = world.peer("printer", &["192.168.115.50/24", "fd00::50/64"]);
        let owner = peer.run("ip -j link show eth0").json()[0]["address"].as_str().unwrap().to_owned();
        host.start();
        let web = host.container("web");
        host.rnet("bridge create br0 --uplink eth0").ok();
        let before = host.snapshot();
        for address in ["192.168.115.50/24", "fd00::50/64"] {
            let ip = address.split('/').next().unwrap();
            let words = [ip, "br0", owner.as_str(), "--no-probe"];
            let refused = host.rnet(&format!("attach br0 web {address}")).fails(4, &words);
            assert!(refused.took < Duration::from_secs(5), "an answer ends the probe");
        }
        before.same(&host.snapshot(), "after refused addresses");
        assert!(!web.ip("-o link").contains("eth0"));
        host.rnet("attach br0 web 192.168.115.51/24").ok();
        assert!(peer.reaches("192.168.115.51"));
        host.rnet("attach br0 web 192.168.115.50/24 --no-probe").ok();
    });
}

#[test]
fn neighbours_learn_who_has_an_address_now() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["192.168.115.2/24"]);
        let peer = world.peer("desk", &["192.168.115.3/24", "fd00::3/64"]);
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 192.168.115.60/24,fd00::60/64 02:00:00:00:00:01").ok();
        web.ping("192.168.115.3");
        web.ping("fd00::3");
        let known = |ip: &str, mac: &str| peer.run(&format!("ip neighbour show {ip}")).out.contains(mac);
        for ip in ["192.168.115.60", "fd00::60"] {
            assert!(peer.reaches(ip));
            assert!(known(ip, "02:00:00:00:00:01"));
        }
        host.rnet("detach web").ok();
        host.rnet("attach br0 db 192.168.115.60/24,fd00::60/64 02:00:00:00:00:02").ok();
        for ip in ["192.168.115.60", "fd00::60"] {
            wait_for("the neighbour to learn the new owner", SOON, || known(ip, "02:00:00:00:00:02"));
        }
    });
}

#[test]
fn events_tell_what_happens() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        let mut events = host.client().events().unwrap();
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.rnet("detach web").ok();
        let seen: Vec<String> = events.by_ref().take(3).map(|e| e.unwrap().action).collect();
        assert_eq!(seen, ["bridge-create", "attach", "detach"]);
    });
}
