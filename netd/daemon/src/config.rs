//! netd.toml: every key with its default. contrib/netd.toml is the page about it, and a test keeps the two equal.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rnet_api::ApiError;
use rnet_kernel::ProbeTiming;
use rnet_model::{Kind, Subnet};
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Seconds a freed address waits before somebody else gets it.
    pub(crate) rest_seconds: u64,
    /// Ready namespaces kept for each network in use.
    pub(crate) pool_size: usize,
    /// Whether netd turns on forwarding when a network needs it.
    pub(crate) ip_forward: bool,
    /// How a LAN is asked whether an address is free.
    pub(crate) probe: Probe,
    /// What a firewall of the host that drops what comes in means for published ports.
    pub(crate) published_ports: PublishedPorts,
    /// Most connections to published ports through loopback at once.
    pub(crate) loopback_connections: usize,
    /// Blocks for networks that name no subnet.
    pub(crate) pools: Vec<PoolBlock>,
    /// The network of containers that name none.
    pub(crate) default_network: DefaultNetwork,
    /// The socket.
    pub(crate) api: Api,
    /// Docker.
    pub(crate) docker: Docker,
    /// CNI plugins of others.
    pub(crate) plugins: Plugins,
    /// For a Prometheus.
    pub(crate) metrics: Metrics,
}

/// `probe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Probe {
    /// Three questions within 300 ms.
    Fast,
    /// With the times of RFC 5227.
    Rfc5227,
    /// Not at all.
    Off,
}

/// `published_ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PublishedPorts {
    /// They are closed to the outside like everything else.
    Respect,
    /// They are open.
    Accept,
}

/// One of `[[pools]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolBlock {
    /// The block.
    pub(crate) subnet: Subnet,
    /// Prefix length of the subnets it is cut into.
    pub(crate) size: u8,
}

/// `[default_network]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DefaultNetwork {
    /// Whether it is made when a container first asks for it.
    pub(crate) enabled: bool,
    /// Its subnet, if not one of the pools'.
    pub(crate) subnet: Option<Subnet>,
}

/// `[api]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Api {
    /// Group that may use the socket besides root.
    pub(crate) group: String,
    /// Largest request body in bytes.
    pub(crate) body_limit: usize,
    /// Most connections at once.
    pub(crate) connections: usize,
}

/// `[docker]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Docker {
    /// Where it listens; default: `DOCKER_HOST` of the daemon, else Docker's own default.
    pub(crate) host: Option<String>,
    /// Longest wait for an answer in milliseconds.
    pub(crate) timeout_ms: u64,
}

/// `[plugins]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Plugins {
    /// Where executables are looked for, in order.
    pub(crate) directories: Vec<PathBuf>,
    /// Longest run of one in seconds.
    pub(crate) time_seconds: u64,
}

/// `[metrics]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Where they are served over TCP; default: nowhere.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether that may be an address others can reach.
    pub(crate) public: bool,
}

impl Default for Config {
    fn default() -> Self {
        let block = |(subnet, size): (&str, u8)| PoolBlock { subnet: subnet.parse().expect("a subnet"), size };
        let sixteen =
            [17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31].map(|n| (format!("172.{n}.0.0/16"), 16));
        let mut pools: Vec<PoolBlock> = sixteen.iter().map(|(s, size)| block((s, *size))).collect();
        pools.push(block(("192.168.0.0/16", 20)));
        Config {
            rest_seconds: 60,
            pool_size: 4,
            ip_forward: true,
            probe: Probe::Fast,
            published_ports: PublishedPorts::Respect,
            loopback_connections: 4096,
            pools,
            default_network: DefaultNetwork::default(),
            api: Api::default(),
            docker: Docker::default(),
            plugins: Plugins::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for DefaultNetwork {
    fn default() -> Self {
        DefaultNetwork { enabled: true, subnet: None }
    }
}

impl Default for Api {
    fn default() -> Self {
        Api { group: "rnet".into(), body_limit: 1024 * 1024, connections: 512 }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Docker { host: None, timeout_ms: 5000 }
    }
}

impl Default for Plugins {
    fn default() -> Self {
        Plugins { directories: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()], time_seconds: 60 }
    }
}

/// Most ready namespaces for one network: a bridge has 1,023 ports.
const MOST_READY: usize = 1000;

impl Config {
    /// Reads a file. An absent one is the defaults, unless it was asked for by name.
    ///
    /// # Errors
    /// Names the file, the line and the key.
    pub(crate) fn read(path: &Path, asked_for: AskedFor) -> Result<Self, ApiError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && asked_for == AskedFor::No => {
                return Ok(Config::default());
            }
            Err(e) => {
                return Err(ApiError::new(Kind::Invalid, format!("cannot read {}", path.display())).because(&e));
            }
        };
        Self::parse(&text).map_err(|why| {
            ApiError::new(Kind::Invalid, format!("{}: {why}", path.display()))
                .hint("every key with its default is in contrib/netd.toml, and in PREFIX/share/doc/rnet/netd.toml")
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Config = toml::from_str(text).map_err(|e| {
            let Some(span) = e.span() else { return e.message().to_owned() };
            // Of a value that is wrong, toml tells the value only.
            let key = key_before(text, span.start).map_or_else(String::new, |key| format!("{key}: "));
            format!("{}{key}{}", at_line(text, span.start), e.message())
        })?;
        config.check(&Places::of(text)).map_err(|wrong| {
            let at = wrong.at.map_or_else(String::new, |at| at_line(text, at));
            format!("{at}{}: {}", wrong.key, wrong.why)
        })?;
        Ok(config)
    }

    fn check(&self, places: &Places) -> Result<(), Wrong> {
        if self.pool_size > MOST_READY {
            let why = format!("{} is more than {MOST_READY}", self.pool_size);
            return Err(Wrong { key: "pool_size", at: start(places.pool_size.as_ref()), why });
        }
        if self.loopback_connections == 0 {
            let at = start(places.loopback_connections.as_ref());
            return Err(Wrong { key: "loopback_connections", at, why: "must be at least 1".into() });
        }
        for (index, PoolBlock { subnet, size }) in self.pools.iter().enumerate() {
            let bits = if subnet.is_ipv4() { 32 } else { 128 };
            if *size < subnet.prefix() || *size > bits {
                let at = start(places.pools.get(index).and_then(|p| p.size.as_ref()));
                return Err(Wrong { key: "size", at, why: format!("{size} does not fit into {subnet}") });
            }
        }
        if self.api.connections == 0 {
            let at = start(places.api.connections.as_ref());
            return Err(Wrong { key: "connections", at, why: "must be at least 1".into() });
        }
        if self.api.body_limit < 1024 {
            let at = start(places.api.body_limit.as_ref());
            return Err(Wrong { key: "body_limit", at, why: "must be at least 1024".into() });
        }
        if self.plugins.time_seconds == 0 {
            let at = start(places.plugins.time_seconds.as_ref());
            return Err(Wrong { key: "time_seconds", at, why: "must be at least 1".into() });
        }
        if let Some(listen) = self.metrics.listen.filter(|a| !a.ip().is_loopback() && !self.metrics.public) {
            let at = start(places.metrics.listen.as_ref());
            let why = format!("{listen} can be reached by others; say public = true beside it if they may read it");
            return Err(Wrong { key: "listen", at, why });
        }
        let wrong = |dir: &&PathBuf| !dir.is_absolute() || dir.to_str().is_none_or(|text| text.contains(':'));
        if let Some(dir) = self.plugins.directories.iter().find(wrong) {
            let at = start(places.plugins.directories.as_ref());
            let why = format!("{} is no absolute path without ':'", dir.display());
            return Err(Wrong { key: "directories", at, why });
        }
        Ok(())
    }

    /// How to probe, if at all.
    pub(crate) fn probe_timing(&self) -> Option<ProbeTiming> {
        match self.probe {
            Probe::Fast => Some(ProbeTiming::Fast),
            Probe::Rfc5227 => Some(ProbeTiming::Rfc5227),
            Probe::Off => None,
        }
    }

    /// Blocks and prefix lengths.
    pub(crate) fn pools(&self) -> Vec<(Subnet, u8)> {
        self.pools.iter().map(|p| (p.subnet, p.size)).collect()
    }
}

/// A value that is of the right type and still cannot be.
#[derive(Debug)]
struct Wrong {
    key: &'static str,
    /// Offset of the value in the text.
    at: Option<usize>,
    why: String,
}

/// A value whose place in the file counts.
type Place = Spanned<IgnoredAny>;

/// Where the values are that [`Config::check`] looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Places {
    pool_size: Option<Place>,
    loopback_connections: Option<Place>,
    pools: Vec<PoolPlaces>,
    api: ApiPlaces,
    plugins: PluginPlaces,
    metrics: MetricsPlaces,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetricsPlaces {
    listen: Option<Place>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PluginPlaces {
    directories: Option<Place>,
    time_seconds: Option<Place>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PoolPlaces {
    size: Option<Place>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiPlaces {
    connections: Option<Place>,
    body_limit: Option<Place>,
}

impl Places {
    fn of(text: &str) -> Self {
        // The text is known to be a configuration; without places the errors only lack their lines.
        toml::from_str(text).unwrap_or_default()
    }
}

fn start(place: Option<&Place>) -> Option<usize> {
    place.map(|p| p.span().start)
}

fn at_line(text: &str, at: usize) -> String {
    let line = text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: ")
}

/// The key whose value begins at the offset.
fn key_before(text: &str, at: usize) -> Option<&str> {
    let before = text.get(..at)?.trim_end().strip_suffix('=')?.trim_end();
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let key = &before[before.trim_end_matches(bare).len()..];
    (!key.is_empty()).then_some(key)
}

/// Whether the user named the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedFor {
    /// It is the default one.
    No,
    /// `--config FILE`.
    Yes,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The documented file, with every commented key put in force, is the defaults.
    #[test]
    fn documented_keys_are_the_defaults() {
        let page = include_str!("../../../contrib/netd.toml");
        let keys: Vec<&str> = page
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .filter(|line| !line.starts_with("# "))
            .collect();
        assert_eq!(Config::parse(&keys.join("\n")).unwrap(), Config::default());
        assert_eq!(Config::parse(page).unwrap(), Config::default());
        for key in [
            "rest_seconds",
            "pool_size",
            "ip_forward",
            "probe",
            "published_ports",
            "loopback_connections",
            "enabled",
            "group",
            "body_limit",
            "connections",
            "timeout_ms",
            "host",
            "subnet",
            "size",
            "directories",
            "time_seconds",
            "listen",
            "public",
        ] {
            assert!(page.contains(&format!("{key} =")), "{key} is not documented");
        }
    }

    #[test]
    fn mistakes_name_line_and_key() {
        let said = |text| Config::parse(text).unwrap_err();
        let unknown = said("rest_seconds = 1\n\nnonsense = 2\n");
        assert!(unknown.starts_with("line 3: ") && unknown.contains("`nonsense`"), "{unknown}");
        let nested = said("[api]\ngrup = \"x\"\n");
        assert!(nested.starts_with("line 2: ") && nested.contains("`grup`"), "{nested}");
        for (text, begins) in [
            ("probe = \"slow\"", "line 1: probe: "),
            ("published_ports = \"open\"", "line 1: published_ports: "),
            ("\nloopback_connections = 0", "line 2: loopback_connections: must be at least 1"),
            ("pool_size = -1", "line 1: pool_size: "),
            ("\nrest_seconds = -5", "line 2: rest_seconds: "),
            ("# ready\npool_size = 5000", "line 2: pool_size: 5000 is more than 1000"),
            ("[[pools]]\nsubnet = \"10.0.0.0/16\"\nsize = 8\n", "line 3: size: 8 does not fit into 10.0.0.0/16"),
            ("[[pools]]\nsubnet = \"10.0.0.1/16\"\nsize = 24\n", "line 2: subnet: "),
            ("pools = [{ subnet = \"10.0.0.0/16\", size = \"x\" }]", "line 1: size: "),
            ("[api]\n\nconnections = 0\n", "line 3: connections: must be at least 1"),
            ("[plugins]\ntime_seconds = 0\n", "line 2: time_seconds: must be at least 1"),
            ("[plugins]\ndirectories = [\"bin\"]\n", "line 2: directories: bin is no absolute path"),
            ("[metrics]\nlisten = \"nowhere\"\n", "line 2: listen: "),
            ("[metrics]\nlisten = \"0.0.0.0:9477\"\n", "line 2: listen: 0.0.0.0:9477 can be reached by others"),
            ("[api]\nbody_limit = 1\n", "line 2: body_limit: must be at least 1024"),
        ] {
            let said = said(text);
            assert!(said.starts_with(begins), "{text:?}: {said}");
        }
        assert!(said("x = ").starts_with("line 1: "));
    }
}
