//! Many ports, and ports that come and go quickly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rnet_api::{PublishRequest, UnpublishRequest};
use rnet_netns_harness::run;

use super::HOST;
use super::stage::{Bed, Station as _, Web};

/// How long it goes on.
const CYCLES: Duration = Duration::from_secs(3);

#[test]
fn a_scanner_never_sees_a_port_that_is_not_published() {
    run(|world| {
        let bed = Bed::new(world);
        let _webs = [Web::tcp(&bed.web.netns, 80, "web"), Web::tcp(&bed.web.netns, 81, "shut")];
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, shut) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        bed.peer.run(&format!("ip route add 10.9.0.0/24 via {HOST}")).ok();
        let scanner = {
            let (netns, stop, seen, shut) = (bed.peer.netns.clone(), stop.clone(), seen.clone(), shut.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match netns.ask(HOST, 8080).as_deref() {
                        Ok("web") => seen.fetch_add(1, Ordering::Relaxed),
                        Ok(_) => shut.fetch_add(1, Ordering::Relaxed),
                        Err(_) => 0,
                    };
                    if netns.ask(HOST, 8081).is_ok() {
                        shut.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let client = bed.host.client();
        let ports = vec!["8080:80".parse().unwrap()];
        let begun = Instant::now();
        let mut cycles = 0;
        while cycles < 10_000 && begun.elapsed() < CYCLES {
            client.publish(&PublishRequest { container: "web".parse().unwrap(), ports: ports.clone() }).unwrap();
            client.unpublish(&UnpublishRequest { container: "web".parse().unwrap(), ports: ports.clone() }).unwrap();
            cycles += 1;
        }
        assert!(bed.peer.netns.ask(HOST, 8080).is_err());
        stop.store(true, Ordering::Relaxed);
        scanner.join().unwrap();
        assert!(cycles > 10, "{cycles} cycles");
        assert_eq!(shut.load(Ordering::Relaxed), 0, "in {cycles} cycles");
    });
}

#[test]
fn many_ports_of_one_request() {
    run(|world| {
        let bed = Bed::new(world);
        let _webs = [Web::tcp(&bed.web.netns, 2000, "first"), Web::tcp(&bed.web.netns, 2999, "last")];
        let ports = (0..1000).map(|n| format!("{}:{}", 10_000 + n, 2000 + n).parse().unwrap()).collect();
        let request = PublishRequest { container: "web".parse().unwrap(), ports };
        let begun = Instant::now();
        assert_eq!(bed.host.client().publish(&request).unwrap().len(), 1000);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(bed.peer.netns.ask(HOST, 10_000).as_deref(), Ok("first"));
        assert_eq!(bed.peer.netns.ask(HOST, 10_999).as_deref(), Ok("last"));
        assert_eq!(bed.host.netns.ask("127.0.0.1", 10_999).as_deref(), Ok("last"));
        bed.host.rnet("unpublish web --all").ok();
        assert!(bed.peer.netns.ask(HOST, 10_999).is_err());
    });
}
