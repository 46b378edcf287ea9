//! Capabilities: Docker's default set without NET_RAW, and what `--cap-add` and `--cap-drop` make of it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use rnet_model::InvalidInput;
use serde::{Deserialize, Serialize};

/// All capabilities of Linux 6.x in the order of linux/capability.h, without `CAP_`.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets when nothing is asked for. NET_RAW is left out: it allows forged packets on the segment, and
/// ping works without it through `net.ipv4.ping_group_range`.
const DEFAULT: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// One capability, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CapName {
    /// `ALL`.
    All,
    /// By its name in linux/capability.h without `CAP_`.
    One(&'static str),
}

impl FromStr for CapName {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let upper = s.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(CapName::All);
        }
        let found = ALL.into_iter().find(|c| *c == name).map(CapName::One);
        found.ok_or_else(|| {
            InvalidInput::new("capability", s, "is not one")
                .hint("write NET_ADMIN, CAP_NET_ADMIN or ALL; see capabilities(7)")
        })
    }
}

// By hand: derived, the reference in it would have to be borrowed from the input.
impl<'de> Deserialize<'de> for CapName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for CapName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for CapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CapName::All => "ALL",
            CapName::One(name) => name,
        })
    }
}

/// What a container gets: as Docker does it, `--cap-add ALL` starts from everything, `--cap-drop ALL` from nothing, and
/// single names are taken away from or put onto that; adding wins over `--cap-drop ALL`.
pub fn effective_caps(add: &[CapName], drop: &[CapName]) -> BTreeSet<&'static str> {
    let base: &[&'static str] = match (add.contains(&CapName::All), drop.contains(&CapName::All)) {
        (true, _) => &ALL,
        (false, true) => &[],
        (false, false) => &DEFAULT,
    };
    let mut set: BTreeSet<&'static str> = base.iter().copied().collect();
    set.extend(add.iter().filter_map(single));
    drop.iter().filter_map(single).for_each(|cap| {
        set.remove(cap);
    });
    set
}

/// Which of `wanted` a process cannot give, by its /proc/PID/status (proc_pid_status(5)): those that are not both in its
/// permitted and in its bounding set. A status without these lines forbids nothing.
pub fn not_to_be_given(wanted: &BTreeSet<&'static str>, status: &str) -> Vec<&'static str> {
    let set = |field: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
    };
    let held = set("CapPrm:") & set("CapBnd:");
    let lacks = |(bit, name): (usize, &'static str)| (held >> bit & 1 == 0 && wanted.contains(name)).then_some(name);
    ALL.into_iter().enumerate().filter_map(lacks).collect()
}

fn single(cap: &CapName) -> Option<&'static str> {
    match cap {
        CapName::All => None,
        CapName::One(name) => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let parse = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect::<Vec<CapName>>();
        effective_caps(&parse(add), &parse(drop)).into_iter().collect()
    }

    #[test]
    fn sets() {
        assert!(!caps(&[], &[]).contains(&"NET_RAW"));
        assert_eq!(caps(&[], &[]).len(), DEFAULT.len());
        assert!(caps(&["net_raw"], &[]).contains(&"NET_RAW"));
        assert!(!caps(&[], &["CAP_CHOWN"]).contains(&"CHOWN"));
        assert_eq!(caps(&["NET_ADMIN"], &["ALL"]), ["NET_ADMIN"]);
        assert_eq!(caps(&["ALL"], &[]).len(), ALL.len());
        assert!(!caps(&["ALL"], &["SYS_ADMIN"]).contains(&"SYS_ADMIN"));
        assert!(caps(&[], &["ALL"]).is_empty());
    }

    #[test]
    fn what_the_own_sets_lack() {
        let status = "Name:\tx\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffbf\n";
        let wanted = |names: &[&'static str]| names.iter().copied().collect();
        assert_eq!(not_to_be_given(&ALL.into_iter().collect(), status), ["SETGID", "SYS_RESOURCE"]);
        assert_eq!(not_to_be_given(&wanted(&["CHOWN", "SYS_RESOURCE"]), status), ["SYS_RESOURCE"]);
        assert!(not_to_be_given(&wanted(&["CHOWN", "CHECKPOINT_RESTORE"]), status).is_empty());
        assert!(not_to_be_given(&wanted(&["CHOWN"]), "").is_empty());
    }

    #[test]
    fn names() {
        assert_eq!("cap_sys_admin".parse(), Ok(CapName::One("SYS_ADMIN")));
        assert!("SYS_NOPE".parse::<CapName>().is_err());
        assert!("".parse::<CapName>().is_err());
    }
}
