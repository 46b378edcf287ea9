//! `rnet ping-all`: every pair of a network, both families.

use rnet_netns_harness::run;

#[test]
fn every_pair_is_asked_in_both_families() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --subnet fd00:9::/64").ok();
        let all: Vec<_> = (0..4)
            .map(|n| {
                let container = host.container(&format!("c{n}"));
                host.rnet(&format!("network connect blue c{n}")).ok();
                container
            })
            .collect();
        all.iter().for_each(|c| c.ping("10.9.0.1"));
        let before = host.snapshot();
        let report = host.rnet_json("ping-all blue");
        let pairs = report["pairs"].as_array().unwrap();
        assert_eq!(pairs.len(), 4 * 3 * 2);
        assert!(pairs.iter().all(|p| p["round_trip_us"].is_u64()), "{report:#}");
        let text = host.rnet("ping-all blue").ok().out;
        assert!(text.ends_with("network blue: 24 of 24 answered\n"), "{text}");
        before.same(&host.snapshot(), "after pings");
        // One is deaf: the pairs with it fail, all others do not, and it takes one second for all.
        all[2].run("nft add table inet deaf").ok();
        all[2].run("nft add chain inet deaf in { type filter hook input priority 0 ; }").ok();
        all[2].run("nft add rule inet deaf in meta l4proto icmp drop").ok();
        let said = host.rnet("ping-all blue --json");
        assert_eq!(said.code, 1, "{}{}", said.out, said.err);
        let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        for pair in report["pairs"].as_array().unwrap() {
            let v4 = pair["to"]["address"].as_str().unwrap().contains('.');
            let with_it = [&pair["from"], &pair["to"]].iter().any(|end| end["container"] == "c2");
            assert_eq!(pair["round_trip_us"].is_null(), v4 && with_it, "{pair:#}");
        }
        // One that has ended is not asked, and named.
        host.rnet("network create green --subnet 10.8.0.0/24").ok();
        host.rnet("network connect green c0").ok();
        let report = host.rnet_json("ping-all green");
        assert_eq!(report["pairs"].as_array().unwrap().len(), 0);
        host.rnet("ping-all red").fails(3, &["red"]);
    });
}
