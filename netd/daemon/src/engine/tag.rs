//! How this instance marks what it makes, so that two instances in one namespace keep out of each other's way.

use rnet_api::Root;
use rnet_kernel::LinkState;
use rnet_model::{EndpointId, IfName};

/// The marks of one instance.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    prefix: String,
    /// nf_tables table.
    pub(super) table: String,
    /// Device group of links that wait for their deletion.
    pub(super) group: u32,
}

/// "rn" in the upper half keeps the group away from the small numbers people use.
const GROUP_BASE: u32 = 0x726e_0000;

impl Tag {
    /// The machine's instance is plain `rnet`; a private one carries a hash of its directory.
    pub(super) fn of(root: &Root) -> Self {
        let Some(dir) = &root.private else {
            return Tag { prefix: "rnet:".into(), table: "rnet".into(), group: GROUP_BASE };
        };
        let hash = fnv(dir.as_os_str().as_encoded_bytes());
        let short = format!("{:08x}", hash >> 32);
        let group = GROUP_BASE | u32::try_from(hash & 0xffff).unwrap_or(1).max(1);
        Tag { prefix: format!("rnet-{short}:"), table: format!("rnet_{short}"), group }
    }

    /// Alias of a link of an object.
    pub(super) fn alias(&self, object: &str) -> String {
        format!("{}{object}", self.prefix)
    }

    /// The object a link was made for, if it is ours.
    pub(super) fn object<'a>(&self, link: &'a LinkState) -> Option<&'a str> {
        link.alias.as_deref()?.strip_prefix(&self.prefix)
    }
}

/// FNV-1a, 64 bits: stable over versions, which a standard hasher does not promise.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Name of the host end: `rn` and the last twelve characters of the id, 60 random bits.
pub(super) fn host_ifname(id: EndpointId) -> IfName {
    let id = id.to_string();
    format!("rn{}", &id[id.len() - 12..]).parse().expect("14 letters and digits are an interface name")
}

/// Name of the device that limits what an endpoint sends: `ri` and what its host end's name ends with.
pub(super) fn limiter_ifname(id: EndpointId) -> IfName {
    let id = id.to_string();
    format!("{LIMITER}{}", &id[id.len() - 12..]).parse().expect("14 letters and digits are an interface name")
}

/// Begins the names of such devices.
pub(super) const LIMITER: &str = "ri";

/// Address of a network's bridge, the same whenever it is made: containers keep it in mind.
pub(super) fn bridge_mac(id: rnet_model::NetworkId) -> rnet_model::MacAddr {
    rnet_model::MacAddr::local(fnv(id.to_string().as_bytes()))
}

/// Name of a network's bridge: `rn-` and the last ten characters of its id.
pub(super) fn bridge_ifname(id: rnet_model::NetworkId) -> IfName {
    let id = id.to_string();
    format!("rn-{}", &id[id.len() - 10..]).parse().expect("13 letters and digits are an interface name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_differ() {
        let a = Tag::of(&Root::from_option(Some("/srv/a".into())));
        let b = Tag::of(&Root::from_option(Some("/srv/b".into())));
        let machine = Tag::of(&Root::from_option(None));
        assert_ne!(a.table, b.table);
        assert_ne!(a.group, b.group);
        assert_ne!(a.group, machine.group);
        assert_eq!(machine.alias("x"), "rnet:x");
    }

    #[test]
    fn names_fit() {
        let id = EndpointId::from_bits(u128::MAX);
        assert_eq!(host_ifname(id).as_str().len(), 14);
    }
}
