//! Where one instance keeps its files.

use std::path::{Path, PathBuf};

/// The directories of an instance. `RNET_ROOT=DIR` or `--root DIR` makes a private one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What survives a reboot: `/var/lib/rnet` or `DIR/lib`.
    pub lib: PathBuf,
    /// What survives a crash of the daemon: `/run/rnet` or `DIR/run`.
    pub run: PathBuf,
    /// The directory given, if this is a private instance.
    pub private: Option<PathBuf>,
}

impl Root {
    /// Name of the environment variable.
    pub const ENV: &'static str = "RNET_ROOT";

    /// The instance in `dir`, or the machine's.
    pub fn from_option(dir: Option<PathBuf>) -> Self {
        match dir {
            Some(dir) => {
                let dir = std::path::absolute(&dir).unwrap_or(dir);
                Root { lib: dir.join("lib"), run: dir.join("run"), private: Some(dir) }
            }
            None => Root { lib: "/var/lib/rnet".into(), run: "/run/rnet".into(), private: None },
        }
    }

    /// What `RNET_ROOT` says.
    pub fn from_env() -> Self {
        Self::from_option(std::env::var_os(Self::ENV).filter(|v| !v.is_empty()).map(PathBuf::from))
    }

    /// netd's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("netd.sock")
    }

    /// Where netd keeps the namespaces it made, one file each.
    pub fn netns(&self) -> PathBuf {
        self.run.join("netns")
    }

    /// Configuration file: `/etc/rnet/netd.toml`, or `DIR/netd.toml`.
    pub fn config(&self) -> PathBuf {
        self.private.as_deref().map_or_else(|| PathBuf::from("/etc/rnet/netd.toml"), |d| d.join("netd.toml"))
    }

    /// How to start the daemon of this instance, for error hints.
    pub fn start_command(&self) -> String {
        match &self.private {
            Some(dir) => format!("netd --root {}", quote(dir)),
            None => "systemctl start netd   (or: netd)".to_owned(),
        }
    }
}

fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(char::is_whitespace) { format!("'{text}'") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_default() {
        let root = Root::from_option(Some("/srv/x".into()));
        assert_eq!(root.socket(), PathBuf::from("/srv/x/run/netd.sock"));
        assert_eq!(root.config(), PathBuf::from("/srv/x/netd.toml"));
        assert_eq!(Root::from_option(None).socket(), PathBuf::from("/run/rnet/netd.sock"));
    }
}
