//! What was asked for.

use std::path::PathBuf;

use rnet_model::ContainerName;
use serde::{Deserialize, Serialize};

use crate::files::hosts;
use crate::{Bind, CapName, ContainerId, EnvVar, Hostname, NetworkSettings, UserSpec};

/// How the container's standard streams are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Streams {
    /// Pipes, stdin from /dev/null.
    Output,
    /// Pipes, stdin too.
    Interactive,
    /// A terminal that nobody types into.
    Terminal,
    /// A terminal.
    // The other names of values, here and below, are those that records of earlier versions have.
    #[serde(alias = "interactiveterminal")]
    InteractiveTerminal,
}

impl Streams {
    /// From `-i` and `-t`.
    pub fn from_flags(interactive: bool, terminal: bool) -> Self {
        match (interactive, terminal) {
            (false, false) => Streams::Output,
            (true, false) => Streams::Interactive,
            (false, true) => Streams::Terminal,
            (true, true) => Streams::InteractiveTerminal,
        }
    }

    /// Whether the container gets a terminal.
    pub fn terminal(self) -> bool {
        matches!(self, Streams::Terminal | Streams::InteractiveTerminal)
    }

    /// Whether stdin is forwarded.
    pub fn interactive(self) -> bool {
        matches!(self, Streams::Interactive | Streams::InteractiveTerminal)
    }
}

/// What becomes of the container when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// It stays, stopped, until `rnet rm`.
    #[serde(alias = "untilremoved")]
    UntilRemoved,
    /// `--rm`: it goes.
    #[serde(alias = "whilerunning")]
    WhileRunning,
}

/// A container as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Directory that becomes `/`: absolute.
    pub rootfs: PathBuf,
    /// Program and its arguments; never empty.
    pub command: Vec<String>,
    /// Environment beyond the default.
    pub env: Vec<EnvVar>,
    /// Directories and files of the host.
    pub binds: Vec<Bind>,
    /// Directory the program starts in: absolute.
    pub workdir: PathBuf,
    /// User; default: root.
    pub user: Option<UserSpec>,
    /// Capabilities beyond the default.
    pub cap_add: Vec<CapName>,
    /// Capabilities of the default that it does not get.
    pub cap_drop: Vec<CapName>,
    /// Hostname; default: the short id, the host's or the other container's, by mode.
    pub hostname: Option<Hostname>,
    /// Network.
    pub network: NetworkSettings,
    /// Streams.
    pub streams: Streams,
    /// Whether it goes when it ends.
    pub keep: Keep,
}

/// A container as kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Id.
    pub id: ContainerId,
    /// Name, unique in the instance.
    pub name: ContainerName,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// What was asked for.
    pub spec: ContainerSpec,
}

impl Record {
    /// The hostname of a container in a namespace of its own.
    pub fn hostname(&self) -> &str {
        self.spec.hostname.as_ref().map_or_else(|| self.id.short(), Hostname::as_str)
    }

    /// Its names in its own hosts file.
    pub fn own_names(&self) -> String {
        hosts::own_names(self.hostname(), self.spec.network.domainname.as_ref().map(AsRef::as_ref))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_records_now_and_before() {
        for (keep, now, before) in [
            (Keep::UntilRemoved, "\"until-removed\"", "\"untilremoved\""),
            (Keep::WhileRunning, "\"while-running\"", "\"whilerunning\""),
        ] {
            assert_eq!(serde_json::to_string(&keep).unwrap(), now);
            assert_eq!(serde_json::from_str::<Keep>(now).unwrap(), keep);
            assert_eq!(serde_json::from_str::<Keep>(before).unwrap(), keep);
        }
        for word in ["\"interactive-terminal\"", "\"interactiveterminal\""] {
            assert_eq!(serde_json::from_str::<Streams>(word).unwrap(), Streams::InteractiveTerminal);
        }
    }

    #[test]
    fn a_record_of_the_version_before() {
        let text = r#"{"id":"00001111000011110000111100001111","name":"web","created":"2020-01-01T00:00:00Z","spec":{
            "rootfs":"/rootfs","command":["sh"],"env":["A=1"],"binds":[],"workdir":"/","user":null,"cap_add":[],
            "cap_drop":[],"hostname":null,"network":{"mode":"blue","ips":["10.9.0.7"],"mac":null},
            "streams":"output","keep":"until-removed"}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.spec.network.networks[0].options.ips.len(), 1);
        assert_eq!(record.own_names(), "000011110000");
        let again: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(again, record);
    }
}
