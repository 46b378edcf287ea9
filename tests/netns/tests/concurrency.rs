//! Many clients at once: no error, no leak, no descriptor that stays open.

use rnet_api::{AttachRequest, DetachRequest, DetachWhich, NetworkConnect, NetworkDisconnect};
use rnet_model::{AttachSpec, ContainerRef, IfName};
use rnet_netns_harness::{Host, SOON, run, wait_for};

const CLIENTS: usize = 8;
const ROUNDS: usize = 25;

fn descriptors(host: &Host) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", host.netd_pid())).unwrap().count()
}

/// Attaches and detaches one container, again and again.
fn attach_and_detach(client: &rnet_api::Client, n: usize) {
    let container: ContainerRef = format!("c{n}").parse().unwrap();
    for round in 0..ROUNDS {
        let address = format!("10.0.{n}.{}/16", round + 1).parse().unwrap();
        let spec = AttachSpec {
            hostif: "br0".parse().unwrap(),
            container: container.clone(),
            address,
            options: Default::default(),
        };
        client.attach(&AttachRequest { spec, dry_run: false, identity: None }).unwrap();
        client.detach(&DetachRequest { container: container.clone(), which: DetachWhich::Only }).unwrap();
    }
}

/// The same on a network, where addresses come from one pool.
fn connect_and_disconnect(client: &rnet_api::Client, n: usize) {
    let container: ContainerRef = format!("c{n}").parse().unwrap();
    let ifname: Option<IfName> = Some("net0".parse().unwrap());
    for _ in 0..ROUNDS {
        let request = NetworkConnect {
            container: container.clone(),
            identity: None,
            options: rnet_model::EndpointOptions { ifname: ifname.clone(), ..Default::default() },
        };
        client.connect_network("blue", &request).unwrap();
        client.disconnect_network("blue", &NetworkDisconnect { container: container.clone() }).unwrap();
    }
}

#[test]
fn two_hundred_attaches_from_eight_clients() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.rnet("bridge create br0").ok();
        let containers: Vec<_> = (0..CLIENTS).map(|n| host.container(&format!("c{n}"))).collect();
        let before = host.snapshot();
        attach_and_detach(&host.client(), 0);
        let open = descriptors(&host);
        let clients: Vec<_> = (0..CLIENTS).map(|_| host.client()).collect();
        std::thread::scope(|scope| {
            for (n, client) in clients.iter().enumerate() {
                scope.spawn(move || attach_and_detach(client, n));
            }
        });
        host.wait_until_like(&before, "after all were detached");
        assert_eq!(host.rnet_json("attachments ls"), serde_json::json!([]));
        wait_for("descriptors to be closed", SOON, || descriptors(&host) <= open);
        for container in containers {
            assert_eq!(container.ip("-o link").lines().count(), 1, "{} has only lo", container.name);
        }
    });
}

#[test]
fn attaches_and_networks_at_once() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("bridge create br0").ok();
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let _containers: Vec<_> = (0..CLIENTS).map(|n| host.container(&format!("c{n}"))).collect();
        let before = host.snapshot();
        connect_and_disconnect(&host.client(), 0);
        let open = descriptors(&host);
        let clients: Vec<_> = (0..CLIENTS).map(|_| host.client()).collect();
        std::thread::scope(|scope| {
            for (n, client) in clients.iter().enumerate() {
                let work = if n % 2 == 0 { attach_and_detach } else { connect_and_disconnect };
                scope.spawn(move || work(client, n));
            }
        });
        host.wait_until_like(&before, "after all were detached");
        wait_for("descriptors to be closed", SOON, || descriptors(&host) <= open);
    });
}

#[test]
fn one_container_attached_by_many_gets_each_name_once() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        let clients: Vec<_> = (0..CLIENTS).map(|_| host.client()).collect();
        std::thread::scope(|scope| {
            for (n, client) in clients.iter().enumerate() {
                scope.spawn(move || {
                    let spec = AttachSpec {
                        hostif: "br0".parse().unwrap(),
                        container: "web".parse().unwrap(),
                        address: format!("10.0.0.{}/24", n + 1).parse().unwrap(),
                        options: Default::default(),
                    };
                    client.attach(&AttachRequest { spec, dry_run: false, identity: None }).unwrap();
                });
            }
        });
        assert_eq!(web.ip("-4 -o address show scope global").lines().count(), CLIENTS);
        // The same address for two of them: one gets it.
        host.container("db");
        let results: Vec<bool> = std::thread::scope(|scope| {
            let ask = |client: &rnet_api::Client, who: &str| {
                let spec = AttachSpec {
                    hostif: "br0".parse().unwrap(),
                    container: who.parse().unwrap(),
                    address: "10.0.0.99/24".parse().unwrap(),
                    options: Default::default(),
                };
                client.attach(&AttachRequest { spec, dry_run: false, identity: None }).is_ok()
            };
            let (one, two) = (&clients[0], &clients[1]);
            [scope.spawn(move || ask(one, "web")), scope.spawn(move || ask(two, "db"))]
                .map(|t| t.join().unwrap())
                .into()
        });
        assert_eq!(results.iter().filter(|ok| **ok).count(), 1);
    });
}
