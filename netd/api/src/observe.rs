//! Bodies of what only looks: traffic, captures, events of the past.

use rnet_model::{EndpointId, Engine, IfName, NetworkName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// When it was read, RFC 3339 with milliseconds.
    pub time: String,
    /// The same by a clock that is never set, in milliseconds: for rates between two answers of one netd.
    pub clock_ms: u64,
    /// Every interface of every container.
    pub endpoints: Vec<EndpointStats>,
}

/// The traffic of one interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStats {
    /// Id of the endpoint.
    pub id: EndpointId,
    /// Engine of the container.
    pub engine: Engine,
    /// Full id of the container.
    pub container_id: String,
    /// Name of the container.
    pub container: String,
    /// The rnet network, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// Bridge of the host end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<IfName>,
    /// Name in the container.
    pub ifname: IfName,
    /// Since the interface was made; absent while it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// Both ways, as the container sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// What came in.
    pub received: Flow,
    /// What went out.
    pub sent: Flow,
}

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// Bytes, with the Ethernet headers.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were bad or could not be sent.
    pub errors: u64,
    /// Packets that were thrown away: no room, or nobody who wanted them.
    pub drops: u64,
}

/// Query of `GET /v1/capture`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureQuery {
    /// Which container, as for an attach.
    pub container: String,
    /// Which of its interfaces; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Most bytes of a packet that are kept; default [`CaptureQuery::WHOLE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
    /// End after so many milliseconds; default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// End after so many packets; default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl CaptureQuery {
    /// No packet is longer (65,535 bytes and headers, or what the kernel joins for GSO), as for tcpdump.
    pub const WHOLE: u32 = 262_144;
    /// An Ethernet header.
    pub const LEAST: u32 = 14;

    /// As `key=value&...`.
    pub fn encode(&self) -> String {
        let mut pairs = vec![format!("container={}", percent(&self.container))];
        pairs.extend(self.ifname.as_ref().map(|name| format!("ifname={}", percent(name.as_str()))));
        pairs.extend(self.snaplen.map(|n| format!("snaplen={n}")));
        pairs.extend(self.duration_ms.map(|n| format!("duration_ms={n}")));
        pairs.extend(self.count.map(|n| format!("count={n}")));
        pairs.join("&")
    }
}

/// Query of `GET /v1/events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsQuery {
    /// Begin with what happened at this time or later, as far as netd remembers it: RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// `false`: end with what has happened by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

impl EventsQuery {
    /// As `key=value&...`, or nothing.
    pub fn encode(&self) -> String {
        let mut pairs = Vec::new();
        pairs.extend(self.since.as_ref().map(|t| format!("since={}", percent(t))));
        pairs.extend(self.follow.map(|f| format!("follow={f}")));
        pairs.join("&")
    }
}

/// A value of a query string (RFC 3986, section 2.1).
fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let query = CaptureQuery {
            container: "netns:/run/netns/a&b".into(),
            ifname: None,
            snaplen: Some(64),
            duration_ms: None,
            count: Some(3),
        };
        assert_eq!(query.encode(), "container=netns%3A%2Frun%2Fnetns%2Fa%26b&snaplen=64&count=3");
        assert_eq!(EventsQuery::default().encode(), "");
        let since = EventsQuery { since: Some("2026-01-02T03:04:05Z".into()), follow: Some(false) };
        assert_eq!(since.encode(), "since=2026-01-02T03%3A04%3A05Z&follow=false");
    }
}
