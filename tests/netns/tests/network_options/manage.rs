//! Lists, filters, prune, allocations, pools, and words that are wrong.

use rnet_netns_harness::{Host, World, run};
use serde_json::Value;

fn host(world: &World) -> Host {
    let host = world.host("h1");
    host.forwarding_may_stay();
    host.start();
    host
}

fn names(list: &Value) -> Vec<&str> {
    let mut out: Vec<_> = list.as_array().unwrap().iter().map(|n| n["spec"]["name"].as_str().unwrap()).collect();
    out.sort_unstable();
    out
}

#[test]
fn lists_can_be_filtered() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.1.0.0/24 --label team=net --label env=test").ok();
        host.rnet("network create bluegreen --subnet 10.2.0.0/24 --label team=web --internal").ok();
        let red = host.rnet_json("network create red --subnet 10.3.0.0/24 --type routed");
        let _web = host.container("web");
        host.rnet("network connect blue web").ok();
        let id = red["id"].as_str().unwrap();
        for (filters, found) in [
            ("name=blue", vec!["blue", "bluegreen"]),
            ("name=red --filter name=green", vec!["bluegreen", "red"]),
            (&format!("id={}", &id[..20]), vec!["red"]),
            ("label=team", vec!["blue", "bluegreen"]),
            ("label=team --filter label=env=test", vec!["blue"]),
            ("label=team=web", vec!["bluegreen"]),
            ("type=bridge", vec!["blue", "bluegreen", "red"]),
            ("type=internal", vec!["bluegreen"]),
            ("type=routed", vec!["red"]),
            ("dangling=true", vec!["bluegreen", "red"]),
            ("dangling=false", vec!["blue"]),
            ("dangling=true --filter label=team", vec!["bluegreen"]),
            ("name=nothing", vec![]),
        ] {
            let list = host.rnet_json(&format!("network ls --filter {filters}"));
            assert_eq!(names(&list), found, "{filters}");
        }
        host.rnet("network ls --filter color=blue").fails(2, &["color=blue", "dangling"]);
        let short = host.rnet("network ls -q --filter name=red").ok().out;
        assert_eq!(short.trim(), &id[..16]);
        assert_eq!(host.rnet("network ls -q --no-trunc --filter name=red").ok().out.trim(), id);
        assert_eq!(host.rnet_json(&format!("network inspect {}", short.trim()))[0]["id"], id);
        let table = host.rnet("network ls").ok().out;
        assert!(table.contains("bridge, routed") && !table.contains(id), "{table}");
    });
}

#[test]
fn prune_takes_what_nobody_uses() {
    run(|world| {
        let host = host(world);
        for (name, label) in [("used", "a"), ("old", "a"), ("other", "b"), ("bridge", "a"), ("prune", "c")] {
            host.rnet(&format!("network create {name} --label kind={label}")).ok();
        }
        let _web = host.container("web");
        host.rnet("network connect used web").ok();
        host.rnet("network prune").fails(2, &["prune", "--force"]);
        let pruned = |words: &str| {
            let reply = host.rnet_json(&format!("network prune --force {words}"));
            names(&reply["removed"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(pruned("--filter until=24h"), [""; 0]);
        assert_eq!(pruned("--filter label=kind=a"), ["old"]);
        assert_eq!(pruned("--filter label!=kind=c"), ["other"]);
        // A network may be called like a word of the API.
        assert_eq!(host.rnet_json("network inspect prune")[0]["spec"]["name"], "prune");
        host.rnet("network edit prune --isolate off").ok();
        assert_eq!(pruned("--filter until=0s"), ["prune"]);
        assert_eq!(names(&host.rnet_json("network ls")), ["bridge", "used"]);
        host.rnet("network prune --force --filter age=3").fails(2, &["age=3", "until"]);
    });
}

#[test]
fn every_address_has_an_owner() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        world.plug(&host, "eth0", &["198.51.100.2/24"]);
        host.start();
        host.rnet("network create blue --subnet 10.1.0.0/24").ok();
        host.rnet("network create green --subnet 10.2.0.0/24").ok();
        let (_web, _db) = (host.container("web"), host.container("db"));
        host.rnet("network connect blue web --ip 10.1.0.7").ok();
        host.rnet("network connect blue db --ip 10.1.0.8").ok();
        host.rnet("attach br9 db 10.9.0.5/24").ok();
        host.rnet("network disconnect blue db").ok();
        let all = host.rnet_json("network allocations");
        let of = |address: &str| {
            let found: Vec<_> = all.as_array().unwrap().iter().filter(|a| a["address"] == address).collect();
            assert_eq!(found.len(), 1, "{address}: {found:?}");
            ["network", "owner", "state"].map(|key| found[0][key].as_str().unwrap().to_owned())
        };
        assert_eq!(of("198.51.100.2"), ["eth0", "host", "live"]);
        assert_eq!(of("127.0.0.1"), ["lo", "host", "live"]);
        assert_eq!(of("10.1.0.1"), ["blue", "gateway", "live"]);
        assert_eq!(of("10.1.0.7"), ["blue", "netns:web", "live"]);
        assert_eq!(of("10.1.0.8")[2], "resting");
        assert_eq!(of("10.9.0.5"), ["br9", "netns:db", "live"]);
        let of_blue = host.rnet_json("network allocations blue");
        assert!(of_blue.as_array().unwrap().iter().all(|a| a["network"] == "blue"));
        assert_eq!(of_blue.as_array().unwrap().len(), 3);
        host.rnet("network allocations nothing").fails(3, &["nothing"]);
    });
}

#[test]
fn thirty_one_networks_and_no_more() {
    run(|world| {
        let host = host(world);
        for n in 0..31 {
            host.rnet(&format!("network create n{n}")).ok();
        }
        let all = host.rnet_json("network ls");
        let mut subnets: Vec<_> = all.as_array().unwrap().iter().map(|n| n["spec"]["subnets"][0].to_string()).collect();
        subnets.sort();
        subnets.dedup();
        assert_eq!(subnets.len(), 31);
        host.rnet("network create more").fails(4, &["no subnet is free", "172.17.0.0/16", "--subnet", "31 networks"]);
        // Given by hand there still is one.
        host.rnet("network create more --subnet 10.9.0.0/24").ok();
        let freed = host.rnet_json("network inspect n17")[0]["spec"]["subnets"].clone();
        host.rnet("network rm n17").ok();
        assert_eq!(host.rnet_json("network create again")["spec"]["subnets"], freed);
    });
}

#[test]
fn wrong_words_are_told_what_is_wrong() {
    run(|world| {
        let host = host(world);
        let before = host.snapshot();
        for (words, code, said) in [
            ("--outbound-address 203.0.113.1", 2, ["203.0.113.1", "address of this host"]),
            ("--outbound-address 127.0.0.1", 2, ["127.0.0.1", "outbound"]),
            ("--internal --outbound-address 203.0.113.1", 2, ["203.0.113.1", "internal"]),
            ("--gateway-mode routed --outbound-address 203.0.113.1", 2, ["203.0.113.1", "kept"]),
            ("--internal --gateway-mode routed", 2, ["routed", "internal"]),
            ("--internal --dns-forward 203.0.113.53", 2, ["203.0.113.53", "internal"]),
            ("--rate 100", 2, ["100", "rate"]),
            ("--rate 1mbit/10b", 2, ["burst", "frame"]),
            ("--domain under_score..x", 2, ["under_score..x", ""]),
            ("--icc maybe", 2, ["maybe", "on"]),
            ("--type lan", 6, ["LAN", "rnet bridge create"]),
            ("--type macvlan --subnet 10.1.0.0/24", 2, ["below", "--parent"]),
            ("--parent eth0", 2, ["--parent", "macvlan"]),
            ("-o com.docker.network.bridge.gateway_mode_ipv4=isolated", 6, ["isolated", "--internal"]),
        ] {
            host.rnet(&format!("network create odd {words}")).fails(code, &said);
        }
        before.same(&host.snapshot(), "after refused networks");
    });
}

#[test]
fn options_of_docker_are_understood_or_said_to_do_nothing() {
    run(|world| {
        let host = host(world);
        let said = host
            .rnet(
                "network create blue --subnet 10.1.0.0/24 -o com.docker.network.bridge.name=blue0 -o \
                 com.docker.network.driver.mtu=1300 -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 -o a=b",
            )
            .ok();
        assert!(said.err.contains("host_binding_ipv4") && said.err.contains("no effect"), "{}", said.err);
        assert!(host.ip("link show blue0").contains("mtu 1300"));
        let spec = host.rnet_json("network inspect blue")[0]["spec"].clone();
        assert_eq!(spec["options"]["a"], "b");
        assert_eq!(spec["options"].as_object().unwrap().len(), 2);
    });
}
