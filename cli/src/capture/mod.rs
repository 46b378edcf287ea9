//! `rnet capture`.

mod line;
mod reader;

use std::fs::File;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rnet_api::{ApiError, ByteStream, CaptureQuery, Client};
use rnet_model::{ContainerRef, IfName, InvalidInput, Kind};

use self::line::Seen;
use self::reader::{Block, Reader};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{Context, output};

/// Show or save the packets of a container as they pass
///
/// Looks from inside the container, at all its interfaces with lo, or at one. Nothing changes for the container: the
/// interfaces do not become promiscuous. Ends with Ctrl-C, --count, --duration, or the container.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet capture web                       a line for each packet
  rnet capture web:eth1 --count 10
  rnet capture docker:web:eth0 -w web.pcapng --duration 60
  rnet capture web -w - | tcpdump -nr -
  rnet capture web --json                a JSON object for each packet

Files are pcapng with the names of the interfaces, nanoseconds, directions, and at the end how many packets were lost
because nobody read fast enough.")]
pub(crate) struct CaptureArgs {
    /// Container as for attach, and one of its interfaces after a colon [default: all]
    #[arg(value_name = "CTR[:IF]", value_parser = place)]
    place: Place,

    /// Write pcapng to FILE, or to the standard output with - [default: a line for each packet]
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Most bytes of each packet to keep, 14 to 262144 [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(14..=262_144))]
    snaplen: Option<u32>,

    /// End after so many seconds [default: never]
    #[arg(short, long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,

    /// End after so many packets [default: never]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    container: String,
    ifname: Option<IfName>,
}

/// A colon is also behind the word of an engine; what is behind the last one is an interface unless all before it is
/// such a word.
fn place(text: &str) -> Result<Place, InvalidInput> {
    const ENGINES: [&str; 7] = ["rnet", "docker", "netns", "pid", "podman", "containerd", "lxc"];
    if let Some((container, ifname)) = text.rsplit_once(':')
        && !ENGINES.contains(&container)
        && !ifname.contains('/')
    {
        container.parse::<ContainerRef>()?;
        return Ok(Place { container: container.to_owned(), ifname: Some(ifname.parse()?) });
    }
    text.parse::<ContainerRef>()?;
    Ok(Place { container: text.to_owned(), ifname: None })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|s| (0.001..=86_400.0).contains(s));
    number.map(Duration::from_secs_f64).ok_or_else(|| "not a number of seconds from 0.001 to 86400".to_owned())
}

pub(crate) fn capture(args: &CaptureArgs, ctx: &Context) -> Result<u8, ApiError> {
    let mut sink = Sink::open(args.write.as_deref(), ctx)?;
    let query = CaptureQuery {
        container: args.place.container.clone(),
        ifname: args.place.ifname.clone(),
        snaplen: args.snaplen,
        duration_ms: args.duration.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        count: args.count,
    };
    let client = ctx.client();
    let interrupt = Interrupt::take()?;
    let (id, stream) = client.capture(&query)?;
    std::thread::spawn(move || end_at_interrupt(&interrupt, &client, &id));
    let said = format!("capturing in {}", args.place.container);
    let progress = matches!(sink, Sink::File(..)).then(|| Progress::spinner(said));
    let counted = copy(stream, &mut sink, progress.as_ref())?;
    sink.finish()?;
    drop(progress);
    let plural = if counted.packets == 1 { "" } else { "s" };
    output::remark(&format!("{} packet{plural} captured, {} lost", counted.packets, counted.drops));
    Ok(0)
}

/// Asks netd to end, so that the stream has its statistics; who asks twice does not wait for it.
fn end_at_interrupt(interrupt: &Interrupt, client: &Client, id: &str) {
    interrupt.wait(None);
    let client = client.clone().with_timeout(Duration::from_secs(5));
    if client.end_capture(id).is_err() {
        std::process::exit(130);
    }
    interrupt.wait(None);
    std::process::exit(130);
}

#[derive(Debug, Default)]
struct Counted {
    packets: u64,
    drops: u64,
}

fn copy(stream: ByteStream, sink: &mut Sink, progress: Option<&Progress>) -> Result<Counted, ApiError> {
    let mut reader = Reader::default();
    let mut counted = Counted::default();
    let mut bytes = 0_u64;
    for piece in stream {
        let piece = piece?;
        bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        sink.raw(&piece)?;
        reader.feed(&piece);
        while let Some(block) = reader.next()? {
            match block {
                Block::Packet(seen) => {
                    counted.packets += 1;
                    sink.packet(&seen)?;
                }
                Block::Statistics { drops } => counted.drops += drops,
            }
        }
        if let Some(progress) = progress {
            progress.say(format!("{} packets, {}", counted.packets, crate::stats::bytes(bytes)));
        }
    }
    Ok(counted)
}

/// Where it goes.
#[derive(Debug)]
enum Sink {
    File(File, PathBuf),
    Pipe,
    Lines,
    Json,
}

impl Sink {
    fn open(path: Option<&Path>, ctx: &Context) -> Result<Self, ApiError> {
        match path {
            None if ctx.json => Ok(Sink::Json),
            None => Ok(Sink::Lines),
            Some(path) if path == Path::new("-") => match stdout().is_terminal() {
                true => Err(ApiError::new(Kind::Invalid, "a capture is binary and the standard output is a terminal")
                    .hint("give a file, a pipe (| tcpdump -nr -), or leave -w out for lines of text")),
                false => Ok(Sink::Pipe),
            },
            Some(path) => {
                let file = File::create(path).map_err(|e| cannot_write(path, &e))?;
                Ok(Sink::File(file, path.to_owned()))
            }
        }
    }

    /// The bytes as they come.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        match self {
            Sink::File(file, path) => file.write_all(bytes).map_err(|e| cannot_write(path, &e)),
            Sink::Pipe => output::bytes(bytes),
            Sink::Lines | Sink::Json => Ok(()),
        }
    }

    fn packet(&mut self, seen: &Seen) -> Result<(), ApiError> {
        match self {
            Sink::Lines => output::line(&seen.to_string()),
            Sink::Json => output::json_line(seen),
            Sink::File(..) | Sink::Pipe => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), ApiError> {
        match self {
            Sink::File(file, path) => file.sync_data().or_else(ignore_unsupported).map_err(|e| cannot_write(path, &e)),
            _ => Ok(()),
        }
    }
}

/// A pipe with a name and /dev/null have nothing to write back.
fn ignore_unsupported(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> ApiError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Kind::Denied,
        std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory => Kind::Invalid,
        _ => Kind::Retry,
    };
    ApiError::new(kind, format!("cannot write {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_last_colon() {
        for (text, container, ifname) in [
            ("web", "web", None),
            ("web:eth0", "web", Some("eth0")),
            ("docker:web", "docker:web", None),
            ("docker:web:eth0", "docker:web", Some("eth0")),
            ("pid:12", "pid:12", None),
            ("pid:12:lo", "pid:12", Some("lo")),
            ("netns:/run/netns/x", "netns:/run/netns/x", None),
            ("netns:/run/netns/x:eth0", "netns:/run/netns/x", Some("eth0")),
        ] {
            let found = place(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((found.container.as_str(), found.ifname.as_ref().map(IfName::as_str)), (container, ifname));
        }
        assert!(place("").is_err() && place("web:").is_err() && place("web:much-too-long-a-name").is_err());
    }
}
