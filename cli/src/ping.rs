//! `rnet ping-all`.

use clap::Args;
use rnet_api::{ApiError, PingPair, PingReport};

use crate::progress::Progress;
use crate::{Context, output};

/// Ping from every container of a network to every other
#[derive(Debug, Args)]
#[command(
    name = "ping-all",
    after_help = "\
One echo request for each ordered pair of running containers and each family that both have, from inside of them, all at
once; each waits one second at most.

Exit codes: 0 all answered, 1 a pair did not, others as for every command."
)]
pub(crate) struct PingAllArgs {
    /// Name, id or unique prefix of the id
    #[arg(value_name = "NETWORK")]
    network: String,
}

pub(crate) fn ping_all(args: &PingAllArgs, ctx: &Context) -> Result<u8, ApiError> {
    let report = {
        let _progress = Progress::spinner(format!("pinging in {}", args.network));
        ctx.client().ping_network(&args.network)?
    };
    if ctx.json {
        output::json(&report)?;
    } else {
        output::table(&["FROM", "TO", "ADDRESS", "TIME"], &report.pairs.iter().map(row).collect::<Vec<_>>())?;
        output::line(&summary(&report))?;
    }
    Ok(u8::from(report.pairs.iter().any(|p| p.round_trip_us.is_none())))
}

fn row(pair: &PingPair) -> Vec<String> {
    let time = match (pair.round_trip_us, &pair.error) {
        (Some(us), _) => format!("{}.{:03} ms", us / 1000, us % 1000),
        (None, Some(error)) => format!("not sent: {error}"),
        (None, None) => "no answer".to_owned(),
    };
    vec![pair.from.container.clone(), pair.to.container.clone(), pair.to.address.to_string(), time]
}

fn summary(report: &PingReport) -> String {
    let answered = report.pairs.iter().filter(|p| p.round_trip_us.is_some()).count();
    let idle = match report.not_running.is_empty() {
        true => String::new(),
        false => format!("; not running: {}", report.not_running.join(", ")),
    };
    format!("network {}: {answered} of {} answered{idle}", report.network, report.pairs.len())
}

#[cfg(test)]
mod tests {
    use rnet_api::PingEnd;

    use super::*;

    fn end(name: &str) -> PingEnd {
        PingEnd {
            container: name.into(),
            endpoint: rnet_model::EndpointId::from_bits(1),
            ifname: "eth0".parse().expect("a name"),
            address: [10, 9, 0, 2].into(),
        }
    }

    #[test]
    fn times_losses_and_the_sum() {
        let pair = |round_trip_us| PingPair { from: end("a"), to: end("b"), round_trip_us, error: None };
        assert_eq!(row(&pair(Some(1045)))[3], "1.045 ms");
        assert_eq!(row(&pair(None))[3], "no answer");
        let report = PingReport {
            network: "blue".parse().expect("a name"),
            pairs: vec![pair(Some(7)), pair(None)],
            not_running: vec!["old".into()],
        };
        assert_eq!(summary(&report), "network blue: 1 of 2 answered; not running: old");
    }
}
