//! `rnet exec`.

use std::path::PathBuf;

use clap::Args;
use rnet_api::ApiError;
use rnet_model::ContainerName;
use rnet_runtime::protocol::{Begin, ExecRun, WindowSize};
use rnet_runtime::{Store, Streams, UserSpec};

use super::ProgramArgs;
use super::run::{environment, workdir};
use super::shim::{Attach, Failure, Session, catch_signals};
use super::terminal::Raw;
use crate::Context;

/// Run another program in a container that runs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet exec web ip address
  rnet exec -it web sh

Exit codes: as for rnet run")]
pub(crate) struct ExecArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR")]
    container: ContainerName,

    #[command(flatten)]
    program: ProgramArgs,

    /// User, by number or by the container's /etc/passwd [default: the container's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<UserSpec>,

    /// Directory the program starts in [default: the container's]
    #[arg(short, long, value_name = "DIR", value_parser = workdir)]
    workdir: Option<PathBuf>,
}

/// The exit code is the program's; failures of rnet itself are 125.
pub(crate) fn exec(args: ExecArgs, ctx: &Context) -> Result<u8, ApiError> {
    Ok(attempt(args, ctx).unwrap_or_else(|Failure { error, code }| {
        crate::report(&error);
        code
    }))
}

fn attempt(args: ExecArgs, ctx: &Context) -> Result<u8, Failure> {
    let container = Store::new(&ctx.root).find(&args.container)?;
    let streams = Streams::from_flags(args.program.interactive, args.program.tty);
    let attach = if args.program.detach { Attach::No } else { Attach::Yes };
    let raw = if attach == Attach::Yes { Raw::enter(streams)? } else { None };
    let signals = if attach == Attach::Yes { Some(catch_signals()?) } else { None };
    let run = ExecRun {
        id: container.record.id.clone(),
        command: args.program.command,
        env: environment(&args.program.env).map_err(ApiError::from)?,
        workdir: args.workdir,
        user: args.user,
        streams,
        size: if attach == Attach::Yes { WindowSize::of(std::io::stdout()) } else { None },
    };
    let session = Session::start(ctx, &Begin::Exec(run), attach)?;
    session.started()?;
    let name = &container.record.name;
    let left = format!("the program still runs in container {name}; what ends both: rnet stop {name}");
    let code = signals.map_or(Ok(0), |signals| session.follow(&signals, &left))?;
    drop(raw);
    Ok(code)
}
