//! What netd tells the packet filter of the ports it makes.

use rnet_netns_harness::{Host, run};

/// The set of guarded ports as nft(8) lists it.
fn guarded(host: &Host) -> String {
    let tables = host.run("nft list tables bridge").ok().out;
    let Some(name) = tables.lines().find_map(|l| l.strip_prefix("table bridge ")) else { return String::new() };
    let table = host.run(&format!("nft list table bridge {name}")).ok().out;
    let sets = table.lines().filter(|l| !l.contains("comment"));
    sets.collect::<Vec<_>>().join(" ")
}

#[test]
fn ports_of_networks_are_guarded_and_no_others() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("network create blue --subnet 10.9.0.0/24 --bridge-name blue0").ok();
        host.rnet("network connect blue web").ok();
        host.rnet("attach br0 db 10.0.0.5/24").ok();
        let known = host.rnet_json("attachments ls");
        let of = |bridge: &str| known.as_array().unwrap().iter().find(|e| e["bridge"] == bridge).unwrap().clone();
        let (on_blue, on_br0) = (of("blue0"), of("br0"));
        let port = |e: &serde_json::Value| format!("\"{}\"", e["host_ifname"].as_str().unwrap());
        let told = guarded(&host);
        let mac = format!("{} . {}", port(&on_blue), on_blue["mac"].as_str().unwrap());
        assert!(told.contains(&mac), "{mac} in {told}");
        assert!(!told.contains(&port(&on_br0)), "what lives on br0 is the LAN's: {told}");
        web.ping("10.9.0.1");
        // Another address than its own, which worked before there were guards.
        web.ip("address add 10.9.0.77/24 dev eth0");
        assert_ne!(web.run("ping -c 1 -W 1 -I 10.9.0.77 10.9.0.1").code, 0);
        assert_eq!(host.run("sysctl -n net.ipv6.conf.blue0.accept_ra").ok().out.trim(), "0");
        let before = host.snapshot();
        host.crash();
        host.start();
        before.same(&host.snapshot(), "after a crash");
        host.rnet("network disconnect blue web").ok();
        assert!(!guarded(&host).contains("elements"), "{}", guarded(&host));
    });
}
