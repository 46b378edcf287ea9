//! `rnet network`.

use std::net::{IpAddr, Ipv6Addr};

use clap::{Args, Subcommand};
use rnet_api::{ApiError, Network, NetworkConnect, NetworkDisconnect};
use rnet_model::{ContainerRef, DnsName, EndpointOptions, IfName, InvalidInput, MacAddr, one_of_each_family};

use crate::attach::{print_detached, render_reply};
use crate::{Context, output};

mod create;
mod docker;
mod edit;
mod list;

use create::{CreateArgs, create};
use edit::{EditArgs, edit};
use list::{LsArgs, PruneArgs, ls, prune};

/// `K=V` or `K`.
fn label(text: &str) -> Result<(String, String), InvalidInput> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(InvalidInput::new("label", text, "has no key").hint("write KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    Create(Box<CreateArgs>),
    Ls(LsArgs),
    /// Show networks as JSON
    Inspect {
        /// Name, id or unique prefix of the id
        #[arg(value_name = "NETWORK", required = true)]
        names: Vec<String>,
    },
    /// Remove networks
    Rm {
        /// Name, id or unique prefix of the id
        #[arg(value_name = "NETWORK", required = true)]
        names: Vec<String>,
        /// Disconnect the containers that are on it first [default: refuse and list them]
        #[arg(short, long)]
        force: bool,
    },
    Connect(ConnectArgs),
    Disconnect(DisconnectArgs),
    Edit(Box<EditArgs>),
    Prune(PruneArgs),
    /// List every address of the host and of its containers with its owner
    #[command(
        after_help = "States: live = on an interface, reserved = kept for its owner, resting = was freed a short \
                            while ago and is not handed out to others yet, ready = on an interface that waits for a \
                            container."
    )]
    Allocations {
        /// Only those of this network: name, id or unique prefix of the id [default: all]
        #[arg(value_name = "NETWORK")]
        network: Option<String>,
    },
}

/// Connect a container to a network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet network connect blue web
  rnet network connect blue docker:web --ip 10.9.0.7 --ip6 fd00::7 --ifname eth1
  rnet network connect uplink web --gw-priority 10
  rnet network connect blue db1 --alias db --alias store")]
pub(crate) struct ConnectArgs {
    /// Name, id or unique prefix of the id
    #[arg(value_name = "NETWORK")]
    network: String,

    /// Container: [rnet:|docker:|netns:]NAME-or-ID or pid:N; podman:, containerd: and lxc: are not in this version
    #[arg(value_name = "CTR")]
    container: ContainerRef,

    /// Static address, one of IPv4 and one of IPv6 at most [default: the next free one]
    #[arg(long = "ip", value_name = "IP")]
    ips: Vec<IpAddr>,

    /// Static IPv6 address [default: the next free one]
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,

    /// Further name on this network; repeatable, and several containers may have the same one
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<DnsName>,

    /// The network with the highest priority gives the default route, now and until it is disconnected; between equal
    /// ones the one connected first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    gw_priority: i32,

    /// Let it send from other addresses than its own, answer for others and be a router or DHCP server: for routers and
    /// labs
    #[arg(long)]
    allow_spoof: bool,

    /// MAC address inside, or U:text for a stable one made from the text [default: random, locally administered]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,

    /// Name of the interface inside [default: the first free ethN]
    #[arg(short = 'i', long, value_name = "NAME")]
    ifname: Option<IfName>,
}

/// Disconnect a container from a network
#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// Name, id or unique prefix of the id
    #[arg(value_name = "NETWORK")]
    network: String,

    /// Container, as for connect
    #[arg(value_name = "CTR")]
    container: ContainerRef,
}

pub(crate) fn dispatch(command: NetworkCommand, ctx: &Context) -> Result<u8, ApiError> {
    match command {
        NetworkCommand::Create(args) => create(*args, ctx),
        NetworkCommand::Ls(args) => ls(args, ctx),
        NetworkCommand::Edit(args) => edit(*args, ctx),
        NetworkCommand::Prune(args) => prune(args, ctx),
        NetworkCommand::Inspect { names } => inspect(&names, ctx),
        NetworkCommand::Rm { names, force } => rm(&names, force, ctx),
        NetworkCommand::Connect(args) => connect(args, ctx),
        NetworkCommand::Disconnect(args) => disconnect(args, ctx),
        NetworkCommand::Allocations { network } => allocations(network.as_deref(), ctx),
    }
}

fn network_line(n: &Network) -> String {
    if n.spec.conflist.is_some() {
        return format!("{}: plugins {}", n.spec.name, plugins(n).join(", "));
    }
    let mut out = format!("{}: {}", n.spec.name, output::list(&n.spec.subnets));
    if !n.spec.gateways.is_empty() {
        out.push_str(&format!(" gateway {}", output::list(&n.spec.gateways)));
    }
    if let Some(bridge) = &n.spec.bridge {
        out.push_str(&format!(", bridge {bridge}"));
    }
    if n.spec.internal {
        out.push_str(", internal");
    }
    out
}

/// The types of the plugins of a conflist, or of the one that is none.
fn plugins(n: &Network) -> Vec<String> {
    let list = n.spec.conflist.as_ref();
    let several = list.and_then(|l| l.get("plugins")?.as_array());
    let all = several.map_or_else(|| list.into_iter().collect(), |all| all.iter().collect::<Vec<_>>());
    all.into_iter().filter_map(|p| Some(p.get("type")?.as_str()?.to_owned())).collect()
}

fn inspect(names: &[String], ctx: &Context) -> Result<u8, ApiError> {
    let client = ctx.client();
    let found: Vec<Network> = names.iter().map(|n| client.network(n)).collect::<Result<_, _>>()?;
    output::json(&found)?;
    Ok(0)
}

/// Removes each; the exit code is the last failure's.
fn rm(names: &[String], force: bool, ctx: &Context) -> Result<u8, ApiError> {
    let client = ctx.client();
    let mut code = 0;
    let mut removed = Vec::new();
    for name in names {
        match client.remove_network(name, force) {
            Ok(network) => removed.push(network),
            Err(error) => {
                crate::report(&error);
                code = error.kind.exit_code();
            }
        }
    }
    if ctx.json {
        output::json(&removed)?;
    } else {
        removed.iter().try_for_each(|n| output::line(&format!("{}: removed", n.spec.name)))?;
    }
    Ok(code)
}

fn connect(args: ConnectArgs, ctx: &Context) -> Result<u8, ApiError> {
    let ips: Vec<IpAddr> = args.ips.into_iter().chain(args.ip6.map(IpAddr::V6)).collect();
    one_of_each_family(&ips)?;
    let options = EndpointOptions {
        ips,
        mac: args.mac,
        ifname: args.ifname,
        aliases: args.aliases,
        gw_priority: args.gw_priority,
        allow_spoof: args.allow_spoof,
    };
    let request = NetworkConnect { container: args.container, identity: None, options };
    let reply = ctx.client().connect_network(&args.network, &request)?;
    crate::runtime::addresses_changed(std::slice::from_ref(&reply.endpoint), ctx);
    if ctx.json {
        output::json(&reply)?;
    } else {
        output::text(&render_reply(&reply))?;
    }
    Ok(0)
}

fn disconnect(args: DisconnectArgs, ctx: &Context) -> Result<u8, ApiError> {
    let gone = ctx.client().disconnect_network(&args.network, &NetworkDisconnect { container: args.container })?;
    crate::runtime::addresses_changed(&gone, ctx);
    print_detached(&gone, ctx)?;
    Ok(0)
}

fn allocations(network: Option<&str>, ctx: &Context) -> Result<u8, ApiError> {
    let client = ctx.client();
    let name = network.map(|n| client.network(n)).transpose()?.map(|n| n.spec.name.to_string());
    let mut all = client.allocations()?;
    all.retain(|a| name.as_ref().is_none_or(|name| a.network == *name));
    if ctx.json {
        output::json(&all)?;
        return Ok(0);
    }
    let rows: Vec<_> = all
        .into_iter()
        .map(|a| {
            vec![
                a.address.to_string(),
                a.network,
                a.subnet.map(|s| s.to_string()).unwrap_or_default(),
                a.owner,
                a.state,
            ]
        })
        .collect();
    output::table(&["ADDRESS", "ON", "SUBNET", "OWNER", "STATE"], &rows)?;
    Ok(0)
}
