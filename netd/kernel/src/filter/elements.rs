//! [`Nft`]: the elements of the table, read and changed by netlink.

use std::collections::BTreeSet;

use rnet_model::{IfName, Subnet};

use super::base::{self, NftProgram};
use super::intervals::{self, Family, Range};
use super::socket::{NftSocket, Refusal};
use super::wire::{Edge, Element, Key, NLMSG_ERROR, Object, Verb, u32_be};
use super::{Filter, FilterChange, FilterSet, FilterState};
use crate::{KernelError, Netns};

/// Transactions that were overtaken by somebody else's change of the ruleset are made again this often.
const TRIES: u32 = 32;
/// The kernel-internal errno of an overtaken transaction (include/linux/errno.h); libc has no name for it.
const ERESTART: i32 = 85;

/// The packet filter of a network namespace, in a table of the `inet` family.
#[derive(Debug)]
pub struct Nft {
    ns: Netns,
    table: String,
    program: NftProgram,
    socket: Option<NftSocket>,
}

/// What the table in the kernel is.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Absent,
    Right,
    Other,
}

impl Nft {
    /// The filter of a namespace. Nothing is opened before the first use. `table` is `rnet`, and another name for a
    /// private instance.
    pub fn new(ns: &Netns, table: impl Into<String>) -> Self {
        Nft { ns: ns.clone(), table: table.into(), program: NftProgram::usual(std::env::var_os("PATH")), socket: None }
    }

    fn socket(&mut self) -> Result<&mut NftSocket, KernelError> {
        if self.socket.is_none() {
            let operation = "open the nf_tables netlink socket";
            let opened = self.ns.run(NftSocket::open)?.map_err(|error| KernelError::io(operation, &error))?;
            self.socket = Some(opened);
        }
        Ok(self.socket.as_mut().expect("opened above"))
    }

    /// Looks at the table without reading rules or elements: its version, the use counts of its chains, its sets.
    fn inspect(&mut self) -> Result<Found, KernelError> {
        let operation = format!("look at table inet {}", self.table);
        let (chains, sets, version) = (base::expected_chains(), base::expected_sets(), base::version_chain());
        let table = self.table.clone();
        let socket = self.socket()?;
        let mut request = socket.messages();
        let first = request.next_seq();
        request.object(Verb::GetTable, &table, Object::Table);
        request.object(Verb::GetChain, &table, Object::Chain(&version));
        chains.keys().for_each(|name| request.object(Verb::GetChain, &table, Object::Chain(name)));
        sets.iter().for_each(|(name, _)| request.object(Verb::GetSet, &table, Object::Set(name)));
        let asked = 2 + chains.len() + sets.len();
        let mut right = vec![false; asked];
        let mut refused = None;
        let mut absent = false;
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
                (None, Some((_, key_len))) => number(5) == Some(*key_len),
                (None, None) => true,
            };
        });
        exchanged.map_err(|error| KernelError::io(&*operation, &error))?;
        match refused {
            Some(verdict) => Err(Refusal::Kernel(verdict).into_error(operation)),
            None if absent => Ok(Found::Absent),
            None if right.iter().all(|right| *right) => Ok(Found::Right),
            None => Ok(Found::Other),
        }
    }

    /// Elements of one set. In a table of another version a set may be missing: that is empty.
    fn read(&mut self, set: &str, missing: Missing) -> Result<Vec<Element>, KernelError> {
        let table = self.table.clone();
        match self.socket()?.dump(&table, set) {
            Ok(elements) => Ok(elements),
            Err(refusal) if missing == Missing::Empty && refusal.errno() == libc::ENOENT => Ok(Vec::new()),
            Err(refusal) if refusal.errno() == libc::ENOENT => Err(self.not_there(set)),
            Err(refusal) => Err(refusal.into_error(format!("read set {set} of table inet {table}"))),
        }
    }

    /// The table was removed by somebody else, or what is in it. Only `nft` makes it again.
    fn not_there(&self, set: &str) -> KernelError {
        let table = &self.table;
        let operation = format!("read set {set} of table inet {table}");
        match self.program.find() {
            Ok(_) => KernelError {
                text: Some(format!("table inet {table} was removed or changed")),
                ..KernelError::os(operation, libc::ENOENT)
            }
            .hint("netd makes it again: repeat the request"),
            Err(text) => KernelError {
                text: Some(format!("table inet {table} was removed or changed, and {text}")),
                ..KernelError::os(operation, libc::EOPNOTSUPP)
            }
            .hint("install nftables (the nft program, 1.0 or newer): netd makes the table again with it"),
        }
    }

    /// Generation of the ruleset.
    fn generation(&mut self) -> Result<u32, KernelError> {
        self.socket()?.generation().map_err(|refusal| refusal.into_error("read the generation of the ruleset"))
    }

    /// All elements, read at one generation of the ruleset.
    fn read_state(&mut self, missing: Missing) -> Result<FilterState, KernelError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            let mut state = FilterState::new();
            self.read_devices(missing, &mut state)?;
            for family in [Family::V4, Family::V6] {
                let (registered, present) = self.read_prefixes(family, missing)?;
                let covered = |net: &Subnet| present.iter().any(|range| range.covers(&Range::of(net)));
                state.extend(registered.into_iter().filter(covered).map(FilterChange::Masquerade));
            }
            if self.generation()? == before {
                return Ok(state);
            }
        }
        Err(Refusal::Unsettled.into_error(format!("read table inet {}", self.table)))
    }

    /// A bridge is in `networks` only when its pair is in `within` too: half of it is as good as nothing, and reported
    /// so, it is put right by whoever wants it there.
    fn read_devices(&mut self, missing: Missing, state: &mut FilterState) -> Result<(), KernelError> {
        let within: BTreeSet<Key> = self.read(base::WITHIN, missing)?.into_iter().map(|element| element.key).collect();
        for set in [FilterSet::Networks, FilterSet::Isolated, FilterSet::Internal] {
            let elements = self.read(set.name(), missing)?;
            let whole = |name: &IfName| set != FilterSet::Networks || within.contains(&pair_key(name));
            state.extend(elements.iter().filter_map(device).filter(whole).map(|name| FilterChange::Device(set, name)));
        }
        Ok(())
    }

    /// The register of a family, and the intervals the rules see. A table from before there was a register is taken
    /// at its intervals.
    fn read_prefixes(
        &mut self,
        family: Family,
        missing: Missing,
    ) -> Result<(BTreeSet<Subnet>, Vec<Range>), KernelError> {
        let (set, register) = prefix_sets(family);
        let present = intervals::ranges(family, &self.read(set.name(), missing)?);
        let elements = self.read(register, missing)?;
        let mut registered: BTreeSet<Subnet> =
            elements.iter().filter_map(|element| intervals::registered(family, element)).collect();
        if missing == Missing::Empty && registered.is_empty() {
            registered = present.iter().filter_map(|range| intervals::prefix_of(family, *range)).collect();
        }
        Ok((registered, present))
    }

    /// Makes the transaction of a change and sends it, again when somebody else's change overtook it.
    fn apply(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let table = self.table.clone();
            let mut changes = self.devices(add, remove)?;
            changes.extend(self.prefixes(add, remove)?);
            changes.retain(|(_, _, elements)| !elements.is_empty());
            if changes.is_empty() {
                return Ok(());
            }
            let mut batch = self.socket()?.messages();
            batch.begin(Some(generation));
            for (verb, set, elements) in &changes {
                batch.elements(*verb, &table, set, elements);
            }
            match self.socket()?.commit(batch) {
                Ok(()) => return Ok(()),
                Err(refusal) if refusal.errno() == ERESTART => {}
                Err(refusal) => return Err(refusal.into_error(format!("change table inet {table}"))),
            }
        }
        Err(Refusal::Unsettled.into_error(format!("change table inet {}", self.table)))
    }

    /// Elements of the device sets. Adding one that is there is nothing to the kernel, removing one that is not is
    /// ENOENT: what is to be removed is looked up first.
    fn devices(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<Vec<Change>, KernelError> {
        let mut changes = Vec::new();
        for set in [FilterSet::Networks, FilterSet::Isolated, FilterSet::Internal] {
            let of_set = |change: &FilterChange| match change {
                FilterChange::Device(of, name) if *of == set => Some(name.clone()),
                _ => None,
            };
            let added: Vec<IfName> = add.iter().filter_map(of_set).collect();
            let removed: Vec<IfName> = remove.iter().filter_map(of_set).filter(|n| !added.contains(n)).collect();
            let mut sides: Vec<(&'static str, KeyOf)> = vec![(set.name(), name_key)];
            if set == FilterSet::Networks {
                sides.push((base::WITHIN, pair_key));
            }
            for (name, key) in sides {
                changes.push((Verb::NewSetElem, name, single(added.iter().map(key))));
                if removed.is_empty() {
                    continue;
                }
                let present: BTreeSet<Key> = self.read(name, Missing::Refuse)?.into_iter().map(|e| e.key).collect();
                let gone: BTreeSet<Key> = removed.iter().map(key).filter(|key| present.contains(key)).collect();
                changes.push((Verb::DelSetElem, name, single(gone.into_iter())));
            }
        }
        Ok(changes)
    }

    fn prefixes(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<Vec<Change>, KernelError> {
        let mut changes = Vec::new();
        for family in [Family::V4, Family::V6] {
            let of_family = |change: &FilterChange| match change {
                FilterChange::Masquerade(net) if Family::of(net) == family => Some(*net),
                _ => None,
            };
            let add: Vec<Subnet> = add.iter().filter_map(of_family).collect();
            let remove: Vec<Subnet> = remove.iter().filter_map(of_family).collect();
            if add.is_empty() && remove.is_empty() {
                continue;
            }
            let (registered, present) = self.read_prefixes(family, Missing::Refuse)?;
            let plan = intervals::plan(&registered, &present, &add, &remove);
            let (set, register) = prefix_sets(family);
            let (set, keys) =
                (set.name(), |nets: &[Subnet]| nets.iter().map(intervals::register_key).collect::<Vec<_>>());
            let edges = |ranges: &[Range]| ranges.iter().flat_map(|r| r.elements(family)).collect::<Vec<_>>();
            // What goes, goes first: an interval that grows may not meet its former self.
            changes.push((Verb::DelSetElem, register, keys(&plan.unregister)));
            changes.push((Verb::DelSetElem, set, edges(&plan.close)));
            changes.push((Verb::NewSetElem, register, keys(&plan.register)));
            changes.push((Verb::NewSetElem, set, edges(&plan.open)));
        }
        Ok(changes)
    }
}

impl Filter for Nft {
    fn ensure_base(&mut self) -> Result<bool, KernelError> {
        let carried = match self.inspect()? {
            Found::Right => return Ok(false),
            Found::Absent => FilterState::new(),
            Found::Other => self.read_state(Missing::Empty)?,
        };
        base::install(&self.ns, &self.table, &self.program, &carried)?;
        Ok(true)
    }

    fn state(&mut self) -> Result<FilterState, KernelError> {
        self.read_state(Missing::Refuse)
    }

    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError> {
        self.apply(add, remove)
    }

    fn remove_base(&mut self) -> Result<(), KernelError> {
        let table = self.table.clone();
        let socket = self.socket()?;
        let mut batch = socket.messages();
        batch.begin(None);
        batch.object(Verb::DelTable, &table, Object::Table);
        match socket.commit(batch) {
            Err(refusal) if refusal.errno() != libc::ENOENT => {
                Err(refusal.into_error(format!("delete table inet {table}")))
            }
            _ => Ok(()),
        }
    }
}

/// How a device becomes a key of a set.
type KeyOf = fn(&IfName) -> Key;

/// Elements to add to or remove from a set.
type Change = (Verb, &'static str, Vec<Element>);

/// What a missing set means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// The table is not what it should be.
    Refuse,
    /// A table of another version never had it.
    Empty,
}

/// The set the rules use and the register of a family.
fn prefix_sets(family: Family) -> (FilterSet, &'static str) {
    match family {
        Family::V4 => (FilterSet::Masquerade4, base::PREFIXES4),
        Family::V6 => (FilterSet::Masquerade6, base::PREFIXES6),
    }
}

/// An interface name as a key: padded with zeros to IFNAMSIZ.
fn name_key(name: &IfName) -> Key {
    Key::new(&[&padded(name)])
}

fn pair_key(name: &IfName) -> Key {
    let padded = padded(name);
    Key::new(&[&padded, &padded])
}

fn padded(name: &IfName) -> [u8; libc::IFNAMSIZ] {
    let mut padded = [0; libc::IFNAMSIZ];
    let bytes = name.as_str().as_bytes();
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

/// The device of an element of a device set; names that are no names of devices (`br*`) are not rnet's.
fn device(element: &Element) -> Option<IfName> {
    let bytes = element.key.bytes();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()
}

fn single(keys: impl Iterator<Item = Key>) -> Vec<Element> {
    keys.map(|key| Element { key, edge: Edge::Start }).collect()
}

#[cfg(test)]
mod tests;
