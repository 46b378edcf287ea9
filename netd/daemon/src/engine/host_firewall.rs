//! Whether the host's own firewall keeps out what comes in from outside: then published ports are closed to the outside
//! too, unless netd.toml says otherwise.
//!
//! What is looked at is the policy of the host's chains at the input hook. A published port is forwarded, so that no rule
//! there would ever see it; an administrator who drops what comes in means these ports as well. Firewalls that filter
//! what is forwarded do so for published ports in their own chains.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rnet_kernel::rules::{Family, Hook, NfTables, Policy};
use rnet_kernel::{Filter as _, FilterChange, KernelError};
use rnet_plan::{Plan, Surfaces as _, apply};
use rnet_plugins_builtin::firewall;

use super::{Engine, view};
use crate::config::PublishedPorts;

/// How often it is tried to change the host's filter before it is left to a later look.
const TRIES: usize = 3;
/// How long a change waits for others: a firewall that is loaded makes hundreds.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// Why addresses are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// Others are published now.
    Changed,
    /// The host's firewall is another one.
    Again,
}

/// For which families the host drops what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HostDrops {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl HostDrops {
    /// Whether it drops IPv4, or IPv6.
    pub(super) fn drops(self, v4: bool) -> bool {
        if v4 { self.v4 } else { self.v6 }
    }

    /// What the packet filter is told.
    pub(super) fn elements(self) -> impl Iterator<Item = FilterChange> {
        let families = [(self.v4, true), (self.v6, false)];
        families.into_iter().filter(|(drops, _)| *drops).map(|(_, v4)| FilterChange::HostDrops(v4))
    }

    /// Reads the chains of everybody but `own`.
    fn read(tables: &mut NfTables, own: &str) -> Result<Self, KernelError> {
        let mut drops = |family| {
            let chains = tables.base_chains(family)?;
            let closes = |base: &rnet_kernel::rules::Base| base.hook == Hook::Input && base.policy == Policy::Drop;
            Ok(chains.iter().any(|(table, c)| table.name != own && c.base.as_ref().is_some_and(closes)))
        };
        let both = drops(Family::Inet)?;
        Ok(HostDrops { v4: both || drops(Family::Ip)?, v6: both || drops(Family::Ip6)? })
    }
}

impl Engine {
    /// Somebody has changed chains of another table.
    pub(super) fn firewall_changed(&mut self) {
        if self.firewall_known {
            self.firewall_at.get_or_insert_with(|| Instant::now() + LOOK_AFTER);
        }
    }

    /// Looks at the host's firewall, and closes or opens published ports to the outside.
    pub(super) fn look_at_host_firewall(&mut self) {
        self.firewall_known = true;
        let now = match self.config.published_ports {
            PublishedPorts::Accept => HostDrops::default(),
            PublishedPorts::Respect => {
                let own = self.tag.table.clone();
                match self.kernel.tables().and_then(|tables| HostDrops::read(tables, &own)) {
                    Ok(now) => now,
                    Err(error) => return tracing::warn!(%error, "cannot look at the host's firewall"),
                }
            }
        };
        if now == self.host_drops {
            return;
        }
        let (old, new): (Vec<_>, Vec<_>) = (self.host_drops.elements().collect(), now.elements().collect());
        self.host_drops = now;
        if !self.recovered {
            return;
        }
        let add: Vec<FilterChange> = new.iter().filter(|e| !old.contains(e)).cloned().collect();
        let remove: Vec<FilterChange> = old.into_iter().filter(|e| !new.contains(e)).collect();
        let changed = self.ensure_filter().and_then(|()| {
            let fail = |e| super::core::kernel("cannot follow the host's firewall", &e);
            self.kernel.filter.change(&add, &remove).map_err(fail)
        });
        if let Err(error) = changed {
            tracing::warn!(error = error.chain(), "published ports do not follow the host's firewall yet");
            self.settle_filter_soon();
        }
        let mut event = view::event("host-firewall", "published ports");
        let said = |drops: bool| if drops { "closed" } else { "open" }.to_owned();
        event.attributes = [("ipv4".to_owned(), said(now.v4)), ("ipv6".to_owned(), said(now.v6))].into();
        self.emit(event);
    }
    /// Lets published containers through a filter of the host that drops what is forwarded, if that is wanted. What may
    /// be forwarded to them beyond published ports our own table decides.
    pub(super) fn admit_ports(&mut self, why: Looked) {
        if self.config.published_ports != PublishedPorts::Accept {
            return;
        }
        let all = self.published.containers.values().flat_map(|c| c.targets.iter());
        let wanted: BTreeSet<IpAddr> = all.map(|(ip, _)| ip).collect();
        if why == Looked::Changed && wanted == self.admitted {
            return;
        }
        let owner = format!("netd {}", self.tag.table);
        let addresses: Vec<IpAddr> = wanted.iter().copied().collect();
        let mut admit = || {
            let mut plan = Plan::default();
            let tables = self.kernel.tables()?;
            match why {
                _ if addresses.is_empty() => firewall::forget(tables, &owner, &mut plan)?,
                Looked::Again if wanted == self.admitted && firewall::admits(tables, &owner, &addresses)? => {}
                _ => firewall::admit(tables, &owner, &addresses, &mut plan)?,
            }
            apply(&plan, &mut self.kernel).map(drop).map_err(|failure| failure.cause)
        };
        // Somebody may change the ruleset between a look and the change.
        let mut done = admit();
        for _ in 1..TRIES {
            if done.is_err() {
                done = admit();
            }
        }
        match done {
            Ok(()) => self.admitted = wanted,
            Err(error) => {
                tracing::warn!(%error, "the host's filter may throw away what is for published ports");
                self.firewall_changed();
            }
        }
    }
}
