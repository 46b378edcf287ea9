//! The plugin's own keys, checked.

use std::collections::BTreeSet;

use rnet_model::IfName;
use rnet_plugin_protocol::{Error, Request};
use serde::Deserialize;

use crate::common;

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: i64,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Vec<Trunk>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    mac: Option<String>,
}

impl Default for Written {
    fn default() -> Self {
        Written {
            bridge: "cni0".into(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: false,
            ip_masq_backend: None,
            mtu: 0,
            hairpin_mode: false,
            promisc_mode: false,
            vlan: 0,
            vlan_trunk: Vec::new(),
            preserve_default_vlan: true,
            macspoofchk: false,
            enabledad: false,
            disable_container_interface: false,
            port_isolation: false,
            mac: None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Trunk {
    #[serde(rename = "minID")]
    min: Option<i64>,
    #[serde(rename = "maxID")]
    max: Option<i64>,
    id: Option<i64>,
}

/// What the host has on the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    /// Nothing.
    None,
    /// The gateway's address.
    Address,
    /// The gateway's address, which the container's default route leads to.
    Default,
}

/// Which VLANs a port is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vlans {
    /// Untagged; 0 = none was asked for.
    pub(super) access: u16,
    /// Tagged.
    pub(super) trunk: BTreeSet<u16>,
    /// VLAN 1, which every port is born in, stays.
    pub(super) keep_default: bool,
}

impl Vlans {
    /// Whether the bridge has to tell VLANs apart.
    pub(super) fn any(&self) -> bool {
        self.access != 0 || !self.trunk.is_empty()
    }
}

/// Checked.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) bridge: IfName,
    pub(super) gateway: Gateway,
    pub(super) force_address: bool,
    pub(super) masquerade: bool,
    /// Bytes.
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) promisc: bool,
    pub(super) isolated: bool,
    pub(super) vlans: Vlans,
    pub(super) spoof_check: bool,
    pub(super) detect_duplicates: bool,
    pub(super) leave_down: bool,
    pub(super) mac: Option<String>,
}

impl Config {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        Config::checked(request.config()?, request)
    }

    /// What DEL and GC look for when the configuration says nothing.
    pub(super) fn all() -> Self {
        let vlans = Vlans { access: 0, trunk: BTreeSet::new(), keep_default: true };
        Config {
            bridge: common::name("cni0"),
            gateway: Gateway::None,
            force_address: false,
            masquerade: true,
            mtu: None,
            hairpin: false,
            promisc: false,
            isolated: false,
            vlans,
            spoof_check: true,
            detect_duplicates: false,
            leave_down: false,
            mac: None,
        }
    }

    fn checked(written: Written, request: &Request) -> Result<Self, Error> {
        if written.hairpin_mode && written.promisc_mode {
            return Err(Error::config("bridge: cannot set hairpin mode and promiscuous mode at the same time"));
        }
        if written.disable_container_interface && request.ipam.is_some() {
            return Err(Error::config("bridge: cannot use IPAM when DisableContainerInterface flag is set"));
        }
        if let Some(backend) = written.ip_masq_backend.filter(|b| !matches!(b.as_str(), "" | "iptables" | "nftables")) {
            return Err(
                Error::config(format!("bridge: unknown ipmasq backend {backend:?}")).details("it is always nftables")
            );
        }
        let bad_mtu =
            || Error::config(format!("bridge: invalid MTU {}", written.mtu)).details("bytes; 0 = the kernel's choice");
        let bad_vlan =
            || Error::config(format!("bridge: invalid VLAN ID {} (must be between 0 and 4094)", written.vlan));
        let access = u16::try_from(written.vlan).ok().filter(|v| *v <= 4094).ok_or_else(bad_vlan)?;
        let mtu = u32::try_from(written.mtu).map_err(|_| bad_mtu())?;
        Ok(Config {
            bridge: written.bridge.parse()?,
            gateway: match (written.is_default_gateway, written.is_gateway) {
                (true, _) => Gateway::Default,
                (false, true) => Gateway::Address,
                (false, false) => Gateway::None,
            },
            force_address: written.force_address,
            masquerade: written.ip_masq,
            mtu: Some(mtu).filter(|mtu| *mtu > 0),
            hairpin: written.hairpin_mode,
            promisc: written.promisc_mode,
            isolated: written.port_isolation,
            vlans: Vlans { access, trunk: trunk(&written.vlan_trunk)?, keep_default: written.preserve_default_vlan },
            spoof_check: written.macspoofchk,
            detect_duplicates: written.enabledad,
            leave_down: written.disable_container_interface,
            mac: written.mac,
        })
    }
}

/// All tags of a trunk, in order.
fn trunk(items: &[Trunk]) -> Result<BTreeSet<u16>, Error> {
    let tag = |what: &str, id: i64| {
        let valid = u16::try_from(id).ok().filter(|id| (1..=4094).contains(id));
        valid
            .ok_or_else(|| Error::config(format!("bridge: incorrect trunk {what} parameter {id}")).details("1 to 4094"))
    };
    let mut all = BTreeSet::new();
    for item in items {
        match (item.min, item.max) {
            (Some(min), Some(max)) => {
                let (min, max) = (tag("minID", min)?, tag("maxID", max)?);
                if min > max {
                    return Err(Error::config("bridge: minID is greater than maxID in trunk parameter"));
                }
                all.extend(min..=max);
            }
            (None, Some(_)) => return Err(Error::config("bridge: minID is missing in trunk parameter")),
            (Some(_), None) => return Err(Error::config("bridge: maxID is missing in trunk parameter")),
            (None, None) if item.id.is_none() => {
                return Err(Error::config("bridge: trunk parameter without id, minID and maxID"));
            }
            (None, None) => {}
        }
        if let Some(id) = item.id {
            all.insert(tag("id", id)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn config(own: Value) -> Result<Config, Error> {
        let mut whole = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge"});
        whole.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        Config::new(&Request::from_value(whole).unwrap())
    }

    #[test]
    fn defaults_are_the_references() {
        let config = config(json!({})).unwrap();
        assert_eq!((config.bridge.as_str(), config.gateway, config.mtu), ("cni0", Gateway::None, None));
        assert!(config.vlans.keep_default && !config.vlans.any() && !config.masquerade && !config.detect_duplicates);
    }

    #[test]
    fn trunks_are_read_whole() {
        let of =
            |trunk: Value| config(json!({"vlanTrunk": trunk})).map(|c| c.vlans.trunk.into_iter().collect::<Vec<_>>());
        assert_eq!(of(json!([{"minID": 100, "maxID": 102}, {"id": 7}])).unwrap(), [7, 100, 101, 102]);
        assert_eq!(of(json!([{"id": 5}, {"minID": 4, "maxID": 6}])).unwrap(), [4, 5, 6]);
    }

    #[test]
    fn contradictions_are_refused() {
        for (own, word) in [
            (json!({"hairpinMode": true, "promiscMode": true}), "hairpin"),
            (json!({"disableContainerInterface": true, "ipam": {"type": "static"}}), "IPAM"),
            (json!({"vlan": 4095}), "VLAN ID 4095"),
            (json!({"vlan": -1}), "VLAN ID -1"),
            (json!({"mtu": -5}), "MTU -5"),
            (json!({"bridge": "a/b"}), "a/b"),
            (json!({"ipMasqBackend": "ebpf"}), "ebpf"),
            (json!({"vlanTrunk": [{"minID": 3}]}), "maxID is missing"),
            (json!({"vlanTrunk": [{"maxID": 3}]}), "minID is missing"),
            (json!({"vlanTrunk": [{"minID": 0, "maxID": 3}]}), "minID parameter 0"),
            (json!({"vlanTrunk": [{"minID": 3, "maxID": 4095}]}), "maxID parameter 4095"),
            (json!({"vlanTrunk": [{"minID": 3, "maxID": 2}]}), "greater"),
            (json!({"vlanTrunk": [{"id": 0}]}), "id parameter 0"),
            (json!({"vlanTrunk": [{}]}), "without id"),
        ] {
            let error = config(own.clone()).unwrap_err();
            assert_eq!(error.code, Error::INVALID_NETWORK_CONFIG, "{own}");
            assert!(error.msg.contains(word), "{own}: {error}");
        }
        assert_eq!(config(json!({"isGateway": "yes"})).unwrap_err().code, Error::DECODING_FAILURE);
    }
}
