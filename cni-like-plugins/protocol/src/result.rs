//! Results in the form of 1.1.0, read from and written as every older version.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Error, Version};

/// What a plugin made, in the terms of 1.1.0. Older versions lose what they have no words for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniResult {
    /// Interfaces, those of the host with an empty sandbox.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub routes: Vec<Route>,
    /// Name resolution; always written, empty as `{}`.
    #[serde(deserialize_with = "null_is_empty")]
    pub dns: Dns,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Bytes (1.1.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the namespace; empty = the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Path of a socket (1.1.0).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// PCI address (1.1.0).
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// With its prefix length.
    pub address: IpNetwork,
    /// Of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop; without one the gateway of the address of the same family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Table (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// `rtm_scope` of rtnetlink(7) (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

/// Go's encoder writes `null` for an empty array.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Route {
    /// To `dst` by `gw`, everything else left to the kernel.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Route { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

impl CniResult {
    /// In the words of a version, with its `cniVersion`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut value = match version {
            Version::V0_1_0 | Version::V0_2_0 => self.to_02(),
            _ => serde_json::to_value(self).expect("a result has only string keys"),
        };
        if version < Version::V1_1_0 {
            strip(&mut value, "interfaces", &["mtu", "socketPath", "pciID"]);
            strip(&mut value, "routes", &["mtu", "advmss", "priority", "table", "scope"]);
        }
        if (Version::V0_3_0..Version::V1_0_0).contains(&version) {
            for ip in list_mut(&mut value, "ips") {
                let six = ip["address"].as_str().is_some_and(|a| a.contains(':'));
                ip["version"] = json!(if six { "6" } else { "4" });
            }
        }
        value["cniVersion"] = json!(version.as_str());
        value
    }

    /// From the words of a version. A result without `cniVersion` is taken to be of `default`.
    ///
    /// # Errors
    /// Code 1 for an unknown version, 6 for another shape.
    pub fn from_json(value: &Value, default: Version) -> Result<Self, Error> {
        let bad = |e: serde_json::Error| Error::new(Error::DECODING_FAILURE, format!("cannot read a result: {e}"));
        if !value.is_object() {
            return Err(Error::new(Error::DECODING_FAILURE, "a result is a JSON object"));
        }
        let version = match value.get("cniVersion").and_then(Value::as_str) {
            None | Some("") => default,
            Some(text) => text.parse()?,
        };
        match version {
            Version::V0_1_0 | Version::V0_2_0 => from_02(value).map_err(bad),
            _ => CniResult::deserialize(value).map_err(bad),
        }
    }

    /// 0.1.0 and 0.2.0 know one address of each family, with the routes of that family.
    fn to_02(&self) -> Value {
        let mut object = Map::new();
        for (key, six) in [("ip4", false), ("ip6", true)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.is_ipv6() == six) else { continue };
            let routes: Vec<Value> = self
                .routes
                .iter()
                .filter(|r| r.dst.is_ipv6() == six)
                .map(|r| match r.gw {
                    Some(gw) => json!({"dst": r.dst, "gw": gw}),
                    None => json!({"dst": r.dst}),
                })
                .collect();
            let mut entry = Map::from_iter([("ip".to_owned(), json!(ip.address))]);
            entry.extend(ip.gateway.map(|gw| ("gateway".to_owned(), json!(gw))));
            entry.extend((!routes.is_empty()).then(|| ("routes".to_owned(), json!(routes))));
            object.insert(key.to_owned(), Value::Object(entry));
        }
        object.insert("dns".to_owned(), json!(self.dns));
        Value::Object(object)
    }
}

#[derive(Deserialize)]
struct Old {
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
    #[serde(default, deserialize_with = "null_is_empty")]
    dns: Dns,
}

#[derive(Deserialize)]
struct OldIp {
    ip: IpNetwork,
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "null_is_empty")]
    routes: Vec<Route>,
}

fn from_02(value: &Value) -> Result<CniResult, serde_json::Error> {
    let old = Old::deserialize(value)?;
    let mut result = CniResult { dns: old.dns, ..CniResult::default() };
    for ip in [old.ip4, old.ip6].into_iter().flatten() {
        result.ips.push(IpConfig { interface: None, address: ip.ip, gateway: ip.gateway });
        result.routes.extend(ip.routes.into_iter().map(|r| Route { gw: r.gw.or(ip.gateway), ..r }));
    }
    Ok(result)
}

fn list_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn strip(value: &mut Value, list: &str, keys: &[&str]) {
    for object in list_mut(value, list).filter_map(Value::as_object_mut) {
        keys.iter().for_each(|key| drop(object.remove(*key)));
    }
}

#[cfg(test)]
mod tests;
