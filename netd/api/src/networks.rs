//! Bodies of requests that change or remove networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rnet_model::{AddressRange, DnsName, GatewayMode, InvalidInput, NetworkName, NetworkSpec, Rate, Toggle};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ApiError;
use crate::types::Network;

/// `PATCH /v1/networks/{name}`: what is left out stays as it is; an empty list and `null` mean what leaving the option out
/// at creation means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkEdit {
    /// Labels to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub label_add: BTreeMap<String, String>,
    /// Keys of labels to remove; one that is not there is no error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_rm: Vec<String>,
    /// Containers of the network reach each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icc: Option<Toggle>,
    /// No traffic between networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolate: Option<Toggle>,
    /// Source addresses are replaced by the host's on the way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Toggle>,
    /// How it is joined to the outside; only while no container is on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_mode: Option<GatewayMode>,
    /// Addresses of the host under which traffic leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Vec<IpAddr>>,
    /// Containers find each other by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Toggle>,
    /// Where names of the outside are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_forward: Option<Vec<IpAddr>>,
    /// Domain of the network.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub domain: Option<Option<DnsName>>,
    /// Most that one interface receives.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub rate_ingress: Option<Option<Rate>>,
    /// Most that one interface sends.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub rate_egress: Option<Option<Rate>>,
    /// Bytes, for interfaces made from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Ranges addresses are taken from; who has one outside of them keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_ranges: Option<Vec<AddressRange>>,
    /// Addresses never handed out from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Vec<AddressRange>>,
}

/// A field that is there, `null` or not.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl NetworkEdit {
    /// The network as it is after the edit.
    pub fn apply(&self, spec: &NetworkSpec) -> NetworkSpec {
        fn set<T: Clone>(new: &Option<T>, field: &mut T) {
            if let Some(new) = new {
                field.clone_from(new);
            }
        }
        let mut out = spec.clone();
        self.label_rm.iter().for_each(|key| drop(out.labels.remove(key)));
        out.labels.extend(self.label_add.clone());
        set(&self.icc, &mut out.icc);
        set(&self.isolate, &mut out.isolate);
        set(&self.masquerade, &mut out.masquerade);
        set(&self.gateway_mode, &mut out.gateway_mode);
        set(&self.outbound, &mut out.outbound);
        set(&self.dns, &mut out.dns);
        set(&self.dns_forward, &mut out.dns_forward);
        set(&self.domain, &mut out.domain);
        set(&self.rate_ingress, &mut out.rate_ingress);
        set(&self.rate_egress, &mut out.rate_egress);
        if self.mtu.is_some() {
            out.mtu = self.mtu;
        }
        set(&self.ip_ranges, &mut out.ip_ranges);
        set(&self.exclude, &mut out.exclude);
        out
    }
}

/// A condition on the labels of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelFilter {
    /// The label's key.
    pub key: String,
    /// Its value; default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Networks that do not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without: bool,
}

impl LabelFilter {
    /// From `KEY` or `KEY=VALUE`.
    ///
    /// # Errors
    /// Without a key.
    pub fn parse(text: &str, without: bool) -> Result<Self, InvalidInput> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(
                InvalidInput::new("label filter", text, "has no key").hint("write label=KEY or label=KEY=VALUE")
            );
        }
        Ok(LabelFilter { key: key.to_owned(), value, without })
    }

    /// Whether a network with these labels meets it.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key).is_some_and(|v| self.value.as_ref().is_none_or(|wanted| v == wanted));
        found != self.without
    }
}

/// `POST /v1/networks/prune`: removes networks that nobody is on and that no stopped container keeps an address of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneRequest {
    /// Only those that meet all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelFilter>,
    /// Only those made at least this many seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_seconds: Option<u64>,
}

/// What was pruned.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct PruneReply {
    /// Networks that went.
    pub removed: Vec<Network>,
    /// Networks that should have gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<PruneFailure>,
}

/// A network that could not be pruned.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PruneFailure {
    /// Which.
    pub network: NetworkName,
    /// Why.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_out_null_and_given() {
        let read = |text: &str| serde_json::from_str::<NetworkEdit>(text).expect("an edit");
        assert_eq!(read("{}"), NetworkEdit::default());
        assert_eq!(read("{\"domain\": null}").domain, Some(None));
        let mut spec = NetworkSpec::new("blue".parse().expect("name"));
        spec.rate_egress = Some("1mbit".parse().expect("rate"));
        spec.labels.insert("a".into(), "1".into());
        assert_eq!(NetworkEdit::default().apply(&spec), spec);
        let edit = read("{\"rate_egress\": null, \"rate_ingress\": \"2mbit\", \"label_rm\": [\"a\"], \"mtu\": 1400}");
        let edited = edit.apply(&spec);
        assert_eq!((edited.rate_egress, edited.mtu), (None, Some(1400)));
        assert_eq!(edited.rate_ingress, Some("2mbit".parse().expect("rate")));
        assert!(edited.labels.is_empty());
        assert_eq!(read(&serde_json::to_string(&edit).expect("json")), edit);
    }

    #[test]
    fn label_filters() {
        let labels = BTreeMap::from([("team".to_owned(), "net".to_owned())]);
        let fits = |text: &str, without| LabelFilter::parse(text, without).expect("a filter").fits(&labels);
        assert!(fits("team", false) && fits("team=net", false) && !fits("team=web", false) && !fits("other", false));
        assert!(!fits("team", true) && !fits("team=net", true) && fits("team=web", true) && fits("other", true));
        assert!(LabelFilter::parse("=net", false).is_err());
    }
}
