//! The configuration a plugin is given on stdin: section 1 of the CNI specification, "Plugin configuration objects",
//! and section 3, "Deriving request configuration from plugin configuration".

use ipnetwork::IpNetwork;
use rnet_model::MacAddr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{CniResult, Dns, Error, Version, is_name};

/// Largest configuration that is read, in bytes.
pub const LIMIT: u64 = 16 << 20;

/// Keys every plugin may be given; all others are the plugin's own.
const COMMON: [&str; 11] = [
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "ipam",
    "dns",
    "args",
    "runtimeConfig",
    "prevResult",
    VALID_ATTACHMENTS,
    OLD_ATTACHMENTS,
];
/// What is still valid, for GC.
pub const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
/// The name an older reference library gives it.
pub const OLD_ATTACHMENTS: &str = "cni.dev/attachments";

/// A request, checked as far as all plugins have in common.
#[derive(Debug, Clone)]
pub struct Request {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `type`.
    pub kind: String,
    /// `ipam`, if it names a type.
    pub ipam: Option<Map<String, Value>>,
    /// `dns` of the configuration.
    pub dns: Dns,
    /// `args.cni`.
    pub args: Args,
    /// `runtimeConfig`.
    pub runtime: RuntimeConfig,
    /// What the valid attachments are; `None` outside of GC.
    pub valid: Option<Vec<AttachmentId>>,
    /// The keys that are the plugin's own.
    pub own: Map<String, Value>,
    /// Everything, as a delegate is given it.
    pub whole: Value,
}

/// Who an interface belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    /// Container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Its interface.
    pub ifname: String,
}

/// `args.cni`: what the reference plugins read of it (CONVENTIONS.md of the specification).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// Addresses, with or without prefix length.
    pub ips: Vec<String>,
    /// Hardware address.
    pub mac: Option<String>,
}

/// `runtimeConfig`: values of the capabilities a plugin declared (CONVENTIONS.md of the specification).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Hardware address.
    pub mac: Option<String>,
    /// Addresses, with or without prefix length.
    pub ips: Vec<String>,
    /// Sets of ranges for host-local.
    pub ip_ranges: Option<Value>,
    /// Published ports, for portmap.
    pub port_mappings: Option<Value>,
    /// Rates, for bandwidth.
    pub bandwidth: Option<Value>,
    /// Device, for host-device.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Name resolution.
    pub dns: Option<Value>,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// Code 6 for what is no JSON object of the right shape, 1 for an unknown version, 7 for a missing or wrong name.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|e| Error::new(Error::DECODING_FAILURE, format!("the configuration is no JSON: {e}")))?;
        Request::from_value(value)
    }

    /// The same from a value.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn from_value(whole: Value) -> Result<Self, Error> {
        let Value::Object(object) = &whole else {
            return Err(Error::new(Error::DECODING_FAILURE, "the configuration is no JSON object"));
        };
        let version = text(object, "cniVersion")?.parse()?;
        let name = text(object, "name")?.to_owned();
        if !is_name(&name) {
            let why =
                if name.is_empty() { "missing network name".into() } else { format!("invalid network name {name:?}") };
            return Err(Error::config(why).details("a letter or a digit, then letters, digits, '_', '.' and '-'"));
        }
        let ipam = match object.get("ipam") {
            None | Some(Value::Null) => None,
            Some(Value::Object(ipam)) => Some(ipam.clone()).filter(|i| !text(i, "type").unwrap_or_default().is_empty()),
            Some(_) => return Err(wrong("ipam", "is no object")),
        };
        let args = object.get("args").and_then(|a| a.get("cni")).map(|cni| section("args.cni", cni)).transpose()?;
        let valid = object.get(VALID_ATTACHMENTS).or_else(|| object.get(OLD_ATTACHMENTS));
        let own = object.iter().filter(|(k, _)| !COMMON.contains(&k.as_str()) && !k.starts_with("cni.dev/"));
        Ok(Request {
            version,
            kind: text(object, "type")?.to_owned(),
            ipam,
            dns: optional(object, "dns")?,
            args: args.unwrap_or_default(),
            runtime: optional(object, "runtimeConfig")?,
            // An explicit null is an empty list.
            valid: valid
                .map(|v| section::<Option<_>>(VALID_ATTACHMENTS, v).map(Option::unwrap_or_default))
                .transpose()?,
            own: own.map(|(k, v)| (k.clone(), v.clone())).collect(),
            name,
            whole,
        })
    }

    /// `prevResult`; `None` without one.
    ///
    /// # Errors
    /// As [`CniResult::from_json`].
    pub fn previous(&self) -> Result<Option<CniResult>, Error> {
        match self.whole.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => CniResult::from_json(value, self.version).map(Some).map_err(|e| e.context("prevResult")),
        }
    }

    /// The plugin's own keys as a typed value. Keys it does not know must go into a flattened field of it.
    ///
    /// # Errors
    /// Code 6 with the key.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        section(&self.kind, &Value::Object(self.own.clone()))
    }
}

/// The hardware address asked for: `CNI_ARGS` < `args.cni` < `runtimeConfig`, and `configured` below all of them.
///
/// # Errors
/// Code 7 for one that is none.
pub fn wanted_mac(configured: Option<&str>, env: Option<&str>, request: &Request) -> Result<Option<MacAddr>, Error> {
    let chosen = [request.runtime.mac.as_deref(), request.args.mac.as_deref(), env, configured];
    match chosen.into_iter().flatten().find(|m| !m.is_empty()) {
        // The notation with dashes is accepted too, as by the reference.
        Some(text) => Ok(Some(text.replace('-', ":").parse::<MacAddr>()?)),
        None => Ok(None),
    }
}

/// An address with or without a prefix length, as callers write it.
///
/// # Errors
/// Code 7 for what is neither.
pub fn loose_address(text: &str) -> Result<(std::net::IpAddr, Option<u8>), Error> {
    let text = text.trim();
    if let Ok(ip) = text.parse() {
        return Ok((ip, None));
    }
    let bad = |_| Error::config(format!("{text:?} is neither an address nor an address with prefix length"));
    let net: IpNetwork = text.parse().map_err(bad)?;
    Ok((net.ip(), text.contains('/').then_some(net.prefix())))
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(key, "is no string")),
    }
}

fn optional<T: DeserializeOwned + Default>(object: &Map<String, Value>, key: &str) -> Result<T, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(T::default()),
        // A list would be taken for the fields of a struct in order.
        Some(value @ Value::Object(_)) => section(key, value),
        Some(_) => Err(wrong(key, "is no object")),
    }
}

fn section<T: DeserializeOwned>(key: &str, value: &Value) -> Result<T, Error> {
    T::deserialize(value).map_err(|e| wrong(key, &e.to_string()))
}

fn wrong(key: &str, why: &str) -> Error {
    Error::new(Error::DECODING_FAILURE, format!("cannot read {key} of the configuration: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn code(value: Value) -> u32 {
        Request::from_value(value).unwrap_err().code
    }

    #[test]
    fn common_keys_are_told_from_the_plugins_own() {
        let request = Request::from_value(json!({
            "cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "cni0", "ipam": {"type": "static"},
            "args": {"cni": {"ips": ["10.1.2.3"], "mac": "02:00:00:00:00:03", "labels": []}},
            "runtimeConfig": {"mac": "02:00:00:00:00:04", "portMappings": []}, "cni.dev/x": 1,
            "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}],
        }))
        .unwrap();
        assert_eq!(request.own.keys().collect::<Vec<_>>(), ["bridge"]);
        assert_eq!(request.valid.as_ref().map(Vec::len), Some(1));
        assert_eq!(request.ipam.as_ref().unwrap()["type"], "static");
        let mac = |c, e| wanted_mac(c, e, &request).unwrap().unwrap().to_string();
        assert_eq!(mac(Some("02:00:00:00:00:01"), Some("02:00:00:00:00:02")), "02:00:00:00:00:04");
        let plain = Request::from_value(json!({"name": "n", "ipam": {}})).unwrap();
        assert_eq!((plain.version, plain.ipam, plain.valid), (Version::V0_1_0, None, None));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_code() {
        assert_eq!(Request::parse(b"{").unwrap_err().code, Error::DECODING_FAILURE);
        assert_eq!(code(json!([])), Error::DECODING_FAILURE);
        assert_eq!(code(json!({"cniVersion": 1})), Error::DECODING_FAILURE);
        assert_eq!(code(json!({"cniVersion": "0.0.1", "name": "n"})), Error::INCOMPATIBLE_VERSION);
        assert_eq!(code(json!({"cniVersion": "1.2.0", "name": "n"})), Error::INCOMPATIBLE_VERSION);
        assert_eq!(code(json!({"type": "bridge"})), Error::INVALID_NETWORK_CONFIG);
        assert_eq!(code(json!({"name": "a/b"})), Error::INVALID_NETWORK_CONFIG);
        assert_eq!(code(json!({"name": "n", "ipam": "x"})), Error::DECODING_FAILURE);
        assert_eq!(code(json!({"name": "n", "dns": []})), Error::DECODING_FAILURE);
    }

    #[test]
    fn addresses_are_read_loosely() {
        assert_eq!(loose_address(" 10.1.2.3").unwrap(), ("10.1.2.3".parse().unwrap(), None));
        assert_eq!(loose_address("fd00::1/64").unwrap(), ("fd00::1".parse().unwrap(), Some(64)));
        assert_eq!(loose_address("x").unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
        assert_eq!(loose_address("10.1.2.3/40").unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    }
}
