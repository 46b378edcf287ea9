//! `rnet network ls` and `prune`.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use rnet_api::{ApiError, LabelFilter, Network, PruneRequest};
use rnet_model::{GatewayMode, InvalidInput, Kind};

use super::plugins;
use crate::progress::Progress;
use crate::{Context, output};

/// Letters of an id that are shown: more than its clock.
const SHORT: usize = 16;

/// List networks
#[derive(Debug, Args)]
#[command(after_help = "\
Filters: name=TEXT and id=TEXT (a part of it), label=KEY[=VALUE], type=bridge|routed|internal|conflist|PLUGIN,
dangling=true|false (whether no container is on it). Several of one kind: any of them, of labels all; different kinds:
all.

Examples:
  rnet network ls --filter label=team=net --filter dangling=true
  rnet network rm $(rnet network ls -q --filter name=test)")]
pub(crate) struct LsArgs {
    /// Only those that fit; repeatable [default: all]
    #[arg(short, long = "filter", value_name = "K=V")]
    filters: Vec<Filter>,

    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,

    /// Print ids in full [default: their first 16 letters]
    #[arg(long)]
    no_trunc: bool,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Name(String),
    Id(String),
    Label(LabelFilter),
    Type(String),
    Dangling(bool),
}

impl std::str::FromStr for Filter {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| {
            InvalidInput::new("filter", s, why).hint("one of name=, id=, label=, type= and dangling=true|false")
        };
        let (key, value) = s.split_once('=').ok_or_else(|| bad("is not KEY=VALUE"))?;
        match key {
            "name" => Ok(Filter::Name(value.to_owned())),
            "id" => Ok(Filter::Id(value.to_ascii_lowercase())),
            "label" => LabelFilter::parse(value, false).map(Filter::Label),
            "type" | "driver" => Ok(Filter::Type(value.to_owned())),
            "dangling" => match value {
                "true" | "1" => Ok(Filter::Dangling(true)),
                "false" | "0" => Ok(Filter::Dangling(false)),
                _ => Err(bad("is neither true nor false")),
            },
            _ => Err(bad("is not known")),
        }
    }
}

impl Filter {
    fn fits(&self, n: &Network) -> bool {
        match self {
            Filter::Name(text) => n.spec.name.as_str().contains(text.as_str()),
            Filter::Id(text) => n.id.to_string().contains(text.as_str()),
            Filter::Label(label) => label.fits(&n.spec.labels),
            Filter::Type(kind) => kinds(n).contains(kind),
            Filter::Dangling(wanted) => n.endpoints.is_empty() == *wanted,
        }
    }

    /// Labels are all asked for; of every other kind one is enough.
    fn all_fit(filters: &[Filter], n: &Network) -> bool {
        filters.iter().all(|filter| match filter {
            Filter::Label(_) => filter.fits(n),
            _ => {
                let kind = std::mem::discriminant(filter);
                filters.iter().any(|f| std::mem::discriminant(f) == kind && f.fits(n))
            }
        })
    }
}

/// The words a network's type answers to.
fn kinds(n: &Network) -> Vec<String> {
    let mut out = match &n.spec.conflist {
        Some(_) => plugins(n),
        None => vec!["bridge".to_owned()],
    };
    let more = [
        (n.spec.conflist.is_some(), "conflist"),
        (n.spec.internal, "internal"),
        (n.spec.gateway_mode == GatewayMode::Routed, "routed"),
    ];
    out.extend(more.iter().filter(|(is, _)| *is).map(|(_, word)| (*word).to_owned()));
    out
}

const COLUMNS: [&str; 7] = ["NAME", "TYPE", "SUBNET", "GATEWAY", "BRIDGE", "CONTAINERS", "ID"];

fn row(n: &Network, no_trunc: bool) -> Vec<String> {
    let kind = match (&n.spec.conflist, n.spec.internal, n.spec.gateway_mode) {
        (Some(_), ..) => format!("conflist: {}", plugins(n).join(", ")),
        (None, true, _) => "bridge, internal".to_owned(),
        (None, false, GatewayMode::Routed) => "bridge, routed".to_owned(),
        (None, false, GatewayMode::Nat) => "bridge".to_owned(),
    };
    vec![
        n.spec.name.to_string(),
        kind,
        output::list(&n.spec.subnets),
        output::list(&n.spec.gateways),
        n.spec.bridge.as_ref().map(ToString::to_string).unwrap_or_default(),
        n.endpoints.len().to_string(),
        shown_id(n, no_trunc),
    ]
}

fn shown_id(n: &Network, no_trunc: bool) -> String {
    let mut id = n.id.to_string();
    if !no_trunc {
        id.truncate(SHORT);
    }
    id
}

/// Lists networks.
pub(super) fn ls(args: LsArgs, ctx: &Context) -> Result<u8, ApiError> {
    let mut networks = ctx.client().networks()?;
    networks.retain(|n| Filter::all_fit(&args.filters, n));
    if args.quiet {
        networks.iter().try_for_each(|n| output::line(&shown_id(n, args.no_trunc)))?;
        return Ok(0);
    }
    if ctx.json {
        output::json(&networks)?;
        return Ok(0);
    }
    output::table(&COLUMNS, &networks.iter().map(|n| row(n, args.no_trunc)).collect::<Vec<_>>())?;
    for network in &networks {
        network.problems.iter().for_each(|p| output::remark(&format!("warning: network {}: {p}", network.spec.name)));
    }
    Ok(0)
}

/// Remove the networks nobody uses: no container is on them, and no stopped one keeps an address of them. The default
/// network stays
#[derive(Debug, Args)]
#[command(after_help = "\
Filters: label=KEY[=VALUE], label!=KEY[=VALUE] (those without it), until=DURATION|TIME (made before: 24h, 90m, 30s or
2026-01-31T12:00:00Z).

Examples:
  rnet network prune --force
  rnet network prune --filter label=test --filter until=24h")]
pub(crate) struct PruneArgs {
    /// Only those that fit; repeatable, and all have to fit [default: all]
    #[arg(long = "filter", value_name = "K=V")]
    filters: Vec<PruneFilter>,

    /// Do not ask [default: ask, and refuse where nobody can answer]
    #[arg(short, long)]
    force: bool,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PruneFilter {
    Label(LabelFilter),
    OlderThan(u64),
}

impl std::str::FromStr for PruneFilter {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| InvalidInput::new("filter", s, why).hint("one of label=, label!= and until=");
        let (key, value) = s.split_once('=').ok_or_else(|| bad("is not KEY=VALUE"))?;
        match key {
            "label" => LabelFilter::parse(value, false).map(PruneFilter::Label),
            "label!" => LabelFilter::parse(value, true).map(PruneFilter::Label),
            "until" => {
                seconds(value).map(PruneFilter::OlderThan).ok_or_else(|| bad("is neither a duration nor a time"))
            }
            _ => Err(bad("is not known")),
        }
    }
}

/// How long ago: `1h30m`, or a time of RFC 3339.
fn seconds(text: &str) -> Option<u64> {
    let now = jiff::Timestamp::now();
    if let Ok(then) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(now.as_second() - then.as_second()).ok();
    }
    let duration = text.parse::<jiff::SignedDuration>().ok()?;
    u64::try_from(duration.as_secs()).ok()
}

/// Removes unused networks.
pub(super) fn prune(args: PruneArgs, ctx: &Context) -> Result<u8, ApiError> {
    let mut request = PruneRequest::default();
    for filter in args.filters {
        match filter {
            PruneFilter::Label(label) => request.labels.push(label),
            PruneFilter::OlderThan(secs) => request.older_than_seconds = request.older_than_seconds.max(Some(secs)),
        }
    }
    if !args.force && !confirmed()? {
        return Ok(0);
    }
    let progress = Progress::spinner("removing networks");
    let reply = ctx.client().prune_networks(&request)?;
    drop(progress);
    if ctx.json {
        output::json(&reply)?;
    } else {
        reply.removed.iter().try_for_each(|n| output::line(&format!("{}: removed", n.spec.name)))?;
    }
    reply.failed.iter().for_each(|f| crate::report(&f.error));
    Ok(reply.failed.last().map_or(0, |f| f.error.kind.exit_code()))
}

fn confirmed() -> Result<bool, ApiError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(
            ApiError::new(Kind::Invalid, "prune removes networks, and nobody can be asked here").hint("add --force")
        );
    }
    let fail = |e: std::io::Error| ApiError::new(Kind::Retry, "cannot ask").because(&e);
    let mut err = std::io::stderr().lock();
    err.write_all(b"Remove all networks that nobody uses? [y/N] ").and_then(|()| err.flush()).map_err(fail)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(fail)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn filters() {
        assert_eq!("name=bl".parse(), Ok(Filter::Name("bl".into())));
        assert_eq!("dangling=true".parse(), Ok(Filter::Dangling(true)));
        for bad in ["name", "color=blue", "dangling=maybe", "label==x"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
        assert_eq!("until=24h".parse(), Ok(PruneFilter::OlderThan(86_400)));
        assert_eq!("until=1h30m".parse(), Ok(PruneFilter::OlderThan(5_400)));
        assert!(matches!("until=2001-01-01T00:00:00Z".parse(), Ok(PruneFilter::OlderThan(n)) if n > 700_000_000));
        assert!(matches!("label!=a=b".parse(), Ok(PruneFilter::Label(l)) if l.without && l.key == "a"));
        for bad in ["until=soon", "until=-1h", "age=1h", "label!="] {
            assert!(bad.parse::<PruneFilter>().is_err(), "{bad}");
        }
    }
}
