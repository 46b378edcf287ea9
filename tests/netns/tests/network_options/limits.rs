//! Rates: both ways, on ready interfaces too, changed and repaired while traffic flows.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rnet_api::{ConnectRequest, SandboxRequest};
use rnet_kernel::Netns;
use rnet_model::NetworkName;
use rnet_netns_harness::{Container, Host, SOON, World, run, wait_for};

/// Bytes of a measurement.
const AMOUNT: usize = 2_500_000;

/// Two containers on a network; the second is at 10.9.0.7.
fn pair(world: &World, options: &str) -> (Host, Container, Container) {
    let host = world.host("h1");
    host.forwarding_may_stay();
    host.start();
    host.rnet(&format!("network create blue --subnet 10.9.0.0/24 {options}")).ok();
    let (one, two) = (host.container("one"), host.container("two"));
    host.rnet("network connect blue one").ok();
    host.rnet("network connect blue two --ip 10.9.0.7").ok();
    one.ping("10.9.0.7");
    (host, one, two)
}

/// Bits a second on the wire from one namespace to another, seen where they arrive.
fn rate(from: &Netns, to: &Netns, address: &str) -> f64 {
    /// Frame and payload of a full TCP segment with timestamps.
    const WIRE: f64 = 1514.0 / 1448.0;
    let listener = to.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let mut sender = from.run(|| TcpStream::connect_timeout(&at, SOON)).unwrap().unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    for end in [&sender, &receiver] {
        end.set_read_timeout(Some(SOON)).unwrap();
        end.set_write_timeout(Some(SOON)).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let block = [0u8; 16 * 1024];
            let mut left = AMOUNT;
            while left > 0 && sender.write_all(&block[..left.min(block.len())]).is_ok() {
                left -= left.min(block.len());
            }
        });
        let mut block = [0u8; 64 * 1024];
        // The burst goes at once: it is not part of the rate.
        let (mut begun, mut counted, mut all) = (None::<Instant>, 0, 0);
        while all < AMOUNT {
            let n = receiver.read(&mut block).unwrap();
            assert!(n > 0, "the connection ended after {all} bytes");
            all += n;
            match begun {
                None if all > AMOUNT / 5 => begun = Some(Instant::now()),
                None => {}
                Some(_) => counted += n,
            }
        }
        let bytes = u32::try_from(counted).unwrap();
        f64::from(bytes) * 8.0 * WIRE / begun.unwrap().elapsed().as_secs_f64()
    })
}

/// Never above, and not below but for what else the machine does.
#[track_caller]
fn within(what: &str, mbit: f64, measure: impl Fn() -> f64) {
    let mut seen = Vec::new();
    wait_for(what, SOON * 3, || {
        let found = measure() / 1e6;
        assert!(found < mbit * 1.15, "{what}: {found:.1} Mbit/s, and {mbit} are allowed");
        seen.push(found);
        found > mbit * 0.85
    });
}

fn buckets(host: &Host) -> usize {
    host.run("tc qdisc show").ok().out.lines().filter(|l| l.contains("qdisc tbf")).count()
}

fn limiters(host: &Host) -> Vec<String> {
    let links = host.ip("-o link show type ifb");
    links.lines().filter_map(|l| Some(l.split(": ").nth(1)?.to_owned())).collect()
}

#[test]
fn what_is_received_and_what_is_sent_is_limited() {
    run(|world| {
        let (_host, one, two) = pair(world, "--rate-ingress 40mbit --rate-egress 20mbit/32k");
        // From a container it is what that one may send; from the host what the container may receive.
        within("sending", 20.0, || rate(&one.netns, &two.netns, "10.9.0.7"));
        within("receiving", 40.0, || rate(&_host.netns, &two.netns, "10.9.0.7"));
        // The container cannot take it off.
        assert!(!two.run("tc qdisc show").out.contains("tbf"));
    });
}

#[test]
fn a_network_without_rates_costs_nothing() {
    run(|world| {
        let (host, ..) = pair(world, "");
        assert_eq!((buckets(&host), limiters(&host).len()), (0, 0));
    });
}

#[test]
fn ready_interfaces_are_limited_too() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/24 --rate 20mbit").ok();
        let blue: NetworkName = "blue".parse().unwrap();
        let start = |id: &str| {
            let request = SandboxRequest {
                container_id: id.parse().unwrap(),
                container_name: id.parse().unwrap(),
                networks: vec![blue.clone()],
            };
            let sandbox = host.client().create_sandbox(&request).unwrap();
            let request = ConnectRequest { networks: vec![blue.clone().into()], ..ConnectRequest::default() };
            let made = host.client().connect_sandbox(&id.parse().unwrap(), &request).unwrap();
            (Netns::open(&sandbox.netns).unwrap(), made[0].addresses[0].ip().to_string())
        };
        start("box0");
        wait_for("ready namespaces", SOON, || limiters(&host).len() > 2);
        // One whose frames lead nowhere is nobody's.
        let before = limiters(&host);
        for device in before.iter().skip(1) {
            host.ip(&format!("link del {device}"));
        }
        wait_for("others to be ready", SOON, || {
            let now = limiters(&host);
            now.len() == before.len() && before.iter().skip(1).all(|gone| !now.contains(gone))
        });
        let ((one, _), (two, address)) = (start("box1"), start("box2"));
        within("a ready one sending", 20.0, || rate(&one, &two, &address));
        // What is ready goes with the limits it was made with.
        host.rnet("network edit blue --no-rate").ok();
        assert_eq!(limiters(&host), Vec::<String>::new());
        assert_eq!(buckets(&host), 0);
        for id in ["box0", "box1", "box2"] {
            host.client().release_sandbox(&id.parse().unwrap(), true).unwrap();
        }
    });
}

#[test]
fn an_edit_changes_the_limits_of_those_who_are_there() {
    run(|world| {
        let (host, one, two) = pair(world, "");
        host.rnet("network edit blue --rate 20mbit").ok();
        assert_eq!((buckets(&host), limiters(&host).len()), (4, 2));
        within("sending", 20.0, || rate(&one.netns, &two.netns, "10.9.0.7"));
        host.rnet("network edit blue --rate-egress 40mbit --rate-ingress 80mbit").ok();
        within("sending faster", 40.0, || rate(&one.netns, &two.netns, "10.9.0.7"));
        host.rnet("network edit blue --no-rate").ok();
        assert_eq!((buckets(&host), limiters(&host).len()), (0, 0));
        let free = rate(&one.netns, &two.netns, "10.9.0.7");
        assert!(free > 100e6, "{free} bits a second without a limit");
    });
}

#[test]
fn limits_that_somebody_takes_away_come_back() {
    run(|world| {
        let (host, one, two) = pair(world, "--rate 20mbit");
        // Whatever led through a device that is gone would be dropped.
        for device in limiters(&host) {
            host.ip(&format!("link del {device}"));
        }
        wait_for("the devices to be back", SOON, || limiters(&host).len() == 2);
        within("after their end", 20.0, || rate(&one.netns, &two.netns, "10.9.0.7"));
        let port =
            host.rnet_json("network inspect blue")[0]["endpoints"][0]["host_ifname"].as_str().unwrap().to_owned();
        host.crash();
        host.run(&format!("tc qdisc del dev {port} root")).ok();
        assert_eq!(buckets(&host), 3);
        host.start();
        assert_eq!(buckets(&host), 4);
        // A start changes nothing that is right.
        let before = host.snapshot();
        host.stop();
        host.start();
        before.same(&host.snapshot(), "after a restart");
    });
}

#[test]
fn limits_end_with_their_container() {
    run(|world| {
        let (host, one, _two) = pair(world, "--rate 20mbit");
        host.rnet("network disconnect blue two").ok();
        wait_for("its device to go", SOON, || limiters(&host).len() == 1);
        host.end_container(one);
        wait_for("the other one's to go", SOON + Duration::from_secs(5), || limiters(&host).is_empty());
    });
}
