//! What the daemon may do beyond an ordinary process: as little as its work needs (capabilities(7)).

use rnet_api::ApiError;
use rnet_model::Kind;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

/// What netd keeps. contrib/netd.service bounds it to the same, and a test compares the two.
///
/// Links, addresses, rules and sysctls (`NET_ADMIN`), ARP, ND and captured frames (`NET_RAW`), ports below 1024 of the
/// host that are published (`NET_BIND_SERVICE`), namespaces and their bind mounts (`SYS_ADMIN`), the namespaces of
/// other users' processes (`SYS_PTRACE`), its socket's group and files that belong to others (`CHOWN`, `DAC_OVERRIDE`,
/// `FOWNER`).
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER);

/// Gives up everything else, for this process and whatever it starts. Before there are other threads: each has sets of
/// its own.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn drop_others() -> Result<(), ApiError> {
    let fail = |e: Errno| ApiError::new(Kind::Denied, "cannot give up capabilities").because(&e);
    let mut held = capabilities(None).map_err(fail)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in (CapabilitySet::all() - KEPT).iter() {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(fail(error)),
            }
        }
    }
    held = CapabilitySets {
        effective: held.effective & KEPT,
        permitted: held.permitted & KEPT,
        inheritable: held.inheritable & KEPT,
    };
    set_capabilities(None, held).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_bounds_it_to_the_same() {
        let unit = include_str!("../../../contrib/netd.service");
        let line = unit.lines().find_map(|l| l.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
        let mut there: Vec<&str> = line.split(' ').collect();
        let mut kept: Vec<String> = KEPT.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
        there.sort_unstable();
        kept.sort();
        assert_eq!(there, kept);
    }
}
