//! The process that keeps one lease: renews it, takes the address away when it ends, and goes on asking.
//!
//! It stays in the host's namespace and enters the container's for an exchange only: a process or a socket inside would
//! keep alive a namespace that nobody else uses any more, and with it an interface on the link. So it looks every few
//! seconds whether there is something left to keep. It ends by itself when the namespace, the interface or its file is
//! gone, or when the file names another keeper.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_kernel::{Links, Netns, Route};
use rnet_model::IfName;
use rustix::thread::{ClockId, Timespec, clock_nanosleep_relative};
use rustix::time::clock_gettime;

use super::change;
use super::exchange::{Answer, Client, Failure, Grant};
use super::process::Process;
use super::store::{self, Lease, Record};
use super::terms::Times;

/// The word that makes rnet-cni a keeper; its file follows.
const KEEPER: &str = "dhcp-keeper";

/// How long a keeper may take to begin.
const BEGIN: Duration = Duration::from_secs(5);

/// How often a keeper looks whether what it keeps is there.
const LOOK: Duration = Duration::from_secs(10);
/// How long an answer may take. Sockets inside are closed after it.
const PATIENCE: Duration = Duration::from_secs(5);
/// RFC 2131 section 4.4.5: half of the time left between two questions, at least a minute. Leases shorter than that are
/// asked for more often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Between two searches for a server, doubled up to the last.
const FIRST_SEARCH: Duration = Duration::from_secs(2);
const LAST_SEARCH: Duration = Duration::from_secs(64);

/// Starts a keeper for a file, from the executable that runs now, and waits until it has taken over.
pub(super) fn start(file: &Path) -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("rnet-cni")
        .arg(KEEPER)
        .arg(file)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let begun = child.stdout.take().is_some_and(says_so);
    if begun {
        // Somebody has to hear of its end, where this process lives longer.
        std::thread::Builder::new().name("dhcp".into()).stack_size(64 * 1024).spawn(move || child.wait())?;
        return Ok(());
    }
    // It ended, or it is no keeper at all.
    child.kill()?;
    child.wait()?;
    Err(io::Error::other("it did not begin"))
}

/// A byte within the time that may take.
fn says_so(mut out: ChildStdout) -> bool {
    let wait = PollTimeout::try_from(BEGIN).unwrap_or(PollTimeout::MAX);
    let there = loop {
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], wait) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.is_ok_and(|n| n > 0),
        }
    };
    there && out.read_exact(&mut [0]).is_ok()
}

/// What a program that runs the plugin has to do before anything else: keep a lease, if it was started for that.
pub fn keep_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let (word, file) = (words.next()?, words.next()?);
    (word == KEEPER).then(|| keep(Path::new(&file)))
}

/// Keeps the lease of a file until there is nothing left to keep.
fn keep(file: &Path) -> ExitCode {
    detach();
    match Keeper::take_over(file) {
        Some(mut keeper) => {
            say_so();
            while keeper.step().is_some() {}
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

/// To who started us, who then need not be there any more.
fn say_so() {
    let _ = io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush());
    if let Ok(nowhere) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(nowhere);
    }
}

/// Away from the terminal and from whatever the runtime left open in us.
fn detach() {
    // Fails for the leader of a process group only, which nobody makes us.
    let _ = rustix::process::setsid();
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map(|all| all.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The one of the listing itself is closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// Since boot, with the time the machine slept: a lease goes on then.
fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(now.tv_sec)) + Duration::from_nanos(part(now.tv_nsec))
}

/// When a lease was asked for, since boot.
fn began(lease: &Lease) -> Duration {
    uptime().saturating_sub(Duration::from_secs(store::now().saturating_sub(lease.since)))
}

fn sleep(time: Duration) {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let request = Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
    // Ended early by a signal we come back early, and look at the clock.
    let _ = clock_nanosleep_relative(ClockId::Boottime, &request);
}

/// What a lease is in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing to do for so long; `None` = for ever.
    Bound(Option<Duration>),
    /// The server is asked, until so long from now.
    Renewing(Duration),
    /// Any server is.
    Rebinding(Duration),
    Expired,
}

impl Phase {
    /// `age` of a lease with these times.
    fn of(times: Option<Times>, age: Duration) -> Self {
        let Some(times) = times else { return Phase::Bound(None) };
        let left = |seconds: u32| Duration::from_secs(seconds.into()).checked_sub(age).filter(|d| !d.is_zero());
        match (left(times.renew), left(times.rebind), left(times.expire)) {
            (Some(left), ..) => Phase::Bound(Some(left)),
            (None, Some(left), _) => Phase::Renewing(left),
            (None, None, Some(left)) => Phase::Rebinding(left),
            (None, None, None) => Phase::Expired,
        }
    }
}

#[derive(Debug)]
struct Keeper {
    file: PathBuf,
    id: Vec<u8>,
    record: Record,
    ifname: IfName,
    own: Process,
    /// When the lease was asked for, since boot.
    began: Duration,
    /// Pause after the next search for a server that finds none.
    search: Duration,
}

/// `None` everywhere: there is nothing left to keep.
impl Keeper {
    fn take_over(file: &Path) -> Option<Self> {
        let record = store::read(file).ok()??;
        let (ifname, own) = (record.ifname().ok()?, Process::of(std::process::id())?);
        let began = record.lease.as_ref().map_or_else(uptime, began);
        let id = record.client_id();
        let mut keeper = Keeper { file: file.to_owned(), id, record, ifname, own, began, search: FIRST_SEARCH };
        keeper.write()?;
        Some(keeper)
    }

    fn step(&mut self) -> Option<()> {
        let Some(lease) = &self.record.lease else { return self.look_for_server() };
        match Phase::of(lease.terms.times, uptime().saturating_sub(self.began)) {
            Phase::Bound(left) => self.idle(left),
            Phase::Renewing(left) => self.ask(left, |client, grant, until| client.renew(grant, until)),
            Phase::Rebinding(left) => self.ask(left, |client, grant, until| client.rebind(grant, until)),
            Phase::Expired => self.lose("the lease expired".to_owned()),
        }
    }

    /// The namespace, if interface and file are still there and ours.
    fn place(&self) -> Option<Netns> {
        let there = store::read(&self.file).ok()??;
        if there.keeper.is_some_and(|k| k != self.own) {
            return None;
        }
        let netns = Netns::open(&self.record.netns).ok()?;
        if (netns.id().dev, netns.id().ino) != self.record.netns_inode {
            return None;
        }
        Route::open(&netns).ok()?.link(&self.ifname).ok()??;
        Some(netns)
    }

    fn idle(&self, left: Option<Duration>) -> Option<()> {
        let end = left.map(|left| uptime() + left);
        loop {
            self.place()?;
            let left = end.map_or(LOOK, |end| end.saturating_sub(uptime()));
            if left.is_zero() {
                return Some(());
            }
            sleep(left.min(LOOK));
        }
    }

    /// Asks once whether the lease may go on, and waits before the next time.
    fn ask(
        &mut self,
        left: Duration,
        how: impl Fn(&Client<'_>, &Grant, Instant) -> Result<Answer, rnet_kernel::KernelError>,
    ) -> Option<()> {
        let netns = self.place()?;
        let (asked, since) = (uptime(), store::now());
        let pause = (left / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let until = Instant::now() + pause.min(PATIENCE).min(left);
        let grant = self.record.lease.as_ref().and_then(Lease::grant)?;
        let answer =
            Client::open(&netns, &self.ifname, &self.id, &self.record.ask).and_then(|c| how(&c, &grant, until));
        match answer {
            Ok(Answer::Granted(grant)) => self.take(&netns, *grant, asked, since),
            Ok(Answer::Refused(text)) => self.lose(text),
            Ok(Answer::Silence) => self.wait(asked + pause, "no DHCP server answered".to_owned()),
            Err(e) => self.wait(asked + pause, e.to_string()),
        }
    }

    fn look_for_server(&mut self) -> Option<()> {
        let netns = self.place()?;
        let (asked, since) = (uptime(), store::now());
        let client = Client::open(&netns, &self.ifname, &self.id, &self.record.ask).map_err(Failure::from);
        let found = client.and_then(|c| c.discover(Instant::now() + PATIENCE));
        match found {
            Ok(grant) => self.take(&netns, grant, asked, since),
            Err(failure) => {
                let pause = self.search;
                self.search = (self.search * 2).min(LAST_SEARCH);
                self.wait(uptime() + pause, failure.to_string())
            }
        }
    }

    fn wait(&mut self, until: Duration, fault: String) -> Option<()> {
        if self.record.fault.as_ref() != Some(&fault) {
            self.record.fault = Some(fault);
            self.write()?;
        }
        self.idle(Some(until.saturating_sub(uptime())))
    }

    fn take(&mut self, netns: &Netns, grant: Grant, asked: Duration, since: u64) -> Option<()> {
        let old = self.record.lease.take();
        let changed = change::apply(netns, &self.ifname, old.as_ref().map(|l| &l.terms), Some(&grant.terms));
        self.record.fault = changed.err().map(|e| e.to_string());
        self.record.lease = Some(Lease::new(grant, since));
        (self.began, self.search) = (asked, FIRST_SEARCH);
        self.write()
    }

    /// The address may not be used any more.
    fn lose(&mut self, why: String) -> Option<()> {
        let netns = self.place()?;
        let old = self.record.lease.take();
        let changed = change::apply(&netns, &self.ifname, old.as_ref().map(|l| &l.terms), None);
        self.record.fault = Some(changed.map_or_else(|e| e.to_string(), |()| why));
        self.write()
    }

    fn write(&mut self) -> Option<()> {
        self.place()?;
        self.record.keeper = Some(self.own);
        // A full disk: the lease goes on, and the next answer is written again.
        let _ = store::write(&self.file, &self.record);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_phases() {
        let times = Times { renew: 10, rebind: 20, expire: 30 };
        let phase = |age| Phase::of(Some(times), Duration::from_secs(age));
        let seconds = Duration::from_secs;
        assert_eq!(phase(0), Phase::Bound(Some(seconds(10))));
        assert_eq!(phase(10), Phase::Renewing(seconds(10)));
        assert_eq!(phase(19), Phase::Renewing(seconds(1)));
        assert_eq!(phase(20), Phase::Rebinding(seconds(10)));
        assert_eq!(phase(30), Phase::Expired);
        assert_eq!(phase(1000), Phase::Expired);
        assert_eq!(Phase::of(None, seconds(1 << 40)), Phase::Bound(None));
    }
}
