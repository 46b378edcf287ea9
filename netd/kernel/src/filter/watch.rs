//! Notifications of nf_tables: whether somebody touched our table.
//!
//! One says no more than that: what differs is found by reading, so a lost notification costs nothing but one reading.
#![allow(unsafe_code)]

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

use super::wire;
use crate::{KernelError, Netns};

/// Multicast group of linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES 7.
const GROUPS: u32 = 1 << 6;
const DATAGRAM: usize = 64 << 10;
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and NFTA_SET_ELEM_LIST_TABLE are all 1.
const TABLE: u16 = 1;
/// NFT_MSG_NEWGEN ends every transaction; its attribute 1 is a number.
const NEWGEN: u16 = 15;

/// NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN and NFT_MSG_DELCHAIN.
const CHAINS: [u16; 3] = [2, 3, 5];

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterTouched {
    /// The watched table, or everything may have been.
    Ours,
    /// Chains of another table: what it does with packets may be something else by now.
    ChainsOfOthers,
}

/// A subscription to the changes of one table, and of other tables' chains.
pub struct FilterMonitor {
    socket: AsyncFd<Socket>,
    table: Vec<u8>,
    buffer: Vec<u8>,
}

impl FilterMonitor {
    /// Of the table `table` in `ns`. Inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel has no nf_tables, or no socket can be had.
    pub fn open(ns: &Netns, table: &str) -> Result<Self, KernelError> {
        let named = |e: &io::Error| KernelError::io(format!("watch the packet filter of {ns}"), e);
        let socket = ns.run(subscribe)?.map_err(|e| named(&e))?;
        // SAFETY: the socket owns its descriptor, always returns the same one and closes it only when it is dropped,
        // which AsyncFd does after taking it out of the reactor.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|e| named(&io::Error::from(e)))?;
        Ok(FilterMonitor { socket, table: table.as_bytes().to_vec(), buffer: vec![0; DATAGRAM] })
    }

    /// Waits for the next change, by whomever, or the loss of notifications. `None` when there will be
    /// none any more: the socket is broken. Can be dropped and called again.
    pub async fn next(&mut self) -> Option<FilterTouched> {
        loop {
            let mut guard = self.socket.readable().await.ok()?;
            let mut room = &mut self.buffer[..];
            let Ok(received) = guard.try_io(|fd| fd.get_ref().recv_from(&mut room, libc::MSG_TRUNC)) else { continue };
            match received {
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) if length > DATAGRAM => return Some(FilterTouched::Ours),
                Ok((length, _)) => {
                    if let Some(touched) = touches(&self.buffer[..length], &self.table) {
                        return Some(touched);
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Some(FilterTouched::Ours),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::error!(error = %e, "nf_tables notifications ended");
                    return None;
                }
            }
        }
    }
}

impl std::fmt::Debug for FilterMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterMonitor").field("table", &String::from_utf8_lossy(&self.table)).finish_non_exhaustive()
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    Ok(socket)
}

fn touches(datagram: &[u8], table: &[u8]) -> Option<FilterTouched> {
    let named = |value: &[u8]| value.strip_suffix(&[0]).unwrap_or(value) == table;
    let mut others = false;
    for message in wire::messages(datagram) {
        let kind = message.kind & 0xff;
        if kind != NEWGEN && message.attributes().any(|(kind, value)| kind == TABLE && named(value)) {
            return Some(FilterTouched::Ours);
        }
        others |= CHAINS.contains(&kind);
    }
    others.then_some(FilterTouched::ChainsOfOthers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn changes_of_our_table_are_reported_and_no_others() {
        if !testing::nft_or_skip() {
            return;
        }
        let ns = Netns::create().unwrap();
        let nft = |words: &str| {
            let status = ns.run(|| Command::new("nft").args(words.split_whitespace()).status()).unwrap().unwrap();
            assert!(status.success(), "nft {words}");
        };
        let mut monitor = FilterMonitor::open(&ns, "rnet").unwrap();
        let next = async |monitor: &mut FilterMonitor| {
            tokio::time::timeout(Duration::from_secs(5), monitor.next()).await.expect("a change is told").unwrap()
        };
        nft("add table inet rnet-other");
        nft("add table inet other");
        nft("add chain inet other x");
        assert_eq!(next(&mut monitor).await, FilterTouched::ChainsOfOthers);
        nft("add rule inet other x accept");
        let quiet = tokio::time::timeout(Duration::from_millis(50), monitor.next()).await;
        assert!(quiet.is_err(), "other tables are nobody's business");
        for change in ["add table inet rnet", "add chain inet rnet x", "flush ruleset"] {
            nft(change);
            while next(&mut monitor).await != FilterTouched::Ours {}
        }
    }
}
