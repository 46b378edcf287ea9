//! Names of containers: real queries from inside of real namespaces.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rnet_api::{ConnectRequest, ContainerNames, OnNetwork, Sandbox, SandboxRequest};
use rnet_kernel::Netns;
use rnet_model::{NetworkName, NetworkSpec, Toggle};
use rnet_netns_harness::{Host, SOON, World, run, run_in, wait_for};

const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// How long one query waits for its answer.
const PATIENCE: Duration = Duration::from_secs(6);

/// A host whose netd reads a resolv.conf of the test.
fn host(world: &World) -> Host {
    name_servers(world, "");
    let file = resolv_conf(world);
    let nothing: Option<&str> = None;
    nix::mount::mount(Some(&file), "/etc/resolv.conf", nothing, nix::mount::MsFlags::MS_BIND, nothing).unwrap();
    let host = world.host("h1");
    host.forwarding_may_stay();
    host.start();
    host
}

fn network(host: &Host, name: &str, subnet: &str, change: impl FnOnce(&mut NetworkSpec)) {
    let mut spec = NetworkSpec { subnets: vec![subnet.parse().unwrap()], ..NetworkSpec::new(name.parse().unwrap()) };
    change(&mut spec);
    host.client().create_network(&spec).unwrap();
}

fn resolv_conf(world: &World) -> PathBuf {
    world.dir().join("resolv.conf")
}

/// The name servers of the host from now on.
fn name_servers(world: &World, servers: &str) {
    let lines: String = servers.split_whitespace().map(|s| format!("nameserver {s}\n")).collect();
    std::fs::write(resolv_conf(world), lines).unwrap();
}

/// A container of the runtime, as far as netd sees it.
struct Inmate {
    netns: Netns,
    addresses: Vec<IpAddr>,
}

fn on(network: &str) -> OnNetwork {
    network.parse::<NetworkName>().unwrap().into()
}

fn sandbox(host: &Host, name: &str, networks: &[&str]) -> Sandbox {
    let id = format!("{name:x<64}");
    let request = SandboxRequest {
        container_id: id.parse().unwrap(),
        container_name: name.parse().unwrap(),
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
    };
    host.client().create_sandbox(&request).unwrap()
}

fn inmate_with(host: &Host, name: &str, request: &ConnectRequest) -> Inmate {
    let networks: Vec<&str> = request.networks.iter().map(|n| n.network.as_str()).collect();
    let sandbox = sandbox(host, name, &networks);
    let endpoints = host.client().connect_sandbox(&sandbox.container_id.parse().unwrap(), request).unwrap();
    Inmate {
        netns: Netns::open(&sandbox.netns).unwrap(),
        addresses: endpoints.iter().flat_map(|e| &e.addresses).map(|a| a.ip()).collect(),
    }
}

fn inmate(host: &Host, name: &str, networks: &[&str]) -> Inmate {
    let request = ConnectRequest { networks: networks.iter().map(|n| on(n)).collect(), ..ConnectRequest::default() };
    inmate_with(host, name, &request)
}

fn release(host: &Host, name: &str) {
    host.client().release_sandbox(&format!("{name:x<64}").parse().unwrap(), true).unwrap();
}

fn query(name: &str, kind: RecordType, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// A socket inside of a namespace that asks its resolver.
fn udp(netns: &Netns) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(RESOLVER).unwrap();
    socket
}

fn tcp(netns: &Netns) -> TcpStream {
    let stream = netns.run(|| TcpStream::connect(RESOLVER).unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn heard(socket: &UdpSocket) -> Message {
    let mut bytes = [0; 4096];
    loop {
        match socket.recv(&mut bytes) {
            Ok(length) => return Message::from_vec(&bytes[..length]).unwrap(),
            // Signals of ended children reach any thread.
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => panic!("no answer: {e}"),
        }
    }
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat()
}

fn read(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn ask(netns: &Netns, name: &str, kind: RecordType) -> Message {
    let socket = udp(netns);
    socket.send(&query(name, kind, 7)).unwrap();
    heard(&socket)
}

fn ask_tcp(netns: &Netns, name: &str, kind: RecordType) -> Message {
    let mut stream = tcp(netns);
    stream.write_all(&framed(&query(name, kind, 7))).unwrap();
    read(&mut stream)
}

fn said(message: &Message) -> Vec<String> {
    assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{message}");
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

/// The addresses of a name, asked both ways.
#[track_caller]
fn addresses(netns: &Netns, name: &str) -> Vec<String> {
    let found = said(&ask(netns, name, RecordType::A));
    let again = said(&ask_tcp(netns, name, RecordType::A));
    assert_eq!(found.iter().collect::<BTreeSet<_>>(), again.iter().collect::<BTreeSet<_>>());
    found
}

/// A name server in a namespace that answers every name with one address.
struct Upstream {
    asked: Arc<AtomicUsize>,
    by_tcp: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Upstream {
    /// `cut` answers by UDP are truncated.
    fn start(netns: &Netns, at: &str, answer: [u8; 4], cut: bool) -> Self {
        let at: SocketAddr = format!("{at}:53").parse().unwrap();
        let (udp, tcp) = netns.run(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())).unwrap();
        let this = Upstream { asked: Arc::default(), by_tcp: Arc::default(), over: Arc::default() };
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (asked, by_tcp, over) = (this.asked.clone(), this.by_tcp.clone(), this.over.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = udp.recv_from(&mut bytes) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let mut reply = reply_with(&bytes[..length], answer);
                    if cut {
                        reply.answers.clear();
                        reply.metadata.truncation = true;
                    }
                    udp.send_to(&reply.to_vec().unwrap(), from).unwrap();
                }
                if let Ok((mut stream, _)) = tcp.accept() {
                    by_tcp.fetch_add(1, Ordering::Relaxed);
                    stream.set_nonblocking(false).unwrap();
                    let mut length = [0; 2];
                    if stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut query).unwrap();
                        stream.write_all(&framed(&reply_with(&query, answer).to_vec().unwrap())).unwrap();
                    }
                }
            }
        });
        this
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn reply_with(query: &[u8], answer: [u8; 4]) -> Message {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.add_query(query.queries[0].clone());
    reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, RData::A(A(answer.into()))));
    reply
}

#[test]
fn containers_find_each_other_by_name() {
    run(|world| {
        let host = host(world);
        network(&host, "blue", "10.9.0.0/24", |spec| {
            spec.ipv6 = true;
            spec.domain = Some("lab.example".parse().unwrap());
        });
        host.rnet("network create red --subnet 10.8.0.0/24").ok();
        let mut blue = on("blue");
        blue.options.aliases = vec!["www".parse().unwrap(), "front".parse().unwrap()];
        let request = ConnectRequest {
            networks: vec![blue],
            expose: vec!["80/tcp".parse().unwrap()],
            names: ContainerNames { hostname: Some("kiosk".parse().unwrap()), servers: Vec::new() },
            ..ConnectRequest::default()
        };
        let web = inmate_with(&host, "web", &request);
        let client = inmate(&host, "client", &["blue"]);
        let other = inmate(&host, "other", &["red"]);
        let v4 = web.addresses.iter().find(|a| a.is_ipv4()).unwrap().to_string();
        let v6 = web.addresses.iter().find(|a| a.is_ipv6()).unwrap().to_string();

        for name in ["web", "WEB.", "webxxxxxxxxx", "kiosk", "www", "front", "web.blue", "www.lab.example."] {
            assert_eq!(addresses(&client.netns, name), [v4.as_str()], "{name}");
            assert_eq!(said(&ask(&client.netns, name, RecordType::AAAA)), [v6.as_str()], "{name}");
        }
        assert_eq!(addresses(&web.netns, "client").len(), 1);
        let back: Vec<&str> = v4.split('.').rev().collect();
        let back = ask(&client.netns, &format!("{}.in-addr.arpa.", back.join(".")), RecordType::PTR);
        assert_eq!(said(&back), ["web.lab.example."]);
        assert_eq!(said(&ask(&client.netns, "_80._tcp.www", RecordType::SRV)), ["0 0 80 web.lab.example."]);
        assert!(said(&ask(&client.netns, "web", RecordType::MX)).is_empty());

        // Neither the name nor the address is known on another network.
        for name in ["web", "web.blue", "www", "kiosk"] {
            assert_ne!(ask(&other.netns, name, RecordType::A).metadata.response_code, ResponseCode::NoError, "{name}");
        }
        let nslookup = |netns: &Netns, name: &str| {
            run_in(netns, std::process::Command::new("busybox").args(["nslookup", name, "127.0.0.11"]))
        };
        let found = nslookup(&client.netns, "web").ok().out;
        assert!(found.contains(&v4), "{found}");
        assert_ne!(nslookup(&other.netns, "web").code, 0);

        // On both networks both are seen, and a name that comes later too.
        host.rnet("network connect red rnet:client").ok();
        assert_eq!(addresses(&client.netns, "other"), [other.addresses[0].to_string()]);
        let late = inmate(&host, "late", &["red"]);
        assert_eq!(addresses(&client.netns, "late.red"), [late.addresses[0].to_string()]);
        host.rnet("network disconnect red rnet:client").ok();
        assert_ne!(ask(&client.netns, "other", RecordType::A).metadata.response_code, ResponseCode::NoError);
        release(&host, "web");
        assert_ne!(ask(&client.netns, "web", RecordType::A).metadata.response_code, ResponseCode::NoError);
    });
}

#[test]
fn one_alias_of_several_containers_rotates() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        for n in 0..3 {
            let mut blue = on("blue");
            blue.options.aliases = vec!["worker".parse().unwrap()];
            inmate_with(&host, &format!("w{n}"), &ConnectRequest { networks: vec![blue], ..Default::default() });
        }
        let client = inmate(&host, "client", &["blue"]);
        let firsts: BTreeSet<String> = (0..9)
            .map(|_| {
                let all = said(&ask(&client.netns, "worker", RecordType::A));
                assert_eq!(all.len(), 3);
                all[0].clone()
            })
            .collect();
        assert_eq!(firsts.len(), 3, "each comes first at times");
    });
}

#[test]
fn other_names_are_asked_where_the_host_asks() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        host.rnet("network create inner --subnet 10.8.0.0/24 --internal").ok();
        network(&host, "site", "10.7.0.0/24", |spec| spec.dns_forward = vec!["127.0.0.55".parse().unwrap()]);
        let plain = Upstream::start(&host.netns, "127.0.0.53", [192, 0, 2, 1], false);
        let cutting = Upstream::start(&host.netns, "127.0.0.54", [192, 0, 2, 2], true);
        let of_site = Upstream::start(&host.netns, "127.0.0.55", [192, 0, 2, 3], false);
        let client = inmate(&host, "client", &["blue"]);
        assert_eq!(ask(&client.netns, "example.com", RecordType::A).metadata.response_code, ResponseCode::ServFail);
        // What is written there is followed; ourselves and nobody are left out.
        name_servers(world, "127.0.0.11 0.0.0.0 127.0.0.53");
        assert_eq!(addresses(&client.netns, "example.com"), ["192.0.2.1"]);
        assert_eq!(addresses(&client.netns, "single"), ["192.0.2.1"]);
        let before = plain.asked();
        assert_eq!(addresses(&client.netns, "client"), [client.addresses[0].to_string()]);
        assert_eq!(plain.asked(), before, "what is known is not asked");

        // An answer that is too long comes by TCP; the first server that answers is enough, a silent one is passed over.
        name_servers(world, "127.0.0.54");
        assert_eq!(addresses(&client.netns, "long.example"), ["192.0.2.2"]);
        assert!(cutting.by_tcp.load(Ordering::Relaxed) > 0);
        name_servers(world, "127.0.0.99 127.0.0.53");
        assert_eq!(addresses(&client.netns, "next.example"), ["192.0.2.1"]);

        let site = inmate(&host, "site", &["site"]);
        assert_eq!(addresses(&site.netns, "example.com"), ["192.0.2.3"]);
        let servers = ContainerNames { hostname: None, servers: vec!["127.0.0.54".parse().unwrap()] };
        let own = ConnectRequest { networks: vec![on("site")], names: servers, ..ConnectRequest::default() };
        let own = inmate_with(&host, "own", &own);
        assert_eq!(addresses(&own.netns, "example.com"), ["192.0.2.2"]);

        // Nothing of an internal network goes out, whatever it asks, be its own servers given.
        let servers = ContainerNames { hostname: None, servers: vec!["127.0.0.53".parse().unwrap()] };
        let hidden = ConnectRequest { networks: vec![on("inner")], names: servers, ..ConnectRequest::default() };
        let hidden = inmate_with(&host, "hidden", &hidden);
        let before = (plain.asked(), cutting.asked(), of_site.asked());
        for (name, code) in [("secret.example.com", ResponseCode::ServFail), ("secret", ResponseCode::NXDomain)] {
            assert_eq!(ask(&hidden.netns, name, RecordType::A).metadata.response_code, code);
            assert_eq!(ask_tcp(&hidden.netns, name, RecordType::TXT).metadata.response_code, code);
        }
        assert_eq!(addresses(&hidden.netns, "hidden"), [hidden.addresses[0].to_string()]);
        assert_eq!((plain.asked(), cutting.asked(), of_site.asked()), before, "a query has left an internal network");
        host.rnet("network connect blue rnet:hidden").ok();
        assert_eq!(addresses(&hidden.netns, "example.com"), ["192.0.2.1"], "it is on another network now");
    });
}

#[test]
fn a_container_serves_names_itself_and_nothing_goes_in_circles() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let servers = ContainerNames { hostname: None, servers: vec!["10.9.0.77".parse().unwrap()] };
        let mut blue = on("blue");
        blue.options.ips = vec!["10.9.0.77".parse().unwrap()];
        let request = ConnectRequest { networks: vec![blue], names: servers, ..ConnectRequest::default() };
        let circle = inmate_with(&host, "circle", &request);
        // Its own server takes port 53 of every address, and asks the resolver what it is asked.
        let every = || (UdpSocket::bind("0.0.0.0:53"), TcpListener::bind("0.0.0.0:53"));
        let (server, stream) = circle.netns.run(every).unwrap();
        let (server, _stream) = (server.unwrap(), stream.unwrap());
        server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (asked, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let netns = circle.netns.clone();
        let thread = std::thread::spawn({
            let (asked, over) = (asked.clone(), over.clone());
            move || {
                let mut bytes = [0; 4096];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, _)) = server.recv_from(&mut bytes) else { continue };
                    let id = asked.fetch_add(1, Ordering::Relaxed);
                    bytes[..2].copy_from_slice(&u16::try_from(id).unwrap().to_be_bytes());
                    udp(&netns).send(&bytes[..length]).unwrap();
                }
            }
        });
        let failed = ask(&circle.netns, "example.com", RecordType::A);
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        let asked = asked.load(Ordering::Relaxed);
        assert!((1..=4).contains(&asked), "asked {asked} times");
        assert_eq!(addresses(&circle.netns, "circle"), ["10.9.0.77"]);
    });
}

#[test]
fn five_hundred_clients_at_once() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let upstream = Upstream::start(&host.netns, "127.0.0.53", [192, 0, 2, 1], false);
        name_servers(world, "127.0.0.53");
        let client = inmate(&host, "client", &["blue"]);
        let begun = Instant::now();
        for (name, answer) in [("client", client.addresses[0].to_string()), ("example.com", "192.0.2.1".to_owned())] {
            let sockets: Vec<UdpSocket> = (0..500).map(|_| udp(&client.netns)).collect();
            for (id, socket) in (0..).zip(&sockets) {
                socket.send(&query(name, RecordType::A, id)).unwrap();
            }
            for (id, socket) in (0..).zip(&sockets) {
                let heard = heard(socket);
                assert_eq!((heard.metadata.id, said(&heard)), (id, vec![answer.clone()]), "{name}");
            }
        }
        assert!(upstream.asked() < 500, "the same question is asked once for all who wait");
        println!("1,000 queries by UDP: {:?}", begun.elapsed());
        let begun = Instant::now();
        let mut streams: Vec<TcpStream> = (0..500).map(|_| tcp(&client.netns)).collect();
        for stream in &mut streams {
            stream.write_all(&framed(&query("client", RecordType::A, 3))).unwrap();
        }
        for stream in &mut streams {
            assert_eq!(said(&read(stream)), [client.addresses[0].to_string()]);
        }
        println!("500 clients by TCP: {:?}", begun.elapsed());
        // Several queries in one piece.
        let mut stream = tcp(&client.netns);
        let three: Vec<u8> = (0..3).flat_map(|id| framed(&query("client", RecordType::A, id))).collect();
        stream.write_all(&three).unwrap();
        let ids: BTreeSet<u16> = (0..3).map(|_| read(&mut stream).metadata.id).collect();
        assert_eq!(ids, BTreeSet::from([0, 1, 2]));
    });
}

/// Clock ticks of 10 ms that a process has used.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn broken_clients_cost_nothing_afterwards() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let bad = inmate(&host, "bad", &["blue"]);
        let good = inmate(&host, "good", &["blue"]);
        let answered = |netns: &Netns| assert_eq!(addresses(netns, "bad"), [bad.addresses[0].to_string()]);
        let whole = framed(&query("good", RecordType::A, 7));
        let beginnings: [&[u8]; 4] = [&[], &whole[..1], &whole[..10], &[0xff, 0xff, 1]];
        let reset = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        bad.netns
            .run(|| {
                for n in 0..10_000 {
                    let mut stream = TcpStream::connect(RESOLVER).unwrap();
                    stream.write_all(beginnings[n % beginnings.len()]).unwrap();
                    nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::Linger, &reset).unwrap();
                    drop(stream);
                }
            })
            .unwrap();
        answered(&good.netns);
        answered(&bad.netns);
        // These stay open without a word.
        let mut open: Vec<TcpStream> = (0..300).map(|_| tcp(&bad.netns)).collect();
        open.iter_mut().for_each(|stream| stream.write_all(&whole[..5]).unwrap());
        answered(&good.netns);
        answered(&bad.netns);
        let pid = host.netd_pid();
        let (begun, before) = (Instant::now(), ticks(pid));
        wait_for("a second to pass", SOON, || begun.elapsed() >= Duration::from_secs(1));
        let used = ticks(pid) - before;
        println!("netd used {used} % of the second after");
        assert!(used < 5, "netd uses {used} % of a processor");
        // And netd lets go of them.
        let mut rest = Vec::new();
        assert_eq!(open[0].read_to_end(&mut rest).unwrap_or(0), 0);
    });
}

#[test]
fn names_outlive_the_daemon() {
    run(|world| {
        let host = host(world);
        network(&host, "blue", "10.9.0.0/24", |spec| spec.domain = Some("lab.example".parse().unwrap()));
        let mut blue = on("blue");
        blue.options.aliases = vec!["www".parse().unwrap()];
        let names = ContainerNames { hostname: Some("kiosk".parse().unwrap()), servers: Vec::new() };
        let request = ConnectRequest { networks: vec![blue], names, ..ConnectRequest::default() };
        let web = inmate_with(&host, "web", &request);
        let named = host.container("named");
        host.rnet("network connect blue named").ok();
        for crash in [false, true] {
            // One socket for all tries, as the C library has it.
            let socket = udp(&named.netns);
            socket.send(&query("web", RecordType::A, 1)).unwrap();
            assert_eq!(said(&heard(&socket)), [web.addresses[0].to_string()]);
            if crash {
                host.crash()
            } else {
                host.stop()
            }
            host.start();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let begun = Instant::now();
            wait_for("an answer after the restart", SOON, || {
                let mut bytes = [0; 512];
                socket.send(&query("web", RecordType::A, 2)).is_ok() && socket.recv(&mut bytes).is_ok()
            });
            println!("answered {:?} after the start of netd", begun.elapsed());
            for name in ["web", "www.lab.example", "kiosk", "named"] {
                assert_eq!(addresses(&web.netns, name).len(), 1, "{name}");
            }
        }
    });
}

#[test]
fn a_name_is_there_when_its_container_starts() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let client = inmate(&host, "client", &["blue"]);
        let mut took: Vec<Duration> = (0..20)
            .map(|n| {
                let name = format!("c{n}");
                // The runtime starts the container's process when connect has been answered.
                let new = inmate(&host, &name, &["blue"]);
                let begun = Instant::now();
                assert_eq!(said(&ask(&client.netns, &name, RecordType::A)), [new.addresses[0].to_string()]);
                assert_eq!(said(&ask(&new.netns, "client", RecordType::A)), [client.addresses[0].to_string()]);
                begun.elapsed()
            })
            .collect();
        took.sort();
        println!("two lookups after the start: median {:?}, worst {:?}", took[10], took[19]);
    });
}

#[test]
fn namespaces_of_others_are_served_and_let_go() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        network(&host, "mute", "10.8.0.0/24", |spec| spec.dns = Toggle::Off);
        let one = host.container("one");
        let process = host.process();
        host.rnet("network connect blue one").ok();
        host.rnet(&format!("network connect blue pid:{}", process.pid())).ok();
        assert_eq!(addresses(&process.netns, "one").len(), 1);
        host.rnet("network disconnect blue one").ok();
        wait_for("the table to go", SOON, || !one.run("nft list tables").out.contains("rnet_dns"));
        assert!(process.run("nft list tables").out.contains("ip rnet_dns"));
        let ruleset = process.run("nft list table ip rnet_dns").ok().out;
        assert!(ruleset.contains("ip daddr 127.0.0.11"), "{ruleset}");
        // Sockets of netd do not keep a namespace alive.
        process.end();
        wait_for("the end of the namespace to be noticed", SOON, || host.client().attachments().unwrap().is_empty());
        // Names can be turned off and on again while containers are there.
        host.rnet("network connect blue one").ok();
        let edit = |dns| rnet_api::NetworkEdit { dns: Some(dns), ..rnet_api::NetworkEdit::default() };
        host.client().edit_network("blue", &edit(Toggle::Off)).unwrap();
        wait_for("the table to go", SOON, || !one.run("nft list tables").out.contains("rnet_dns"));
        host.client().edit_network("blue", &edit(Toggle::On)).unwrap();
        wait_for("the table to come", SOON, || one.run("nft list tables").out.contains("rnet_dns"));
        assert_eq!(addresses(&one.netns, "one").len(), 1);
        host.rnet("network disconnect blue one").ok();
        wait_for("the table to go", SOON, || !one.run("nft list tables").out.contains("rnet_dns"));
        // Without names nothing is changed inside.
        host.rnet("network connect mute one").ok();
        assert!(!one.run("nft list tables").out.contains("rnet_dns"));
    });
}

#[test]
fn a_namespace_without_names_works_and_is_reported() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let full = host.container("full");
        full.ip("link set lo up");
        // All ports that netd would take are taken.
        let ports: Vec<UdpSocket> =
            full.netns.run(|| (61_000..=65_064).map(|p| UdpSocket::bind(("0.0.0.0", p)).unwrap()).collect()).unwrap();
        host.rnet("network connect blue full").ok();
        full.ping("10.9.0.1");
        let degraded = host.client().version().unwrap().degraded;
        assert!(degraded.iter().any(|line| line.contains("names") && line.contains("127.0.0.11")), "{degraded:?}");
        drop(ports);
        host.rnet("network disconnect blue full").ok();
        assert!(host.client().version().unwrap().degraded.is_empty());
        host.rnet("network connect blue full").ok();
        assert_eq!(addresses(&full.netns, "full").len(), 1);
    });
}

#[test]
fn two_hundred_containers_leave_no_descriptor() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let pid = host.netd_pid();
        let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let come_and_go = |n: usize| {
            let name = format!("c{n}");
            inmate(&host, &name, &["blue"]);
            release(&host, &name);
        };
        (0..20).for_each(come_and_go);
        // The pool is refilled behind.
        let mut before = 0;
        wait_for("the pool to be full", SOON, || {
            let last = std::mem::replace(&mut before, open());
            last == before
        });
        (0..200).for_each(come_and_go);
        let mut after = 0;
        wait_for("descriptors to be closed", SOON, || {
            after = open();
            after <= before + 4
        });
        println!("{before} descriptors before, {after} after");
    });
}

#[test]
fn answers_are_as_long_as_the_client_takes() {
    run(|world| {
        let host = host(world);
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        let aliases: Vec<_> = ["many"].iter().map(|a| a.parse().unwrap()).collect();
        for n in 0..40 {
            let mut blue = on("blue");
            blue.options.aliases = aliases.clone();
            inmate_with(&host, &format!("m{n}"), &ConnectRequest { networks: vec![blue], ..Default::default() });
        }
        let client = inmate(&host, "client", &["blue"]);
        let cut = ask(&client.netns, "many", RecordType::A);
        assert!(cut.metadata.truncation && (20..40).contains(&cut.answers.len()), "{}", cut.answers.len());
        let whole = ask_tcp(&client.netns, "many", RecordType::A);
        assert!(!whole.metadata.truncation && whole.answers.len() == 40);
        let mut message = Message::from_vec(&query("many", RecordType::A, 1)).unwrap();
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
        let socket = udp(&client.netns);
        socket.send(&message.to_vec().unwrap()).unwrap();
        let whole = heard(&socket);
        assert!(!whole.metadata.truncation && whole.answers.len() == 40 && whole.edns.is_some());
    });
}
