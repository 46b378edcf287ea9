//! CNI plugins, executed as a container runtime does: the reference's and ours.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::bed::{Bed, Container};

/// A folder of plugins.
#[derive(Debug)]
pub(crate) struct Plugins {
    folder: PathBuf,
    /// `RNET_ROOT`, for plugins that ask netd.
    root: Option<PathBuf>,
}

/// What a call is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) container: &'a Container,
    /// A list of plugins, each with its `type`; `name` and `cniVersion` are added.
    pub(crate) list: &'a [Value],
}

impl Plugins {
    /// The reference's.
    pub(crate) fn reference() -> anyhow::Result<Self> {
        let bridge = super::installed(&["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"])?;
        Ok(Plugins { folder: bridge.parent().map(PathBuf::from).unwrap_or_default(), root: None })
    }

    /// Ours, by their links.
    pub(crate) fn ours(bed: &Bed, root: Option<&Path>) -> anyhow::Result<Self> {
        let folder = bed.dir("cni-bin")?;
        crate::bed::run(Command::new(bed.binary("rnet-cni")).arg("install").arg("--dir").arg(&folder))?;
        Ok(Plugins { folder, root: root.map(Path::to_owned) })
    }

    /// ADD of a whole list; how long it took, and the result.
    pub(crate) fn add(&self, of: Of<'_>) -> anyhow::Result<(Duration, Value)> {
        let (mut took, mut result) = (Duration::ZERO, Value::Null);
        for plugin in of.list {
            let (time, answer) = self.call("ADD", of.container, plugin, &result)?;
            took += time;
            result = answer;
        }
        Ok((took, result))
    }

    /// DEL of a whole list, last plugin first.
    pub(crate) fn del(&self, of: Of<'_>, result: &Value) -> anyhow::Result<Duration> {
        let calls = of.list.iter().rev().map(|plugin| self.call("DEL", of.container, plugin, result));
        calls.map(|call| call.map(|(time, _)| time)).sum()
    }

    fn call(
        &self,
        verb: &str,
        container: &Container,
        plugin: &Value,
        previous: &Value,
    ) -> anyhow::Result<(Duration, Value)> {
        let kind = plugin["type"].as_str().context("a plugin without type")?;
        let mut config = plugin.clone();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("bench");
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let config = config.to_string();
        let mut command = Command::new(self.folder.join(kind));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &container.name)
            .env("CNI_NETNS", &container.path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.folder)
            .envs(self.root.iter().map(|root| ("RNET_ROOT", root)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(config.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let took = begun.elapsed();
        ensure!(output.status.success(), "{kind} {verb}: {}", String::from_utf8_lossy(&output.stdout));
        Ok((took, serde_json::from_slice(&output.stdout).unwrap_or_default()))
    }
}
