//! From the kernel's reports to the hops of a path. Pure but for the [`RuleBook`], which reads what rules say.

use std::collections::HashMap;
use std::net::IpAddr;

use rnet_api::{Direction, PathHop, RuleRef};
use rnet_kernel::rules::{ChainKind, Family, Hook, Table};
use rnet_kernel::{Flow, Passed, TraceEvent, TraceStep, TraceVerdict, TracedPacket};

use crate::rules::{RuleBook, family};

/// What rules say, and where base chains are called.
pub(crate) trait Rules {
    /// What is known of a rule: its words, or its comment in quotes.
    fn text(&mut self, table: &Table, chain: &str, handle: u64) -> Option<String>;
    /// Kind and hook of a base chain.
    fn hook(&mut self, table: &Table, chain: &str) -> Option<(ChainKind, Hook)>;
}

impl Rules for RuleBook {
    fn text(&mut self, table: &Table, chain: &str, handle: u64) -> Option<String> {
        let rule = self.rule(table, chain, handle);
        match (is_own(table), rule.comment, rule.words) {
            // The reason says more than sets and maps do.
            (true, Some(comment), _) => Some(format!("\"{comment}\"")),
            (_, _, Some(words)) => Some(words),
            (_, comment, None) => comment.map(|comment| format!("\"{comment}\"")),
        }
    }

    fn hook(&mut self, table: &Table, chain: &str) -> Option<(ChainKind, Hook)> {
        self.base(table, chain).map(|base| (base.kind, base.hook))
    }
}

/// Whether a table is one of netd's: the machine's, or that of a private instance.
pub(crate) fn is_own(table: &Table) -> bool {
    matches!(table.family, Family::Inet | Family::Bridge)
        && (table.name == "rnet" || table.name.strip_prefix("rnet_").is_some_and(|rest| rest.len() == 8))
}

/// A packet on its way through one base chain.
#[derive(Debug)]
struct Passage {
    direction: Direction,
    table: Table,
    /// The base chain, then those it led to.
    chains: Vec<String>,
}

/// How far the packets came, and what they met.
#[derive(Debug)]
pub(crate) struct Walk {
    flow: Flow,
    passages: HashMap<u32, Passage>,
    /// Base chains that have been passed: the next packets of the flow pass them too.
    seen: Vec<(Direction, Table, String)>,
    /// What was met, in order.
    pub(crate) hops: Vec<PathHop>,
    /// The rule or policy that ended it.
    pub(crate) stop: Option<(Direction, RuleRef)>,
    /// Destination of the packet that was sent, after translation, and its port.
    pub(crate) destination: (IpAddr, Option<u16>),
    /// Source address it left with, when it is another than that of the flow.
    pub(crate) translated_source: Option<IpAddr>,
    /// Whether the host has seen the packet at all.
    pub(crate) seen_by_host: bool,
    /// Whether it was routed, bridged or taken: it has passed a hook behind the decision.
    pub(crate) decided: bool,
    /// ifindex of the last device it left by.
    pub(crate) left_by: Option<u32>,
    /// Whether that is a port of a bridge.
    bridged: bool,
    /// Whether it was for the host itself.
    pub(crate) to_host: bool,
    /// Whether an answer was seen.
    pub(crate) answered: bool,
}

impl Walk {
    pub(crate) fn new(flow: Flow) -> Self {
        Walk {
            flow,
            passages: HashMap::new(),
            seen: Vec::new(),
            hops: Vec::new(),
            stop: None,
            destination: (flow.destination, flow.ports.map(|(_, port)| port)),
            translated_source: None,
            seen_by_host: false,
            decided: false,
            left_by: None,
            bridged: false,
            to_host: false,
            answered: false,
        }
    }

    /// Which way a packet goes; `None` when it is of another flow.
    fn direction(&self, packet: &TracedPacket, echo: Option<u16>) -> Option<Direction> {
        if self.flow.ports.is_none()
            && let (Some(echo), Some((identity, _))) = (echo, packet.ports)
            && echo != identity
        {
            return None;
        }
        let (source, destination) = match (self.flow.ports, packet.ports) {
            (Some((own, _)), Some((source, destination))) => {
                (source == own, self.destination.1.is_none_or(|port| port == destination))
            }
            (Some(_), None) => (false, false),
            (None, _) => (packet.source != packet.destination, packet.source != packet.destination),
        };
        // Behind source translation only the destination tells.
        let sent = (packet.source == self.flow.source && source)
            || (packet.destination == self.destination.0 && packet.source != self.destination.0 && destination);
        let sent = sent && packet.protocol == self.flow.protocol;
        Some(if sent { Direction::Sent } else { Direction::Answer })
    }

    /// Takes one report. `echo` is the identity of the echo request, for ICMP.
    pub(crate) fn take(&mut self, event: &TraceEvent, echo: Option<u16>, rules: &mut impl Rules) {
        if let Some(packet) = &event.packet {
            let Some(direction) = self.direction(packet, echo) else {
                self.passages.remove(&event.id);
                return;
            };
            self.notice(direction, packet, event);
            let passage = Passage { direction, table: event.table.clone(), chains: vec![event.chain.clone()] };
            self.passages.insert(event.id, passage);
        }
        if event.is_own() {
            return;
        }
        let Some(passage) = self.passages.get_mut(&event.id).filter(|p| p.table == event.table) else { return };
        match &event.verdict {
            TraceVerdict::Jump(chain) | TraceVerdict::Goto(chain) => passage.chains.push(chain.clone()),
            TraceVerdict::Continue | TraceVerdict::Return => {}
            verdict => {
                let verdict = verdict.clone();
                if let Some(passage) = self.passages.remove(&event.id) {
                    self.finish(&passage, event, &verdict, rules);
                }
            }
        }
    }

    /// What a report says about the packet itself.
    fn notice(&mut self, direction: Direction, packet: &TracedPacket, event: &TraceEvent) {
        if direction == Direction::Answer {
            self.answered = true;
            return;
        }
        self.seen_by_host = true;
        let now = (packet.destination, self.flow.ports.and(packet.ports).map(|(_, port)| port));
        if now != self.destination && self.flow.ports.is_some() == now.1.is_some() {
            self.destination = now;
            let port = now.1.map(|port| format!(" port {port}")).unwrap_or_default();
            self.hop(direction, "nat", format!("the destination is {}{port} from here on", now.0));
        }
        if packet.source != self.flow.source && self.translated_source != Some(packet.source) {
            self.translated_source = Some(packet.source);
            self.hop(direction, "nat", format!("the source is {} from here on", packet.source));
        }
        match event.passed() {
            Some(Passed::ToHost) => (self.decided, self.to_host) = (true, true),
            Some(Passed::BridgeOut) => {
                (self.decided, self.left_by, self.bridged) = (true, event.output, true);
            }
            // With br_netfilter a frame passes this after its port is known.
            Some(Passed::Out) if self.bridged => {}
            Some(Passed::Out) => (self.decided, self.left_by) = (true, event.output),
            Some(Passed::BridgeToHost) | None => {}
        }
    }

    fn hop(&mut self, direction: Direction, place: &str, text: String) {
        self.hops.push(PathHop { direction, place: place.to_owned(), text, rule: None, stops: false });
    }

    /// The end of a base chain.
    fn finish(&mut self, passage: &Passage, event: &TraceEvent, verdict: &TraceVerdict, rules: &mut impl Rules) {
        let base = passage.chains.first().cloned().unwrap_or_default();
        let key = (passage.direction, passage.table.clone(), base.clone());
        if self.seen.contains(&key) || self.stop.is_some() {
            return;
        }
        self.seen.push(key);
        let hook = rules.hook(&passage.table, &base);
        let behind = hook.is_some_and(|(_, hook)| !matches!(hook, Hook::Prerouting | Hook::Ingress));
        if behind && passage.direction == Direction::Sent && passage.table.family != Family::Bridge {
            self.decided = true;
        }
        let (handle, text) = match event.step {
            TraceStep::Rule(handle) => (Some(handle), rules.text(&passage.table, &event.chain, handle)),
            TraceStep::Return | TraceStep::Policy => (None, None),
        };
        let rejects = text.as_deref().is_some_and(|text| text.split(' ').any(|word| word == "reject"));
        let word = match verdict {
            TraceVerdict::Drop if rejects => "reject".to_owned(),
            TraceVerdict::Drop => "drop".to_owned(),
            TraceVerdict::Other(3) => "queue".to_owned(),
            TraceVerdict::Other(code) if code & 0xffff == 3 => format!("queue {}", code >> 16),
            TraceVerdict::Other(code) => format!("verdict {code}"),
            _ => "accept".to_owned(),
        };
        let rule = RuleRef {
            family: family(passage.table.family).to_owned(),
            table: passage.table.name.clone(),
            chain: event.chain.clone(),
            handle,
            text,
            verdict: word,
        };
        let nat = hook.is_some_and(|(kind, _)| kind == ChainKind::Nat) && handle.is_some();
        let stops = *verdict == TraceVerdict::Drop;
        if stops {
            self.stop = Some((passage.direction, rule.clone()));
        }
        let through = match base == event.chain {
            true => String::new(),
            false => format!(" (from {base})"),
        };
        self.hops.push(PathHop {
            direction: passage.direction,
            place: if nat { "nat" } else { "filter" }.to_owned(),
            text: format!("{}{through}", said(&rule)),
            rule: Some(rule),
            stops,
        });
    }
}

/// `inet mine in: drop by tcp dport 80 drop (handle 4)`.
pub(crate) fn said(rule: &RuleRef) -> String {
    let RuleRef { family, table, chain, verdict, .. } = rule;
    let chain = format!("{family} {table} {chain}");
    match (rule.handle, &rule.text) {
        (None, _) => format!("{chain}: policy {verdict}"),
        (Some(_), Some(text)) => format!("{chain}: {verdict} by {text}"),
        (Some(handle), None) => format!("{chain}: {verdict} by the rule with handle {handle}"),
    }
}

#[cfg(test)]
mod tests;
