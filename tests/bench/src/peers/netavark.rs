//! netavark, as Podman calls it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::bed::{Bed, Container, timed};

/// The program, and where it keeps its state.
#[derive(Debug)]
pub(crate) struct Netavark {
    binary: PathBuf,
    dir: PathBuf,
}

impl Netavark {
    pub(crate) fn find(bed: &Bed) -> anyhow::Result<Self> {
        let binary = super::installed(&["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"])?;
        Ok(Netavark { binary, dir: bed.dir("netavark")? })
    }

    /// `setup` or `teardown` of container number `n`.
    pub(crate) fn call(&self, verb: &str, n: usize, container: &Container) -> anyhow::Result<Duration> {
        let id = format!("{n:064x}");
        let options = json!({
            "container_id": id,
            "container_name": container.name,
            "networks": { "nv": { "static_ips": [format!("10.88.{}.{}", n / 250, n % 250 + 2)], "interface_name": "eth0" } },
            "network_info": { "nv": {
                "name": "nv",
                "id": format!("{:064x}", 0xb0),
                "driver": "bridge",
                "network_interface": "nv0",
                "subnets": [{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }],
                "ipv6_enabled": false,
                "internal": false,
                "dns_enabled": false,
                "ipam_options": { "driver": "host-local" },
            } },
        });
        let file = self.dir.join("options.json");
        std::fs::write(&file, options.to_string())?;
        timed(Command::new(&self.binary).arg("-c").arg(&self.dir).arg("-f").arg(&file).arg(verb).arg(&container.path))
    }
}
