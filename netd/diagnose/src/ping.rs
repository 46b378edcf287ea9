//! Echo requests between all containers of a network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_api::{Endpoint, PingEnd, PingPair, PingReport, Status};
use rnet_kernel::Netns;
use rnet_model::NetworkName;
use std::os::fd::AsFd as _;

use crate::echo::{Echo, Heard};

/// Containers that ask at the same time.
const AT_ONCE: usize = 16;
/// How long each waits for its answers.
const LIMIT: Duration = Duration::from_secs(1);

/// An interface of a network, and its namespace if its container runs.
#[derive(Debug, Clone)]
pub struct Member {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Where it is.
    pub netns: Option<Netns>,
}

impl Member {
    fn runs(&self) -> bool {
        self.netns.is_some() && self.endpoint.status == Status::Ready
    }

    fn end(&self, address: IpAddr) -> PingEnd {
        PingEnd {
            container: self.endpoint.container.clone(),
            endpoint: self.endpoint.id,
            ifname: self.endpoint.ifname.clone(),
            address,
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.endpoint.addresses.iter().map(|a| a.ip())
    }
}

/// Sends an echo request from every running member to every other, in each family that both have. Takes about a second
/// for each [`AT_ONCE`] members that miss an answer, and no time else.
pub fn ping_all(network: NetworkName, members: &[Member]) -> PingReport {
    let running: Vec<&Member> = members.iter().filter(|m| m.runs()).collect();
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Vec<PingPair>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..running.len().min(AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(member) = running.get(index) else { break };
                    let pairs = from_one(member, &running);
                    if let Ok(mut found) = found.lock() {
                        found.push((index, pairs));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|(index, _)| *index);
    let mut not_running: Vec<String> =
        members.iter().filter(|m| !m.runs()).map(|m| m.endpoint.container.clone()).collect();
    not_running.dedup();
    PingReport { network, pairs: found.into_iter().flat_map(|(_, pairs)| pairs).collect(), not_running }
}

fn from_one(member: &Member, all: &[&Member]) -> Vec<PingPair> {
    let mut pairs = Vec::new();
    for source in member.addresses() {
        let others = all.iter().filter(|other| other.endpoint.id != member.endpoint.id);
        let targets = others.flat_map(|other| other.addresses().map(|address| other.end(address)));
        let mut wanted: Vec<PingPair> = targets
            .filter(|to| to.address.is_ipv4() == source.is_ipv4())
            .map(|to| PingPair { from: member.end(source), to, round_trip_us: None, error: None })
            .collect();
        if let (Some(netns), false) = (&member.netns, wanted.is_empty()) {
            match Echo::open(netns, source) {
                Ok(echo) => ask(&echo, &mut wanted),
                Err(error) => wanted.iter_mut().for_each(|pair| pair.error = Some(error.to_string())),
            }
        }
        pairs.extend(wanted);
    }
    pairs
}

/// Asks all, then waits until all have answered or the time is over.
fn ask(echo: &Echo, pairs: &mut [PingPair]) {
    // Other sockets of the namespace hear the same answers; the identity tells whose they are.
    let identity = rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes();
    let identity = u16::from_ne_bytes([identity[0], identity[1]]);
    let mut sent: HashMap<u16, (usize, Instant)> = HashMap::new();
    for (index, number) in (0..pairs.len()).zip(0..u16::MAX) {
        let at = Instant::now();
        match echo.send(pairs[index].to.address, identity, number) {
            Ok(()) => drop(sent.insert(number, (index, at))),
            Err(error) => pairs[index].error = Some(error.to_string()),
        }
        // The socket's buffer holds some hundred answers.
        listen(echo, identity, &mut sent, pairs);
    }
    let deadline = Instant::now() + LIMIT;
    while !sent.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        if !matches!(
            poll(&mut [PollFd::new(echo.as_fd(), PollFlags::POLLIN)], wait),
            Ok(_) | Err(nix::errno::Errno::EINTR)
        ) {
            break;
        }
        listen(echo, identity, &mut sent, pairs);
    }
}

fn listen(echo: &Echo, identity: u16, sent: &mut HashMap<u16, (usize, Instant)>, pairs: &mut [PingPair]) {
    while let Ok(Some(heard)) = echo.hear() {
        match heard {
            Heard::Answer(from, id, number) if id == identity => {
                if sent.get(&number).is_some_and(|(index, _)| pairs[*index].to.address == from)
                    && let Some((index, at)) = sent.remove(&number)
                {
                    pairs[index].round_trip_us = Some(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            }
            Heard::Unreachable(from, _, id, number) if id == identity => {
                if let Some((index, _)) = sent.remove(&number) {
                    pairs[index].error = Some(format!("{from} says that it cannot be reached"));
                }
            }
            _ => {}
        }
    }
}
