//! Whether the host's own firewall keeps what comes in from outside: then published ports are closed to the outside too,
//! unless netd.toml says otherwise.

use rnet_kernel::FilterChange;

/// What the host's firewall does with what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HostDrops {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl HostDrops {
    /// Whether it drops a family.
    pub(super) fn drops(self, v4: bool) -> bool {
        if v4 { self.v4 } else { self.v6 }
    }

    /// What the packet filter is told.
    pub(super) fn elements(self) -> impl Iterator<Item = FilterChange> {
        [(self.v4, true), (self.v6, false)]
            .into_iter()
            .filter(|(drops, _)| *drops)
            .map(|(_, v4)| FilterChange::HostDrops(v4))
    }
}

impl super::Engine {
    /// Looks at the host's firewall, when ports are published.
    pub(super) fn look_at_host_firewall(&mut self) {}
}
