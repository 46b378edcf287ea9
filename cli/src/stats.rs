//! `rnet stats`.

use std::collections::HashMap;
use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;
use rnet_api::{ApiError, EndpointStats, Flow, Stats, Traffic};
use rnet_model::{EndpointId, Kind};

use crate::interrupt::Interrupt;
use crate::{Context, output};

/// Show what the interfaces of containers have sent and received
///
/// As the containers see it: RX is what came in, TX what went out. Errors and drops are of both ways.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet stats                 totals of all containers
  rnet stats web db          of two
  rnet stats --watch         rates per second, every second, until Ctrl-C
  rnet stats --watch 5 --json | jq ...

With --watch a terminal is redrawn; elsewhere each interface is a line `TIME CONTAINER IFNAME rx=B/s tx=B/s
rx_packets=N/s tx_packets=N/s`. With --json the totals are one object, with --watch one object on each line.")]
pub(crate) struct StatsArgs {
    /// Containers: name, full id, or a prefix of the id [default: all]
    #[arg(value_name = "CTR")]
    containers: Vec<String>,

    /// Show rates per second again and again, every SECONDS
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|s| (0.1..=3600.0).contains(s));
    number.map(Duration::from_secs_f64).ok_or_else(|| "not a number of seconds from 0.1 to 3600".to_owned())
}

pub(crate) fn stats(args: &StatsArgs, ctx: &Context) -> Result<u8, ApiError> {
    if let Some(pause) = args.watch {
        return watch(args, pause, ctx);
    }
    let stats = chosen(ctx.client().stats()?, &args.containers)?;
    if ctx.json {
        output::json(&stats)?;
    } else {
        output::table(&COLUMNS, &stats.endpoints.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(0)
}

/// The endpoints of the containers that were named; each name has to be one's.
fn chosen(mut stats: Stats, names: &[String]) -> Result<Stats, ApiError> {
    let is = |e: &EndpointStats, name: &str| {
        e.container == name
            || e.container_id == name
            || (name.len() >= 4 && e.container_id.starts_with(name))
            || name.strip_prefix(&format!("{}:", e.engine)).is_some_and(|n| n == e.container || n == e.container_id)
    };
    if let Some(unknown) = names.iter().find(|name| !stats.endpoints.iter().any(|e| is(e, name))) {
        return Err(ApiError::new(Kind::Missing, format!("nothing is attached to a container {unknown}"))
            .hint("list them: rnet attachments"));
    }
    if !names.is_empty() {
        stats.endpoints.retain(|e| names.iter().any(|name| is(e, name)));
    }
    Ok(stats)
}

const COLUMNS: [&str; 9] = ["CONTAINER", "IFNAME", "ON", "RX", "TX", "RX PKTS", "TX PKTS", "ERRORS", "DROPS"];

fn row(e: &EndpointStats) -> Vec<String> {
    let mut row = who(e).to_vec();
    match &e.traffic {
        Some(Traffic { received: r, sent: s }) => row.extend([
            bytes(r.bytes),
            bytes(s.bytes),
            r.packets.to_string(),
            s.packets.to_string(),
            (r.errors + s.errors).to_string(),
            (r.drops + s.drops).to_string(),
        ]),
        // It is not there now.
        None => row.extend([const { String::new() }; 6]),
    }
    row
}

fn who(e: &EndpointStats) -> [String; 3] {
    let on = match (&e.network, &e.bridge) {
        (Some(network), _) => network.to_string(),
        (None, Some(bridge)) => bridge.to_string(),
        (None, None) => String::new(),
    };
    [format!("{}:{}", e.engine, e.container), e.ifname.to_string(), on]
}

/// Rates per second between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rate {
    bytes: f64,
    packets: f64,
}

#[allow(clippy::cast_precision_loss, reason = "rates are shown with three digits")]
fn rate(before: &Flow, now: &Flow, seconds: f64) -> Rate {
    // An interface that was made again counts from 0.
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    Rate { bytes: per_second(before.bytes, now.bytes), packets: per_second(before.packets, now.packets) }
}

/// What was counted at the last look.
#[derive(Debug, Default)]
struct Before {
    clock_ms: u64,
    traffic: HashMap<EndpointId, Traffic>,
}

impl Before {
    fn of(stats: &Stats) -> Self {
        let traffic = stats.endpoints.iter().filter_map(|e| Some((e.id, e.traffic?))).collect();
        Before { clock_ms: stats.clock_ms, traffic }
    }

    /// Received and sent, by endpoint; none for one that was not there at either look.
    fn rates<'a>(&self, now: &'a Stats) -> Vec<(&'a EndpointStats, Option<[Rate; 2]>)> {
        let seconds = Duration::from_millis(now.clock_ms.saturating_sub(self.clock_ms)).as_secs_f64();
        let of = |e: &EndpointStats| {
            let (before, now) = (self.traffic.get(&e.id)?, e.traffic?);
            (seconds > 0.0)
                .then(|| [rate(&before.received, &now.received, seconds), rate(&before.sent, &now.sent, seconds)])
        };
        now.endpoints.iter().map(|e| (e, of(e))).collect()
    }
}

fn watch(args: &StatsArgs, pause: Duration, ctx: &Context) -> Result<u8, ApiError> {
    let interrupt = Interrupt::take()?;
    let client = ctx.client();
    // A mistyped name is said at once; a container that ends later only disappears.
    let mut stats = chosen(client.stats()?, &args.containers)?;
    let mut screen = (!ctx.json && stdout().is_terminal()).then(Screen::default);
    loop {
        let before = Before::of(&stats);
        if ctx.json {
            output::json_line(&stats)?;
        } else if let Some(screen) = screen.as_mut().filter(|screen| !screen.drawn) {
            screen.draw(&[], "measuring")?;
        }
        if interrupt.wait(Some(pause)) {
            return Ok(0);
        }
        stats = match chosen(client.stats()?, &args.containers) {
            Ok(stats) => stats,
            Err(_) => Stats { endpoints: Vec::new(), ..client.stats()? },
        };
        if ctx.json {
            continue;
        }
        let mut rates = before.rates(&stats);
        match &mut screen {
            Some(screen) => {
                let busy = |r: &Option<[Rate; 2]>| r.map_or(0.0, |[a, b]| a.bytes + b.bytes);
                rates.sort_by(|a, b| busy(&b.1).total_cmp(&busy(&a.1)));
                screen.draw(&rates, &stats.time)?;
            }
            None => {
                rates.iter().try_for_each(|(e, rates)| output::line(&plain_line(&stats.time, e, rates.as_ref())))?
            }
        }
    }
}

fn plain_line(time: &str, e: &EndpointStats, rates: Option<&[Rate; 2]>) -> String {
    let [container, ifname, _] = who(e);
    match rates {
        Some([r, s]) => format!(
            "{time} {container} {ifname} rx={:.0}B/s tx={:.0}B/s rx_packets={:.0}/s tx_packets={:.0}/s",
            r.bytes, s.bytes, r.packets, s.packets
        ),
        None => format!("{time} {container} {ifname} rx=- tx=- rx_packets=- tx_packets=-"),
    }
}

/// A terminal that is drawn again and again, over itself.
#[derive(Debug, Default)]
struct Screen {
    drawn: bool,
}

const RATES: [&str; 9] = ["CONTAINER", "IFNAME", "ON", "RX/s", "TX/s", "RX PKT/s", "TX PKT/s", "RX", "TX"];

impl Screen {
    fn draw(&mut self, rates: &[(&EndpointStats, Option<[Rate; 2]>)], time: &str) -> Result<(), ApiError> {
        let room = usize::from(rows()).saturating_sub(4).max(1);
        let table = output::render_table(&RATES, &rates.iter().take(room).map(rate_row).collect::<Vec<_>>());
        let more = rates.len().saturating_sub(room);
        let more = if more > 0 { format!(", {more} more do not fit") } else { String::new() };
        let mut out = String::new();
        if !self.drawn {
            // What was on the screen moves up instead of being overwritten.
            out.push_str(&"\n".repeat(usize::from(rows())));
            self.drawn = true;
        }
        // Home, each line cleared to its end, and what is below: no flicker.
        out.push_str("\x1b[H");
        let head = format!("rnet stats, {time}, {} interfaces{more}; Ctrl-C ends\n\n", rates.len());
        for line in head.lines().chain(table.lines()) {
            out.push_str(line);
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        output::text(&out)
    }
}

fn rate_row((e, rates): &(&EndpointStats, Option<[Rate; 2]>)) -> Vec<String> {
    let mut row = who(e).to_vec();
    match rates {
        Some([r, s]) => row.extend([
            scaled(r.bytes, "B/s"),
            scaled(s.bytes, "B/s"),
            format!("{:.0}", r.packets),
            format!("{:.0}", s.packets),
        ]),
        None => row.extend([const { String::new() }; 4]),
    }
    match &e.traffic {
        Some(t) => row.extend([bytes(t.received.bytes), bytes(t.sent.bytes)]),
        None => row.extend([const { String::new() }; 2]),
    }
    row
}

/// Lines of the terminal; a terminal that does not say has 24.
fn rows() -> u16 {
    rustix::termios::tcgetwinsize(stdout()).ok().map(|size| size.ws_row).filter(|rows| *rows > 0).unwrap_or(24)
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn bytes(count: u64) -> String {
    scaled(count as f64, "B")
}

/// Three digits and a decimal prefix.
fn scaled(number: f64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut number = number;
    let mut place = 0;
    while number >= 999.5 && place + 1 < PREFIXES.len() {
        number /= 1000.0;
        place += 1;
    }
    let digits = if place == 0 || number >= 99.95 { 0 } else { 1 };
    format!("{number:.digits$} {}{unit}", PREFIXES[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn rates_are_per_second_and_never_negative() {
        let flow = |bytes, packets| Flow { bytes, packets, errors: 0, drops: 0 };
        assert_eq!(rate(&flow(100, 1), &flow(1100, 6), 0.5), Rate { bytes: 2000.0, packets: 10.0 });
        assert_eq!(rate(&flow(100, 1), &flow(0, 0), 1.0), Rate::default());
    }

    #[test]
    fn pauses() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("x").is_err() && seconds("3601").is_err());
    }
}
