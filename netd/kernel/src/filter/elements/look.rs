//! What is in the kernel: whether the tables are right, and what their sets hold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use rnet_model::Subnet;

use super::super::base::{self, Of, inet};
use super::super::facts::{self, Elements, Entry, SetName};
use super::super::intervals::{self, Family, Range};
use super::super::rules::{self, Data, Element};
use super::super::socket::Refusal;
use super::super::wire::{NLMSG_ERROR, Verb, u32_be};
use super::{FilterChange, FilterState, Nft, TRIES};
use crate::KernelError;

/// Questions sent at once, so that their answers fit into the receive buffer.
const QUESTIONS: usize = 256;

/// What a table in the kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    /// Ours, or everybody's where there are no owners.
    Right,
    /// Right, but the one who made it is gone.
    Orphan,
    Other,
}

/// What a missing set means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The table is not what it should be.
    Refuse,
    /// A table of another version never had it.
    Empty,
}

/// What the register and the rules' set of one family hold.
pub(super) struct Prefixes<V> {
    pub(super) registered: BTreeMap<Subnet, V>,
    pub(super) present: Vec<(Range, V)>,
}

impl<V: Copy + Ord> Prefixes<V> {
    /// The registered ones that the rules see.
    fn whole(&self) -> impl Iterator<Item = (Subnet, V)> {
        let present: BTreeSet<(Range, V)> = self.present.iter().copied().collect();
        let missing: Vec<Range> =
            intervals::pieces(&self.registered).difference(&present).map(|(range, _)| *range).collect();
        let seen = move |net: &Subnet| !missing.iter().any(|range| range.meets(&Range::of(net)));
        self.registered.iter().filter(move |(net, _)| seen(net)).map(|(net, value)| (*net, *value))
    }
}

impl Nft {
    /// Looks at the tables without reading rules or elements: versions, owners, the use counts of chains, sets.
    pub(super) fn inspect(&mut self) -> Result<[Found; 2], KernelError> {
        Ok([self.inspect_one(Of::Inet)?, self.inspect_one(Of::Bridge)?])
    }

    fn inspect_one(&mut self, of: Of) -> Result<Found, KernelError> {
        let table = of.table(&self.name);
        let (operation, open) = (format!("look at table {table}"), self.open);
        let (chains, version, sets) = (base::expected_chains(of), base::version_chain(), of.sets());
        let socket = self.socket()?;
        let (mut request, port) = (socket.messages(), socket.port());
        let first = request.next_seq();
        let mut ask = |verb, object: Option<(u16, &str)>| {
            rules::plain(&mut request, verb, 0, &table, object).map_err(|wrong| KernelError::text(&*operation, wrong))
        };
        ask(Verb::GetTable, None)?;
        ask(Verb::GetChain, Some((3, &version)))?;
        chains.keys().try_for_each(|name| ask(Verb::GetChain, Some((3, name))))?;
        sets.iter().try_for_each(|(name, _)| ask(Verb::GetSet, Some((2, name))))?;
        let mut right = vec![false; 2 + chains.len() + sets.len()];
        let (mut refused, mut absent, mut owner, mut orphan) = (None, false, None, false);
        let exchanged = socket.exchange(&request, |message| {
            let Ok(index) = usize::try_from(message.seq.wrapping_sub(first)) else { return };
            if message.kind == NLMSG_ERROR {
                let verdict = message.verdict();
                absent |= index == 0 && verdict.errno == libc::ENOENT;
                if verdict.errno != 0 && verdict.errno != libc::ENOENT {
                    refused.get_or_insert(verdict);
                }
                return;
            }
            let number = |wanted: u16| {
                message.attributes().find(|(kind, _)| *kind == wanted).and_then(|(_, value)| u32_be(value))
            };
            let chain = index.checked_sub(2).and_then(|at| chains.values().nth(at));
            let set = index.checked_sub(2 + chains.len()).and_then(|at| sets.get(at));
            right[index] = match (chain, set) {
                (Some(chain), _) => {
                    // NFTA_CHAIN_USE, NFTA_CHAIN_HOOK
                    number(6) == Some(chain.uses) && message.attributes().any(|(kind, _)| kind == 4) == chain.hooked
                }
                // NFTA_SET_KEY_LEN
                (None, Some((_, set))) => number(5) == Some(rules::key_bytes(set)),
                (None, None) if index == 0 => {
                    // NFTA_TABLE_OWNER, NFTA_TABLE_FLAGS
                    owner = number(7);
                    orphan = owner.is_none() && number(2).is_some_and(|flags| flags & rules::TABLE_PERSIST != 0);
                    owner.is_some() || orphan || open
                }
                (None, None) => true,
            };
        });
        exchanged.map_err(|error| KernelError::io(&*operation, &error))?;
        if let Some(verdict) = refused {
            return Err(Refusal::Kernel(verdict).into_error(operation));
        }
        if owner.is_some_and(|owner| owner != port) {
            return Err(KernelError {
                text: Some(format!("table {table} belongs to another program that runs")),
                ..KernelError::os(operation, libc::EBUSY)
            }
            .hint("only one netd can have it: end the other one, or start one of them with another RNET_ROOT"));
        }
        Ok(match right.iter().all(|right| *right) {
            _ if absent => Found::Absent,
            true if orphan => Found::Orphan,
            true => Found::Right,
            false => Found::Other,
        })
    }

    /// Elements of one set.
    fn read(&mut self, name: SetName, missing: Missing) -> Result<Vec<Element>, KernelError> {
        let (table, set) = (name.0.table(&self.name), self.set(name).clone());
        match rules::read_elements(self.socket()?, &table, &set) {
            Ok(elements) => Ok(elements),
            Err(refusal) if missing == Missing::Empty && refusal.errno() == libc::ENOENT => Ok(Vec::new()),
            Err(refusal) if refusal.errno() == libc::ENOENT => Err(self.not_there(name)),
            Err(refusal) => Err(refusal.into_error(format!("read set {} of table {table}", name.1))),
        }
    }

    /// The table was removed by somebody else, or what is in it.
    fn not_there(&self, name: SetName) -> KernelError {
        let table = name.0.table(&self.name);
        KernelError {
            text: Some(format!("table {table} was removed or changed")),
            ..KernelError::os(format!("use set {} of table {table}", name.1), libc::ENOENT)
        }
        .hint("netd makes it again: repeat the request")
    }

    /// Elements of all sets, prefixes as facts, and the generation of the ruleset at which both were read.
    pub(super) fn read_all(&mut self, missing: Missing) -> Result<(Elements, FilterState, u32), KernelError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            let exact: Vec<SetName> = self.sets.keys().copied().filter(|name| !is_of_prefixes(name.1)).collect();
            let mut elements = Elements::new();
            for name in exact {
                let entries = self.read(name, missing)?.into_iter().map(entry).collect();
                elements.insert(name, entries);
            }
            let mut state = FilterState::new();
            for family in Family::BOTH {
                let masquerade = self.read_masquerade(family, missing)?;
                state.extend(masquerade.whole().map(|(net, ())| FilterChange::Masquerade(net)));
                let outbound = self.read_outbound(family, missing)?;
                state.extend(outbound.whole().map(|(net, address)| FilterChange::Outbound(net, address)));
            }
            if self.generation()? == before {
                return Ok((elements, state, before));
            }
        }
        Err(Refusal::Unsettled.into_error(format!("read the tables {}", self.name)))
    }

    pub(super) fn read_state(&mut self, missing: Missing) -> Result<FilterState, KernelError> {
        let (elements, mut state, _) = self.read_all(missing)?;
        state.extend(facts::facts(&elements));
        Ok(state)
    }

    pub(super) fn read_masquerade(&mut self, family: Family, missing: Missing) -> Result<Prefixes<()>, KernelError> {
        let names = (inet::MASQUERADE[family.at()], inet::PREFIXES[family.at()]);
        self.read_prefixes(family, names, missing, |_| Some(()))
    }

    pub(super) fn read_outbound(&mut self, family: Family, missing: Missing) -> Result<Prefixes<IpAddr>, KernelError> {
        let names = (inet::OUTBOUND[family.at()], inet::OUTBOUNDS[family.at()]);
        self.read_prefixes(family, names, missing, |element| match &element.data {
            Some(Data::Value(fields)) => intervals::address(fields.first()?),
            _ => None,
        })
    }

    fn read_prefixes<V: Copy + Ord>(
        &mut self,
        family: Family,
        (set, register): (&'static str, &'static str),
        missing: Missing,
        value: impl Fn(&Element) -> Option<V>,
    ) -> Result<Prefixes<V>, KernelError> {
        let present = self.read((Of::Inet, set), missing)?;
        let registered = self.read((Of::Inet, register), missing)?;
        let of_register = |e: &Element| Some((intervals::registered(family, e)?, value(e)?));
        Ok(Prefixes {
            present: present.iter().filter_map(|e| Some((Range::read(e)?, value(e)?))).collect(),
            registered: registered.iter().filter_map(of_register).collect(),
        })
    }

    /// Fails when one of the sets is not there.
    pub(super) fn exists(&mut self) -> Result<(), KernelError> {
        let names: Vec<SetName> = self.sets.keys().copied().collect();
        let socket = self.socket()?;
        let (mut request, mut missing) = (socket.messages(), None);
        let first = request.next_seq();
        let name = self.name.clone();
        for (of, set) in &names {
            rules::plain(&mut request, Verb::GetSet, 0, &of.table(&name), Some((2, set)))
                .map_err(|wrong| KernelError::text(format!("look at table {name}"), wrong))?;
        }
        let exchanged = self.socket()?.exchange(&request, |message| {
            if message.kind == NLMSG_ERROR && message.verdict().errno == libc::ENOENT {
                let index = usize::try_from(message.seq.wrapping_sub(first)).ok();
                missing = missing.or_else(|| names.get(index?).copied());
            }
        });
        exchanged.map_err(|error| KernelError::io(format!("look at table {name}"), &error))?;
        missing.map_or(Ok(()), |name| Err(self.not_there(name)))
    }

    /// Which of these elements are there.
    pub(super) fn there(&mut self, elements: &Elements) -> Result<Elements, KernelError> {
        let mut there = Elements::new();
        for (name, entries) in elements {
            let (table, set) = (name.0.table(&self.name), self.set(*name).clone());
            let operation = || format!("look for elements of set {} of table {table}", name.1);
            let entries: Vec<&Entry> = entries.iter().collect();
            for some in entries.chunks(QUESTIONS) {
                let socket = self.socket()?;
                let mut request = socket.messages();
                let first = request.next_seq();
                for entry in some {
                    let key = [Element::key(entry.key.clone())];
                    rules::elements(&mut request, Verb::GetSetElem, &table, &set, &key)
                        .map_err(|wrong| KernelError::text(operation(), wrong))?;
                }
                let mut found = HashSet::new();
                let exchanged = socket.exchange(&request, |message| {
                    if message.kind != NLMSG_ERROR {
                        found.insert(message.seq.wrapping_sub(first));
                    }
                });
                exchanged.map_err(|error| KernelError::io(operation(), &error))?;
                let known = (0u32..).zip(some).filter(|(at, _)| found.contains(at)).map(|(_, entry)| (*entry).clone());
                there.entry(*name).or_default().extend(known);
            }
        }
        Ok(there)
    }
}

fn is_of_prefixes(set: &str) -> bool {
    [inet::MASQUERADE, inet::PREFIXES, inet::OUTBOUND, inet::OUTBOUNDS].iter().flatten().any(|name| *name == set)
}

fn entry(element: Element) -> Entry {
    let value = match element.data {
        Some(Data::Value(fields)) => Some(fields),
        _ => None,
    };
    Entry { key: element.key, value }
}
