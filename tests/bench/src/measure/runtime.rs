//! S5: a container that does nothing, with a network.

use std::time::Duration;

use super::{Finding, or_why, rnet};
use crate::bed::{Bed, Daemon, timed};
use crate::peers::docker::{Docker, IMAGE};
use crate::stats::{Samples, Short, ratio};

const ROUNDS: usize = 30;
const DOCKER_ROUNDS: usize = 8;
/// Runs before the clock counts: the first makes the network.
const WARM_UP: usize = 3;

/// Wall times of `run --rm`.
pub(crate) fn no_op(bed: &Bed, docker: &anyhow::Result<Docker>) -> anyhow::Result<Finding> {
    let daemon = Daemon::start(bed, "s5", "")?;
    let rootfs = bed.rootfs()?.display().to_string();
    let run = |net: &str| {
        timed(&mut rnet(bed, &daemon, &["run", "--rm", "--net", net, "--rootfs", &rootfs, "/bin/busybox", "true"]))
    };
    for _ in 0..WARM_UP {
        run("bridge")?;
    }
    let networked: Samples = (0..ROUNDS).map(|_| run("bridge")).collect::<anyhow::Result<_>>()?;
    let host: Samples = (0..ROUNDS).map(|_| run("host")).collect::<anyhow::Result<_>>()?;
    let theirs = docker.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(|docker| {
        let run = |net: &str| docker.timed(&["run", "--rm", "--net", net, IMAGE, "/bin/busybox", "true"]);
        run("bridge")?;
        let networked: Samples = (0..DOCKER_ROUNDS).map(|_| run("bridge")).collect::<anyhow::Result<_>>()?;
        let host: Samples = (0..DOCKER_ROUNDS).map(|_| run("host")).collect::<anyhow::Result<_>>()?;
        Ok((networked.median(), host.median()))
    });
    let times = theirs.as_ref().ok().map(|(networked_there, _)| ratio(*networked_there, networked.median()));
    let faster = times.map(|t| format!("; {t:.0}x")).unwrap_or_default();
    Ok(Finding {
        id: "S5",
        measured: format!("{networked}; with --net host {}{faster}", Short(host.median())),
        peers: or_why(theirs.map(|(n, h)| format!("docker run --rm {}, with --net host {}", Short(n), Short(h)))),
        met: networked.median() <= Duration::from_millis(40) && times.is_none_or(|t| t >= 6.0),
    })
}
