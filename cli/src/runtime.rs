//! The commands of the slim runtime. Each container is made by a process of its own, `rnet-shim`, that stays with it;
//! these commands talk to that process when they start it, and otherwise read and change what is on disk.

mod control;
mod exec;
mod logs;
mod net_args;
mod run;
mod shim;
mod show;
mod terminal;

use clap::{Args, Subcommand};
use rnet_api::ApiError;

pub(crate) use show::{addresses_changed, end_of, is_own};

use crate::Context;

/// Commands of the slim runtime.
#[derive(Debug, Subcommand)]
pub(crate) enum RuntimeCommand {
    #[command(disable_help_flag = true)]
    Run(Box<run::RunArgs>),
    Ps(show::PsArgs),
    Exec(exec::ExecArgs),
    Logs(logs::LogsArgs),
    Start(control::StartArgs),
    Stop(control::StopArgs),
    Kill(control::KillArgs),
    Rm(control::RmArgs),
    Inspect(show::InspectArgs),
}

/// What the commands that start a program have in common.
#[derive(Debug, Args)]
struct ProgramArgs {
    /// Program in the container and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<String>,

    /// Leave it running; run prints the id of the container [default: wait for it]
    #[arg(short, long)]
    detach: bool,

    /// Forward the standard input [default: the program's is empty]
    #[arg(short, long)]
    interactive: bool,

    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,

    /// Environment variable, or the name of one whose value here is taken; repeatable
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    env: Vec<String>,
}

/// Exit code for failures of rnet itself where others are the program's, as docker-run(1) has it.
pub(crate) const OWN_FAILURE: u8 = 125;

/// Runs one.
///
/// # Errors
/// What the command says.
pub(crate) fn dispatch(command: RuntimeCommand, ctx: &Context) -> Result<u8, ApiError> {
    match command {
        RuntimeCommand::Run(args) => run::run(*args, ctx),
        RuntimeCommand::Ps(args) => show::ps(&args, ctx),
        RuntimeCommand::Exec(args) => exec::exec(args, ctx),
        RuntimeCommand::Logs(args) => logs::logs(&args, ctx),
        RuntimeCommand::Start(args) => control::start(&args, ctx),
        RuntimeCommand::Stop(args) => control::stop(&args, ctx),
        RuntimeCommand::Kill(args) => control::kill(&args, ctx),
        RuntimeCommand::Rm(args) => control::rm(&args, ctx),
        RuntimeCommand::Inspect(args) => show::inspect(&args, ctx),
    }
}
