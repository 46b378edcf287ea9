//! The reference bridge plugin with host-local addresses, executed as a CNI runtime does.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use crate::bed::{Bed, Container};

/// The plugin and its configuration.
#[derive(Debug)]
pub(crate) struct Reference {
    plugins: PathBuf,
    config: String,
}

impl Reference {
    pub(crate) fn find(bed: &Bed) -> anyhow::Result<Self> {
        let bridge = super::installed(&["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"])?;
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "reference",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipam": { "type": "host-local", "dataDir": bed.dir("cni")?, "subnet": "10.77.0.0/16" },
        });
        let plugins = bridge.parent().map(PathBuf::from).unwrap_or_default();
        Ok(Reference { plugins, config: config.to_string() })
    }

    /// `ADD` or `DEL`.
    pub(crate) fn call(&self, verb: &str, container: &Container) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut child = Command::new(self.plugins.join("bridge"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &container.name)
            .env("CNI_NETNS", &container.path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.config.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(begun.elapsed())
    }
}
