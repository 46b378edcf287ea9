//! Versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A released version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: one plugin, results with `ip4` and `ip6`.
    V0_1_0,
    /// 0.2.0: the command VERSION.
    V0_2_0,
    /// 0.3.0: lists of plugins, results as arrays.
    V0_3_0,
    /// 0.3.1: `prevResult` on the wire as it is today.
    V0_3_1,
    /// 0.4.0: the command CHECK, `prevResult` for DEL.
    V0_4_0,
    /// 1.0.0: no `version` in the addresses of a result.
    V1_0_0,
    /// 1.1.0: the commands GC and STATUS, more fields of routes and interfaces.
    V1_1_0,
}

impl Version {
    /// The newest.
    pub const NEWEST: Version = Version::V1_1_0;
    /// Every version, oldest first.
    pub const ALL: [Version; 7] = [
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// As written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Error;

    /// An empty version is 0.1.0, as in a configuration that has none.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Version::V0_1_0);
        }
        Version::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            Error::new(Error::INCOMPATIBLE_VERSION, format!("cniVersion {text:?} is not supported"))
                .details(format!("supported: {}", Version::ALL.map(Version::as_str).join(", ")))
        })
    }
}
