//! The `rnet` command: words in, one or a few API calls, text or JSON out.
//!
//! Owns: the command line, how results and errors look, the OCI hook. Refuses: any decision about networks and any
//! kernel access; both are netd's (`rnet doctor` looks by itself when there is no netd, and changes nothing). A library, so that the generator of man pages and completions sees the same
//! definition as the binary.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use rnet_api::{ApiError, Client, Root};
use rnet_model::{InvalidInput, Kind};

mod attach;
mod bridge;
mod capture;
mod doctor;
mod events;
mod explain;
mod hook;
mod info;
mod interrupt;
pub mod lab;
mod network;
pub mod output;
mod paint;
mod ping;
mod port;
mod progress;
mod runtime;
mod stats;
mod ui;

/// What every command knows.
#[derive(Debug, Clone)]
pub struct Context {
    /// The instance.
    pub root: Root,
    /// Whether results are printed as JSON.
    pub json: bool,
}

impl Context {
    /// A client of the instance's netd; it connects with its first call.
    pub fn client(&self) -> Client {
        Client::new(&self.root)
    }
}

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "rnet",
    version,
    about = "Real networks for containers on Linux",
    long_about = "Real networks for containers on Linux: attaches any container to a bridge with an address, makes \
                  networks, runs containers on them, and deploys labs. Talks to the daemon netd over a unix socket.",
    after_help = AFTER_HELP,
    disable_help_subcommand = true,
    max_term_width = 120
)]
pub struct Cli {
    /// Use the private instance in DIR instead of the machine's [env: RNET_ROOT]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options",
        long_help = "Use the private instance whose state is in DIR/lib and whose socket is DIR/run/netd.sock, \
                     instead of the machine's in /var/lib/rnet and /run/rnet [env: RNET_ROOT]"
    )]
    root: Option<PathBuf>,

    /// Print results as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  rnet attach br0 web 192.168.115.10/24@192.168.115.1   give container web a second leg in the LAN
  rnet network create blue --subnet 10.9.0.0/24         make a network with NAT to the outside
  rnet attachments                                      list what is attached
  rnet detach web --all                                 undo it

Exit codes:
  0 done   2 wrong request   3 not found   4 conflict   5 try again later   6 not supported here
  7 netd or an engine cannot be reached   8 not allowed   70 a defect of rnet";

#[derive(Debug, Subcommand)]
enum Command {
    Attach(Box<attach::AttachArgs>),
    Detach(attach::DetachArgs),
    Attachments(attach::AttachmentsArgs),
    Wait(attach::WaitArgs),
    /// Make, list, connect and remove networks
    #[command(subcommand, visible_alias = "net")]
    Network(network::NetworkCommand),
    /// Make, list and remove bridges, also with one of the host's NICs in it
    #[command(subcommand)]
    Bridge(bridge::BridgeCommand),
    #[command(flatten)]
    Port(port::PortCommand),
    #[command(flatten)]
    Runtime(runtime::RuntimeCommand),
    /// Deploy, inspect and destroy lab topologies
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Be an OCI hook: network for any OCI runtime's containers
    #[command(subcommand)]
    Hook(hook::HookCommand),
    Doctor(doctor::DoctorArgs),
    Explain(explain::ExplainArgs),
    PingAll(ping::PingAllArgs),
    Stats(stats::StatsArgs),
    Capture(Box<capture::CaptureArgs>),
    Events(events::EventsArgs),
    Ui(ui::UiArgs),
    Version(info::VersionArgs),
    Openapi(info::OpenapiArgs),
}

/// The definition of the command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the process's arguments, runs the command, prints what there is to say.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let root = match cli.root {
        Some(dir) => Root::from_option(Some(dir)),
        None => Root::from_env(),
    };
    let ctx = Context { root, json: cli.json };
    match dispatch(cli.command, &ctx) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn dispatch(command: Command, ctx: &Context) -> Result<u8, ApiError> {
    match command {
        Command::Attach(args) => attach::attach(*args, ctx),
        Command::Detach(args) => attach::detach(args, ctx),
        Command::Attachments(args) => attach::attachments(args, ctx),
        Command::Wait(args) => attach::wait(args, ctx),
        Command::Network(command) => network::dispatch(command, ctx),
        Command::Bridge(command) => bridge::dispatch(command, ctx),
        Command::Port(command) => port::dispatch(command, ctx),
        Command::Runtime(command) => runtime::dispatch(command, ctx),
        Command::Lab(command) => lab::dispatch(command, ctx),
        Command::Hook(command) => hook::dispatch(command, ctx),
        Command::Doctor(_) => doctor::doctor(ctx),
        Command::Explain(args) => explain::explain(args, ctx),
        Command::PingAll(args) => ping::ping_all(&args, ctx),
        Command::Stats(args) => stats::stats(&args, ctx),
        Command::Capture(args) => capture::capture(&args, ctx),
        Command::Events(args) => events::events(&args, ctx),
        Command::Ui(args) => ui::ui(&args, ctx),
        Command::Version(_) => info::version(ctx),
        Command::Openapi(_) => info::openapi(ctx),
    }
}

/// Prints an error as `error: a: b: c` and, if there is one, `hint: ...`.
pub fn report(error: &ApiError) {
    output::error_lines(error);
}

/// Help and version go to stdout; a value that the model refused looks like every other error of rnet, with its hint;
/// the rest is clap's own text with the usage.
fn usage(error: &clap::Error) -> ExitCode {
    let code = if asked_to_run() { runtime::OWN_FAILURE } else { Kind::Invalid.exit_code() };
    let refused = std::error::Error::source(error).and_then(|source| source.downcast_ref::<InvalidInput>());
    if let Some(invalid) = refused {
        report(&invalid.clone().into());
        return ExitCode::from(code);
    }
    // A reader that closed the pipe (`rnet --help | head -1`) is no failure.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { code } else { 0 })
}

/// Whether words that could not be understood were meant for a command whose exit codes are the program's but for one.
fn asked_to_run() -> bool {
    let loose = Cli::command().ignore_errors(true).try_get_matches();
    loose.is_ok_and(|matches| matches.subcommand_name().is_some_and(|name| matches!(name, "run" | "exec")))
}

#[cfg(test)]
mod tests;
