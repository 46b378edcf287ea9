//! [`NfTables`]: commits changes and reads what is there.

use std::borrow::Cow;

use super::encode::{self, Wrong};
use super::{Base, Change, Changes, Element, Family, Field, Set, Table, decode};
use crate::filter::socket::{NftSocket, Refusal};
use crate::filter::wire::{Messages, NLM_F_DUMP, NLMSG_ERROR, Verb};
use crate::{KernelError, Netns};

/// Transactions that were overtaken by somebody else's change of the ruleset are made again this often.
const TRIES: u32 = 32;
/// The kernel-internal errno of an overtaken transaction (include/linux/errno.h); libc has no name for it.
const ERESTART: i32 = 85;
/// Questions sent at once, so that their answers fit into the receive buffer.
const QUESTIONS: usize = 256;

/// The nf_tables of a network namespace.
#[derive(Debug)]
pub struct NfTables {
    ns: Netns,
    socket: NftSocket,
}

/// A chain as it is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// Name.
    pub name: String,
    /// Hook, when it has one this crate knows.
    pub base: Option<Base>,
    /// Its rules plus the rules and elements that lead to it.
    pub uses: u32,
}

/// A rule as it is in the kernel; what its expressions are is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// Identity in its table.
    pub handle: u64,
    /// Comment.
    pub comment: Option<String>,
}

/// A question whether something is there that is to go away.
#[derive(Debug, Clone)]
struct Question {
    /// Index of the change, and of the element in it.
    change: usize,
    element: usize,
}

impl NfTables {
    /// Opens the namespace's nf_tables.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink or the namespace may not be entered.
    pub fn open(ns: &Netns) -> Result<Self, KernelError> {
        Ok(NfTables { ns: ns.clone(), socket: socket(ns)? })
    }

    /// The generation of the namespace's ruleset: another one after every transaction of anybody.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        self.socket.generation().map_err(|refusal| refusal.into_error("read the generation of nf_tables"))
    }

    /// Makes the changes, all or none. What is to be destroyed and is not there is left out. With `generation` nothing
    /// is changed when the ruleset is of another one.
    ///
    /// # Errors
    /// What the kernel refused, named as the change; errno 85 (ERESTART) when the generation moved; EINVAL for
    /// a change that cannot be said.
    pub fn commit(&mut self, changes: &Changes, generation: Option<u32>) -> Result<(), KernelError> {
        let questions = questions(changes.list());
        for _ in 0..TRIES {
            let (absent, read) = match questions.is_empty() {
                true => (Vec::new(), generation),
                false => {
                    let read = match generation {
                        Some(generation) => generation,
                        None => self.generation()?,
                    };
                    (self.absent(changes.list(), &questions)?, Some(read))
                }
            };
            match self.send(changes.list(), &absent, read) {
                Err(error) if error.errno == ERESTART && generation.is_none() => {}
                done => return done,
            }
        }
        Err(Refusal::Unsettled.into_error("change nf_tables"))
    }

    fn send(&mut self, list: &[Change], absent: &[Question], generation: Option<u32>) -> Result<(), KernelError> {
        let mut left = Vec::with_capacity(list.len());
        for (index, change) in list.iter().enumerate() {
            let gone = absent.iter().filter(|question| question.change == index);
            match change {
                Change::DestroyElements(table, set, elements) => {
                    let gone: std::collections::HashSet<usize> = gone.map(|question| question.element).collect();
                    let there = elements.iter().enumerate().filter(|(at, _)| !gone.contains(at));
                    let there: Vec<Element> = there.map(|(_, element)| element.clone()).collect();
                    left.push(Cow::Owned(Change::DestroyElements(table.clone(), set.clone(), there)));
                }
                _ if gone.count() > 0 => {}
                _ => left.push(Cow::Borrowed(change)),
            }
        }
        transact(&mut self.socket, left.iter().map(AsRef::as_ref), generation)
    }

    /// Which of the things asked for are not there.
    fn absent(&mut self, list: &[Change], questions: &[Question]) -> Result<Vec<Question>, KernelError> {
        let mut absent = Vec::new();
        for some in questions.chunks(QUESTIONS) {
            let mut request = self.socket.messages();
            let first = request.next_seq();
            for question in some {
                let change = &list[question.change];
                ask(&mut request, change, question.element).map_err(|wrong| invalid(change, wrong))?;
            }
            let mut there = vec![false; some.len()];
            let mut refused = None;
            self.socket
                .exchange(&request, |message| {
                    let Some(at) = usize::try_from(message.seq.wrapping_sub(first)).ok().filter(|at| *at < there.len())
                    else {
                        return;
                    };
                    if message.kind == NLMSG_ERROR {
                        let verdict = message.verdict();
                        if verdict.errno != 0 && verdict.errno != libc::ENOENT {
                            refused.get_or_insert((at, verdict));
                        }
                        return;
                    }
                    there[at] = match &list[some[at].change] {
                        // An interval set answers with the interval a key is in.
                        Change::DestroyElements(_, set, elements) => {
                            decode::halves(&message, set).iter().any(|half| half.starts_as(&elements[some[at].element]))
                        }
                        _ => true,
                    };
                })
                .map_err(|error| KernelError::io("look at nf_tables", &error))?;
            if let Some((at, verdict)) = refused {
                return Err(Refusal::Kernel(verdict).into_error(list[some[at].change].to_string()));
            }
            absent.extend(some.iter().zip(&there).filter(|(_, there)| !**there).map(|(question, _)| question.clone()));
        }
        Ok(absent)
    }

    /// All tables of all families, whoever made them.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn tables(&mut self) -> Result<Vec<Table>, KernelError> {
        let dumped = self.socket.dump_with(
            |request| {
                let at = request.about(Verb::GetTable, NLM_F_DUMP, 0, "");
                request.close(at);
            },
            |message, all| all.extend(decode::table(&message)),
        );
        dumped.map_err(|refusal| refusal.into_error("list tables"))
    }

    /// Whether a table is there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn table_exists(&mut self, table: &Table) -> Result<bool, KernelError> {
        let operation = || format!("look at table {table}");
        let mut request = self.socket.messages();
        encode::plain(&mut request, Verb::GetTable, 0, table, None).map_err(|wrong| invalid(&operation(), wrong))?;
        let mut answer = Ok(false);
        self.socket
            .exchange(&request, |message| {
                if message.kind != NLMSG_ERROR {
                    answer = Ok(true);
                } else if !matches!(message.verdict().errno, 0 | libc::ENOENT) {
                    answer = Err(Refusal::Kernel(message.verdict()));
                }
            })
            .map_err(|error| KernelError::io(operation(), &error))?;
        answer.map_err(|refusal| refusal.into_error(operation()))
    }

    /// The chains of a table; none when it is not there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<ChainInfo>, KernelError> {
        let dumped = self.socket.dump_with(
            |request| {
                let at = request.about(Verb::GetChain, NLM_F_DUMP, encode::number(table.family), &table.name);
                request.close(at);
            },
            |message, all| {
                if decode::in_table(&message, &table.name) {
                    all.extend(decode::chain(&message, table.family));
                }
            },
        );
        dumped.map_err(|refusal| refusal.into_error(format!("list chains of table {table}")))
    }

    /// The chains with a hook of all tables of a family, whoever made them, each with its table.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn base_chains(&mut self, family: Family) -> Result<Vec<(Table, ChainInfo)>, KernelError> {
        let dumped = self.socket.dump_with(
            |request| {
                let at = request.about(Verb::GetChain, NLM_F_DUMP, encode::number(family), "");
                request.close(at);
            },
            |message, all| {
                let chain = decode::chain(&message, family).filter(|chain| chain.base.is_some());
                all.extend(decode::table(&message).zip(chain));
            },
        );
        dumped.map_err(|refusal| refusal.into_error(format!("list the base chains of the {family:?} tables")))
    }

    /// The rules of a chain in order, whoever wrote them; none when the chain is not there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn rules(&mut self, table: &Table, chain: &str) -> Result<Vec<RuleInfo>, KernelError> {
        let dumped = self.socket.dump_with(
            |request| {
                let at = request.about(Verb::GetRule, NLM_F_DUMP, encode::number(table.family), &table.name);
                request.string(2, chain);
                request.close(at);
            },
            |message, all| {
                if decode::in_table(&message, &table.name) {
                    all.extend(decode::rule(&message, chain));
                }
            },
        );
        dumped.map_err(|refusal| refusal.into_error(format!("list chain {table} {chain}")))
    }

    /// All elements of a set with data and comments. The set is needed for its types; elements of another shape are
    /// left out.
    ///
    /// # Errors
    /// What the kernel said: ENOENT when the set is not there.
    pub fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, KernelError> {
        let read = read_elements(&mut self.socket, table, set);
        read.map_err(|refusal| refusal.into_error(format!("list set {table} {}", set.name)))
    }

    /// Whether a set has any element, in a time that does not grow with the set.
    ///
    /// # Errors
    /// What the kernel said: ENOENT when the set is not there.
    pub fn any_element(&mut self, table: &Table, set: &str) -> Result<bool, KernelError> {
        let once = socket(&self.ns)?;
        let mut request = once.messages();
        dump_elements(&mut request, table, set);
        let found = once.peek(&request, |message| decode::has_element(&message));
        found.map_err(|refusal| refusal.into_error(format!("list set {table} {set}")))
    }

    /// The element with a key, in a time that does not grow with the set; of a set of intervals the one the key is
    /// in, without its end when the key has a single field.
    ///
    /// # Errors
    /// What the kernel said. An absent table or set is `None`.
    pub fn get_element(&mut self, table: &Table, set: &Set, key: &[Field]) -> Result<Option<Element>, KernelError> {
        let operation = || format!("get element {table} {}", set.name);
        let mut request = self.socket.messages();
        let wanted = [Element::key(key)];
        encode::elements(&mut request, Verb::GetSetElem, table, set, &wanted)
            .map_err(|wrong| invalid(&operation(), wrong))?;
        let mut answer = Ok(None);
        self.socket
            .exchange(&request, |message| {
                if message.kind != NLMSG_ERROR {
                    answer = Ok(decode::halves(&message, set).into_iter().find_map(decode::Half::start));
                } else if !matches!(message.verdict().errno, 0 | libc::ENOENT) {
                    answer = Err(Refusal::Kernel(message.verdict()));
                }
            })
            .map_err(|error| KernelError::io(operation(), &error))?;
        answer.map_err(|refusal| refusal.into_error(operation()))
    }
}

/// Sends changes as one transaction, without asking before what is there: to remove what is not there is refused.
pub(in crate::filter) fn transact<'a>(
    socket: &mut NftSocket,
    list: impl Iterator<Item = &'a Change>,
    generation: Option<u32>,
) -> Result<(), KernelError> {
    let mut batch = socket.messages();
    batch.begin(generation);
    let empty = batch.next_seq();
    let mut starts = Vec::new();
    for change in list {
        starts.push((batch.next_seq(), change));
        encode::change(&mut batch, change).map_err(|wrong| invalid(change, wrong))?;
    }
    if batch.next_seq() == empty {
        return Ok(());
    }
    socket.commit(batch).map_err(|refusal| {
        let operation = match &refusal {
            Refusal::Kernel(verdict) if verdict.errno != ERESTART => {
                starts.iter().rev().find(|(seq, _)| *seq <= verdict.seq).map(|(_, change)| short(change.to_string()))
            }
            _ => None,
        };
        refusal.into_error(operation.unwrap_or_else(|| "change nf_tables".to_owned()))
    })
}

/// Words of an error, of which thousands of elements make none.
fn short(mut text: String) -> String {
    const ENOUGH: usize = 400;
    if let Some((end, _)) = text.char_indices().nth(ENOUGH) {
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

/// All elements of a set, whoever asks.
pub(in crate::filter) fn read_elements(
    socket: &mut NftSocket,
    table: &Table,
    set: &Set,
) -> Result<Vec<Element>, Refusal> {
    let dumped = socket.dump_with(
        |request| dump_elements(request, table, &set.name),
        |message, all| all.extend(decode::halves(&message, set)),
    );
    Ok(decode::whole(dumped?, set))
}

/// Opens a socket in the namespace, without a thread when the caller is in it.
fn socket(ns: &Netns) -> Result<NftSocket, KernelError> {
    let opened = if Netns::current()? == *ns { NftSocket::open() } else { ns.run(NftSocket::open)? };
    opened.map_err(|error| KernelError::io("open the nf_tables netlink socket", &error))
}

fn dump_elements(request: &mut Messages, table: &Table, set: &str) {
    let at = request.about(Verb::GetSetElem, NLM_F_DUMP, encode::number(table.family), &table.name);
    request.string(2, set);
    request.close(at);
}

fn invalid(what: &dyn std::fmt::Display, wrong: Wrong) -> KernelError {
    KernelError { errno: libc::EINVAL, ..KernelError::text(short(what.to_string()), wrong) }
}

/// What has to be asked before: kernels before 6.3 have no request that forgives absence. What an earlier change of
/// the same list makes is there by then.
fn questions(list: &[Change]) -> Vec<Question> {
    let mut questions = Vec::new();
    for (change, what) in list.iter().enumerate() {
        let made = list[..change].iter().any(|earlier| match (earlier, what) {
            (Change::EnsureTable(a), Change::DestroyTable(b)) => a == b,
            (Change::EnsureChain(ta, a), Change::DestroyChain(tb, b)) => ta == tb && a.name == *b,
            (Change::EnsureSet(ta, a), Change::DestroySet(tb, b)) => ta == tb && a.name == *b,
            _ => false,
        });
        match what {
            Change::DestroyElements(.., elements) => {
                questions.extend((0..elements.len()).map(|element| Question { change, element }));
            }
            Change::DestroyTable(_) | Change::DestroyChain(..) | Change::DestroySet(..) | Change::DestroyRule(..)
                if !made =>
            {
                questions.push(Question { change, element: 0 });
            }
            _ => {}
        }
    }
    questions
}

fn ask(request: &mut Messages, change: &Change, element: usize) -> Result<(), Wrong> {
    match change {
        Change::DestroyTable(t) => encode::plain(request, Verb::GetTable, 0, t, None),
        Change::DestroyChain(t, c) => encode::plain(request, Verb::GetChain, 0, t, Some((3, c))),
        Change::DestroySet(t, s) => encode::plain(request, Verb::GetSet, 0, t, Some((2, s))),
        Change::DestroyRule(t, c, handle) => encode::one_rule(request, Verb::GetRule, t, c, *handle),
        Change::DestroyElements(t, s, elements) => {
            encode::elements(request, Verb::GetSetElem, t, s, &elements[element..=element])
        }
        _ => Ok(()),
    }
}
