//! Keys and mappings, checked.

use std::net::IpAddr;

use rnet_plugin_protocol::{Error, Request};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    snat: Option<bool>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
    masq_all: Option<bool>,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    backend: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMapping {
    host_port: Option<i64>,
    container_port: Option<i64>,
    protocol: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

/// Whose callers get the host's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snat {
    /// Nobody's.
    Off,
    /// Those that could not be answered otherwise.
    Needed,
    /// All.
    All,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// IPPROTO_*.
    pub(super) protocol: u8,
    pub(super) host_port: u16,
    pub(super) container_port: u16,
    /// An unspecified one means every address of its family.
    pub(super) host_ip: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Config {
    pub(super) snat: Snat,
    pub(super) mappings: Vec<Mapping>,
}

impl Mapping {
    fn new(written: &WrittenMapping) -> Result<Self, Error> {
        let port = |what: &str, number: Option<i64>| {
            let number = number.unwrap_or(0);
            let port = u16::try_from(number).ok().filter(|p| *p != 0);
            port.ok_or_else(|| Error::config(format!("Invalid {what} port number: {number}")))
        };
        let word = written.protocol.as_deref().unwrap_or_default();
        let protocol = match word.to_ascii_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => return Err(Error::config(format!("portMappings: protocol {word:?} is none of tcp, udp and sctp"))),
        };
        let bad = |ip: &str| Error::config(format!("portMappings: hostIP {ip:?} is no address"));
        let host_ip = written.host_ip.as_deref().filter(|ip| !ip.is_empty());
        Ok(Mapping {
            protocol,
            container_port: port("container", written.container_port)?,
            host_port: port("host", written.host_port)?,
            host_ip: host_ip.map(|ip| ip.parse().map_err(|_| bad(ip))).transpose()?,
        })
    }

    /// The host's side, for messages: `10.1.0.1 8080/tcp`.
    pub(super) fn host(&self) -> String {
        let at = self.host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
        format!("{at}{}/{}", self.host_port, self.protocol_word())
    }

    pub(super) fn protocol_word(&self) -> &'static str {
        match self.protocol {
            6 => "tcp",
            17 => "udp",
            _ => "sctp",
        }
    }
}

impl Config {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        let unsupported = |key: &str, value: &dyn std::fmt::Debug| {
            Error::new(Error::UNSUPPORTED_FIELD, format!("portmap: {key} {value:?} is not supported"))
                .details("ports are published with nf_tables, in a table that is the plugins' own")
        };
        if !matches!(written.backend.as_deref(), None | Some("" | "iptables" | "nftables")) {
            return Err(Error::config(format!("unrecognized backend: {:?}", written.backend.unwrap_or_default())));
        }
        if written.mark_masq_bit.is_some() && written.external_set_mark_chain.is_some() {
            return Err(Error::config("Cannot specify externalSetMarkChain and markMasqBit"));
        }
        if written.mark_masq_bit.is_some_and(|bit| !(0..=31).contains(&bit)) {
            return Err(Error::config("MasqMarkBit must be between 0 and 31"));
        }
        if let Some(chain) = written.external_set_mark_chain.filter(|c| !c.is_empty()) {
            return Err(unsupported("externalSetMarkChain", &chain));
        }
        for (key, conditions) in [("conditionsV4", written.conditions_v4), ("conditionsV6", written.conditions_v6)] {
            if let Some(conditions) = conditions.filter(|c| !c.is_empty()) {
                return Err(unsupported(key, &conditions));
            }
        }
        let snat = match (written.snat.unwrap_or(true), written.masq_all.unwrap_or(false)) {
            (false, _) => Snat::Off,
            (true, false) => Snat::Needed,
            (true, true) => Snat::All,
        };
        let mappings: Option<Vec<WrittenMapping>> = match &request.runtime.port_mappings {
            None => None,
            Some(value) => Deserialize::deserialize(value).map_err(|e| {
                Error::new(Error::DECODING_FAILURE, format!("cannot read runtimeConfig.portMappings: {e}"))
            })?,
        };
        let mappings = mappings.iter().flatten().map(Mapping::new).collect::<Result<_, _>>()?;
        Ok(Config { snat, mappings })
    }
}
