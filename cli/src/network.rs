//! `rnet network`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rnet_api::{ApiError, Network, NetworkConnect, NetworkDisconnect};
use rnet_model::{
    AddressRange, ContainerRef, EndpointOptions, IfName, InvalidInput, Kind, MacAddr, NetworkName, NetworkSpec, Subnet,
    Toggle, one_of_each_family,
};

use crate::attach::{print_detached, render_reply};
use crate::{Context, output};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    Create(Box<CreateArgs>),
    /// List networks
    Ls,
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
    /// List every address in use with its owner
    #[command(
        after_help = "States: live = on an interface, reserved = kept for its owner, resting = was freed a short \
                            while ago and is not handed out to others yet."
    )]
    Allocations,
}

/// Create a network: a bridge with an address, NAT to the outside and addresses for its containers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet network create blue
  rnet network create blue --subnet 10.9.0.0/24 --gateway 10.9.0.254 --exclude 10.9.0.1-10.9.0.9
  rnet network create green --ipv6 --isolate off
  rnet network create backend --internal
  rnet network create mesh --conflist /etc/cni/net.d/10-mesh.conflist")]
pub(crate) struct CreateArgs {
    /// Name: [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 63 bytes
    #[arg(value_name = "NAME")]
    name: NetworkName,

    /// Subnet, one of IPv4 and one of IPv6 at most [default: the next free block of the pools in netd.toml]
    #[arg(long = "subnet", value_name = "SUBNET")]
    subnets: Vec<Subnet>,

    /// Address of the bridge in one of the subnets; repeatable [default: the first address of each subnet]
    #[arg(long = "gateway", value_name = "IP")]
    gateways: Vec<IpAddr>,

    /// Take the containers' addresses from A-B or a prefix; repeatable [default: the whole subnet]
    #[arg(long = "ip-range", value_name = "A-B")]
    ip_ranges: Vec<AddressRange>,

    /// Never hand out these addresses: A or A-B; repeatable [default: none]
    #[arg(long = "exclude", value_name = "A[-B]")]
    exclude: Vec<AddressRange>,

    /// Add an IPv6 subnet: a ULA /64 made from the machine's random global id
    #[arg(long)]
    ipv6: bool,

    /// No gateway and no NAT: nothing reaches the outside
    #[arg(long)]
    internal: bool,

    /// on: no traffic between networks; off: routed between networks that both say off
    #[arg(long, value_name = "on|off", default_value = "on")]
    isolate: Toggle,

    /// Keep the containers' own source addresses on the way out [default: the host's address replaces them]
    #[arg(long)]
    no_masq: bool,

    /// MTU in bytes [default: the smallest of the host's default routes]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,

    /// Label; repeatable
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,

    /// Name of the bridge device [default: made from the network's id]
    #[arg(long, value_name = "NAME")]
    bridge_name: Option<IfName>,

    /// Take the network from a CNI configuration: a list of plugins (.conflist) or a single one (.conf) as JSON. Everything
    /// but labels is theirs to decide then
    #[arg(long, value_name = "FILE")]
    conflist: Option<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), InvalidInput> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(InvalidInput::new("label", text, "has no key").hint("write KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

impl TryFrom<CreateArgs> for NetworkSpec {
    type Error = ApiError;
    fn try_from(args: CreateArgs) -> Result<Self, ApiError> {
        let conflist = args.conflist.as_deref().map(read_conflist).transpose()?;
        let plain = match conflist {
            Some(conflist) => NetworkSpec::of_conflist(args.name, conflist),
            None => NetworkSpec::new(args.name),
        };
        Ok(NetworkSpec {
            subnets: args.subnets,
            gateways: args.gateways,
            ip_ranges: args.ip_ranges,
            exclude: args.exclude,
            ipv6: args.ipv6,
            internal: args.internal,
            isolate: args.isolate,
            masquerade: if args.no_masq { Toggle::Off } else { Toggle::On },
            mtu: args.mtu,
            bridge: args.bridge_name,
            labels: args.labels.into_iter().collect(),
            ..plain
        })
    }
}

/// A file that is JSON; what it says is netd's to judge.
fn read_conflist(path: &Path) -> Result<serde_json::Value, ApiError> {
    let fail = |e: &dyn std::error::Error| {
        ApiError::new(Kind::Invalid, format!("cannot read a CNI configuration from {}", path.display())).because(e)
    };
    let bytes = std::fs::read(path).map_err(|e| fail(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| fail(&e))
}

/// Connect a container to a network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet network connect blue web
  rnet network connect blue docker:web --ip 10.9.0.7 --ifname eth1")]
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
        NetworkCommand::Ls => ls(ctx),
        NetworkCommand::Inspect { names } => inspect(&names, ctx),
        NetworkCommand::Rm { names, force } => rm(&names, force, ctx),
        NetworkCommand::Connect(args) => connect(args, ctx),
        NetworkCommand::Disconnect(args) => disconnect(args, ctx),
        NetworkCommand::Allocations => allocations(ctx),
    }
}

fn create(args: CreateArgs, ctx: &Context) -> Result<u8, ApiError> {
    let spec = NetworkSpec::try_from(args)?;
    spec.validate()?;
    let network = ctx.client().create_network(&spec)?;
    if ctx.json {
        output::json(&network)?;
    } else {
        output::line(&network_line(&network))?;
    }
    Ok(0)
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

const NETWORK_COLUMNS: [&str; 7] = ["NAME", "TYPE", "SUBNET", "GATEWAY", "BRIDGE", "CONTAINERS", "ID"];

fn network_row(n: &Network) -> Vec<String> {
    let kind = match (&n.spec.conflist, n.spec.internal) {
        (Some(_), _) => format!("conflist: {}", plugins(n).join(", ")),
        (None, true) => "bridge, internal".to_owned(),
        (None, false) => "bridge".to_owned(),
    };
    vec![
        n.spec.name.to_string(),
        kind,
        output::list(&n.spec.subnets),
        output::list(&n.spec.gateways),
        n.spec.bridge.as_ref().map(ToString::to_string).unwrap_or_default(),
        n.endpoints.len().to_string(),
        n.id.to_string(),
    ]
}

fn ls(ctx: &Context) -> Result<u8, ApiError> {
    let networks = ctx.client().networks()?;
    if ctx.json {
        output::json(&networks)?;
        return Ok(0);
    }
    output::table(&NETWORK_COLUMNS, &networks.iter().map(network_row).collect::<Vec<_>>())?;
    for network in &networks {
        network.problems.iter().for_each(|p| output::remark(&format!("warning: network {}: {p}", network.spec.name)));
    }
    Ok(0)
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
    one_of_each_family(&args.ips)?;
    let options = EndpointOptions { ips: args.ips, mac: args.mac, ifname: args.ifname, ..EndpointOptions::default() };
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

fn allocations(ctx: &Context) -> Result<u8, ApiError> {
    let all = ctx.client().allocations()?;
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
