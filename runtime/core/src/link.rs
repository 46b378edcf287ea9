//! The variables that a container is told of another one by: the contract of Docker's `--link` (the "legacy container
//! links" of its documentation), which programs read as `DB_PORT_5432_TCP_ADDR`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use rnet_model::{ContainerName, ExposedPort, Protocol};

use crate::EnvVar;

/// Most ports that are told of one by one; a container that listens on more is told of their ranges.
const MOST: usize = 256;
/// Fewest ports in a row that are told of as a range.
const RANGE: usize = 3;

/// A container that another one is linked to.
#[derive(Debug)]
pub struct Linked<'a> {
    /// The other one's name.
    pub from: &'a ContainerName,
    /// What it calls this one.
    pub alias: &'a ContainerName,
    /// Where it reaches this one.
    pub address: IpAddr,
    /// What this one listens on.
    pub ports: &'a [ExposedPort],
    /// This one's environment.
    pub env: &'a [EnvVar],
}

impl Linked<'_> {
    /// The variables, in Docker's order.
    pub fn environment(&self) -> Vec<EnvVar> {
        let prefix = prefix(self.alias.as_str());
        let mut out = Vec::new();
        let mut set = |name: String, value: String| out.push(EnvVar { key: format!("{prefix}_{name}"), value });
        let ports = self.ports();
        if let Some((protocol, port)) = ports.first() {
            set("PORT".to_owned(), self.url(*protocol, *port));
        }
        for range in ranges(&ports).into_iter().filter(|range| range.len() >= RANGE) {
            let ((protocol, first), (_, last)) = (range[0], range[range.len() - 1]);
            let name = |suffix: &str| format!("PORT_{first}_{}{suffix}", upper(protocol));
            set(name("_START"), self.url(protocol, first));
            set(name("_PORT_START"), first.to_string());
            set(name("_END"), self.url(protocol, last));
            set(name("_PORT_END"), last.to_string());
        }
        for (protocol, port) in ports.iter().take(MOST) {
            let name = |suffix: &str| format!("PORT_{port}_{}{suffix}", upper(*protocol));
            set(name(""), self.url(*protocol, *port));
            set(name("_ADDR"), self.address.to_string());
            set(name("_PORT"), port.to_string());
            set(name("_PROTO"), protocol.to_string());
        }
        set("NAME".to_owned(), format!("/{}/{}", self.from, self.alias));
        for var in self.env.iter().filter(|var| !matches!(var.key.as_str(), "HOME" | "PATH")) {
            set(format!("ENV_{}", var.key), var.value.clone());
        }
        out
    }

    /// Each once, TCP first, then rising.
    fn ports(&self) -> Vec<(Protocol, u16)> {
        let all: BTreeSet<(Protocol, u16)> =
            self.ports.iter().flat_map(|e| e.ports.ports().map(|port| (e.protocol, port))).collect();
        all.into_iter().collect()
    }

    fn url(&self, protocol: Protocol, port: u16) -> String {
        format!("{protocol}://{}", SocketAddr::new(self.address, port))
    }
}

/// What the names of variables begin with: upper case, and what no shell takes in a name is an underscore.
fn prefix(alias: &str) -> String {
    alias.to_ascii_uppercase().replace(['-', '.'], "_")
}

fn upper(protocol: Protocol) -> String {
    protocol.as_str().to_ascii_uppercase()
}

/// Ports of one protocol in a row.
fn ranges(ports: &[(Protocol, u16)]) -> Vec<&[(Protocol, u16)]> {
    ports.chunk_by(|a, b| a.0 == b.0 && a.1.checked_add(1) == Some(b.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(address: &str, ports: &[&str], env: &[&str]) -> Vec<String> {
        let ports: Vec<ExposedPort> = ports.iter().map(|p| p.parse().unwrap()).collect();
        let env: Vec<EnvVar> = env.iter().map(|e| e.parse().unwrap()).collect();
        let linked = Linked {
            from: &"web".parse().unwrap(),
            alias: &"my-db.x".parse().unwrap(),
            address: address.parse().unwrap(),
            ports: &ports,
            env: &env,
        };
        linked.environment().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_port() {
        assert_eq!(
            environment("172.17.0.5", &["5432"], &["A=1", "HOME=/root", "PATH=/bin"]),
            [
                "MY_DB_X_PORT=tcp://172.17.0.5:5432",
                "MY_DB_X_PORT_5432_TCP=tcp://172.17.0.5:5432",
                "MY_DB_X_PORT_5432_TCP_ADDR=172.17.0.5",
                "MY_DB_X_PORT_5432_TCP_PORT=5432",
                "MY_DB_X_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_X_NAME=/web/my-db.x",
                "MY_DB_X_ENV_A=1",
            ]
        );
        assert_eq!(environment("172.17.0.5", &[], &[]), ["MY_DB_X_NAME=/web/my-db.x"]);
    }

    #[test]
    fn tcp_first_and_each_once() {
        let all = environment("fd00::5", &["53/udp", "80", "80/tcp", "443"], &[]);
        assert_eq!(all[0], "MY_DB_X_PORT=tcp://[fd00::5]:80");
        assert_eq!(all.iter().filter(|v| v.starts_with("MY_DB_X_PORT_80_TCP=")).count(), 1);
        assert!(all.contains(&"MY_DB_X_PORT_53_UDP=udp://[fd00::5]:53".to_owned()));
        assert!(all.contains(&"MY_DB_X_PORT_53_UDP_ADDR=fd00::5".to_owned()));
        assert!(!all.iter().any(|v| v.contains("_START")));
        assert_eq!(environment("10.0.0.1", &["53/udp"], &[])[0], "MY_DB_X_PORT=udp://10.0.0.1:53");
    }

    #[test]
    fn three_in_a_row_are_a_range() {
        let all = environment("10.0.0.1", &["6379-6380", "6381", "6381/udp", "9000"], &[]);
        for expected in [
            "MY_DB_X_PORT_6379_TCP_START=tcp://10.0.0.1:6379",
            "MY_DB_X_PORT_6379_TCP_PORT_START=6379",
            "MY_DB_X_PORT_6379_TCP_END=tcp://10.0.0.1:6381",
            "MY_DB_X_PORT_6379_TCP_PORT_END=6381",
            "MY_DB_X_PORT_6380_TCP=tcp://10.0.0.1:6380",
            "MY_DB_X_PORT_6381_UDP=udp://10.0.0.1:6381",
        ] {
            assert!(all.contains(&expected.to_owned()), "{expected}: {all:#?}");
        }
        assert_eq!(all.iter().filter(|v| v.contains("PORT_START")).count(), 1);
    }

    #[test]
    fn many_ports_do_not_fill_the_environment() {
        let all = environment("10.0.0.1", &["1-65535"], &[]);
        assert!(all.len() < 4 * MOST + 10, "{}", all.len());
        assert!(all.contains(&"MY_DB_X_PORT_1_TCP_PORT_END=65535".to_owned()));
    }
}
