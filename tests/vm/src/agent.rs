//! The guest's side: a thread for each port runs what it is asked to, one program at a time.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::wire::{Ask, Reply, Request, SLOTS, Said, slot_name};

/// How long output may stay open after its program ended: processes that it left behind hold it.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// What a port's thread waits for.
enum Event {
    /// The machine asks.
    Asked(Ask),
    /// A line of the program with this number.
    Said(u64, Said),
    /// One of its two outputs is at its end.
    Closed(u64),
    /// It ended.
    Ended(u64, u8),
}

/// Serves all ports until the guest ends.
pub(crate) fn serve() -> anyhow::Result<u8> {
    let ports = (0..SLOTS).map(open).collect::<anyhow::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for port in &ports {
            scope.spawn(move || serve_port(port));
        }
    });
    Ok(1)
}

/// The device of a port. Without udev no file has the port's name; sysfs tells.
fn open(slot: usize) -> anyhow::Result<File> {
    let name = slot_name(slot);
    let class = Path::new("/sys/class/virtio-ports");
    let devices = class.read_dir().with_context(|| format!("no {}", class.display()))?;
    for device in devices.filter_map(Result::ok) {
        if std::fs::read_to_string(device.path().join("name")).is_ok_and(|n| n.trim() == name) {
            let path = PathBuf::from("/dev").join(device.file_name());
            let file = OpenOptions::new().read(true).write(true).open(&path);
            return file.with_context(|| format!("cannot open {}", path.display()));
        }
    }
    anyhow::bail!("no port {name}")
}

fn serve_port(port: &File) {
    let (send, events) = channel();
    let reader = port.try_clone().expect("a descriptor");
    let asked = send.clone();
    std::thread::spawn(move || listen(reader, &asked));
    let mut next = None;
    for number in 0.. {
        while next.is_none() {
            next = match events.recv().expect("the sender is above") {
                Event::Asked(Ask::Run(request)) => Some(request),
                _ => None,
            };
        }
        let request = next.take().expect("it was waited for");
        let mut job = Job { number, id: request.id.clone(), port };
        next = job.run(request, &send, &events);
    }
}

/// Reads requests. A port without anybody at its other end reads as empty at once.
fn listen(port: File, to: &Sender<Event>) {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut lines = BufReader::new(port);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => {
                #[allow(clippy::disallowed_methods, reason = "poll(2) returns at once while nobody is connected")]
                std::thread::sleep(PAUSE);
            }
            Ok(_) => {
                if let Ok(ask) = serde_json::from_slice(&line)
                    && to.send(Event::Asked(ask)).is_err()
                {
                    return;
                }
            }
        }
    }
}

/// One program.
struct Job<'a> {
    number: u64,
    id: String,
    port: &'a File,
}

impl Job<'_> {
    /// Runs it to its end, or until somebody asks for something else: that.
    fn run(&mut self, request: Request, send: &Sender<Event>, events: &Receiver<Event>) -> Option<Request> {
        let kernel_log = KernelLog::from_now();
        let child = match start(request) {
            Ok(child) => child,
            Err(error) => {
                self.say(Said::Err(format!("{error:#}\n")));
                self.say(Said::Ended(127));
                return None;
            }
        };
        let group = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
        follow(self.number, child, send);
        let (mut open, mut ended): (u8, Option<(u8, Instant)>) = (2, None);
        loop {
            let limit = ended.map_or(Duration::MAX, |(_, at)| LEFT_BEHIND.saturating_sub(at.elapsed()));
            match events.recv_timeout(limit) {
                Ok(Event::Said(number, said)) if number == self.number => self.say(said),
                Ok(Event::Closed(number)) if number == self.number => open -= 1,
                Ok(Event::Ended(number, code)) if number == self.number => ended = Some((code, Instant::now())),
                // Of a program before this one, whose runner went away.
                Ok(Event::Said(..) | Event::Closed(_) | Event::Ended(..)) => {}
                Ok(Event::Asked(ask)) => {
                    let _ = killpg(group, Signal::SIGKILL);
                    return match ask {
                        Ask::Run(next) => Some(next),
                        Ask::Stop => None,
                    };
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let text = "guest: its output is held open by a process that it left behind\n";
                    self.say(Said::Err(text.to_owned()));
                    open = 0;
                }
            }
            if let (0, Some((code, _))) = (open, ended) {
                if code != 0 {
                    kernel_log.lines().into_iter().for_each(|line| self.say(Said::Kernel(line)));
                }
                self.say(Said::Ended(code));
                return None;
            }
        }
    }

    fn say(&mut self, said: Said) {
        let reply = Reply { id: self.id.clone(), said };
        let mut line = serde_json::to_vec(&reply).expect("text is JSON");
        line.push(b'\n');
        // Whoever does not read any more has ended, and with it the program.
        let _ = self.port.write_all(&line);
    }
}

fn start(request: Request) -> anyhow::Result<Child> {
    let (program, arguments) = request.words.split_first().context("nothing to run")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&request.dir).env_clear().envs(request.env);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().with_context(|| format!("cannot run {program} in {}", request.dir.display()))
}

/// Threads that pass on what a program says and how it ends.
fn follow(number: u64, mut child: Child, to: &Sender<Event>) {
    let (out, err) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    let send = to.clone();
    std::thread::spawn(move || pass_on(out, &send, number, Said::Out));
    let send = to.clone();
    std::thread::spawn(move || pass_on(err, &send, number, Said::Err));
    let send = to.clone();
    std::thread::spawn(move || {
        let status = child.wait().expect("a child can be waited for");
        let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).and_then(|c| u8::try_from(c).ok());
        let _ = send.send(Event::Ended(number, code.unwrap_or(u8::MAX)));
    });
}

fn pass_on(from: impl Read, to: &Sender<Event>, number: u64, kind: fn(String) -> Said) {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        if to.send(Event::Said(number, kind(text))).is_err() {
            return;
        }
        line.clear();
    }
    let _ = to.send(Event::Closed(number));
}

/// The kernel's log from some time on.
struct KernelLog(Option<File>);

impl KernelLog {
    fn from_now() -> Self {
        let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg").ok();
        if let Some(log) = &mut file {
            let _ = log.seek(SeekFrom::End(0));
        }
        KernelLog(file)
    }

    /// One record a read, the last one is followed by EAGAIN (Documentation/ABI/testing/dev-kmsg).
    fn lines(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        while let Some(count) = self.0.as_mut().and_then(|log| log.read(&mut record).ok()).filter(|c| *c > 0) {
            let text = String::from_utf8_lossy(&record[..count]).into_owned();
            // 6,339,5140900,-;NET: Registered protocol family
            lines.extend(text.lines().next().and_then(|l| l.split_once(';')).map(|(_, said)| said.to_owned()));
        }
        lines
    }
}
