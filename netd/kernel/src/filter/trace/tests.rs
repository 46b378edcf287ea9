#![allow(clippy::unwrap_used)]
use std::net::UdpSocket;
use std::process::Command;

use super::*;
use crate::filter::wire::Messages;
use crate::testing;

fn report(kind: u32, more: impl FnOnce(&mut Messages)) -> Vec<u8> {
    let mut out = Messages::new(1);
    let at = out.open(10 << 8 | TRACE, 0, 1, 0);
    out.string(1, "t");
    out.string(2, "c");
    out.number(4, kind);
    out.number(6, 77);
    out.number(10, 3);
    more(&mut out);
    out.close(at);
    out.bytes().to_vec()
}

fn read(bytes: &[u8]) -> Vec<TraceEvent> {
    wire::messages(bytes).filter_map(|m| event(&m)).collect()
}

#[test]
fn reports_are_taken_apart() {
    let rule = report(3, |out| {
        out.attr(3, &9u64.to_be_bytes());
        let nest = out.nest(5);
        out.number(1, (-3i32).cast_unsigned());
        out.string(2, "other");
        out.close_nest(nest);
    });
    let found = read(&rule);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].step, TraceStep::Rule(9));
    assert_eq!(found[0].verdict, TraceVerdict::Jump("other".into()));
    assert_eq!((found[0].id, found[0].input, found[0].output), (77, Some(3), None));
    assert_eq!(found[0].table, Table::new(Family::Inet, "t"));
    let policy = report(1, |out| out.number(16, 0));
    assert_eq!(read(&policy)[0].verdict, TraceVerdict::Drop);
    assert_eq!(read(&policy)[0].step, TraceStep::Policy);
    assert_eq!(read(&report(3, |_| {}))[0].step, TraceStep::Return, "behind the last rule");
    assert!(read(&report(9, |_| {})).is_empty(), "a kind of report of later kernels");
}

#[test]
fn headers_are_read_as_far_as_they_go() {
    let mut v4 = [0u8; 20];
    (v4[0], v4[9]) = (0x45, 6);
    v4[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let found = packet(&v4, Some(&[0x12, 0x34, 0, 80])).unwrap();
    assert_eq!((found.source, found.destination), ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()));
    assert_eq!((found.protocol, found.ports), (6, Some((0x1234, 80))));
    assert_eq!(packet(&v4, None).unwrap().ports, None);
    v4[9] = 1;
    assert_eq!(packet(&v4, Some(&[8, 0, 0, 0, 0, 7])).unwrap().ports, Some((7, 7)));
    for cut in [0, 1, 12, 19] {
        assert_eq!(packet(&v4[..cut], None), None);
    }
}

/// A real flow over `lo`, the rule that drops it, and nothing left.
#[test]
fn the_kernel_names_the_rule() {
    if !testing::nft_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let run = |words: &str| {
        let mut words = words.split_whitespace();
        let out = ns.run(|| Command::new(words.next().unwrap()).args(words).output()).unwrap().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    run("ip link set lo up");
    run("nft add table inet mine");
    run("nft add chain inet mine in { type filter hook input priority 0; }");
    run("nft add rule inet mine in udp dport 999 drop");
    let socket = ns.run(|| UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
    let home = "127.0.0.1".parse().unwrap();
    let ports = Some((socket.local_addr().unwrap().port(), 999));
    let flow = Flow { protocol: 17, source: home, destination: home, ports };
    let mut tracer = Tracer::start(&ns, "1", &flow).unwrap();
    assert!(run("nft list tables").contains(TRACE_TABLES));
    // Another flow is nobody's business.
    socket.send_to(b"x", "127.0.0.1:998").unwrap();
    socket.send_to(b"x", "127.0.0.1:999").unwrap();
    let begun = Instant::now();
    let mut seen = Vec::new();
    while !seen.iter().any(|e: &TraceEvent| e.verdict == TraceVerdict::Drop) {
        assert!(begun.elapsed() < Duration::from_secs(5), "{seen:?}");
        seen.extend(tracer.read(Duration::from_millis(100)).unwrap());
    }
    let drop = seen.iter().find(|e| e.verdict == TraceVerdict::Drop).unwrap();
    assert_eq!((drop.table.name.as_str(), drop.chain.as_str()), ("mine", "in"));
    assert!(matches!(drop.step, TraceStep::Rule(_)));
    assert!(seen.iter().any(|e| e.passed() == Some(Passed::Out)), "it left the sender");
    assert_eq!(drop.packet.unwrap().ports, ports);
    std::mem::drop(tracer);
    assert_eq!(run("nft list tables").trim(), "table inet mine");
    run("nft add table inet rnet_trace_999999999_1");
    Tracer::sweep(&ns).unwrap();
    assert_eq!(run("nft list tables").trim(), "table inet mine");
}
