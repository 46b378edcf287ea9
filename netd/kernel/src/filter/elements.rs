//! [`Nft`]: the two tables in the kernel, made, read and changed by netlink.

mod edit;
mod look;

use std::collections::BTreeMap;
use std::net::IpAddr;

use self::edit::{Edit, is_prefix, nets, outbounds, removals, without};
use self::look::{Found, Missing, Prefixes};
use super::base::{self, Of, Ownership};
use super::facts::{self, Elements, SetName};
use super::intervals::{self, Family};
use super::rules::{self, Change, Changes, Set};
use super::socket::{NftSocket, Refusal};
use super::{Filter, FilterChange, FilterState};
use crate::{KernelError, Netns};

/// Transactions that were overtaken by somebody else's change of the ruleset are made again this often.
const TRIES: u32 = 32;
/// The kernel-internal errno of an overtaken transaction (include/linux/errno.h); libc has no name for it.
const ERESTART: i32 = 85;

/// The packet filter of a network namespace: a table of the `inet` family and one of the `bridge` family. Where the
/// kernel knows owners (6.9) they are this socket's: nobody else changes them, a flush of the ruleset leaves them
/// alone, and when this ends the next one adopts them.
#[derive(Debug)]
pub struct Nft {
    ns: Netns,
    name: String,
    sets: BTreeMap<SetName, Set>,
    /// Whether the kernel has refused an owned table.
    open: bool,
    /// The generation up to which nobody but this has changed the tables.
    known: Option<u32>,
    socket: Option<NftSocket>,
}

impl Nft {
    /// The filter of a namespace. Nothing is opened before the first use. `table` is `rnet`, and another name for a
    /// private instance.
    pub fn new(ns: &Netns, table: impl Into<String>) -> Self {
        let named = |of: Of| of.sets().into_iter().map(move |(name, set)| ((of, name), set));
        let sets = Of::BOTH.into_iter().flat_map(named).collect();
        Nft { ns: ns.clone(), name: table.into(), sets, open: false, known: None, socket: None }
    }

    fn socket(&mut self) -> Result<&mut NftSocket, KernelError> {
        if self.socket.is_none() {
            let operation = "open the nf_tables netlink socket";
            let opened = self.ns.run(NftSocket::open)?.map_err(|error| KernelError::io(operation, &error))?;
            self.socket = Some(opened);
        }
        Ok(self.socket.as_mut().expect("opened above"))
    }

    fn set(&self, name: SetName) -> &Set {
        &self.sets[&name]
    }

    /// Generation of the ruleset.
    fn generation(&mut self) -> Result<u32, KernelError> {
        self.socket()?.generation().map_err(|refusal| refusal.into_error("read the generation of the ruleset"))
    }

    /// Sends a transaction as it is. On kernels without owners it is kept in mind whether somebody else was there.
    fn commit(&mut self, changes: &Changes, generation: Option<u32>) -> Result<(), KernelError> {
        rules::transact(self.socket()?, changes.list().iter(), generation)?;
        if let Some(known) = self.known.filter(|_| self.open && !changes.is_empty()) {
            let next = self.generation()?;
            self.known = (next == known.wrapping_add(1)).then_some(next);
        }
        Ok(())
    }

    /// What a change of prefixes takes. Only this is read before it is changed.
    fn prefixes(&mut self, add: &[FilterChange], remove: &[FilterChange], out: &mut Edit) -> Result<(), KernelError> {
        for family in Family::BOTH {
            let (add_nets, remove_nets) = (nets(add, family), nets(remove, family));
            if !add_nets.is_empty() || !remove_nets.is_empty() {
                let there: Prefixes<()> = self.read_masquerade(family, Missing::Refuse)?;
                out.masquerade(family, intervals::plan(&there.registered, &there.present, &add_nets, &remove_nets));
            }
            let (add_nets, remove_nets) = (outbounds(add, family), outbounds(remove, family));
            if !add_nets.is_empty() || !remove_nets.is_empty() {
                let there: Prefixes<IpAddr> = self.read_outbound(family, Missing::Refuse)?;
                out.outbound(family, intervals::plan(&there.registered, &there.present, &add_nets, &remove_nets));
            }
        }
        Ok(())
    }

    /// Makes the transaction of a change and sends it, again when somebody else's change overtook it.
    ///
    /// Nothing is looked up before the first attempt, however much there is. The kernel refuses the removal of an
    /// element that is not there (ENOENT), and with it everything: then it is asked for each of them.
    fn apply(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError> {
        let added = facts::elements(add);
        let gone = removals(facts::elements(remove), &added);
        let ordered = add.iter().chain(remove).any(is_prefix);
        let mut look = false;
        for _ in 0..TRIES {
            let generation = if ordered || look { Some(self.generation()?) } else { None };
            let mut edit = Edit::default();
            self.prefixes(add, remove, &mut edit)?;
            let there = if look { self.there(&gone)? } else { gone.clone() };
            edit.exact(&there, &added);
            if edit.is_empty() {
                return Ok(());
            }
            match self.send(&edit, generation) {
                Err(error) if error.errno == ERESTART => {}
                Err(error) if error.errno == libc::ENOENT && !look => {
                    self.exists()?;
                    look = true;
                }
                done => return done,
            }
        }
        Err(Refusal::Unsettled.into_error(format!("change the tables {}", self.name)))
    }

    /// Sends elements to add and remove.
    fn send(&mut self, edit: &Edit, generation: Option<u32>) -> Result<(), KernelError> {
        let changes = edit.changes(self);
        self.commit(&changes, generation)
    }

    /// (Re)makes both tables in one transaction: rules and elements appear together, so nothing is open between.
    fn install(&mut self, found: [Found; 2], wanted: &FilterState, generation: u32) -> Result<(), KernelError> {
        let mut all = Changes::new();
        for (of, _) in Of::BOTH.iter().zip(found).filter(|(_, found)| *found != Found::Absent) {
            all.destroy_table(&of.table(&self.name));
        }
        let ownership = if self.open { Ownership::Open } else { Ownership::Owned };
        let elements = elements_of(wanted).changes(self);
        for change in base::make(&self.name, ownership).list().iter().chain(elements.list()) {
            all.push(change.clone());
        }
        self.commit(&all, Some(generation))
    }

    /// Makes the tables if they are not right, with what `elements` says they hold. `true` when they were made.
    fn ensure(
        &mut self,
        elements: impl Fn(&mut Self, [Found; 2]) -> Result<FilterState, KernelError>,
    ) -> Result<bool, KernelError> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let found = self.inspect()?;
            if found.iter().all(|found| matches!(found, Found::Right | Found::Orphan)) {
                let mut adopt = Changes::new();
                for (of, _) in Of::BOTH.iter().zip(found).filter(|(_, found)| *found == Found::Orphan) {
                    adopt.push(Change::OwnTable(of.table(&self.name)));
                }
                match self.commit(&adopt, Some(generation)) {
                    Err(error) if error.errno == ERESTART => continue,
                    done => return done.map(|()| false),
                }
            }
            let wanted = elements(self, found)?;
            match self.install(found, &wanted, generation) {
                Err(error) if error.errno == ERESTART => {}
                // A kernel without owners, for which a table without one is right; or it lacks more than that.
                Err(error) if !self.open && matches!(error.errno, libc::EOPNOTSUPP | libc::EINVAL) => self.open = true,
                done => return done.map(|()| true).map_err(explained),
            }
        }
        Err(Refusal::Unsettled.into_error(format!("install the tables {}", self.name)))
    }

    /// Makes elements equal in tables that are right.
    fn settle_elements(&mut self, wanted: &FilterState) -> Result<bool, KernelError> {
        for _ in 0..TRIES {
            let (present, prefixes, generation) = self.read_all(Missing::Refuse)?;
            let mut edit = Edit::default();
            let add: Vec<FilterChange> = wanted.difference(&prefixes).filter(|fact| is_prefix(fact)).cloned().collect();
            let remove: Vec<FilterChange> = prefixes.difference(wanted).cloned().collect();
            self.prefixes(&add, &remove, &mut edit)?;
            let wanted = facts::elements(wanted);
            let missing = without(wanted.clone(), &present);
            edit.exact(&removals(without(present, &wanted), &missing), &missing);
            if edit.is_empty() {
                self.known = Some(generation);
                return Ok(false);
            }
            self.known = Some(generation);
            match self.send(&edit, Some(generation)) {
                Err(error) if error.errno == ERESTART => {}
                done => return done.map(|()| true),
            }
        }
        Err(Refusal::Unsettled.into_error(format!("change the tables {}", self.name)))
    }
}

impl Filter for Nft {
    fn ensure_base(&mut self) -> Result<bool, KernelError> {
        self.ensure(|nft, found| match found {
            [Found::Absent, Found::Absent] => Ok(FilterState::new()),
            _ => nft.read_state(Missing::Empty),
        })
    }

    fn state(&mut self) -> Result<FilterState, KernelError> {
        self.read_state(Missing::Refuse)
    }

    fn settle(&mut self, wanted: &FilterState) -> Result<bool, KernelError> {
        self.known = None;
        if self.ensure(|_, _| Ok(wanted.clone()))? {
            return Ok(true);
        }
        self.settle_elements(wanted)
    }

    fn touched(&mut self) -> Result<bool, KernelError> {
        if self.open {
            let now = self.generation()?;
            return Ok(self.known != Some(now));
        }
        Ok(self.inspect()? != [Found::Right, Found::Right])
    }

    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError> {
        self.apply(add, remove)
    }

    fn remove_base(&mut self) -> Result<(), KernelError> {
        self.known = None;
        for of in Of::BOTH {
            let mut one = Changes::new();
            one.destroy_table(&of.table(&self.name));
            match self.commit(&one, None) {
                Err(error) if error.errno != libc::ENOENT => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// All elements of a state in tables that have none.
fn elements_of(state: &FilterState) -> Edit {
    let facts: Vec<FilterChange> = state.iter().cloned().collect();
    let mut edit = Edit::default();
    edit.exact(&Elements::new(), &facts::elements(state));
    for family in Family::BOTH {
        edit.masquerade(family, intervals::plan(&BTreeMap::new(), &[], &nets(&facts, family), &[]));
        edit.outbound(family, intervals::plan(&BTreeMap::new(), &[], &outbounds(&facts, family), &[]));
    }
    edit
}

/// What a kernel lacks that refuses the tables.
fn explained(error: KernelError) -> KernelError {
    match error.errno {
        libc::EPERM => error.hint("rnet's daemon needs CAP_NET_ADMIN in its network namespace"),
        // The kernel answers an expression, family or chain type it does not have with one of these.
        libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT => {
            error.hint("the kernel needs nf_tables with inet, bridge, nat, masquerade, redirect, ct and fib")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests;
