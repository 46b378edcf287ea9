//! From a query to an answer: a function of bytes, the asker and the directory, without sockets and clock.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rnet_model::Protocol;

use crate::directory::{Asker, Directory, Enough, Found, Member, canonical};

/// Seconds an answer from the directory may be kept: containers come and go.
pub const TTL: u32 = 2;

/// Bytes of a UDP answer without EDNS (RFC 1035 section 2.3.4).
const PLAIN_UDP: usize = 512;
/// Most bytes of a UDP answer, whatever the client takes.
const LARGEST_UDP: usize = 4096;
/// What we take by UDP: no fragments on Ethernet with IPv6 (DNS flag day 2020).
const OUR_PAYLOAD: u16 = 1232;
/// Most records of one answer: some of a thousand addresses are as good as all.
const MOST_RECORDS: usize = 512;

const HEADER: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; the answer is too, and may be too long for it.
    Udp,
    /// A stream of messages with their lengths before them.
    Tcp,
}

/// What is to be done with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send these bytes.
    Reply(Vec<u8>),
    /// Somebody else has to be asked.
    Forward(Forward),
    /// Say nothing: it is no query.
    Drop,
}

/// Who has to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Servers {
    /// Those of the host's resolv.conf.
    Host,
    /// These, in order.
    Given(Vec<SocketAddr>),
}

/// A query for others, and how their answer becomes one for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Who is asked.
    pub servers: Servers,
    query: Vec<u8>,
    /// Where the question ends in the query.
    end: usize,
    /// Most bytes of the answer.
    limit: usize,
    edns: bool,
}

/// Answers a query of `asker`. `turn` is another number for each query: which of several addresses comes first.
pub fn answer(query: &[u8], transport: Transport, asker: &Asker, directory: &Directory, turn: u32) -> Answer {
    // Nothing is ever answered to an answer: two servers would talk forever.
    if query.len() < HEADER || query[2] & 0x80 != 0 {
        return Answer::Drop;
    }
    let Ok(message) = Message::from_vec(query) else { return Answer::Reply(bare(query, ResponseCode::FormErr)) };
    let mut reply = begin(&message);
    let refuse = |reply: &mut Message, code: ResponseCode| {
        reply.metadata.response_code = code;
        finish(reply, PLAIN_UDP, query)
    };
    if message.metadata.op_code != OpCode::Query {
        return refuse(&mut reply, ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return refuse(&mut reply, ResponseCode::BADVERS);
    }
    let ([question], Some(end)) = (&message.queries[..], question_end(query)) else {
        return refuse(&mut reply, ResponseCode::FormErr);
    };
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || transfer {
        return refuse(&mut reply, ResponseCode::Refused);
    }
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            let taken = message.edns.as_ref().map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload()));
            taken.clamp(PLAIN_UDP, LARGEST_UDP)
        }
    };
    match ours(question, asker, directory, turn) {
        Some(found) => {
            reply.metadata.authoritative = true;
            reply.metadata.response_code = found.code;
            reply.answers = found.answers;
            reply.additionals = found.additionals;
            finish(&reply, limit, query)
        }
        None => match directory.upstreams(asker) {
            Some(given) => {
                let servers = if given.is_empty() { Servers::Host } else { Servers::Given(given) };
                let edns = message.edns.is_some();
                Answer::Forward(Forward { servers, query: query.to_vec(), end, limit, edns })
            }
            // Nobody may be asked. A single label can only be a container, and there is none. Whether another name exists
            // cannot be known from here: no claim is made, as Docker does.
            None if question.name().num_labels() == 1 => refuse(&mut reply, ResponseCode::NXDomain),
            None => refuse(&mut reply, ResponseCode::ServFail),
        },
    }
}

/// What the directory says.
#[derive(Debug)]
struct Ours {
    code: ResponseCode,
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

impl Ours {
    /// A name that exists, with these records of the type. None is no error, and goes without SOA: what carries none is not
    /// kept by anybody (RFC 2308 section 5), and the next container may have the address.
    fn known(answers: Vec<Record>) -> Option<Self> {
        Some(Ours { code: ResponseCode::NoError, answers, additionals: Vec::new() })
    }
}

fn ours(question: &Query, asker: &Asker, directory: &Directory, turn: u32) -> Option<Ours> {
    let text = text_of(question.name())?;
    if let Some(name) = pointed_at(question.name()).and_then(|ip| directory.name_of(asker, ip)) {
        let wanted = matches!(question.query_type(), RecordType::PTR | RecordType::ANY);
        let target = name_from(&name).filter(|_| wanted);
        return Ours::known(target.map(|t| record(question.name(), RData::PTR(PTR(t)))).into_iter().collect());
    }
    if let Some((port, protocol, name)) = service(&text) {
        return services(question, asker, directory, (port, protocol, name));
    }
    let mut known = false;
    let mut found: Vec<IpAddr> = Vec::new();
    directory.find(asker, &text, |at| {
        known = true;
        let all = at.members.iter().flat_map(|member| &member.addresses);
        found.extend(all.filter(|ip| wanted(question.query_type(), **ip)));
        if found.is_empty() { Enough::No } else { Enough::Yes }
    });
    if !known {
        return None;
    }
    rotate(&mut found, turn);
    found.truncate(MOST_RECORDS);
    Ours::known(found.into_iter().map(|ip| address(question.name(), ip)).collect())
}

fn wanted(kind: RecordType, ip: IpAddr) -> bool {
    match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

fn rotate<T>(list: &mut [T], turn: u32) {
    if !list.is_empty() {
        let by = usize::try_from(turn).unwrap_or(0) % list.len();
        list.rotate_left(by);
    }
}

/// `_PORT._PROTOCOL.NAME`, in lower case.
fn service(text: &str) -> Option<(u16, Protocol, &str)> {
    let (port, rest) = text.strip_prefix('_')?.split_once('.')?;
    let (protocol, name) = rest.strip_prefix('_')?.split_once('.')?;
    let plain = port.bytes().all(|b| b.is_ascii_digit());
    Some((port.parse().ok().filter(|_| plain)?, protocol.parse().ok()?, name))
}

/// Ports of containers as services, each with the name and the addresses of its container.
fn services(
    question: &Query,
    asker: &Asker,
    directory: &Directory,
    (port, protocol, name): (u16, Protocol, &str),
) -> Option<Ours> {
    let mut known = false;
    let mut targets: Vec<(Name, Vec<IpAddr>)> = Vec::new();
    directory.find(asker, name, |at: Found<'_>| {
        known = true;
        let serving = |member: &&&Member| member.ports.contains(&(protocol, port));
        for member in at.members.iter().filter(serving).take(MOST_RECORDS) {
            let target = at.full_name(member).and_then(|name| name_from(&name));
            targets.extend(target.map(|target| (target, member.addresses.clone())));
        }
        if targets.is_empty() { Enough::No } else { Enough::Yes }
    });
    if !known {
        return None;
    }
    let code = if targets.is_empty() { ResponseCode::NXDomain } else { ResponseCode::NoError };
    if !matches!(question.query_type(), RecordType::SRV | RecordType::ANY) {
        targets.clear();
    }
    // All alike: a client chooses among them at random (RFC 2782).
    let srv = |target: &Name| record(question.name(), RData::SRV(SRV::new(0, 0, port, target.clone())));
    let answers = targets.iter().map(|(target, _)| srv(target)).collect();
    let at = |(target, ips): &(Name, Vec<IpAddr>)| ips.iter().map(|ip| address(target, *ip)).collect::<Vec<_>>();
    Some(Ours { code, answers, additionals: targets.iter().flat_map(at).take(MOST_RECORDS).collect() })
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address(name: &Name, ip: IpAddr) -> Record {
    record(
        name,
        match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        },
    )
}

/// A name in lower case without a dot at the end, if it could be one of ours: a dot inside of a label is none between two.
fn text_of(name: &Name) -> Option<String> {
    let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
    let labels = labels?;
    labels.iter().all(|label| !label.contains('.')).then(|| canonical(&labels.join("."))).flatten()
}

fn name_from(text: &str) -> Option<Name> {
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The whole address below `in-addr.arpa` or `ip6.arpa`.
fn pointed_at(name: &Name) -> Option<IpAddr> {
    let whole = match name.num_labels() {
        6 => 32,
        34 => 128,
        _ => return None,
    };
    name.parse_arpa_name().ok().filter(|net| net.prefix_len() == whole).map(|net| net.addr())
}

/// A reply to a query without its answers.
fn begin(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    if let [question] = &query.queries[..] {
        reply.add_query(question.clone());
    }
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_PAYLOAD);
        reply.set_edns(edns);
    }
    reply
}

/// The bytes of a reply; what does not fit is left out and said to be.
fn finish(reply: &Message, limit: usize, query: &[u8]) -> Answer {
    let failed = || Answer::Reply(bare(query, ResponseCode::ServFail));
    let Ok(bytes) = reply.to_vec() else { return failed() };
    if bytes.len() <= limit {
        return Answer::Reply(bytes);
    }
    let mut reply = reply.clone();
    // Additional records are a courtesy: without them nothing is missing.
    reply.additionals.clear();
    let all = std::mem::take(&mut reply.answers);
    let with = |count: usize, reply: &mut Message| {
        reply.answers = all[..count].to_vec();
        reply.metadata.truncation = count < all.len();
        reply.to_vec().ok().filter(|bytes| bytes.len() <= limit)
    };
    let (mut fits, mut too_many) = (0, all.len() + 1);
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        match with(middle, &mut reply) {
            Some(_) => fits = middle,
            None => too_many = middle,
        }
    }
    with(fits, &mut reply).map_or_else(failed, Answer::Reply)
}

/// A header alone, for a query that cannot be read.
fn bare(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&query[..2]);
    // QR, opcode and RD of the query; RA and the code.
    reply[2] = 0x80 | query[2] & 0x79;
    reply[3] = 0x80 | code.low() & 0x0f;
    reply
}

/// Where the one question ends. A compressed name there can only point into the header.
fn question_end(query: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
    // Root label, type and class.
    let end = at + 5;
    (end <= query.len()).then_some(end)
}

impl Forward {
    /// The query with another id.
    pub(crate) fn query_with(&self, id: [u8; 2]) -> Vec<u8> {
        let mut query = self.query.clone();
        query[..2].copy_from_slice(&id);
        query
    }

    /// What makes two queries the same: everything but their ids and the case of the name.
    pub(crate) fn sameness(&self) -> Vec<u8> {
        let mut key = self.query_with([0, 0]);
        key[HEADER..self.end - 4].make_ascii_lowercase();
        key
    }

    /// Whether bytes are an answer to this query with that id: `None` if not, else the code.
    pub(crate) fn code_of(&self, answer: &[u8], id: [u8; 2]) -> Option<u8> {
        let header = answer.get(..HEADER)?;
        if header[..2] != id || header[2] & 0xf8 != 0x80 {
            return None;
        }
        let code = header[3] & 0x0f;
        match [header[4], header[5]] {
            [0, 1] => {
                let (name, kind) = (HEADER..self.end - 4, self.end - 4..self.end);
                let same = answer.get(name.clone())?.eq_ignore_ascii_case(&self.query[name])
                    && *answer.get(kind.clone())? == self.query[kind];
                same.then_some(code)
            }
            // Some refuse without repeating the question.
            [0, 0] => (code != 0).then_some(code),
            _ => None,
        }
    }

    /// The answer of another server for the client.
    pub fn reply(&self, answer: &[u8]) -> Vec<u8> {
        if question_end(answer) != Some(self.end) || answer[4..6] != [0, 1] {
            return self.failure(answer.get(3).map_or(ResponseCode::ServFail, |b| ResponseCode::from(0, b & 0x0f)));
        }
        let mut reply = answer.to_vec();
        reply[..2].copy_from_slice(&self.query[..2]);
        reply[HEADER..self.end].copy_from_slice(&self.query[HEADER..self.end]);
        if reply.len() > self.limit {
            reply.truncate(self.end);
            reply[2] |= 0x02;
            self.close(&mut reply);
        }
        reply
    }

    /// What the client is told when nobody answers.
    pub fn failure(&self, code: ResponseCode) -> Vec<u8> {
        let mut reply = bare(&self.query, code);
        reply.extend_from_slice(&self.query[HEADER..self.end]);
        self.close(&mut reply);
        reply
    }

    /// Counts of a message that is a header and a question, and its OPT record.
    fn close(&self, reply: &mut Vec<u8>) {
        reply[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns)]);
        if self.edns {
            // Root, type 41, payload size, code and flags, no options (RFC 6891 section 6.1.2).
            let [high, low] = OUR_PAYLOAD.to_be_bytes();
            reply.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
        }
    }
}
