//! [`Pool`]: the addresses of one subnet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rnet_model::{AddressRange, Subnet};

use crate::IpamError;
use crate::free::Intervals;

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// The subnet.
    pub subnet: Subnet,
    /// Its gateway, which nobody else gets.
    pub gateway: Option<IpAddr>,
    /// Where addresses are handed out from; empty = the whole subnet.
    pub ranges: Vec<AddressRange>,
    /// What is never handed out by itself; it can still be claimed.
    pub exclude: Vec<AddressRange>,
    /// Seconds a freed address waits before somebody else gets it.
    pub rest_secs: u64,
}

/// State of a held address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In use.
    Live,
    /// Kept for its owner, who does not use it now.
    Reserved,
    /// Freed a moment ago: only its former owner gets it, or who asks for exactly it.
    Resting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    owner: String,
    state: State,
    /// On the pool's own clock; only for [`State::Resting`].
    until: u64,
}

/// Who holds which address of one subnet. Every operation is logarithmic in the number of held addresses.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Subnet,
    gateway: Option<IpAddr>,
    rest_secs: u64,
    /// What may be handed out at all.
    usable: Intervals,
    /// What of it nobody holds.
    free: Intervals,
    leases: BTreeMap<u128, Lease>,
    resting: BTreeSet<(u64, u128)>,
    by_owner: BTreeMap<String, BTreeSet<u128>>,
    /// Addresses are handed out in a ring, so that a freed one is used again as late as possible.
    cursor: u128,
    clock: Clock,
}

/// Seconds that have passed, whatever happens to the clock of the caller: going back counts as no time at all.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    passed: u64,
    last: Option<u64>,
}

impl Clock {
    fn advance(&mut self, now: u64) -> u64 {
        let step = self.last.map_or(0, |last| now.saturating_sub(last));
        self.passed = self.passed.saturating_add(step);
        self.last = Some(now);
        self.passed
    }
}

/// Addresses of a subnet that are seen in use although nobody holds them, before a search is given up.
const MOST_SEEN: usize = 65_536;

impl Pool {
    /// An empty pool.
    pub fn new(spec: PoolSpec) -> Self {
        let PoolSpec { subnet, gateway, ranges, exclude, rest_secs } = spec;
        let (first, last) = (number(subnet.network()), number(subnet.last()));
        let mut usable = Intervals::default();
        if ranges.is_empty() {
            usable.insert(first, last);
        }
        for range in &ranges {
            let (from, to) = (number(range.first()).max(first), number(range.last()).min(last));
            if from <= to {
                usable.insert(from, to);
            }
        }
        for range in &exclude {
            usable.remove(number(range.first()), number(range.last()));
        }
        // RFC 3021 gives both addresses of a /31 to hosts; RFC 4291 section 2.6.1 gives an IPv6 subnet's first address
        // to its routers, RFC 6164 not in a /127.
        if host_bits(&subnet) > 1 {
            usable.remove(first, first);
            if subnet.is_ipv4() {
                usable.remove(last, last);
            }
        }
        if let Some(gateway) = gateway {
            usable.remove(number(gateway), number(gateway));
        }
        Pool {
            subnet,
            gateway,
            rest_secs,
            free: usable.clone(),
            usable,
            leases: BTreeMap::new(),
            resting: BTreeSet::new(),
            by_owner: BTreeMap::new(),
            cursor: first,
            clock: Clock::default(),
        }
    }

    /// The subnet.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// How many addresses nobody holds, of those that may be handed out.
    pub fn free(&self) -> u128 {
        self.free.count()
    }

    /// Hands out an address: the one kept for the owner or freed by it last, else the next free one that `in_use` has
    /// not seen. `now` are seconds of a clock that should not go back.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn allocate(&mut self, owner: &str, now: u64, in_use: &dyn Fn(IpAddr) -> bool) -> Result<IpAddr, IpamError> {
        let passed = self.wake(now);
        let kept = self.by_owner.get(owner).into_iter().flatten();
        let own = kept.copied().find(|n| self.leases[n].state != State::Live && self.usable.contains(*n));
        let found = own.or_else(|| {
            let mut candidates = self.free.cyclic(self.cursor).take(MOST_SEEN);
            candidates.find(|n| !in_use(self.address(*n)))
        });
        let Some(found) = found else {
            let next = self.resting.first().map(|(until, _)| until.saturating_sub(passed).max(1));
            return Err(IpamError::Exhausted { subnet: self.subnet, next });
        };
        if own.is_none() {
            self.cursor = found.wrapping_add(1);
        }
        self.hold(found, owner, State::Live);
        Ok(self.address(found))
    }

    /// Takes exactly this address, for an owner that holds it already, or that nobody else does. A resting address can
    /// be taken: who asks for it by number knows what it does.
    ///
    /// # Errors
    /// [`IpamError::Held`], [`IpamError::Outside`], [`IpamError::Special`].
    pub fn claim(&mut self, address: IpAddr, owner: &str, now: u64) -> Result<(), IpamError> {
        self.wake(now);
        let n = self.claimable(address, owner)?;
        self.hold(n, owner, State::Live);
        Ok(())
    }

    /// Keeps an address for an owner that does not use it now.
    ///
    /// # Errors
    /// As [`Pool::claim`].
    pub fn reserve(&mut self, address: IpAddr, owner: &str) -> Result<(), IpamError> {
        let n = self.claimable(address, owner)?;
        self.hold(n, owner, State::Reserved);
        Ok(())
    }

    /// Frees an address its owner uses or keeps; it rests before others get it. `false` if the owner does not hold it.
    pub fn release(&mut self, address: IpAddr, owner: &str, now: u64) -> bool {
        let passed = self.wake(now);
        let n = number(address);
        if !self.leases.get(&n).is_some_and(|l| l.owner == owner && l.state != State::Resting) {
            return false;
        }
        if self.rest_secs == 0 {
            self.let_go(n);
            return true;
        }
        let until = passed.saturating_add(self.rest_secs);
        self.resting.insert((until, n));
        let lease = self.leases.get_mut(&n).expect("it was just found");
        lease.state = State::Resting;
        lease.until = until;
        true
    }

    /// Forgets what is kept for an owner; an address in use stays. `false` if there was nothing to forget.
    pub fn unreserve(&mut self, address: IpAddr, owner: &str) -> bool {
        let n = number(address);
        let kept = self.leases.get(&n).is_some_and(|l| l.owner == owner && l.state != State::Live);
        if kept {
            self.let_go(n);
        }
        kept
    }

    /// Makes an address that is reserved for `from` one that `to` uses. `false`, and nothing changed, if it is not
    /// reserved for `from`, or if another one of the pool is kept for `to`, which it would rather have.
    pub fn hand_over(&mut self, address: IpAddr, from: &str, to: &str) -> bool {
        let n = number(address);
        let reserved = self.leases.get(&n).is_some_and(|l| l.owner == from && l.state == State::Reserved);
        let kept = |n: &u128| self.leases[n].state != State::Live;
        let may = reserved && !self.by_owner.get(to).into_iter().flatten().any(kept);
        if may {
            self.hold(n, to, State::Live);
        }
        may
    }

    /// What an owner holds, in the order of the addresses.
    pub fn held_by<'a>(&'a self, owner: &str) -> impl Iterator<Item = (IpAddr, State)> + use<'a> {
        let held = self.by_owner.get(owner).into_iter().flatten();
        held.map(|n| (self.address(*n), self.leases[n].state))
    }

    /// Who holds the address.
    pub fn holder(&self, address: IpAddr) -> Option<&str> {
        self.leases.get(&number(address)).filter(|_| self.subnet.contains(address)).map(|l| l.owner.as_str())
    }

    /// Everything that is held, in the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &str, State)> {
        self.leases.iter().map(|(n, lease)| (self.address(*n), lease.owner.as_str(), lease.state))
    }

    /// Ends the rest of addresses whose time has come.
    fn wake(&mut self, now: u64) -> u64 {
        let passed = self.clock.advance(now);
        while let Some((until, n)) = self.resting.first().copied()
            && until <= passed
        {
            self.let_go(n);
        }
        passed
    }

    fn claimable(&self, address: IpAddr, owner: &str) -> Result<u128, IpamError> {
        if !self.subnet.contains(address) {
            return Err(IpamError::Outside { address, subnet: self.subnet });
        }
        let special = |what| Err(IpamError::Special { address, what, subnet: self.subnet });
        if Some(address) == self.gateway {
            return special("gateway");
        }
        if self.subnet.is_ipv4() && host_bits(&self.subnet) > 1 {
            if address == self.subnet.network() {
                return special("network address");
            }
            if address == self.subnet.last() {
                return special("broadcast address");
            }
        }
        let n = number(address);
        match self.leases.get(&n) {
            Some(lease) if lease.owner != owner && lease.state != State::Resting => {
                Err(IpamError::Held { address, owner: lease.owner.clone() })
            }
            _ => Ok(n),
        }
    }

    fn hold(&mut self, n: u128, owner: &str, state: State) {
        self.let_go(n);
        self.free.remove(n, n);
        self.by_owner.entry(owner.to_owned()).or_default().insert(n);
        self.leases.insert(n, Lease { owner: owner.to_owned(), state, until: 0 });
    }

    fn let_go(&mut self, n: u128) {
        let Some(lease) = self.leases.remove(&n) else { return };
        self.resting.remove(&(lease.until, n));
        if let Some(held) = self.by_owner.get_mut(&lease.owner) {
            held.remove(&n);
            if held.is_empty() {
                self.by_owner.remove(&lease.owner);
            }
        }
        // An address outside of the ranges can be claimed, but it is not handed out afterwards.
        if self.usable.contains(n) {
            self.free.insert(n, n);
        }
    }

    fn address(&self, n: u128) -> IpAddr {
        address(n, self.subnet.is_ipv4())
    }
}

fn host_bits(subnet: &Subnet) -> u8 {
    (if subnet.is_ipv4() { 32 } else { 128 }) - subnet.prefix()
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

pub(crate) fn address(n: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::from(u32::try_from(n).expect("numbers of an IPv4 subnet have 32 bits")).into()
    } else {
        Ipv6Addr::from(n).into()
    }
}
