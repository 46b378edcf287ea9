//! [`Filter`] in memory.

use std::net::IpAddr;

use rnet_model::Protocol;

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

    fn settle(&mut self, wanted: &FilterState) -> Result<bool, KernelError> {
        if let Some(errno) = self.failing.take() {
            return Err(KernelError::os("change the tables rnet", errno));
        }
        let present = self.state.replace(wanted.clone());
        let made = present.is_none();
        let present = present.unwrap_or_default();
        self.done.extend(present.difference(wanted).map(|e| format!("delete {e}")));
        self.done.extend(wanted.difference(&present).map(|e| format!("add {e}")));
        Ok(made || present != *wanted)
    }

    fn touched(&mut self) -> Result<bool, KernelError> {
        Ok(true)
    }

    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError> {
        const OPERATION: &str = "change the tables rnet";
        if let Some(errno) = self.failing.take() {
            return Err(KernelError::os(OPERATION, errno));
        }
        let state = self.there(OPERATION)?;
        let same = |a: &FilterChange, b: &FilterChange| a == b || key(a).is_some_and(|one| Some(one) == key(b));
        let stays = |e: &FilterChange| add.contains(e) || !remove.iter().any(|r| same(r, e));
        if add.iter().any(|a| state.iter().any(|e| e != a && stays(e) && same(a, e))) {
            return Err(KernelError::os(OPERATION, libc::EBUSY));
        }
        state.retain(|e| !remove.iter().any(|r| same(r, e)));
        state.extend(add.iter().cloned());
        self.done.extend(remove.iter().map(|e| format!("delete {e}")).chain(add.iter().map(|e| format!("add {e}"))));
        Ok(())
    }

    fn remove_base(&mut self) -> Result<(), KernelError> {
        self.state = None;
        Ok(())
    }
}

/// What there is one of, whatever it leads to.
fn key(fact: &FilterChange) -> Option<(bool, Protocol, IpAddr, u16)> {
    match fact {
        FilterChange::Published(it) => Some((true, it.protocol, it.host, it.port)),
        FilterChange::Redirected(it) => Some((false, it.protocol, it.host, it.port)),
        _ => None,
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

    #[test]
    fn a_port_leads_to_one_target() {
        let mut filter = FakeFilter::new();
        let to = |target: &str| {
            let (host, target) = (IpAddr::from([0; 4]), target.parse().unwrap());
            FilterChange::Published(crate::Published { protocol: Protocol::Tcp, host, port: 80, target })
        };
        let (one, other) = (to("10.0.0.2:80"), to("10.0.0.3:80"));
        assert!(filter.settle(&[one.clone()].into()).unwrap() && !filter.settle(&[one.clone()].into()).unwrap());
        assert_eq!(filter.change(std::slice::from_ref(&other), &[]).unwrap_err().errno, libc::EBUSY);
        filter.change(std::slice::from_ref(&other), std::slice::from_ref(&one)).unwrap();
        assert_eq!(filter.state().unwrap(), [other].into());
        filter.change(&[], &[one]).unwrap();
        assert!(filter.state().unwrap().is_empty());
    }
}
