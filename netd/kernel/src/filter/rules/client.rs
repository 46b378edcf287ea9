//! [`NfTables`]: commits changes and reads what is there.

use super::{Base, Changes, Element, Field, Set, Table};
use crate::{KernelError, Netns};

/// The nf_tables of a network namespace.
#[derive(Debug)]
pub struct NfTables {
    ns: Netns,
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

#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
impl NfTables {
    pub fn open(ns: &Netns) -> Result<Self, KernelError> {
        Ok(NfTables { ns: ns.clone() })
    }
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn commit(&mut self, changes: &Changes, generation: Option<u32>) -> Result<(), KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn table_exists(&mut self, table: &Table) -> Result<bool, KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn chains(&mut self, table: &Table) -> Result<Vec<ChainInfo>, KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn rules(&mut self, table: &Table, chain: &str) -> Result<Vec<RuleInfo>, KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn any_element(&mut self, table: &Table, set: &str) -> Result<bool, KernelError> {
        Err(KernelError::os("stub", 95))
    }
    pub fn get_element(&mut self, table: &Table, set: &Set, key: &[Field]) -> Result<Option<Element>, KernelError> {
        Err(KernelError::os("stub", 95))
    }
}
