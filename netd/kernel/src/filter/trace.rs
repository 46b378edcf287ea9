//! What nf_tables does with the packets of one flow, told by the kernel itself.
//!
//! Two tables of our own (`inet` and `bridge`) mark the packets of the flow (`meta nftrace set 1`) before any other
//! chain sees them; the kernel then reports every rule and policy they meet to the group NFNLGRP_NFTRACE
//! (linux/netfilter/nfnetlink.h). The tables belong to a socket (NFT_TABLE_F_OWNER, kernel 5.12): they go when it is
//! closed, however the process ends. Older kernels get plain tables, which [`Tracer::sweep`] finds by their names.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::rules::{
    Chain, ChainKind, Change, Changes, Ct, Expr, Family, Field, Hook, Ip, Meta, NfTables, Place, Rule, Selector, Table,
    TupleOf, decode, encode,
};
use super::socket::NftSocket;
use super::wire::{self, Message, NLM_F_CREATE, Verb};
use crate::{KernelError, Netns};

/// Names of the tables begin so; the process id follows.
pub const TRACE_TABLES: &str = "rnet_trace_";

/// NFNLGRP_NFTRACE 9, as a bit.
const GROUPS: u32 = 1 << 8;
/// NFT_MSG_TRACE.
const TRACE: u16 = 17;
/// NFT_TABLE_F_OWNER.
const OWNER: u32 = 2;
const DATAGRAM: usize = 64 << 10;
const RECEIVE_BYTES: usize = 4 << 20;
/// Before everything else, also before connections are tracked (-200).
const EARLY: i32 = -500;
/// Right after connections are tracked.
const TRACKED: i32 = -190;
/// Behind everything else: a chain without rules, whose policy says that a packet came so far.
const LATE: i32 = 1_000_000;

/// The flow that is watched: its packets and the answers to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Where it is sent from.
    pub source: IpAddr,
    /// Where it is sent to, before any translation.
    pub destination: IpAddr,
    /// Source and destination port; none for protocols without.
    pub ports: Option<(u16, u16)>,
}

/// What a chain did, of its rule, its end or its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceStep {
    /// The rule with this handle held.
    Rule(u64),
    /// The end of a chain that was called by a rule.
    Return,
    /// The policy of a base chain.
    Policy,
}

/// Where a packet goes from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceVerdict {
    /// To the next chain of the hook, or on its way.
    Accept,
    /// Nowhere.
    Drop,
    /// To the next rule.
    Continue,
    /// Back to the calling chain.
    Return,
    /// To a chain, and back at its end.
    Jump(String),
    /// To a chain for good.
    Goto(String),
    /// To a program outside of the kernel (`queue`, `stolen`), by its code in linux/netfilter.h.
    Other(i32),
}

/// The packet as it was when a chain began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedPacket {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP and SCTP; of an ICMP echo its identity twice.
    pub ports: Option<(u16, u16)>,
}

/// One report of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// The same for all reports about one packet.
    pub id: u32,
    /// Table.
    pub table: Table,
    /// Chain.
    pub chain: String,
    /// What decided.
    pub step: TraceStep,
    /// And what.
    pub verdict: TraceVerdict,
    /// ifindex it came in at.
    pub input: Option<u32>,
    /// ifindex it goes out at.
    pub output: Option<u32>,
    /// With the first report of each base chain.
    pub packet: Option<TracedPacket>,
}

/// A place behind all chains of others that a packet has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// All of the packet filter of this host, to a program of it.
    ToHost,
    /// The same, out of the device [`TraceEvent::output`].
    Out,
    /// The frames' packet filter, to the bridge itself.
    BridgeToHost,
    /// The same, out of the port [`TraceEvent::output`].
    BridgeOut,
}

impl TraceEvent {
    /// Whether it is of the tables of a watch itself.
    pub fn is_own(&self) -> bool {
        self.table.name.starts_with(TRACE_TABLES)
    }

    /// What the report of a table of a watch means.
    pub fn passed(&self) -> Option<Passed> {
        match self.chain.as_str() {
            _ if !self.is_own() => None,
            "arrived" => Some(Passed::ToHost),
            "left" => Some(Passed::Out),
            "to_host" => Some(Passed::BridgeToHost),
            "to_port" => Some(Passed::BridgeOut),
            _ => None,
        }
    }
}

/// A watched flow. Its tables go with the value.
#[derive(Debug)]
pub struct Tracer {
    owner: NftSocket,
    tables: Vec<Table>,
    listener: Listener,
}

struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Tracer {
    /// Begins to watch a flow in `ns`. `name` tells this watch from others of the process.
    ///
    /// # Errors
    /// When the kernel has no nf_tables, or refuses the tables.
    pub fn start(ns: &Netns, name: &str, flow: &Flow) -> Result<Self, KernelError> {
        let operation = || format!("watch a flow in {ns}");
        let (owner, listener) = ns
            .run(|| io::Result::Ok((NftSocket::open()?, Listener::open()?)))?
            .map_err(|e| KernelError::io(operation(), &e))?;
        let name = format!("{TRACE_TABLES}{}_{name}", std::process::id());
        let mut tracer = Tracer { owner, tables: Vec::new(), listener };
        tracer.install(Table::new(Family::Inet, name.clone()), flow)?;
        if let Err(error) = tracer.install(Table::new(Family::Bridge, name), flow) {
            // A kernel without the family has no rules for frames either.
            tracing::debug!(%error, "frames on bridges are not watched");
        }
        Ok(tracer)
    }

    fn install(&mut self, table: Table, flow: &Flow) -> Result<(), KernelError> {
        let mut refused = None;
        for flags in [OWNER, 0] {
            let mut batch = self.owner.messages();
            batch.begin(None);
            let at = batch.about(Verb::NewTable, NLM_F_CREATE, encode::number(table.family), &table.name);
            batch.number(2, flags);
            batch.close(at);
            for change in marks(&table, flow).list() {
                encode::change(&mut batch, change).map_err(|wrong| KernelError::text(change.to_string(), wrong))?;
            }
            match self.owner.commit(batch) {
                Ok(()) => {
                    self.tables.push(table);
                    return Ok(());
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        let refusal = refused.expect("a loop that did not return was refused");
        Err(refusal.into_error(format!("add table {table}")))
    }

    /// What was reported since the last look, by the tables of the watch too ([`TraceEvent::passed`]). Waits for the first report, at most `limit`.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn read(&mut self, limit: Duration) -> Result<Vec<TraceEvent>, KernelError> {
        self.listener.read(limit).map_err(|e| KernelError::io("read packet traces", &e))
    }

    /// Removes tables of traces whose process is gone. A kernel that knows owners has done it by itself.
    ///
    /// # Errors
    /// When the tables cannot be listed.
    pub fn sweep(ns: &Netns) -> Result<(), KernelError> {
        let mut tables = NfTables::open(ns)?;
        for table in tables.tables()?.iter().filter(|t| t.name.starts_with(TRACE_TABLES)) {
            let pid = table.name[TRACE_TABLES.len()..].split('_').next().and_then(|pid| pid.parse::<u32>().ok());
            let alive = |pid: u32| pid != std::process::id() && std::path::Path::new(&format!("/proc/{pid}")).exists();
            if pid.is_some_and(alive) {
                continue;
            }
            let mut changes = Changes::new();
            changes.destroy_table(table);
            if let Err(error) = tables.commit(&changes, None) {
                tracing::debug!(%error, "cannot remove the table of an old trace");
            }
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let mut batch = self.owner.messages();
        batch.begin(None);
        for table in &self.tables {
            if encode::change(&mut batch, &Change::DestroyTable(table.clone())).is_err() {
                return;
            }
        }
        if !self.tables.is_empty()
            && let Err(refusal) = self.owner.commit(batch)
        {
            let error = refusal.into_error("remove the tables of a trace");
            tracing::warn!(%error, "the socket takes them along");
        }
    }
}

/// The chains and rules that mark the flow.
fn marks(table: &Table, flow: &Flow) -> Changes {
    let mut changes = Changes::new();
    let mut mark = |chain: &str, hook: Hook, priority: i32, rules: Vec<Vec<Expr>>| {
        changes.ensure_chain(table, Chain::base(chain, ChainKind::Filter, hook, priority));
        for mut exprs in rules {
            exprs.push(Expr::Trace);
            changes.add_rule(table, Rule::new(chain, exprs), Place::Last);
        }
    };
    if table.family == Family::Bridge {
        // No connections are tracked here: answers are known by their destination.
        mark("frames", Hook::Prerouting, EARLY, vec![sent(flow), answer(flow)]);
        mark("own_frames", Hook::Output, EARLY, vec![sent(flow), answer(flow)]);
        mark("to_host", Hook::Input, LATE, Vec::new());
        mark("to_port", Hook::Postrouting, LATE, Vec::new());
    } else {
        for (hook, early, tracked) in
            [(Hook::Prerouting, "sent", "answered"), (Hook::Output, "own_sent", "own_answered")]
        {
            mark(early, hook, EARLY, vec![sent(flow)]);
            mark(tracked, hook, TRACKED, vec![tracked_answer(flow)]);
        }
        mark("arrived", Hook::Input, LATE, Vec::new());
        mark("left", Hook::Postrouting, LATE, Vec::new());
    }
    changes
}

fn address(ip: IpAddr, which: Ip) -> Expr {
    let selector = if ip.is_ipv4() { Selector::Ip(which) } else { Selector::Ip6(which) };
    Expr::is(selector, ip.into())
}

fn protocol(flow: &Flow) -> Expr {
    Expr::is(Selector::Meta(Meta::L4proto), Field::Proto(flow.protocol))
}

fn sent(flow: &Flow) -> Vec<Expr> {
    let mut exprs = vec![address(flow.source, Ip::Saddr), address(flow.destination, Ip::Daddr), protocol(flow)];
    if let Some((source, destination)) = flow.ports {
        exprs.push(Expr::is(Selector::Sport, Field::Port(source)));
        exprs.push(Expr::is(Selector::Dport, Field::Port(destination)));
    }
    exprs
}

fn answer(flow: &Flow) -> Vec<Expr> {
    let mut exprs = vec![address(flow.source, Ip::Daddr), protocol(flow)];
    if let Some((source, _)) = flow.ports {
        exprs.push(Expr::is(Selector::Dport, Field::Port(source)));
    } else {
        exprs.push(address(flow.destination, Ip::Saddr));
    }
    exprs
}

/// An answer, whatever was translated, belongs to the connection that the flow opened.
fn tracked_answer(flow: &Flow) -> Vec<Expr> {
    let original = |which| match flow.source {
        IpAddr::V4(_) => Selector::Ct(Ct::Ip4(TupleOf::Original, which)),
        IpAddr::V6(_) => Selector::Ct(Ct::Ip6(TupleOf::Original, which)),
    };
    let mut exprs = vec![
        Expr::is(Selector::Ct(Ct::Direction), Field::Byte(1)),
        protocol(flow),
        Expr::is(original(Ip::Saddr), flow.source.into()),
        Expr::is(original(Ip::Daddr), flow.destination.into()),
    ];
    if let Some((source, destination)) = flow.ports {
        exprs.push(Expr::is(Selector::Ct(Ct::ProtoSrc(TupleOf::Original)), Field::Port(source)));
        exprs.push(Expr::is(Selector::Ct(Ct::ProtoDst(TupleOf::Original)), Field::Port(destination)));
    }
    exprs
}

impl Listener {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.set_non_blocking(true)?;
        setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_BYTES)
            .or_else(|_| setsockopt(&socket.as_fd(), sockopt::RcvBuf, &RECEIVE_BYTES))?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Listener { socket, buffer: vec![0; DATAGRAM] })
    }

    fn read(&mut self, limit: Duration) -> io::Result<Vec<TraceEvent>> {
        let deadline = Instant::now() + limit;
        let mut events = Vec::new();
        loop {
            let mut room = &mut self.buffer[..];
            match self.socket.recv_from(&mut room, 0) {
                // Only the kernel's own port is 0.
                Ok((length, from)) if from.port_number() == 0 => {
                    let length = length.min(self.buffer.len());
                    events.extend(wire::messages(&self.buffer[..length]).filter_map(|m| event(&m)));
                }
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !events.is_empty() || left.is_zero() {
                        return Ok(events);
                    }
                    let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
                    match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// The NFTA_TRACE_* of a report; `None` for other messages.
fn event(message: &Message<'_>) -> Option<TraceEvent> {
    if message.kind & 0xff != TRACE {
        return None;
    }
    let find = |wanted: u16| message.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let number = |wanted: u16| find(wanted).and_then(wire::u32_be);
    let index = |wanted: u16| number(wanted).filter(|index| *index != 0);
    let (step, verdict) = match number(4)? {
        1 => (TraceStep::Policy, verdict(number(16)?.cast_signed(), None)),
        2 => (TraceStep::Return, nested_verdict(find(5))),
        // At the end of a chain the kernel reports the place behind the last rule, which has no handle.
        3 => match find(3).and_then(|handle| Some(u64::from_be_bytes(handle.get(..8)?.try_into().ok()?))) {
            Some(handle) => (TraceStep::Rule(handle), nested_verdict(find(5))),
            None => (TraceStep::Return, nested_verdict(find(5))),
        },
        _ => return None,
    };
    Some(TraceEvent {
        id: number(6)?,
        table: Table::new(decode::family_of(message.family())?, wire::c_string(find(1)?)),
        chain: wire::c_string(find(2)?),
        step,
        verdict,
        input: index(10),
        output: index(12),
        packet: find(8).and_then(|network| packet(network, find(9))),
    })
}

fn nested_verdict(bytes: Option<&[u8]>) -> TraceVerdict {
    let find = |wanted: u16| wire::attributes(bytes?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let code = find(1).and_then(wire::u32_be).map_or(-1, u32::cast_signed);
    verdict(code, find(2).map(wire::c_string))
}

/// NF_* and NFT_* of linux/netfilter.h and nf_tables.h.
fn verdict(code: i32, chain: Option<String>) -> TraceVerdict {
    match (code, chain) {
        (0, _) => TraceVerdict::Drop,
        (1, _) => TraceVerdict::Accept,
        (-1 | -2, _) => TraceVerdict::Continue,
        (-3, Some(chain)) => TraceVerdict::Jump(chain),
        (-4, Some(chain)) => TraceVerdict::Goto(chain),
        (-5, _) => TraceVerdict::Return,
        (code, _) => TraceVerdict::Other(code),
    }
}

/// The beginning of an IP header (40 bytes at most) and of what follows it (20 bytes at most).
fn packet(network: &[u8], transport: Option<&[u8]>) -> Option<TracedPacket> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(network.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(network.get(at..at + 16)?).ok()?));
    let (source, destination, protocol) = match network.first()? >> 4 {
        4 => (v4(12)?, v4(16)?, *network.get(9)?),
        6 => (v6(8)?, v6(24)?, *network.get(6)?),
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes(transport?.get(at..at + 2)?.try_into().ok()?));
    let ports = match i32::from(protocol) {
        libc::IPPROTO_TCP | libc::IPPROTO_UDP | libc::IPPROTO_SCTP => word(0).zip(word(2)),
        // Echo and its answer: RFC 792, RFC 4443 section 4.
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 if matches!(transport?.first()?, 0 | 8 | 128 | 129) => {
            word(4).zip(word(4))
        }
        _ => None,
    };
    Some(TracedPacket { source, destination, protocol, ports })
}

#[cfg(test)]
mod tests;
