//! The others, doing the same job in the same run.

pub(crate) mod cni;
pub(crate) mod docker;
pub(crate) mod floor;
pub(crate) mod ip;
pub(crate) mod netavark;

use std::path::PathBuf;

/// The first of `candidates` that exists, or why the peer is left out.
pub(crate) fn installed(candidates: &[&str]) -> anyhow::Result<PathBuf> {
    let found = candidates.iter().map(PathBuf::from).find(|p| p.exists());
    found.ok_or_else(|| anyhow::anyhow!("not installed ({})", candidates.join(", ")))
}
