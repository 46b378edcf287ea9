//! A [`Store`] that forgets everything, for tests.

use std::collections::BTreeMap;

use crate::{Store, StoreError, Write};

/// Records in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(BTreeMap<String, Vec<u8>>);

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        MemoryStore::default()
    }
}

impl Store for MemoryStore {
    fn list(&mut self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let below = self.0.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(below.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        for write in writes {
            match write {
                Write::Put { key, value } => self.0.insert(key.clone(), value.clone()),
                Write::Delete { key } => self.0.remove(key),
            };
        }
        Ok(())
    }
}
