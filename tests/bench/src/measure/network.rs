//! S9: making a network and connecting a container to it.

use std::time::Duration;

use super::{Finding, or_why, rnet};
use crate::bed::{Bed, Daemon, timed};
use crate::peers::docker::{CONTAINER, Docker};
use crate::stats::{Samples, Short, ratio};

const ROUNDS: usize = 12;

/// Wall times of the commands; `docker` may be missing.
pub(crate) fn create(bed: &Bed, docker: &anyhow::Result<Docker>) -> anyhow::Result<Finding> {
    let daemon = Daemon::start(bed, "s9", "")?;
    let containers = bed.namespaces("net", ROUNDS)?;
    let (mut create, mut connect) = (Samples::default(), Samples::default());
    for (n, container) in containers.iter().enumerate() {
        let (name, subnet) = (format!("n{n}"), format!("10.31.{n}.0/24"));
        let reference = format!("netns:{}", container.path.display());
        let made = timed(&mut rnet(bed, &daemon, &["network", "create", &name, "--subnet", &subnet]))?;
        // The first one brings the base table, which an nft process loads: once in the life of a host.
        if n > 0 {
            create.push(made);
        }
        connect.push(timed(&mut rnet(bed, &daemon, &["network", "connect", &name, &reference]))?);
    }
    let peer = match docker {
        Ok(docker) => docker_networks(docker),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    let (peers, times) = match &peer {
        Ok((c, j)) => (
            format!("docker network create {}, connect {}", Short(c.median()), Short(j.median())),
            format!("; {:.0}x, {:.0}x", ratio(c.median(), create.median()), ratio(j.median(), connect.median())),
        ),
        Err(error) => (or_why::<String>(Err(anyhow::anyhow!("{error:#}"))), String::new()),
    };
    Ok(Finding {
        id: "S9",
        measured: format!("create {create}, connect {connect}{times}"),
        peers,
        met: create.median() <= Duration::from_millis(5),
    })
}

fn docker_networks(docker: &Docker) -> anyhow::Result<(Samples, Samples)> {
    let (mut create, mut connect) = (Samples::default(), Samples::default());
    for n in 0..ROUNDS {
        let (name, subnet) = (format!("d{n}"), format!("10.32.{n}.0/24"));
        create.push(docker.timed(&["network", "create", "--subnet", &subnet, &name])?);
        connect.push(docker.timed(&["network", "connect", &name, CONTAINER])?);
    }
    for n in 0..ROUNDS {
        let name = format!("d{n}");
        docker.timed(&["network", "disconnect", &name, CONTAINER])?;
        docker.timed(&["network", "rm", &name])?;
    }
    Ok((create, connect))
}
