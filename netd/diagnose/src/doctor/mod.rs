//! `rnet doctor`: facts are collected once, checks are functions of them.

mod checks;
mod collect;
mod facts;
mod kernel;

use rnet_api::{ApiError, DoctorReport, Finding, Root, Severity};
use rnet_kernel::Netns;

pub use collect::{Ask, collect};
pub use facts::*;

/// A check: from the facts to what is wrong.
type Check = fn(&Facts) -> Vec<Finding>;

/// All checks by name.
const CHECKS: &[(&str, Check)] = &[
    ("netd", checks::daemon::state),
    ("files", checks::daemon::files),
    ("kernel", checks::kernel::features),
    ("programs", checks::kernel::programs),
    ("forwarding", checks::sysctls::forwarding),
    ("bridge-nf", checks::sysctls::bridge_nf),
    ("route-localnet", checks::sysctls::route_localnet),
    ("rp-filter", checks::sysctls::rp_filter),
    ("accept-ra", checks::sysctls::accept_ra),
    ("conntrack", checks::sysctls::conntrack),
    ("neighbours", checks::sysctls::neighbours),
    ("limits", checks::sysctls::limits),
    ("firewall", checks::firewall::chains),
    ("firewall-managers", checks::firewall::managers),
    ("iptables-legacy", checks::firewall::legacy),
    ("mtu", checks::network::mtu),
    ("overlap", checks::network::overlap),
    ("ports", checks::network::ports),
    ("managers", checks::network::managers),
];

/// Makes all checks.
pub fn examine(facts: &Facts) -> DoctorReport {
    let mut findings: Vec<Finding> = CHECKS
        .iter()
        .flat_map(|(name, check)| {
            check(facts).into_iter().map(move |finding| Finding { check: (*name).to_owned(), ..finding })
        })
        .collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    DoctorReport {
        findings,
        checks: CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        skipped: facts.skipped.clone(),
    }
}

/// Looks at the host of the calling thread and makes all checks.
///
/// # Errors
/// When /proc is not there.
pub fn here(root: &Root, daemon: Daemon) -> Result<DoctorReport, ApiError> {
    let host = Netns::current()
        .map_err(|e| ApiError::new(e.kind(), "cannot open the network namespace of this host").because(&e))?;
    Ok(examine(&collect(&Ask { host, root: root.clone(), daemon })))
}

/// A finding; its check is filled in by [`examine`].
fn finding(severity: Severity, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check: String::new(), severity, text: text.into(), fix: fix.into() }
}
