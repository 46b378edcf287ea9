//! The guest: QEMU with Debian's kernel, and virtiofsd, which gives it this machine's files for reading.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::DIR;
use crate::initramfs::{self, Contents};
use crate::runner::{ask, connect};
use crate::wire::{SLOTS, slot_name, slot_socket};

/// Until the guest runs its first program. It takes 4 s on an idle machine.
const BOOT: Duration = Duration::from_secs(60);
/// For the command to end after its guest has ended.
const GRACE: Duration = Duration::from_secs(20);
/// Exit code of a run that was ended by its limit, as that of timeout(1).
const TIMED_OUT: u8 = 124;
/// Last lines of the console that say where it hung.
const TAIL: usize = 40;

/// virtiofsd in a mount namespace of its own, in which the machine's root is seen read-only at `$1`: the guest is root and
/// its kernel is under test. The other words are directories on other file systems.
const SHARE: &str = r#"
low=$1 virtiofsd=$2 socket=$3
shift 3
mount --bind / "$low" && mount -o remount,bind,ro "$low" || exit
for dir; do
    mount --bind "$dir" "$low$dir" && mount -o remount,bind,ro "$low$dir" || exit
done
exec "$virtiofsd" -f -o "source=$low" -o cache=always -o sandbox=chroot --rlimit-nofile=0 --socket-path="$socket"
"#;

/// Where programs are looked for, in the guest too.
pub(crate) fn path() -> String {
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()
}

/// Boots a guest, runs the command with it, ends it: the command's exit code.
pub(crate) fn with(target: &Path, limit: Duration, command: &[String]) -> anyhow::Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the second kernel needs root");
        return Ok(0);
    }
    let begun = Instant::now();
    let events = Events::listen()?;
    let guest = Guest::boot(target)?;
    println!("guest: Linux {} after {:.1} s", guest.version, begun.elapsed().as_secs_f32());
    let ended = command_with(guest, events, begun + limit, command);
    println!("guest: ended after {:.1} s", begun.elapsed().as_secs_f32());
    ended
}

fn command_with(guest: Guest, events: Events, until: Instant, command: &[String]) -> anyhow::Result<u8> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut runner = std::env::current_exe()?.into_os_string();
    runner.push(" run");
    let mut child = Command::new(program);
    child.args(arguments).env(DIR, guest.dir.path()).env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    let child = events.unheard(|| child.spawn())?.with_context(|| format!("cannot run {program}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    events.follow(child);
    match events.next(until) {
        Some(Event::Ended(status)) => Ok(code(status?)),
        Some(Event::Signal(signal)) => {
            let _ = kill(pid, signal);
            let _ = events.next(Instant::now() + GRACE);
            bail!("ended by {signal}")
        }
        None => {
            eprintln!("error: the guest's time is over\n{}", console_tail(guest.dir.path()));
            // Every test in it fails at once.
            drop(guest);
            if events.next(Instant::now() + GRACE).is_none() {
                let _ = kill(pid, Signal::SIGKILL);
                let _ = events.next(Instant::now() + GRACE);
            }
            Ok(TIMED_OUT)
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s));
    code.and_then(|c| u8::try_from(c).ok()).unwrap_or(u8::MAX)
}

enum Event {
    Ended(std::io::Result<ExitStatus>),
    Signal(Signal),
}

/// What `with` waits for.
struct Events {
    signals: SigSet,
    send: std::sync::mpsc::Sender<Event>,
    events: Receiver<Event>,
}

impl Events {
    /// From now on signals do not end this process, which has a guest to end first.
    fn listen() -> anyhow::Result<Self> {
        let (send, events) = channel();
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        let to = send.clone();
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                if to.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Events { signals, send, events })
    }

    /// Signals end this process, as they end a program that is started here: blocked signals are inherited.
    fn unheard<T>(&self, start: impl FnOnce() -> T) -> anyhow::Result<T> {
        self.signals.thread_unblock()?;
        let started = start();
        self.signals.thread_block()?;
        Ok(started)
    }

    fn follow(&self, mut child: Child) {
        let send = self.send.clone();
        std::thread::spawn(move || send.send(Event::Ended(child.wait())));
    }

    fn next(&self, until: Instant) -> Option<Event> {
        self.events.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// A running guest. It ends with this value, and with this process however that ends.
struct Guest {
    /// Sockets, console, initramfs.
    dir: TempDir,
    /// Where the console is kept.
    target: PathBuf,
    version: String,
    processes: Vec<Child>,
}

impl Guest {
    fn boot(target: &Path) -> anyhow::Result<Self> {
        let kernel = target.join("vm/kernel");
        let version = version(&kernel)?;
        let dir = tempfile::Builder::new().prefix("rnet-vm-").tempdir()?;
        let dirs = dirs(target)?;
        let initramfs = dir.path().join("initramfs");
        let agent = std::env::current_exe()?;
        let contents = Contents { kernel: &kernel, version: &version, agent: &agent, dirs: &dirs };
        initramfs::write(&initramfs, &contents)?;
        let mut guest = Guest { dir, target: target.to_owned(), version, processes: Vec::new() };
        guest.share(&dirs)?;
        guest.start(&kernel)?;
        guest.answers().map_err(|error| {
            eprintln!("{}", console_tail(guest.dir.path()));
            error.context("the guest does not boot")
        })?;
        Ok(guest)
    }

    /// Starts virtiofsd.
    fn share(&mut self, dirs: &[PathBuf]) -> anyhow::Result<()> {
        let programs = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
        let program = programs.into_iter().find(|p| Path::new(p).exists());
        let program = program.context("no virtiofsd (package qemu-system-common or virtiofsd)")?;
        let low = self.dir.path().join("machine");
        std::fs::create_dir(&low)?;
        let socket = self.dir.path().join("files");
        let log = File::create(self.dir.path().join("files.log"))?;
        let root = Path::new("/").metadata()?.dev();
        let mut command = ending_with_us("unshare");
        command.args(["--mount", "--", "sh", "-c", SHARE, "share"]).arg(&low).arg(program).arg(&socket);
        command.args(dirs.iter().filter(|d| d.metadata().is_ok_and(|m| m.dev() != root)));
        self.processes.push(command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot run setpriv")?);
        self.wait_for("virtiofsd", &socket)
    }

    /// Starts QEMU.
    fn start(&mut self, kernel: &Path) -> anyhow::Result<()> {
        let dir = self.dir.path();
        let text = |what: &str, path: PathBuf| {
            let mut word = OsString::from(what);
            word.push(path);
            word
        };
        // A guest under KVM hangs where KVM is itself emulated: tcg runs everywhere.
        let mut qemu = ending_with_us("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G", "-no-user-config"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-append"]);
        qemu.arg("console=ttyS0 loglevel=6 panic=-1 oops=panic mitigations=off net.ifnames=0");
        qemu.arg("-kernel").arg(kernel.join(format!("boot/vmlinuz-{}", self.version)));
        qemu.arg("-initrd").arg(dir.join("initramfs"));
        qemu.arg("-serial").arg(text("file:", dir.join("console")));
        // virtiofsd reads and writes the guest's memory.
        qemu.args(["-object", "memory-backend-memfd,id=memory,size=2G,share=on", "-numa", "node,memdev=memory"]);
        qemu.arg("-chardev").arg(text("socket,id=files,path=", dir.join("files")));
        qemu.args(["-device", "vhost-user-fs-pci,chardev=files,tag=machine", "-device", "virtio-serial-pci"]);
        for slot in 0..SLOTS {
            let name = slot_name(slot);
            let socket = format!("socket,id={name},server=on,wait=off,path=");
            qemu.arg("-chardev").arg(text(&socket, slot_socket(dir, slot)));
            qemu.arg("-device").arg(format!("virtserialport,chardev={name},name={name}"));
        }
        let log = File::create(dir.join("qemu.log"))?;
        self.processes.push(qemu.stdout(log.try_clone()?).stderr(log).spawn().context("cannot run setpriv")?);
        let last = slot_socket(self.dir.path(), SLOTS - 1);
        self.wait_for("qemu", &last)
    }

    /// Waits for the socket of the process that was started last.
    fn wait_for(&mut self, name: &str, socket: &Path) -> anyhow::Result<()> {
        const PAUSE: Duration = Duration::from_millis(5);
        let process = self.processes.last_mut().context("a process")?;
        let begun = Instant::now();
        while !socket.exists() {
            let log = |dir: &Path| {
                ["files.log", "qemu.log"].map(|l| std::fs::read_to_string(dir.join(l)).unwrap_or_default())
            };
            if let Some(status) = process.try_wait()? {
                bail!("{name}: {status}: {}", log(self.dir.path()).concat().trim());
            }
            if begun.elapsed() > GRACE {
                bail!("{name} does not begin: {}", log(self.dir.path()).concat().trim());
            }
            #[allow(clippy::disallowed_methods, reason = "between two looks, with a deadline")]
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn answers(&self) -> anyhow::Result<()> {
        let mut said = String::new();
        let words = ["uname", "-r"].map(str::to_owned).to_vec();
        let stream = connect(self.dir.path(), 0)?;
        stream.set_read_timeout(Some(BOOT))?;
        let code = ask(stream, words, |part| said.push_str(&format!("{part:?}")))?;
        if code != 0 || !said.contains(&self.version) {
            bail!("uname ended with {code} and said {said}");
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::copy(self.dir.path().join("console"), self.target.join("vm/console.log"));
    }
}

/// A command that is killed when this process ends, however it does.
fn ending_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).env("PATH", path()).stdin(Stdio::null());
    command
}

/// The version of the unpacked kernel.
fn version(kernel: &Path) -> anyhow::Result<String> {
    let modules = kernel.join("lib/modules");
    let mut versions = modules.read_dir().into_iter().flatten().filter_map(Result::ok);
    let version = versions.next().and_then(|v| v.file_name().into_string().ok());
    version.with_context(|| format!("no kernel in {}: `contrib/deps test` downloads it", kernel.display()))
}

/// The sources and the build, whose paths test programs know. The guest has a /tmp of its own.
fn dirs(target: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    Ok(if target.starts_with(&sources) { vec![sources] } else { vec![sources, target.to_owned()] })
}

/// The last lines of the guest's console.
pub(crate) fn console_tail(dir: &Path) -> String {
    let console = std::fs::read(dir.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).into_owned();
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    format!("--- the guest's console ends with\n{tail}\n---")
}
