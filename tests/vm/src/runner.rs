//! The machine's side of one program in the guest: cargo's runner for test programs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::DIR;
use crate::guest::{console_tail, path};
use crate::wire::{Ask, Reply, Request, SLOTS, Said, slot_socket};

/// Of the runner's environment, what is about this machine and not about the test.
const OURS: [&str; 4] = [DIR, "PATH", "TMPDIR", "XDG_RUNTIME_DIR"];

/// Runs a program in the guest as if it ran here.
pub(crate) fn run(words: &[String]) -> anyhow::Result<u8> {
    if words.iter().any(|w| w == "--list") {
        let (program, arguments) = words.split_first().context("nothing to run")?;
        return Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot run {program}"));
    }
    let dir = PathBuf::from(std::env::var_os(DIR).with_context(|| format!("no guest: {DIR} is not set by `with`"))?);
    // nextest's number of the place among the tests that run at the same time.
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().map_or(Ok(0), |s| s.parse())?;
    if slot >= SLOTS {
        bail!("the guest runs {SLOTS} programs at the same time: use `--test-threads {SLOTS}` or fewer");
    }
    let stream = connect(&dir, slot)?;
    tell_where_it_hung(&dir, stream.try_clone()?)?;
    let said = ask(stream, words.to_vec(), |said| match said {
        Said::Out(text) => drop(std::io::stdout().write_all(text.as_bytes())),
        Said::Err(text) => drop(std::io::stderr().write_all(text.as_bytes())),
        Said::Kernel(text) => eprintln!("guest's kernel: {text}"),
        Said::Ended(_) => {}
    });
    said.inspect_err(|_| eprintln!("{}", console_tail(&dir)))
}

/// The port.
pub(crate) fn connect(dir: &Path, slot: usize) -> anyhow::Result<UnixStream> {
    UnixStream::connect(slot_socket(dir, slot)).context("the guest has ended")
}

/// Runs a program on a port and hands over what it says.
pub(crate) fn ask(stream: UnixStream, words: Vec<String>, mut hear: impl FnMut(Said)) -> anyhow::Result<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let id = format!("{}.{}", std::process::id(), now.as_nanos());
    let mut env: Vec<(String, String)> = std::env::vars().filter(|(name, _)| !OURS.contains(&name.as_str())).collect();
    env.extend([("PATH".to_owned(), path()), ("RNET_VM".to_owned(), "1".to_owned())]);
    let request = Request { id: id.clone(), dir: std::env::current_dir()?, env, words };
    send(&stream, &Ask::Run(request))?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = lines.read_until(b'\n', &mut line).context("the guest does not answer")?;
        if count == 0 {
            bail!("the guest ended in the middle of it");
        }
        match serde_json::from_slice::<Reply>(&line) {
            Ok(Reply { id: of, said: Said::Ended(code) }) if of == id => return Ok(code),
            Ok(reply) if reply.id == id => hear(reply.said),
            // The rest of another program's output.
            _ => {}
        }
    }
}

fn send(mut stream: &UnixStream, ask: &Ask) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line).context("the guest has ended")
}

/// When nextest loses patience it ends this program: the guest's console may say why the test hangs.
fn tell_where_it_hung(dir: &Path, stream: UnixStream) -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        let _ = signals.wait();
        let _ = send(&stream, &Ask::Stop);
        eprintln!("ended while it ran in the guest\n{}", console_tail(&dir));
        std::process::exit(128 + Signal::SIGTERM as i32);
    });
    Ok(())
}
