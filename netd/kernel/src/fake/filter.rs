//! [`Filter`] in memory.

use crate::{Filter, FilterChange, FilterState, KernelError};

/// The table of one namespace.
#[derive(Debug, Clone, Default)]
pub struct FakeFilter {
    state: Option<FilterState>,
    failing: Option<i32>,
    done: Vec<String>,
}

impl FakeFilter {
    /// Without the table.
    pub fn new() -> Self {
        FakeFilter::default()
    }

    /// The next change is refused with `errno`.
    pub fn fail_next(&mut self, errno: i32) {
        self.failing = Some(errno);
    }

    /// What was changed so far: `add ...` and `delete ...` each.
    pub fn done(&self) -> &[String] {
        &self.done
    }

    /// What somebody's `nft flush ruleset` does.
    pub fn flush(&mut self) {
        self.state = None;
    }

    fn there(&mut self, operation: &str) -> Result<&mut FilterState, KernelError> {
        self.state.as_mut().ok_or_else(|| KernelError::os(operation, libc::ENOENT))
    }
}

impl Filter for FakeFilter {
    fn ensure_base(&mut self) -> Result<bool, KernelError> {
        let made = self.state.is_none();
        self.state.get_or_insert_default();
        Ok(made)
    }

    fn state(&mut self) -> Result<FilterState, KernelError> {
        self.there("list the elements of table rnet").cloned()
    }

    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError> {
        const OPERATION: &str = "change table rnet";
        if let Some(errno) = self.failing.take() {
            return Err(KernelError::os(OPERATION, errno));
        }
        let state = self.there(OPERATION)?;
        state.retain(|e| !remove.contains(e));
        state.extend(add.iter().cloned());
        self.done.extend(remove.iter().map(|e| format!("delete {e}")).chain(add.iter().map(|e| format!("add {e}"))));
        Ok(())
    }

    fn remove_base(&mut self) -> Result<(), KernelError> {
        self.state = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::FilterSet;

    #[test]
    fn elements_come_and_go_together() {
        let mut filter = FakeFilter::new();
        let net = FilterChange::Masquerade("10.0.0.0/24".parse().unwrap());
        let dev = FilterChange::Device(FilterSet::Networks, "br0".parse().unwrap());
        assert_eq!(filter.change(std::slice::from_ref(&net), &[]).unwrap_err().errno, libc::ENOENT);
        assert!(filter.ensure_base().unwrap() && !filter.ensure_base().unwrap());
        filter.change(&[net.clone(), dev.clone(), net.clone()], &[]).unwrap();
        filter.fail_next(libc::EBUSY);
        assert_eq!(filter.change(&[], std::slice::from_ref(&dev)).unwrap_err().errno, libc::EBUSY);
        assert_eq!(filter.state().unwrap().len(), 2);
        filter.change(&[], &[dev.clone(), dev]).unwrap();
        assert_eq!(filter.state().unwrap().into_iter().collect::<Vec<_>>(), [net]);
        filter.flush();
        assert!(filter.ensure_base().unwrap());
    }
}
