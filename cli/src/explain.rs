//! `rnet explain`.

use clap::Args;
use rnet_api::{ApiError, Direction, ExplainRequest, ExplainTarget, Explanation, PathHop, PathOutcome, RuleRef};
use rnet_model::ContainerRef;

use crate::{Context, output};

/// Walk a path with a real packet and name the hop, rule or route that stops it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet explain web db              echo request from container web to container db
  rnet explain web db:5432         TCP connection
  rnet explain web 192.0.2.1:53/udp
  rnet explain host web:80         from the host itself

Sends one real packet from inside the source and follows it through the host: routes, bridge ports, every rule of every
table that decides, translations. Nothing stays behind. Waits one second at most for an answer.

Exit codes: 0 the destination answered (or a datagram arrived), 1 it did not, others as for every command.")]
pub(crate) struct ExplainArgs {
    /// Container that sends, as for attach, or host
    #[arg(value_name = "SRC")]
    source: ContainerRef,

    /// Container or address; tcp is the default with a port, icmp without
    #[arg(value_name = "DST[:PORT][/tcp|udp|icmp]")]
    target: ExplainTarget,
}

pub(crate) fn explain(args: ExplainArgs, ctx: &Context) -> Result<u8, ApiError> {
    let found = ctx.client().explain(&ExplainRequest { source: args.source, target: args.target })?;
    if ctx.json {
        output::json(&found)?;
    } else {
        output::text(&render(&found))?;
    }
    let reached = matches!(found.outcome, PathOutcome::Connected | PathOutcome::Delivered);
    Ok(u8::from(!reached))
}

/// Whether it says no more than that one of rnet's own chains had nothing against it; `--json` has these too.
fn is_quiet(hop: &PathHop) -> bool {
    let own = |rule: &RuleRef| rule.table == "rnet" || rule.table.starts_with("rnet_");
    hop.rule.as_ref().is_some_and(|rule| rule.handle.is_none() && rule.verdict == "accept" && own(rule))
}

fn render(found: &Explanation) -> String {
    let mut out = format!("{} -> {}, {}\n", found.source, found.destination, found.transport);
    for hop in found.hops.iter().filter(|hop| !is_quiet(hop)) {
        let way = if hop.direction == Direction::Sent { "->" } else { "<-" };
        let stop = if hop.stops { "  STOPS HERE" } else { "" };
        out.push_str(&format!("{way} {:<11} {}{stop}\n", hop.place, output::clean(&hop.text)));
    }
    let word = match found.outcome {
        PathOutcome::Connected => "works",
        PathOutcome::Delivered => "delivered",
        PathOutcome::Refused => "refused",
        PathOutcome::Dropped => "dropped",
        PathOutcome::NoRoute => "no route",
        PathOutcome::NoNeighbour => "no neighbour",
        PathOutcome::InterfaceDown => "interface down",
        PathOutcome::NotRunning => "not running",
        PathOutcome::NotPublished => "not published",
        _ => "no answer",
    };
    out.push_str(&format!("{word}: {}", output::clean(&found.verdict)));
    if let Some(hint) = &found.hint {
        out.push_str(&format!(" (hint: {})", output::clean(hint)));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use rnet_api::Transport;

    use super::*;

    #[test]
    fn a_hop_a_line_and_the_verdict_last() {
        let hop = |direction, place: &str, stops| PathHop {
            direction,
            place: place.into(),
            text: "x".into(),
            rule: None,
            stops,
        };
        let accepting = |table: &str| RuleRef {
            family: "inet".into(),
            table: table.into(),
            chain: "forward".into(),
            handle: None,
            text: None,
            verdict: "accept".into(),
        };
        let passed = |table| PathHop { rule: Some(accepting(table)), ..hop(Direction::Sent, "filter", false) };
        let found = Explanation {
            source: "web (10.9.0.2)".into(),
            destination: "db (10.9.0.3)".into(),
            transport: Transport::Icmp,
            hops: vec![
                hop(Direction::Sent, "source", false),
                passed("rnet"),
                passed("mine"),
                hop(Direction::Answer, "filter", true),
            ],
            outcome: PathOutcome::Dropped,
            verdict: "the answer stops".into(),
            hint: Some("see it".into()),
        };
        let expected = "web (10.9.0.2) -> db (10.9.0.3), icmp\n-> source      x\n-> filter      x\n<- filter      x  STOPS HERE\n\
                        dropped: the answer stops (hint: see it)\n";
        assert_eq!(render(&found), expected);
    }
}
