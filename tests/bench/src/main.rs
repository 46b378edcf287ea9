//! `rnet-bench`: measures the promises, each next to its peers in the same run, and writes the table of promises.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod bed;
mod http;
mod measure;
mod peers;
mod promises;
mod stats;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use crate::bed::Bed;
use crate::measure::Finding;
use crate::peers::docker::Docker;

/// Measures rnet beside its peers, in private namespaces
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Directory of the release binaries netd and rnet
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    binaries: PathBuf,
    /// Measure only these promises
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Write the table of promises to FILE; needs all of them measured
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    write: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = |ids: &[&str]| {
        args.only.is_empty() || args.only.iter().any(|o| ids.iter().any(|id| o.eq_ignore_ascii_case(id)))
    };
    let write = args.write.as_deref().map(std::path::absolute).transpose()?;
    let bed = Bed::enter(&args.binaries)?;
    let docker = if wanted(&["S5", "S6", "S7", "S9", "S13", "S14", "S15"]) {
        Docker::start(&bed)
    } else {
        Err(anyhow::anyhow!("not asked for"))
    };
    let mut findings: Vec<Finding> = Vec::new();
    if wanted(&["S1"]) {
        findings.push(show(measure::attach::inside_netd(&bed).context("S1")?));
    }
    if wanted(&["S2"]) {
        findings.push(show(measure::attach::as_command(&bed).context("S2")?));
    }
    if wanted(&["S3"]) {
        findings.push(show(measure::cni::executables(&bed).context("S3")?));
    }
    if wanted(&["S5"]) {
        findings.push(show(measure::runtime::no_op(&bed, &docker).context("S5")?));
    }
    if wanted(&["S6"]) {
        findings.push(show(measure::ports::five_hundred(&bed, &docker).context("S6")?));
    }
    if wanted(&["S7", "S13"]) {
        let both = measure::ports::fifty_thousand(&bed, &docker).context("S7, S13")?;
        findings.extend(both.into_iter().map(show));
    }
    if wanted(&["S14"]) {
        findings.push(show(measure::path::throughput(&bed, &docker).context("S14")?));
    }
    if wanted(&["S9"]) {
        findings.push(show(measure::network::create(&bed, &docker).context("S9")?));
    }
    if wanted(&["S10"]) {
        findings.push(show(measure::scale::bursts(&bed).context("S10")?));
    }
    if wanted(&["S8", "S11", "S15", "R2"]) {
        let many = measure::scale::many(&bed, &docker).context("S8, S11, S15, R2")?;
        findings.extend(many.into_iter().map(show));
    }
    drop(docker);
    if let Some(path) = write {
        std::fs::write(&path, promises::table(&findings)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

fn show(finding: Finding) -> Finding {
    println!("{} {}", finding.id, if finding.met { "met" } else { "NOT met" });
    println!("   rnet   {}", finding.measured);
    if !finding.peers.is_empty() {
        println!("   others {}", finding.peers);
    }
    finding
}
