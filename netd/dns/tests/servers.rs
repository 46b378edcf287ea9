//! The servers over sockets of the loopback, and the forwarder behind them.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rnet_dns::{Asker, Directory, Forwarder, Member, Service, Serving, Sockets, Zone, may_be_asked};
use rnet_model::{EndpointId, NetworkId};

fn network() -> NetworkId {
    NetworkId::from_bits(1)
}

fn service() -> Service {
    let directory = Directory::new();
    directory.set_zone(network(), Zone { name: "blue".into(), ..Zone::default() });
    let web = Member { names: vec!["web".into()], addresses: vec!["10.1.0.2".parse().unwrap()], ..Member::default() };
    directory.set_member(network(), EndpointId::from_bits(1), web);
    Service::new(Arc::new(directory), Forwarder::new(PathBuf::from("/nonexistent")))
}

fn sockets() -> Sockets {
    let sockets =
        Sockets { udp: UdpSocket::bind("127.0.0.1:0").unwrap(), tcp: TcpListener::bind("127.0.0.1:0").unwrap() };
    sockets.udp.set_nonblocking(true).unwrap();
    sockets.tcp.set_nonblocking(true).unwrap();
    sockets
}

/// A runtime on a thread of its own, and servers in it.
struct Site {
    runtime: tokio::runtime::Handle,
    service: Service,
    serving: Serving,
    udp: SocketAddr,
    tcp: SocketAddr,
}

fn site(upstreams: Vec<SocketAddr>) -> Site {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let (service, sockets) = (service(), sockets());
    let (udp, tcp) = (sockets.udp.local_addr().unwrap(), sockets.tcp.local_addr().unwrap());
    let _inside = handle.enter();
    let serving = service.serve(sockets, Asker { networks: vec![network()], upstreams }).unwrap();
    Site { runtime: handle.clone(), service, serving, udp, tcp }
}

fn query(name: &str, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat()
}

fn client(site: &Site) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(site.udp).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    socket
}

fn stream(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(site.tcp).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    stream
}

fn heard(socket: &UdpSocket) -> Message {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    Message::from_vec(&bytes[..length]).unwrap()
}

fn read(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn ask(site: &Site, name: &str) -> ResponseCode {
    let socket = client(site);
    socket.send(&query(name, 7)).unwrap();
    heard(&socket).metadata.response_code
}

#[test]
fn pieces_of_queries_are_put_together() {
    let site = site(Vec::new());
    let mut client = stream(&site);
    let two = [framed(&query("web", 1)), framed(&query("web", 2))].concat();
    for piece in two.chunks(5) {
        client.write_all(piece).unwrap();
    }
    assert_eq!((read(&mut client).metadata.id, read(&mut client).metadata.id), (1, 2));
    // The client is done; what it asked before is still answered.
    client.write_all(&framed(&query("web", 3))).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read(&mut client).metadata.id, 3);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn clients_without_manners_are_cut() {
    let site = site(Vec::new());
    let begun = Instant::now();
    let mut silent = stream(&site);
    let mut half = stream(&site);
    half.write_all(&framed(&query("web", 1))[..9]).unwrap();
    // One that announces a query nobody asks, and one that answers instead of asking.
    let mut long = stream(&site);
    long.write_all(&[0xff, 0xff]).unwrap();
    let mut answering = stream(&site);
    let mut answer = query("web", 1);
    answer[2] |= 0x80;
    answering.write_all(&framed(&answer)).unwrap();
    for client in [&mut long, &mut answering] {
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    for client in [&mut silent, &mut half] {
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "after its time");
    assert_eq!(ask(&site, "web"), ResponseCode::NoError);
}

#[test]
fn servers_end_with_their_handle() {
    let site = site(Vec::new());
    assert_eq!(ask(&site, "web"), ResponseCode::NoError);
    site.serving.update(Asker::default());
    assert_eq!(ask(&site, "web"), ResponseCode::NXDomain, "nothing is visible any more");
    let mut open = stream(&site);
    let (udp, tcp) = (site.udp, site.tcp);
    drop(site.serving);
    assert_eq!(open.read(&mut [0; 1]).unwrap_or(0), 0);
    let begun = Instant::now();
    while TcpListener::bind(tcp).is_err() || UdpSocket::bind(udp).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the sockets stay open");
        std::thread::yield_now();
    }
}

/// A name server with a rule of its own: what it says to a query, if anything.
fn upstream(say: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            count.fetch_add(1, Ordering::Relaxed);
            for answer in say(&bytes[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    (at, asked)
}

fn coded(query: &[u8], code: u8) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80 | code;
    answer
}

#[test]
fn the_first_good_answer_counts() {
    let (refusing, refused) = upstream(|query| vec![coded(query, 5)]);
    let (silent, _) = upstream(|_| Vec::new());
    let (good, _) = upstream(|query| vec![coded(query, 3)]);
    let closed = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    assert_eq!(ask(&site(vec![refusing, closed, good]), "a.example"), ResponseCode::NXDomain);
    assert_eq!(ask(&site(vec![silent, good]), "b.example"), ResponseCode::NXDomain);
    assert_eq!(ask(&site(vec![closed, refusing]), "c.example"), ResponseCode::Refused, "better than nothing");
    assert_eq!(refused.load(Ordering::Relaxed), 2);
    let begun = Instant::now();
    assert_eq!(ask(&site(vec![silent]), "d.example"), ResponseCode::ServFail);
    assert!(begun.elapsed() >= Duration::from_secs(3), "it had its time");
}

#[test]
fn forged_answers_are_not_taken() {
    let (liar, _) = upstream(|query| {
        let wrong_id = {
            let mut answer = coded(query, 0);
            answer[0] ^= 1;
            answer
        };
        let other_question = coded(&self::query("other.example", 0), 0);
        let other_question = [&query[..2], &other_question[2..]].concat();
        // Noise, a query, a wrong id, a wrong question, and only then the answer.
        vec![vec![1, 2, 3], query.to_vec(), wrong_id, other_question, coded(query, 3)]
    });
    assert_eq!(ask(&site(vec![liar]), "a.example"), ResponseCode::NXDomain);
}

#[test]
fn the_same_question_is_asked_once() {
    let (slow, asked) = upstream(|query| {
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            std::thread::yield_now();
        }
        vec![coded(query, 3)]
    });
    let site = site(vec![slow]);
    let clients: Vec<UdpSocket> = (0..50).map(|_| client(&site)).collect();
    for (id, client) in (0..).zip(&clients) {
        // Also in other spelling, which each gets back.
        let name = if id % 2 == 0 { "same.example" } else { "SAME.example" };
        client.send(&query(name, id)).unwrap();
    }
    for (id, client) in (0u16..).zip(&clients) {
        let answer = heard(client);
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (id, ResponseCode::NXDomain));
        let name = if id % 2 == 0 { "same.example." } else { "SAME.example." };
        assert_eq!(answer.queries[0].name().to_ascii(), name);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn too_many_questions_are_refused_and_known_names_still_answered() {
    let (silent, _) = upstream(|_| Vec::new());
    let site = site(vec![silent]);
    let socket = client(&site);
    let mut refused = 0;
    // In portions that the buffers of the sockets hold.
    for n in 0..1000u16 {
        socket.send(&query(&format!("n{n}.example"), n)).unwrap();
        if n >= 512 {
            assert_eq!(heard(&socket).metadata.response_code, ResponseCode::Refused);
            refused += 1;
        } else if n % 50 == 49 {
            assert_eq!(ask(&site, "web"), ResponseCode::NoError);
        }
    }
    assert_eq!(refused, 1000 - 512);
    assert_eq!(ask(&site, "web"), ResponseCode::NoError);
}

#[test]
fn who_may_be_asked() {
    for no in ["127.0.0.11", "::ffff:127.0.0.11", "0.0.0.0", "::", "224.0.0.251", "ff02::fb", "255.255.255.255"] {
        assert!(!may_be_asked(no.parse().unwrap()), "{no}");
    }
    for yes in ["127.0.0.53", "127.0.0.1", "::1", "192.0.2.1", "fe80::1"] {
        assert!(may_be_asked(yes.parse().unwrap()), "{yes}");
    }
}

/// Bytes of anonymous memory of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_thousand_idle_namespaces_cost_little() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    if raised.current.is_some_and(|most| most < 3000) {
        println!("skipped: needs 3,000 descriptors");
        return;
    }
    let site = site(Vec::new());
    assert_eq!(ask(&site, "web"), ResponseCode::NoError);
    let all: Vec<Sockets> = (0..1000).map(|_| sockets()).collect();
    let addresses: Vec<SocketAddr> = all.iter().map(|s| s.udp.local_addr().unwrap()).collect();
    let before = resident();
    let _inside = site.runtime.enter();
    let asker = || Asker { networks: vec![network()], upstreams: Vec::new() };
    let serving: Vec<Serving> = all.into_iter().map(|s| site.service.serve(s, asker()).unwrap()).collect();
    // Each has been at work.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in addresses {
        socket.send_to(&query("web", 1), address).unwrap();
        assert_eq!(heard(&socket).metadata.response_code, ResponseCode::NoError);
    }
    let cost = resident().saturating_sub(before);
    println!("{} namespaces: {} KiB", serving.len(), cost / 1024);
    assert!(cost <= 4 << 20, "{cost} bytes");
}
