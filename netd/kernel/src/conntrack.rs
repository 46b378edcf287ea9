//! Connection tracking: flows that keep a translation nobody wants any more are forgotten.
//!
//! A flow is translated as its first packet was. A UDP or SCTP peer that goes on sending keeps the old translation for
//! as long as it sends, whatever the rules say by then; forgetting the flow makes its next packet the first of a new one.

use std::fmt;
use std::net::IpAddr;

use crate::filter::socket::{NftSocket, Refusal};
use crate::filter::wire::{Messages, NLM_F_ACK, NLMSG_ERROR};
use crate::{KernelError, Netns};

mod wire;

/// Deletions sent at once, so that their answers fit into the receive buffer.
const AT_ONCE: usize = 256;

/// Which flows. A field that is `None` fits any flow; ports are in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowFilter {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Where the first packet was sent to, before any translation: the published address.
    pub original_destination: Option<IpAddr>,
    /// And to which port: the published one.
    pub original_port: Option<u16>,
    /// Who answers: the address behind the translation.
    pub reply_source: Option<IpAddr>,
    /// And from which port.
    pub reply_port: Option<u16>,
}

/// The connection tracking of a network namespace.
#[derive(Debug)]
pub struct Conntrack {
    ns: Netns,
    socket: NftSocket,
}

impl FlowFilter {
    /// All flows of a protocol (`IPPROTO_*`), of both families.
    pub fn new(protocol: u8) -> Self {
        FlowFilter { protocol, original_destination: None, original_port: None, reply_source: None, reply_port: None }
    }
}

impl fmt::Display for FlowFilter {
    /// As the options of conntrack(8).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i32::from(self.protocol) {
            libc::IPPROTO_TCP => f.write_str("-p tcp")?,
            libc::IPPROTO_UDP => f.write_str("-p udp")?,
            libc::IPPROTO_SCTP => f.write_str("-p sctp")?,
            other => write!(f, "-p {other}")?,
        }
        if let Some(address) = self.original_destination {
            write!(f, " --orig-dst {address}")?;
        }
        if let Some(port) = self.original_port {
            write!(f, " --orig-port-dst {port}")?;
        }
        if let Some(address) = self.reply_source {
            write!(f, " --reply-src {address}")?;
        }
        if let Some(port) = self.reply_port {
            write!(f, " --reply-port-src {port}")?;
        }
        Ok(())
    }
}

impl Conntrack {
    /// Opens the namespace's connection tracking.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink or the namespace may not be entered.
    pub fn open(ns: &Netns) -> Result<Self, KernelError> {
        let opened = if Netns::current()? == *ns { NftSocket::open() } else { ns.run(NftSocket::open)? };
        let socket = opened.map_err(|error| KernelError::io("open the conntrack netlink socket", &error))?;
        Ok(Conntrack { ns: ns.clone(), socket })
    }

    /// Forgets the flows that fit. The rules must have been changed before: a flow that goes on is made again from
    /// its next packet on. How many there were; none is success.
    ///
    /// # Errors
    /// What the kernel said: `EOPNOTSUPP` or `EINVAL` when it has no connection tracking by netlink, `EPERM` without
    /// the right.
    pub fn delete(&mut self, filter: &FlowFilter) -> Result<usize, KernelError> {
        self.delete_any(std::slice::from_ref(filter))
    }

    /// Forgets the flows that fit any of the filters, in one reading for each family. No filter fits no flow.
    ///
    /// # Errors
    /// As [`Conntrack::delete`]. Some may be forgotten by then.
    pub fn delete_any(&mut self, filters: &[FlowFilter]) -> Result<usize, KernelError> {
        let mut deleted = 0;
        for family in [wire::V4, wire::V6] {
            let filters: Vec<FlowFilter> = filters.iter().filter(|f| wire::may_be(f, family)).copied().collect();
            if filters.is_empty() {
                continue;
            }
            let flows = self.read(family, &filters)?;
            for some in flows.chunks(AT_ONCE) {
                deleted += self.forget(some).map_err(|refusal| refusal.into_error(self.named("delete flows")))?;
            }
        }
        Ok(deleted)
    }

    /// The flows of a family that fit. The kernel leaves out what none of the filters can mean, to spare the copying;
    /// what it sends is looked at again, because an older one sends all.
    fn read(&mut self, family: u8, filters: &[FlowFilter]) -> Result<Vec<wire::Flow>, KernelError> {
        let dumped = self.socket.dump_with(
            |request| wire::ask(request, family, filters),
            |message, all| {
                all.extend(wire::entry(&message).filter(|e| filters.iter().any(|f| e.fits(f))).map(|e| e.flow()));
            },
        );
        dumped.map_err(|refusal| refusal.into_error(self.named("read flows")))
    }

    /// How many of these went away by this. One that ended meanwhile is success.
    fn forget(&mut self, flows: &[wire::Flow]) -> Result<usize, Refusal> {
        let mut request: Messages = self.socket.messages();
        flows.iter().for_each(|flow| wire::delete(&mut request, flow, NLM_F_ACK));
        let (mut deleted, mut answered, mut refused) = (0, 0, None);
        self.socket.exchange(&request, |message| {
            if message.kind != NLMSG_ERROR {
                return;
            }
            answered += 1;
            let verdict = message.verdict();
            match verdict.errno {
                0 => deleted += 1,
                libc::ENOENT => {}
                _ => drop(refused.get_or_insert(verdict)),
            }
        })?;
        match refused {
            Some(verdict) => Err(Refusal::Kernel(verdict)),
            None if answered == flows.len() => Ok(deleted),
            None => Err(Refusal::Socket(std::io::Error::from_raw_os_error(libc::ENOBUFS))),
        }
    }

    fn named(&self, what: &str) -> String {
        format!("{what} of {}", self.ns)
    }
}

#[cfg(test)]
mod tests;
