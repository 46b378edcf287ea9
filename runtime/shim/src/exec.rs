//! `rnet exec`: a program in a container that runs.
//!
//! Without a terminal the program gets the command's own streams, so nothing has to be moved. It ends with the
//! container; when the command goes first, it runs on.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;
use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_runtime::cgroup::{self, Cgroups};
use rnet_runtime::process::Handle;
use rnet_runtime::protocol::{Channel, ExecRun, Report};
use rnet_runtime::{Status, Store, bundle, passwd, workdir};

use crate::Failure;
use crate::container::reap;
use crate::engine::{self, Stdio};
use crate::pump::Pump;
use crate::stand_in;
use crate::streams::{Client, Console, Inside, Outside, null};

/// Runs it to its end.
///
/// # Errors
/// When the program was never started.
pub(crate) fn run(store: &Store, run: &ExecRun, mut client: Client, channel: &Channel) -> Result<(), Failure> {
    let container = store.by_id(&run.id)?;
    if container.status()? != Status::Running {
        let name = &container.record.name;
        return Err(ApiError::new(Kind::Conflict, format!("container {name} does not run"))
            .hint(format!("start it first: rnet start {name}"))
            .into());
    }
    if let Some(init) = container.live()?.and_then(|live| live.init) {
        let wanted = run.workdir.as_ref().unwrap_or(&container.record.spec.workdir);
        workdir::require(init.pid, wanted).map_err(|e| Failure::new(Failure::NOT_EXECUTABLE, e))?;
    }
    let made_from = engine::configuration_of(&container)?;
    let user = run.user.as_ref().or(container.record.spec.user.as_ref());
    let identity = passwd::resolve(&container.record.spec.rootfs, user)?;
    let process: Process = bundle::exec_process(&container.record, &made_from, &identity, run)?;
    let seccomp = made_from.linux().as_ref().and_then(|l| l.seccomp().clone());
    if cgroup::probe() == Cgroups::Shared {
        stand_in::mount(&run.id)?;
    }
    let attached = client.attached();
    let (pid, outside) = if run.streams.terminal() {
        let console = Console::listen(container.run_dir())?;
        let pid = engine::join(&container, &process, seccomp, Stdio::terminal(&console))?;
        let outside = console.accept(run.size)?;
        (pid, outside)
    } else {
        let inside = hand_over(&mut client, run.streams.interactive())?;
        (engine::join(&container, &process, seccomp, Stdio::Files(inside))?, Outside::default())
    };
    let program = Handle::of_number(pid)?;
    let _ = channel.send(&Report::Started, &[]);
    let mut pump = Pump::new(&program, channel, outside, client, None)?;
    pump.run()?;
    let code = reap(pid)?;
    pump.finish()?;
    if attached {
        let _ = channel.send(&Report::Exited { code, warning: None }, &[]);
    }
    Ok(())
}

/// The command's streams for the program; /dev/null for those that are not there.
fn hand_over(client: &mut Client, interactive: bool) -> Result<Inside, ApiError> {
    let or_null = |file: Option<OwnedFd>| file.map_or_else(null, Ok);
    let stdin = client.stdin.take().filter(|_| interactive);
    Ok(Inside {
        stdin: or_null(stdin)?,
        stdout: or_null(client.stdout.take())?,
        stderr: or_null(client.stderr.take())?,
    })
}
