//! `rnet stats`, `rnet events` and the journal: what is counted and what is remembered.

use std::collections::BTreeSet;

use rnet_netns_harness::{Host, SOON, run, wait_for};
use serde_json::Value;

/// A network of two.
fn two(host: &Host) {
    host.forwarding_may_stay();
    host.start();
    host.rnet("network create blue --subnet 10.9.0.0/24").ok();
    for name in ["web", "db"] {
        host.container(name);
        host.rnet(&format!("network connect blue {name}")).ok();
    }
}

fn of<'a>(stats: &'a Value, container: &str) -> &'a Value {
    let all = stats["endpoints"].as_array().expect("a list");
    all.iter().find(|e| e["container"] == container).unwrap_or_else(|| panic!("no {container} in {stats}"))
}

#[test]
fn what_one_sends_the_other_receives() {
    run(|world| {
        let host = world.host("h1");
        two(&host);
        let before = host.rnet_json("stats");
        let ping = host.run("nsenter --net=/run/netns/web ping -q -c 20 -i 0.01 -s 1000 10.9.0.3").ok();
        assert!(ping.out.contains(" 0% packet loss"), "{}", ping.out);
        let after = host.rnet_json("stats");
        let count = |stats: &Value, name: &str, way: &str, what: &str| {
            of(stats, name)["traffic"][way][what].as_u64().expect("a number")
        };
        let grown = |name, way, what| count(&after, name, way, what) - count(&before, name, way, what);
        // 20 packets of 1000 bytes with their headers, and a few for addresses.
        for (name, way) in [("web", "sent"), ("db", "received"), ("db", "sent"), ("web", "received")] {
            let (packets, bytes) = (grown(name, way, "packets"), grown(name, way, "bytes"));
            assert!((20..60).contains(&packets), "{name} {way}: {packets} packets");
            assert!((20 * 1042..30 * 1042).contains(&bytes), "{name} {way}: {bytes} bytes");
        }
        assert!(after["clock_ms"].as_u64() > before["clock_ms"].as_u64());
        let said = host.rnet("stats web").ok().out;
        assert!(said.starts_with("CONTAINER  IFNAME  ON") && said.contains("netns:web") && !said.contains("netns:db"));
        host.rnet("stats nobody").fails(3, &["nobody"]);
    });
}

#[test]
fn one_that_waits_for_its_container_has_no_traffic() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.rnet("bridge create br9 --addr 10.8.0.1/24").ok();
        let web = host.container("web");
        host.rnet("attach br9 web 10.8.0.2/24").ok();
        assert!(of(&host.rnet_json("stats"), "web")["traffic"].is_object());
        host.end_container(web);
        wait_for("the attachment to wait", SOON, || {
            let stats = host.rnet_json("stats");
            stats["endpoints"].as_array().is_some_and(|all| all.iter().all(|e| e["traffic"].is_null()))
        });
    });
}

#[test]
fn watching_prints_lines_until_it_is_interrupted() {
    run(|world| {
        let host = world.host("h1");
        two(&host);
        let rnet = host.rnet_program();
        let watch = |words: &str| {
            let said =
                host.run(&format!("env RNET_ROOT={} timeout -s INT 2 {} {words}", host.root.display(), rnet.display()));
            // timeout(1) says that it had to end it; what it ended said nothing.
            assert_eq!((said.code, said.err.as_str()), (124, ""));
            said.out
        };
        let plain = watch("stats --watch 0.2 web");
        let lines: Vec<&str> = plain.lines().collect();
        assert!(lines.len() >= 2, "{plain}");
        assert!(lines.iter().all(|l| l.contains(" netns:web eth0 rx=") && l.contains("B/s tx=")), "{plain}");
        let json = watch("stats --watch 0.2 --json");
        let clocks: BTreeSet<u64> = json
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a line is an object")["clock_ms"].as_u64().unwrap())
            .collect();
        assert!(clocks.len() >= 2, "{json}");
    });
}

#[test]
fn events_of_the_past_and_of_some_kinds() {
    run(|world| {
        let host = world.host("h1");
        two(&host);
        let past = |filters: &str| {
            let said = host.rnet(&format!("events --since 1h --no-follow --json {filters}")).ok().out;
            said.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")).collect::<Vec<_>>()
        };
        let all = past("");
        let what = |e: &Value| format!("{} {}", e["action"].as_str().unwrap(), e["subject"].as_str().unwrap());
        let names: Vec<String> = all.iter().map(what).collect();
        assert_eq!(names, ["network-create blue", "attach web", "attach db"]);
        assert_eq!(past("--filter action=attach --filter subject=db").len(), 1);
        assert_eq!(past("--filter action=detach").len(), 0);
        let lines = host.rnet("events --since 1h --no-follow").ok().out;
        assert!(lines.lines().any(|l| l.contains("Z attach web ") && l.contains("ifname=eth0")), "{lines}");
        host.rnet("events --since yesterday").fails(2, &["yesterday"]);
    });
}

#[test]
fn listeners_do_not_keep_netd_from_ending() {
    run(|world| {
        let host = world.host("h1");
        two(&host);
        let mut events = host.client().events().unwrap();
        let query = rnet_api::CaptureQuery {
            container: "web".into(),
            ifname: None,
            snaplen: None,
            duration_ms: None,
            count: None,
        };
        let (_, packets) = host.client().capture(&query).unwrap();
        let begun = std::time::Instant::now();
        host.stop();
        // The limit for requests that are open is two seconds.
        assert!(begun.elapsed().as_millis() < 1900, "{:?}", begun.elapsed());
        assert!(events.next().is_none(), "the stream has an end");
        assert!(packets.last().is_some_and(|piece| piece.is_ok()), "the capture is finished, not cut off");
    });
}
