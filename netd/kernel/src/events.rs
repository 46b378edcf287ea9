//! What others change: notifications of route netlink, as values.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use rnet_model::IfName;
use tokio::io::unix::AsyncFd;

use crate::links::LinkState;
use crate::route::ack::{Body, answers};
use crate::route::parse;
use crate::{KernelError, Netns};

/// Multicast groups of linux/rtnetlink.h: LINK 1, IPV4_IFADDR 5, IPV4_ROUTE 7, IPV6_IFADDR 9, IPV6_ROUTE 11.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;
/// A full bridge that goes up says about two messages of 1.5 KiB for each port.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 64 << 10;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or changed.
    Link(LinkState),
    /// A link is gone from the namespace.
    LinkGone {
        /// ifindex it had.
        index: u32,
        /// Name it had.
        name: IfName,
    },
    /// Addresses changed.
    Address,
    /// A route was deleted.
    RouteGone {
        /// ifindex of its device; 0 if it had several next hops or none.
        index: u32,
    },
    /// Our table of the packet filter changed, which [`crate::FilterMonitor`] reports.
    Filter,
    /// Notifications were lost: whatever is known has to be read again.
    Overrun,
}

/// A subscription to the changes of links, addresses and routes of one namespace.
pub struct Monitor {
    socket: AsyncFd<Socket>,
    waiting: VecDeque<Event>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Of the calling thread's namespace. Inside a tokio runtime.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn new() -> Result<Self, KernelError> {
        Monitor::open(&Netns::current()?)
    }

    /// Of `ns`. Inside a tokio runtime.
    ///
    /// # Errors
    /// When the namespace may not be entered or no socket can be had.
    pub fn open(ns: &Netns) -> Result<Self, KernelError> {
        let named = |e: &io::Error| KernelError::io(format!("watch links, addresses and routes of {ns}"), e);
        let socket = ns.run(subscribe)?.map_err(|e| named(&e))?;
        // SAFETY: the socket owns its descriptor, always returns the same one and closes it only when it is dropped,
        // which AsyncFd does after taking it out of the reactor.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|e| named(&io::Error::from(e)))?;
        Ok(Monitor { socket, waiting: VecDeque::new(), buffer: vec![0; DATAGRAM] })
    }

    /// The next change. `None` when there will be none any more: the socket is broken. Can be dropped and called
    /// again without losing an event.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let mut guard = self.socket.readable().await.ok()?;
            let mut room = &mut self.buffer[..];
            let Ok(received) = guard.try_io(|fd| fd.get_ref().recv_from(&mut room, libc::MSG_TRUNC)) else { continue };
            match received {
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) if length > DATAGRAM => return Some(Event::Overrun),
                Ok((length, _)) => self.waiting.extend(events(&self.buffer[..length])),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Some(Event::Overrun),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::error!(error = %e, "route netlink notifications ended");
                    return None;
                }
            }
        }
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    Ok(socket)
}

/// A datagram as events.
fn events(datagram: &[u8]) -> impl Iterator<Item = Event> {
    answers(datagram).filter_map(|answer| match answer.body {
        Body::Object(libc::RTM_NEWLINK, body) => parse::link(body).map(Event::Link),
        Body::Object(libc::RTM_DELLINK, body) => {
            parse::link(body).map(|l| Event::LinkGone { index: l.index, name: l.name })
        }
        Body::Object(libc::RTM_NEWADDR | libc::RTM_DELADDR, _) => Some(Event::Address),
        Body::Object(libc::RTM_DELROUTE, body) => Some(Event::RouteGone { index: parse::device_of_route(body) }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::links::{AddressGeneration, LinkOp, Links, NewBridge, Snooping};
    use crate::testing::root_or_skip;

    /// The next event that `wanted` takes, within a bound.
    async fn wait_for(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) -> Event {
        tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                let event = monitor.next().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn changes_are_reported() {
        if !root_or_skip() {
            return;
        }
        let ns = Netns::create().unwrap();
        let mut monitor = Monitor::open(&ns).unwrap();
        let mut route = crate::Route::open(&ns).unwrap();
        let br: IfName = "br0".parse().unwrap();
        let new = NewBridge {
            name: br.clone(),
            alias: "rnet:x".into(),
            mtu: None,
            mac: None,
            vlan_filtering: false,
            ipv6: AddressGeneration::Off,
            snooping: Snooping::Off,
        };
        assert!(route.batch(&[LinkOp::NewBridge(new)]).unwrap().is_empty());
        let up =
            |e: &Event| matches!(e, Event::Link(l) if l.name == br && l.up && l.alias.as_deref() == Some("rnet:x"));
        wait_for(&mut monitor, up).await;
        assert!(route.batch(&[LinkOp::AddAddress(br.clone(), "10.0.0.1/24".parse().unwrap())]).unwrap().is_empty());
        wait_for(&mut monitor, |e| *e == Event::Address).await;
        assert!(route.batch(&[LinkOp::DelAddress(br.clone(), "10.0.0.1/24".parse().unwrap())]).unwrap().is_empty());
        let index = route.link(&br).unwrap().unwrap().index;
        wait_for(&mut monitor, |e| *e == Event::RouteGone { index }).await;
        assert!(route.batch(&[LinkOp::Delete(br.clone())]).unwrap().is_empty());
        wait_for(&mut monitor, |e| matches!(e, Event::LinkGone { name, .. } if *name == br)).await;
    }

    #[tokio::test]
    async fn lost_notifications_are_reported() {
        if !root_or_skip() {
            return;
        }
        let ns = Netns::create().unwrap();
        let mut monitor = Monitor::open(&ns).unwrap();
        setsockopt(monitor.socket.get_ref(), sockopt::RcvBuf, &1024).unwrap();
        let mut route = crate::Route::open(&ns).unwrap();
        let lo: IfName = "lo".parse().unwrap();
        for _ in 0..20 {
            route.batch(&[LinkOp::Up(lo.clone()), LinkOp::Down(lo.clone())]).unwrap();
        }
        wait_for(&mut monitor, |e| *e == Event::Overrun).await;
        route.batch(&[LinkOp::Up(lo.clone())]).unwrap();
        wait_for(&mut monitor, |e| matches!(e, Event::Link(l) if l.up)).await;
    }
}
