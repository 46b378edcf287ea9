//! Moves bytes between a program, its log and the command that started it, and sees the program's end.
//!
//! One poll(2) loop. What the command does not take is kept, and more is read from the program only when it was taken,
//! so a slow reader slows the program down, as with a pipe between them. A command that is gone takes nothing; its
//! terminal and files are let go at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{read, write};
use rnet_api::ApiError;
use rnet_runtime::logs::{Stream, Writer};
use rnet_runtime::process::Handle;
use rnet_runtime::protocol::{Channel, Request};

use crate::cannot;
use crate::streams::{Client, Outside, resize};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes written at a time to what is not ours to make non-blocking: a pipe that is ready takes so many at least
/// (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    kept: Vec<u8>,
}

impl Flow {
    /// What has to happen next.
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.from, &self.to) {
            (_, Some(to)) if !self.kept.is_empty() => Some((to.as_fd(), PollFlags::POLLOUT)),
            (Some(from), _) => Some((from.as_fd(), PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// Reads what is there; the bytes, or `None` at the end of it.
    fn fill(&mut self) -> Option<Vec<u8>> {
        let from = self.from.as_ref()?;
        let mut chunk = vec![0; CHUNK];
        match read(from, &mut chunk) {
            Ok(0) => {}
            Ok(length) => {
                chunk.truncate(length);
                if self.to.is_some() {
                    self.kept.extend_from_slice(&chunk);
                }
                return Some(chunk);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => return Some(Vec::new()),
            // EIO: a terminal that nobody has open on the other side.
            Err(_) => {}
        }
        self.from = None;
        None
    }

    fn flush(&mut self) {
        let Some(to) = &self.to else { return };
        match write(to, &self.kept[..self.kept.len().min(PIECE)]) {
            Ok(length) => drop(self.kept.drain(..length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.stop(),
        }
    }

    /// Nobody takes it any more.
    fn stop(&mut self) {
        self.to = None;
        self.kept.clear();
    }
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Program,
    Command,
    Signals,
    Stdin,
    Stdout,
    Stderr,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Pump<'a> {
    program: &'a Handle,
    channel: Option<&'a Channel>,
    signals: SignalFd,
    log: Option<Writer>,
    terminal: Option<OwnedFd>,
    stdin: Flow,
    stdout: Flow,
    stderr: Flow,
}

impl<'a> Pump<'a> {
    /// From now on signals to the shim are signals to the program.
    pub(crate) fn new(
        program: &'a Handle,
        channel: &'a Channel,
        outside: Outside,
        client: Client,
        log: Option<Writer>,
    ) -> Result<Self, ApiError> {
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
        let signals = mask
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .map_err(|e| cannot("receive signals", &e))?;
        for end in [outside.stdin.as_ref(), outside.stdout.as_ref(), outside.stderr.as_ref()].into_iter().flatten() {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
                .map_err(|e| cannot("set up a pipe", &e))?;
        }
        Ok(Pump {
            program,
            channel: Some(channel),
            signals,
            log,
            terminal: outside.terminal,
            stdin: Flow { from: client.stdin, to: outside.stdin, kept: Vec::new() },
            stdout: Flow { from: outside.stdout, to: client.stdout, kept: Vec::new() },
            stderr: Flow { from: outside.stderr, to: client.stderr, kept: Vec::new() },
        })
    }

    /// Until the program has ended; what it printed is in the log then, and read.
    pub(crate) fn run(&mut self) -> Result<(), ApiError> {
        loop {
            let ready = self.wait(Until::End)?;
            for source in &ready {
                self.handle(*source)?;
            }
            if ready.contains(&Source::Program) {
                break;
            }
        }
        // Its processes are gone, so what is in the pipes is all there will be.
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.output(stream) {}
        }
        if let Some(log) = &mut self.log {
            report(log.finish(jiff::Timestamp::now()));
        }
        Ok(())
    }

    /// Until the command has taken everything.
    pub(crate) fn finish(&mut self) -> Result<(), ApiError> {
        self.stdin = Flow::default();
        while self.channel.is_some() && !(self.stdout.kept.is_empty() && self.stderr.kept.is_empty()) {
            for source in self.wait(Until::Taken)? {
                self.handle(source)?;
            }
        }
        Ok(())
    }

    /// Waits until something happens.
    fn wait(&self, until: Until) -> Result<Vec<Source>, ApiError> {
        let always = |fd| Some((fd, PollFlags::POLLIN));
        let ended = |interest| if until == Until::End { interest } else { None };
        let all = [
            (Source::Program, ended(always(self.program.as_fd()))),
            (Source::Signals, ended(always(self.signals.as_fd()))),
            (Source::Command, self.channel.and_then(|c| always(c.as_fd()))),
            (Source::Stdin, self.stdin.interest()),
            (Source::Stdout, self.stdout.interest()),
            (Source::Stderr, self.stderr.interest()),
        ];
        let wanted = all.into_iter().filter_map(|(source, interest)| Some((source, interest?)));
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) =
            wanted.map(|(source, (fd, flags))| (source, PollFd::new(fd, flags))).unzip();
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(cannot("wait for the program", &e)),
            }
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| ready(fd)).map(|(source, _)| source).collect())
    }

    fn handle(&mut self, source: Source) -> Result<(), ApiError> {
        match source {
            Source::Program => {}
            Source::Command => self.command()?,
            Source::Signals => {
                while let Ok(Some(info)) = self.signals.read_signal() {
                    let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                    self.signal(number);
                }
            }
            Source::Stdin => self.input(),
            Source::Stdout => self.move_output(Stream::Stdout),
            Source::Stderr => self.move_output(Stream::Stderr),
        }
        Ok(())
    }

    fn command(&mut self) -> Result<(), ApiError> {
        let Some(channel) = self.channel else { return Ok(()) };
        match channel.receive::<Request>()?.map(|r| r.message) {
            Some(Request::Signal(number)) => self.signal(number),
            Some(Request::Resize(size)) => {
                if let Some(terminal) = &self.terminal {
                    resize(terminal, size);
                }
            }
            None => {
                self.channel = None;
                self.stdout.stop();
                self.stderr.stop();
                self.stdin.from = None;
                self.end_input();
            }
        }
        Ok(())
    }

    fn signal(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            report(self.program.kill(signal));
        }
    }

    fn input(&mut self) {
        if self.stdin.kept.is_empty() {
            self.stdin.fill();
        } else {
            self.stdin.flush();
        }
        if self.stdin.from.is_none() {
            self.end_input();
        }
    }

    /// The program sees the end of its input when it has read what was before.
    fn end_input(&mut self) {
        if self.stdin.kept.is_empty() {
            self.stdin.to = None;
        }
    }

    fn move_output(&mut self, stream: Stream) {
        let flow = self.flow(stream);
        if flow.kept.is_empty() || flow.to.is_none() {
            self.output(stream);
        } else {
            flow.flush();
        }
    }

    fn flow(&mut self, stream: Stream) -> &mut Flow {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Reads what the program printed; whether there was something.
    fn output(&mut self, stream: Stream) -> bool {
        let Some(bytes) = self.flow(stream).fill() else { return false };
        if let Some(log) = &mut self.log {
            report(log.write(stream, &bytes, jiff::Timestamp::now()));
        }
        !bytes.is_empty()
    }
}

/// How long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until the program has ended.
    End,
    /// Until the command has taken everything.
    Taken,
}

/// For what must not stop the program: the shim's stderr is a file of the instance.
fn report(result: Result<(), ApiError>) {
    if let Err(error) = result {
        eprintln!("rnet-shim: {}", error.chain());
    }
}
