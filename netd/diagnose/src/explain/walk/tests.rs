#![allow(clippy::unwrap_used)]
use super::*;

/// Rule 4 of `inet mine in` drops, rule 5 rejects; `nat` chains are called `pre`.
struct Fixed;

impl Rules for Fixed {
    fn text(&mut self, _: &Table, _: &str, handle: u64) -> Option<String> {
        match handle {
            4 => Some("tcp dport 80 drop".into()),
            5 => Some("tcp dport 80 reject with tcp reset".into()),
            _ => None,
        }
    }

    fn hook(&mut self, _: &Table, chain: &str) -> Option<(ChainKind, Hook)> {
        Some(match chain {
            "pre" => (ChainKind::Nat, Hook::Prerouting),
            "fwd" => (ChainKind::Filter, Hook::Forward),
            _ => (ChainKind::Filter, Hook::Input),
        })
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn flow() -> Flow {
    Flow { protocol: 6, source: ip("10.0.0.2"), destination: ip("10.0.0.1"), ports: Some((4000, 80)) }
}

fn packet(source: &str, sport: u16, destination: &str, dport: u16) -> Option<TracedPacket> {
    let (source, destination) = (ip(source), ip(destination));
    Some(TracedPacket { source, destination, protocol: 6, ports: Some((sport, dport)) })
}

fn event(chain: &str, step: TraceStep, verdict: TraceVerdict, packet: Option<TracedPacket>) -> TraceEvent {
    let table = Table::new(Family::Inet, "mine");
    TraceEvent { id: 1, table, chain: chain.into(), step, verdict, input: None, output: None, packet }
}

fn walk(events: &[TraceEvent]) -> Walk {
    let mut walk = Walk::new(flow());
    events.iter().for_each(|e| walk.take(e, None, &mut Fixed));
    walk
}

#[test]
fn a_drop_behind_a_jump_is_named_by_its_own_chain() {
    let sent = packet("10.0.0.2", 4000, "10.0.0.1", 80);
    let w = walk(&[
        event("in", TraceStep::Rule(1), TraceVerdict::Jump("web".into()), sent),
        event("web", TraceStep::Rule(2), TraceVerdict::Continue, None),
        event("web", TraceStep::Rule(4), TraceVerdict::Drop, None),
    ]);
    let (direction, rule) = w.stop.clone().unwrap();
    assert_eq!((direction, rule.chain.as_str(), rule.verdict.as_str()), (Direction::Sent, "web", "drop"));
    assert_eq!(w.hops.len(), 1);
    assert_eq!(w.hops[0].text, "inet mine web: drop by tcp dport 80 drop (from in)");
    assert!(w.hops[0].stops && w.seen_by_host && !w.answered);
}

#[test]
fn a_reject_is_told_from_a_drop() {
    let sent = packet("10.0.0.2", 4000, "10.0.0.1", 80);
    let w = walk(&[event("in", TraceStep::Rule(5), TraceVerdict::Drop, sent)]);
    assert_eq!(w.stop.unwrap().1.verdict, "reject");
}

#[test]
fn a_policy_drops_too() {
    let sent = packet("10.0.0.2", 4000, "10.0.0.1", 80);
    let w = walk(&[event("fwd", TraceStep::Policy, TraceVerdict::Drop, sent)]);
    assert_eq!(w.hops[0].text, "inet mine fwd: policy drop");
    assert_eq!(w.stop.unwrap().1.handle, None);
}

#[test]
fn the_second_packet_says_nothing_new() {
    let sent = packet("10.0.0.2", 4000, "10.0.0.1", 80);
    let once = event("in", TraceStep::Policy, TraceVerdict::Accept, sent);
    assert_eq!(walk(&[once.clone(), once]).hops.len(), 1);
}

#[test]
fn translations_show() {
    let w = walk(&[
        event("pre", TraceStep::Rule(9), TraceVerdict::Accept, packet("10.0.0.2", 4000, "10.0.0.1", 80)),
        event("fwd", TraceStep::Policy, TraceVerdict::Accept, packet("10.0.0.2", 4000, "10.9.0.5", 8080)),
        event("post", TraceStep::Policy, TraceVerdict::Accept, packet("192.0.2.1", 4000, "10.9.0.5", 8080)),
        event("fwd", TraceStep::Policy, TraceVerdict::Accept, packet("10.9.0.5", 8080, "192.0.2.1", 4000)),
    ]);
    let told: Vec<_> = w.hops.iter().map(|h| (h.direction, h.place.as_str())).collect();
    use Direction::{Answer, Sent};
    let expected = ["nat", "nat", "filter", "nat", "filter"].map(|place| (Sent, place));
    assert_eq!(told[..5], expected);
    assert_eq!(told[5..], [(Answer, "filter")]);
    assert_eq!(w.destination, (ip("10.9.0.5"), Some(8080)));
    assert_eq!(w.translated_source, Some(ip("192.0.2.1")));
    assert!(w.answered && w.decided);
}

#[test]
fn echoes_of_others_are_not_ours() {
    let flow = Flow { protocol: 1, ports: None, ..flow() };
    let echo = |identity: u16| {
        Some(TracedPacket { protocol: 1, ..packet("10.0.0.2", identity, "10.0.0.1", identity).unwrap() })
    };
    let mut w = Walk::new(flow);
    w.take(&event("in", TraceStep::Policy, TraceVerdict::Drop, echo(8)), Some(7), &mut Fixed);
    assert!(w.hops.is_empty() && w.stop.is_none());
    w.take(&event("in", TraceStep::Policy, TraceVerdict::Drop, echo(7)), Some(7), &mut Fixed);
    assert!(w.stop.is_some());
}
