//! The client's side of RFC 2131 on one interface: questions, patience, and which answer counts.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use rnet_kernel::{Datagrams, KernelError, Netns};
use rnet_model::{IfName, MacAddr};

use super::message::{CLIENT, Kind, Message, Options, SERVER, code};
use super::terms::{Ask, Terms};
use crate::common::random;

/// Between a question and its repetition; doubled each time up to the last. RFC 2131 section 4.1 starts with 4 s, for
/// networks slower than today's.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(64);
/// Repetitions of a REQUEST, after which another server may be better.
const REQUEST_WAIT: Duration = Duration::from_secs(6);
/// For the other servers, after one that knows nothing of the lease refused it.
const SECOND_OPINION: Duration = Duration::from_millis(500);
/// An Ethernet frame's payload: what we take, and what no relay agent has to cut.
const LARGEST_MESSAGE: u16 = 1500;

/// A client on an interface.
#[derive(Debug)]
pub(super) struct Client<'a> {
    socket: Datagrams,
    id: &'a [u8],
    ask: &'a Ask,
    since: Instant,
}

/// What was granted, and the neighbour it came by: the server, or the router to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) terms: Terms,
    pub(super) mac: MacAddr,
}

/// What became of the question whether an address may be used on.
#[derive(Debug)]
pub(super) enum Answer {
    Granted(Box<Grant>),
    /// It may not, in the server's words if it had any.
    Refused(String),
    /// Nobody answered.
    Silence,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Nobody answered.
    #[error("no DHCP server answered")]
    Silence,
    /// The last thing that was wrong with what a server said.
    #[error("{0}")]
    Refused(String),
}

/// Client identifier: type 0, then who the interface belongs to, as long as an option can be.
pub(super) fn client_id(container: &str, network: &str, ifname: &str) -> Vec<u8> {
    let name = format!("{container}/{network}/{ifname}");
    let bytes = name.as_bytes();
    let mut id = vec![0];
    id.extend(&bytes[..bytes.len().min(254)]);
    id
}

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
enum To {
    Everybody,
    /// The server, from the client's own address.
    Server(Ipv4Addr, Ipv4Addr, MacAddr),
}

impl<'a> Client<'a> {
    /// On an interface that is up.
    pub(super) fn open(netns: &Netns, ifname: &IfName, id: &'a [u8], ask: &'a Ask) -> Result<Self, KernelError> {
        Ok(Client { socket: Datagrams::open(netns, ifname, CLIENT)?, id, ask, since: Instant::now() })
    }

    /// INIT: any address of any server.
    pub(super) fn discover(&self, until: Instant) -> Result<Grant, Failure> {
        let mut failure = Failure::Silence;
        // At least one round, and each takes some time of those left.
        loop {
            match self.round(until) {
                Ok(grant) => return Ok(grant),
                Err(Failure::Silence) => {}
                Err(Failure::Kernel(e)) => return Err(e.into()),
                Err(refused) => failure = refused,
            }
            if Instant::now() >= until {
                return Err(failure);
            }
        }
    }

    /// DISCOVER to ACK once.
    fn round(&self, until: Instant) -> Result<Grant, Failure> {
        let discover = self.message(Kind::Discover, Ipv4Addr::UNSPECIFIED, Options::new());
        let mut reason = None;
        // Of several servers the first that offers what can be used.
        let offer = self.exchange(&discover, To::Everybody, until, |answer, _| {
            if answer.kind != Kind::Offer {
                return None;
            }
            match Terms::of(answer, self.ask) {
                Ok(terms) => Some(terms),
                Err(text) => {
                    reason = Some(text);
                    None
                }
            }
        })?;
        let Some(offer) = offer else { return Err(reason.map_or(Failure::Silence, Failure::Refused)) };
        let mut request = self.message(
            Kind::Request,
            Ipv4Addr::UNSPECIFIED,
            Options::from([
                (code::WANTED_ADDRESS, offer.address.ip().octets().to_vec()),
                (code::SERVER_ID, offer.server.octets().to_vec()),
            ]),
        );
        // RFC 2131 section 4.4.1: the offer is asked for with its own number.
        request.xid = discover.xid;
        let until = until.max(Instant::now() + FIRST_WAIT).min(Instant::now() + REQUEST_WAIT);
        let answer = self.exchange(&request, To::Everybody, until, |answer, mac| {
            let from = answer.address(code::SERVER_ID);
            (from == Some(offer.server)).then(|| self.judge(answer, mac)).flatten()
        })?;
        match answer {
            Some(Answer::Granted(grant)) => Ok(*grant),
            Some(Answer::Refused(text)) => Err(Failure::Refused(text)),
            Some(Answer::Silence) | None => {
                Err(Failure::Refused(format!("DHCP server {} offered an address and then fell silent", offer.server)))
            }
        }
    }

    /// INIT-REBOOT: the address of an earlier lease of `server`, once more.
    pub(super) fn reboot(&self, address: Ipv4Addr, server: Ipv4Addr, until: Instant) -> Result<Answer, KernelError> {
        let wanted = Options::from([(code::WANTED_ADDRESS, address.octets().to_vec())]);
        let request = self.message(Kind::Request, Ipv4Addr::UNSPECIFIED, wanted);
        self.ask_all(&request, To::Everybody, server, until)
    }

    /// RENEWING: asks the server of a lease to go on with it.
    pub(super) fn renew(&self, grant: &Grant, until: Instant) -> Result<Answer, KernelError> {
        let own = grant.terms.address.ip();
        let request = self.message(Kind::Request, own, Options::new());
        self.ask_all(&request, To::Server(own, grant.terms.server, grant.mac), grant.terms.server, until)
    }

    /// REBINDING: asks any server to.
    pub(super) fn rebind(&self, grant: &Grant, until: Instant) -> Result<Answer, KernelError> {
        let request = self.message(Kind::Request, grant.terms.address.ip(), Options::new());
        self.ask_all(&request, To::Everybody, grant.terms.server, until)
    }

    /// Gives an address back. The server does not answer.
    pub(super) fn release(&self, grant: &Grant) -> Result<(), KernelError> {
        let (own, server) = (grant.terms.address.ip(), grant.terms.server);
        let mut message =
            self.message(Kind::Release, own, Options::from([(code::SERVER_ID, server.octets().to_vec())]));
        // RFC 2131 table 5: neither a list of parameters nor the largest message.
        message.options.remove(&code::WANTED_OPTIONS);
        message.options.remove(&code::LARGEST_MESSAGE);
        self.send(&message, To::Server(own, server, grant.mac))
    }

    /// A refusal counts at once if it is the lease's own server's. Another one may know nothing of it: then a grant that
    /// comes soon after counts more.
    fn ask_all(&self, request: &Message, to: To, server: Ipv4Addr, until: Instant) -> Result<Answer, KernelError> {
        let mut refused: Option<(String, Instant)> = None;
        let mut until = until;
        loop {
            let answer = self.exchange(request, to, until, |answer, mac| {
                let own = answer.address(code::SERVER_ID) == Some(server);
                self.judge(answer, mac).map(|judged| (judged, own))
            })?;
            match (answer, &refused) {
                (Some((Answer::Refused(text), false)), None) => {
                    until = until.min(Instant::now() + SECOND_OPINION);
                    refused = Some((text, until));
                }
                (Some((Answer::Refused(_), false)), Some((text, end))) if Instant::now() >= *end => {
                    return Ok(Answer::Refused(text.clone()));
                }
                (Some((Answer::Refused(_), false)), Some(_)) => {}
                (Some((answer, _)), _) => return Ok(answer),
                (None, Some((text, _))) => return Ok(Answer::Refused(text.clone())),
                (None, None) => return Ok(Answer::Silence),
            }
        }
    }

    /// What an ACK or NAK comes to; `None` for an ACK that cannot be used, as if it had not come.
    fn judge(&self, answer: &Message, mac: MacAddr) -> Option<Answer> {
        match answer.kind {
            Kind::Ack => {
                let terms = Terms::of(answer, self.ask).ok()?;
                Some(Answer::Granted(Box::new(Grant { terms, mac })))
            }
            Kind::Nak => {
                let server = answer.address(code::SERVER_ID).unwrap_or(Ipv4Addr::UNSPECIFIED);
                let text = answer.text(code::TEXT).map(|t| format!(": {t}")).unwrap_or_default();
                Some(Answer::Refused(format!("DHCP server {server} refused the address{text}")))
            }
            _ => None,
        }
    }

    fn message(&self, kind: Kind, client: Ipv4Addr, own: Options) -> Message {
        let mut options = self.ask.provided.clone();
        options.insert(code::WANTED_OPTIONS, self.ask.wanted.iter().copied().collect());
        options.insert(code::LARGEST_MESSAGE, LARGEST_MESSAGE.to_be_bytes().to_vec());
        // The configuration may provide an identifier of its own.
        options.entry(code::CLIENT_ID).or_insert_with(|| self.id.to_vec());
        options.extend(own);
        Message {
            kind,
            xid: u32::try_from(random() & u64::from(u32::MAX)).expect("masked to 32 bits"),
            secs: 0,
            // Without an address of its own the interface may share its MAC address with others, as ipvlan does, and
            // only a broadcast reaches all of them.
            broadcast: client.is_unspecified(),
            client,
            yours: Ipv4Addr::UNSPECIFIED,
            mac: self.socket.mac(),
            options,
        }
    }

    fn send(&self, message: &Message, to: To) -> Result<(), KernelError> {
        let mut message = message.clone();
        message.secs = u16::try_from(self.since.elapsed().as_secs()).unwrap_or(u16::MAX);
        let bytes = message.encode();
        match to {
            To::Everybody => {
                let all = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER);
                self.socket.send(message.client, all, None, &bytes)
            }
            To::Server(own, server, mac) => self.socket.send(own, SocketAddrV4::new(server, SERVER), Some(mac), &bytes),
        }
    }

    /// Sends until an answer is taken by `want`, with growing pauses.
    fn exchange<T>(
        &self,
        message: &Message,
        to: To,
        until: Instant,
        mut want: impl FnMut(&Message, MacAddr) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let mut wait = FIRST_WAIT;
        loop {
            self.send(message, to)?;
            // Up to an eighth more, so that clients that began together do not stay together.
            let pause = wait + wait.mul_f64(f64::from(random_byte()) / 2048.0);
            let next = (Instant::now() + pause).min(until);
            while let Some(datagram) = self.socket.receive(next)? {
                let answer = Message::decode(&datagram.payload);
                let ours = answer.filter(|a| a.xid == message.xid && a.mac == message.mac);
                if let Some(taken) = ours.and_then(|answer| want(&answer, datagram.mac)) {
                    return Ok(Some(taken));
                }
            }
            if next >= until {
                return Ok(None);
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
    }
}

fn random_byte() -> u8 {
    random().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_identifier_fits_an_option() {
        assert_eq!(client_id("c1", "net", "eth0"), b"\0c1/net/eth0");
        assert_eq!(client_id(&"x".repeat(300), "net", "eth0").len(), 255);
    }
}
