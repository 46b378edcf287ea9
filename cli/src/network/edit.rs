//! `rnet network edit`.

use std::net::IpAddr;

use clap::Args;
use rnet_api::{ApiError, NetworkEdit};
use rnet_model::{AddressRange, DnsName, GatewayMode, Rate, Toggle};

use super::{label, network_line};
use crate::{Context, output};

/// Change a network in use: its containers follow at once, all of them or none. What is not named stays
#[derive(Debug, Args)]
#[command(after_help = "\
A later `create` with the changed options finds the network; one with the old options is refused.

Examples:
  rnet network edit blue --rate 50mbit
  rnet network edit blue --no-rate --isolate off --label-add team=net --label-rm old
  rnet network edit blue --exclude 10.9.0.200-10.9.0.254")]
pub(crate) struct EditArgs {
    /// Name, id or unique prefix of the id
    #[arg(value_name = "NETWORK")]
    network: String,

    /// Set a label; repeatable
    #[arg(long = "label-add", value_name = "K=V", value_parser = label)]
    label_add: Vec<(String, String)>,

    /// Remove a label; repeatable
    #[arg(long = "label-rm", value_name = "K")]
    label_rm: Vec<String>,

    /// Containers of the network reach each other
    #[arg(long, value_name = "on|off")]
    icc: Option<Toggle>,

    /// on: no traffic between networks; off: routed between networks that both say off
    #[arg(long, value_name = "on|off")]
    isolate: Option<Toggle>,

    /// Replace the containers' source addresses on the way out
    #[arg(long, value_name = "on|off")]
    masq: Option<Toggle>,

    /// nat or routed; only while no container is on it
    #[arg(long, value_name = "nat|routed")]
    gateway_mode: Option<GatewayMode>,

    /// Leave under this address of the host; one of IPv4 and one of IPv6 at most
    #[arg(long = "outbound-address", value_name = "IP", conflicts_with = "no_outbound_address")]
    outbound: Vec<IpAddr>,

    /// Leave under the address of the interface the traffic leaves by
    #[arg(long)]
    no_outbound_address: bool,

    /// Containers find each other by name
    #[arg(long, value_name = "on|off")]
    dns: Option<Toggle>,

    /// Ask this server for names of the outside; repeatable
    #[arg(long = "dns-forward", value_name = "IP", conflicts_with = "no_dns_forward")]
    dns_forward: Vec<IpAddr>,

    /// Ask the host's name servers
    #[arg(long)]
    no_dns_forward: bool,

    /// Domain of the network
    #[arg(long, value_name = "NAME", conflicts_with = "no_domain")]
    domain: Option<DnsName>,

    /// No domain
    #[arg(long)]
    no_domain: bool,

    /// Most that each container's interface receives, and most that it sends
    #[arg(long, value_name = "RATE[/BURST]", conflicts_with = "no_rate")]
    rate: Option<Rate>,

    /// Most that it receives
    #[arg(long, value_name = "RATE[/BURST]")]
    rate_ingress: Option<Rate>,

    /// Most that it sends
    #[arg(long, value_name = "RATE[/BURST]")]
    rate_egress: Option<Rate>,

    /// No limits but those that are named
    #[arg(long)]
    no_rate: bool,

    /// MTU in bytes of interfaces made from now on
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,

    /// Take addresses from A-B or a prefix from now on; repeatable. Who has another one keeps it
    #[arg(long = "ip-range", value_name = "A-B", conflicts_with = "no_ip_range")]
    ip_ranges: Vec<AddressRange>,

    /// Take addresses from the whole subnet
    #[arg(long)]
    no_ip_range: bool,

    /// Never hand out these addresses from now on, and no others: A or A-B; repeatable. Who has one keeps it
    #[arg(long = "exclude", value_name = "A[-B]", conflicts_with = "no_exclude")]
    exclude: Vec<AddressRange>,

    /// Exclude nothing
    #[arg(long)]
    no_exclude: bool,
}

/// What a repeatable word and its opposite say.
fn list<T>(given: Vec<T>, none: bool) -> Option<Vec<T>> {
    (none || !given.is_empty()).then_some(given)
}

impl EditArgs {
    fn edit(self) -> NetworkEdit {
        let limit = |own: Option<Rate>| match (own.or(self.rate), self.no_rate) {
            (Some(rate), _) => Some(Some(rate)),
            (None, true) => Some(None),
            (None, false) => None,
        };
        NetworkEdit {
            label_add: self.label_add.into_iter().collect(),
            label_rm: self.label_rm,
            icc: self.icc,
            isolate: self.isolate,
            masquerade: self.masq,
            gateway_mode: self.gateway_mode,
            outbound: list(self.outbound, self.no_outbound_address),
            dns: self.dns,
            dns_forward: list(self.dns_forward, self.no_dns_forward),
            domain: if self.no_domain { Some(None) } else { self.domain.map(Some) },
            rate_ingress: limit(self.rate_ingress),
            rate_egress: limit(self.rate_egress),
            mtu: self.mtu,
            ip_ranges: list(self.ip_ranges, self.no_ip_range),
            exclude: list(self.exclude, self.no_exclude),
        }
    }
}

/// Changes a network.
pub(super) fn edit(args: EditArgs, ctx: &Context) -> Result<u8, ApiError> {
    let name = args.network.clone();
    let network = ctx.client().edit_network(&name, &args.edit())?;
    if ctx.json {
        output::json(&network)?;
    } else {
        output::line(&network_line(&network))?;
    }
    Ok(0)
}
