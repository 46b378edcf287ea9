//! A list of changes that is committed as a whole.

use super::{Chain, Element, Rule, Set, Table};

/// Where a rule is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// At the end of its chain.
    Last,
    /// At the head of its chain.
    First,
    /// Before the rule with this handle.
    Before(u64),
    /// After the rule with this handle.
    After(u64),
}

/// One change. `Ensure*` are successes when the object is there already; `Destroy*` when it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A table is there.
    EnsureTable(Table),
    /// A table is there and belongs to this socket (`flags owner, persist`, kernel 6.9): nobody else changes it, and
    /// it outlives the socket. One that has no owner any more is adopted. An older kernel refuses it (EOPNOTSUPP,
    /// EINVAL), as any kernel does for a table without these flags.
    OwnTable(Table),
    /// A table is gone with all in it.
    DestroyTable(Table),
    /// A chain is there; one of other hook or priority is refused (EEXIST, EBUSY).
    EnsureChain(Table, Chain),
    /// A chain is empty; it must be there.
    FlushChain(Table, String),
    /// A chain is gone with its rules; refused (EBUSY) while rules or elements lead to it.
    DestroyChain(Table, String),
    /// A set is there; one of other type is refused (EEXIST).
    EnsureSet(Table, Set),
    /// A set is empty; it must be there.
    FlushSet(Table, String),
    /// A set is gone; refused (EBUSY) while rules use it.
    DestroySet(Table, String),
    /// A rule is added.
    AddRule(Table, Rule, Place),
    /// The rule with this handle is gone from the chain.
    DestroyRule(Table, String, u64),
    /// Elements are there; one with the same key and other data is refused (EEXIST).
    EnsureElements(Table, Set, Vec<Element>),
    /// Elements with these keys are gone.
    DestroyElements(Table, Set, Vec<Element>),
}

/// Changes in the order in which they are made, all or none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    list: Vec<Change>,
}

impl Changes {
    /// No change.
    pub fn new() -> Self {
        Changes::default()
    }

    /// The changes in order.
    pub fn list(&self) -> &[Change] {
        &self.list
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a change at the end.
    pub fn push(&mut self, change: Change) -> &mut Self {
        self.list.push(change);
        self
    }

    /// [`Change::EnsureTable`].
    pub fn ensure_table(&mut self, table: &Table) -> &mut Self {
        self.push(Change::EnsureTable(table.clone()))
    }

    /// [`Change::DestroyTable`].
    pub fn destroy_table(&mut self, table: &Table) -> &mut Self {
        self.push(Change::DestroyTable(table.clone()))
    }

    /// [`Change::EnsureChain`].
    pub fn ensure_chain(&mut self, table: &Table, chain: Chain) -> &mut Self {
        self.push(Change::EnsureChain(table.clone(), chain))
    }

    /// [`Change::FlushChain`].
    pub fn flush_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.push(Change::FlushChain(table.clone(), chain.to_owned()))
    }

    /// [`Change::DestroyChain`].
    pub fn destroy_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.push(Change::DestroyChain(table.clone(), chain.to_owned()))
    }

    /// [`Change::EnsureSet`].
    pub fn ensure_set(&mut self, table: &Table, set: Set) -> &mut Self {
        self.push(Change::EnsureSet(table.clone(), set))
    }

    /// [`Change::FlushSet`].
    pub fn flush_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.push(Change::FlushSet(table.clone(), set.to_owned()))
    }

    /// [`Change::DestroySet`].
    pub fn destroy_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.push(Change::DestroySet(table.clone(), set.to_owned()))
    }

    /// [`Change::AddRule`].
    pub fn add_rule(&mut self, table: &Table, rule: Rule, place: Place) -> &mut Self {
        self.push(Change::AddRule(table.clone(), rule, place))
    }

    /// [`Change::DestroyRule`].
    pub fn destroy_rule(&mut self, table: &Table, chain: &str, handle: u64) -> &mut Self {
        self.push(Change::DestroyRule(table.clone(), chain.to_owned(), handle))
    }

    /// [`Change::EnsureElements`]. The set is needed for its types.
    pub fn ensure_elements(&mut self, table: &Table, set: &Set, elements: Vec<Element>) -> &mut Self {
        self.push(Change::EnsureElements(table.clone(), set.clone(), elements))
    }

    /// [`Change::DestroyElements`]. The set is needed for its types; data and comments do not count.
    pub fn destroy_elements(&mut self, table: &Table, set: &Set, elements: Vec<Element>) -> &mut Self {
        self.push(Change::DestroyElements(table.clone(), set.clone(), elements))
    }
}
