//! VLAN ids (IEEE 802.1Q).

use std::fmt;
use std::str::FromStr;

use crate::error::{InvalidInput, string_value};

/// VLAN id, 1..=4094 (0 and 4095 are reserved by IEEE 802.1Q).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// `None` outside 1..=4094.
    pub fn new(id: u16) -> Option<Self> {
        (1..=4094).contains(&id).then_some(VlanId(id))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for VlanId {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        s.parse()
            .ok()
            .filter(|_| s.bytes().all(|b| b.is_ascii_digit()))
            .and_then(VlanId::new)
            .ok_or_else(|| InvalidInput::new("VLAN id", s, "is not a number from 1 to 4094"))
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
string_value!(VlanId, "VLAN id, 1 to 4094");

/// A set of VLAN ids, written `10,20-29`. Kept sorted, without duplicates, never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VlanSet(Vec<VlanId>);

impl VlanSet {
    /// The ids in ascending order.
    pub fn ids(&self) -> &[VlanId] {
        &self.0
    }
}

impl FromStr for VlanSet {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let mut ids = std::collections::BTreeSet::new();
        for part in s.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (VlanId, VlanId) = (first.parse()?, last.parse()?);
            if first > last {
                return Err(InvalidInput::new("VLAN range", part, "ends before it begins"));
            }
            ids.extend((first.get()..=last.get()).map(VlanId));
        }
        Ok(VlanSet(ids.into_iter().collect()))
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().map(|v| v.get()).peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|v| *v == last + 1) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}
string_value!(VlanSet, "VLAN ids and ranges, 10,20-29");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_sets() {
        for bad in ["0", "4095", "-1", "+5", "", "x", "70000"] {
            assert!(bad.parse::<VlanId>().is_err(), "{bad}");
        }
        assert_eq!("30,10-12,11".parse::<VlanSet>().map(|s| s.to_string()), Ok("10-12,30".into()));
        assert!("12-10".parse::<VlanSet>().is_err());
        assert!("".parse::<VlanSet>().is_err());
    }
}
