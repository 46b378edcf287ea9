//! `rnet events`.

use std::io::{IsTerminal as _, stdout};

use clap::Args;
use rnet_api::{ApiError, Event, EventsQuery};
use rnet_model::{InvalidInput, Kind};

use crate::{Context, output, paint};

/// Print events as they happen, until interrupted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet events                                         from now on
  rnet events --since 10m --no-follow                 what happened in the last ten minutes
  rnet events --filter action=repair --filter action=conflict
  rnet events --filter subject=web --filter ifname=eth1

On a terminal events are columns, elsewhere lines of `TIME ACTION SUBJECT KEY=VALUE...`; with --json each event is one
JSON object on one line. netd remembers the latest 1,024 events since it started.")]
pub(crate) struct EventsArgs {
    /// Begin with what happened since then: a duration (90s, 10m, 1h30m) or a time (2026-01-02T03:04:05Z)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<jiff::Timestamp>,

    /// Only events of which this is so: action=A, subject=S or an attribute; of several for one key any one
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    filters: Vec<(String, String)>,

    /// End after what has happened by now
    #[arg(long, requires = "since")]
    no_follow: bool,
}

fn since(text: &str) -> Result<jiff::Timestamp, InvalidInput> {
    let ago = text.parse::<jiff::SignedDuration>().ok().filter(|ago| !ago.is_negative());
    let then = match ago {
        Some(ago) => jiff::Timestamp::now().checked_sub(ago).ok(),
        None => text.parse().ok(),
    };
    then.ok_or_else(|| {
        InvalidInput::new("time", text, "is neither a duration nor a time").hint("write 10m, or 2026-01-02T03:04:05Z")
    })
}

fn filter(text: &str) -> Result<(String, String), InvalidInput> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) =
        pair.ok_or_else(|| InvalidInput::new("filter", text, "is not KEY=VALUE").hint("write action=repair"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Of several filters for one key one has to fit, of each key.
fn fits(event: &Event, filters: &[(String, String)]) -> bool {
    let value = |key: &str| match key {
        "action" => Some(event.action.as_str()),
        "subject" => Some(event.subject.as_str()),
        key => event.attributes.get(key).map(String::as_str),
    };
    let one = |key: &str| filters.iter().any(|(k, wanted)| k == key && value(key) == Some(wanted.as_str()));
    filters.iter().all(|(key, _)| one(key))
}

pub(crate) fn events(args: &EventsArgs, ctx: &Context) -> Result<u8, ApiError> {
    let query = EventsQuery {
        since: args.since.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        follow: args.no_follow.then_some(false),
    };
    let columns = !ctx.json && stdout().is_terminal();
    if columns {
        output::text(&format!("{}\n", row(["TIME", "ACTION", "SUBJECT", "DETAILS"])))?;
    }
    for event in ctx.client().events_of(&query)? {
        let event = event?;
        // What was missed is never left out: it could have been anything.
        if !fits(&event, &args.filters) && event.action != "overrun" {
            continue;
        }
        if ctx.json {
            output::json_line(&event)?;
        } else if columns {
            output::text(&format!("{}\n", event_row(&event)))?;
        } else {
            output::line(&event_line(&event))?;
        }
    }
    if args.no_follow {
        return Ok(0);
    }
    Err(ApiError::new(Kind::Unavailable, "netd ended").hint(format!("start it: {}", ctx.root.start_command())))
}

fn event_line(event: &Event) -> String {
    format!("{} {} {}{}", event.time, event.action, event.subject, details(event))
}

fn details(event: &Event) -> String {
    event.attributes.iter().map(|(key, value)| format!(" {key}={value}")).collect()
}

const WIDTHS: [usize; 3] = [20, 14, 20];

fn row([time, action, subject, more]: [&str; 4]) -> String {
    let [t, a, s] = WIDTHS;
    format!("{time:t$}  {action:a$}  {subject:s$}  {more}").trim_end().to_owned()
}

/// A line of columns. Events come one by one: the widths cannot be those of the longest.
fn event_row(event: &Event) -> String {
    let clean = |text: &str| output::clean(text).into_owned();
    let (action, details) = (clean(&event.action), clean(details(event).trim_start()));
    let row = row([&clean(&event.time), &action, &clean(&event.subject), &details]);
    if !paint::wanted(&stdout()) {
        return row;
    }
    row.replacen(&action, &paint::state(&action), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            time: "2026-01-02T03:04:05Z".into(),
            action: "attach".into(),
            subject: "web".into(),
            attributes: [("ifname".into(), "eth0".into()), ("id".into(), "01".into())].into(),
        }
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(event_line(&event()), "2026-01-02T03:04:05Z attach web id=01 ifname=eth0");
        assert_eq!(
            event_row(&event()),
            "2026-01-02T03:04:05Z  attach          web                   id=01 ifname=eth0"
        );
    }

    #[test]
    fn of_one_key_any_and_of_every_key_one() {
        let all = |words: &[&str]| words.iter().map(|w| filter(w).expect("a filter")).collect::<Vec<_>>();
        for (words, fit) in [
            (&[][..], true),
            (&["action=attach"], true),
            (&["action=detach", "action=attach"], true),
            (&["action=attach", "subject=db"], false),
            (&["ifname=eth0", "subject=web"], true),
            (&["absent="], false),
        ] {
            assert_eq!(fits(&event(), &all(words)), fit, "{words:?}");
        }
        assert!(filter("action").is_err() && filter("=x").is_err());
    }

    #[test]
    fn times_and_durations() {
        let second = jiff::Timestamp::now().as_second();
        let ago = second - since("1h30m").expect("a duration").as_second();
        assert!((5399..=5401).contains(&ago), "{ago}");
        assert_eq!(since("2026-01-02T03:04:05Z").expect("a time").as_second(), 1_767_323_045);
        assert!(since("yesterday").is_err() && since("-5m").is_err());
    }
}
