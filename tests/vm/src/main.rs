//! Tests under a second kernel: what this machine's kernel lacks is tested for real all the same.
//!
//! `rnet-vm with -- cargo nextest run --profile vm` boots Debian's stock kernel in QEMU and runs the command on this
//! machine. Cargo's runner for test programs is this program too (`rnet-vm run`): it hands each test to the guest and
//! gives its output and exit code back, so that nextest picks, runs, times and reports tests as it always does. The guest's
//! root is this machine's, read-only below a tmpfs: there every program and library has its usual path.
#![allow(clippy::print_stdout, reason = "a program of the test suite speaks on stdout")]

mod agent;
mod guest;
mod initramfs;
mod runner;
mod skips;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Directory of the running guest's sockets and console, for `rnet-vm run`.
pub(crate) const DIR: &str = "RNET_VM_DIR";

#[derive(Parser)]
#[command(name = "rnet-vm", about = "Runs tests under a second kernel", version)]
struct Words {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Boots a guest and runs a command on this machine whose test programs run in the guest.
    With {
        /// Seconds until guest and command are ended.
        #[arg(long, default_value_t = 170)]
        limit: u64,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Runs a program in the guest of the surrounding `with`; one that only lists its tests runs here.
    Run {
        /// The program and its words.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Prints the nextest filter of this tier: the profile's own, and every test that the last run of tier 2 skipped.
    Filter,
    /// Says what the last runs on both kernels skipped.
    Skips,
    /// Serves `run` inside the guest.
    #[command(hide = true)]
    Agent,
}

fn main() -> ExitCode {
    let done = match Words::parse().what {
        What::With { limit, command } => target().and_then(|t| guest::with(&t, Duration::from_secs(limit), &command)),
        What::Run { words } => runner::run(&words),
        What::Filter => target().and_then(|t| skips::filter(&t)),
        What::Skips => target().and_then(|t| skips::report(&t)),
        What::Agent => agent::serve(),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The build's target directory, in which this program is.
fn target() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).map(Path::to_owned);
    target.with_context(|| format!("{} is not in target/PROFILE", program.display()))
}
