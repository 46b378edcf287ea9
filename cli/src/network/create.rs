//! `rnet network create`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rnet_api::ApiError;
use rnet_model::{AddressRange, DnsName, GatewayMode, IfName, Kind, NetworkName, NetworkSpec, Rate, Subnet, Toggle};
use serde_json::{Value, json};

use super::{docker, label, network_line};
use crate::{Context, output};

/// What a network is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    /// A bridge of its own, with NAT to the outside
    Bridge,
    /// The same without NAT: containers are reached at their own addresses
    Routed,
    /// Each container is a station of its own in the LAN of --parent
    Macvlan,
    /// The same with the MAC address of --parent
    Ipvlan,
    /// The LAN itself: see rnet bridge create --uplink
    Lan,
}

/// Create a network: a bridge with an address, NAT to the outside and addresses for its containers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet network create blue
  rnet network create blue --subnet 10.9.0.0/24 --gateway 10.9.0.254 --exclude 10.9.0.1-10.9.0.9
  rnet network create green --ipv6 --isolate off
  rnet network create backend --internal
  rnet network create slow --rate 100mbit --rate-egress 20mbit/64k
  rnet network create mail --outbound-address 198.51.100.7
  rnet network create dmz --type routed --subnet 203.0.113.0/28
  rnet network create lan --type macvlan --parent eth0 --subnet 192.168.115.0/24 --ip-range 192.168.115.200-192.168.115.220
  rnet network create mesh --conflist /etc/cni/net.d/10-mesh.conflist")]
pub(crate) struct CreateArgs {
    /// Name: [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 63 bytes
    #[arg(value_name = "NAME")]
    name: NetworkName,

    /// What it is made of
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "bridge")]
    kind: Type,

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

    /// Containers of the network reach each other
    #[arg(long, value_name = "on|off", default_value = "on")]
    icc: Toggle,

    /// nat: containers leave under the host's address, published ports are ports of the host; routed: no address is
    /// replaced, published ports are open at the containers' own addresses
    #[arg(long, value_name = "nat|routed", default_value = "nat")]
    gateway_mode: GatewayMode,

    /// Leave under this address of the host; one of IPv4 and one of IPv6 at most [default: that of the interface the
    /// traffic leaves by]
    #[arg(long = "outbound-address", value_name = "IP")]
    outbound: Vec<IpAddr>,

    /// Keep the containers' own source addresses on the way out [default: the host's address replaces them]
    #[arg(long)]
    no_masq: bool,

    /// Containers find each other by name
    #[arg(long, value_name = "on|off", default_value = "on")]
    dns: Toggle,

    /// Ask this server for names of the outside; repeatable [default: the host's name servers]
    #[arg(long = "dns-forward", value_name = "IP")]
    dns_forward: Vec<IpAddr>,

    /// Domain of the network: search domain of its containers, and their names end with it [default: none]
    #[arg(long, value_name = "NAME")]
    domain: Option<DnsName>,

    /// Most that each container's interface receives, and most that it sends: 100mbit, or 100mbit/64k with the bytes that
    /// may go at once [default: no limit]
    #[arg(long, value_name = "RATE[/BURST]")]
    rate: Option<Rate>,

    /// Most that it receives [default: --rate]
    #[arg(long, value_name = "RATE[/BURST]")]
    rate_ingress: Option<Rate>,

    /// Most that it sends [default: --rate]
    #[arg(long, value_name = "RATE[/BURST]")]
    rate_egress: Option<Rate>,

    /// MTU in bytes [default: the smallest of the host's default routes]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,

    /// Make a bridge that tells VLANs apart, where the kernel can
    #[arg(long)]
    vlan_aware: bool,

    /// Label; repeatable
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,

    /// Option; repeatable. Those of Docker that have an equivalent are understood, the others are kept and shown
    #[arg(short, long = "option", value_name = "K=V", value_parser = label)]
    options: Vec<(String, String)>,

    /// Name of the bridge device [default: made from the network's id]
    #[arg(long, value_name = "NAME")]
    bridge_name: Option<IfName>,

    /// Interface of the host below a macvlan or ipvlan network
    #[arg(long, value_name = "IF")]
    parent: Option<IfName>,

    /// Mode of macvlan (bridge, private, vepa, passthru) or ipvlan (l2, l3, l3s) [default: bridge, l2]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,

    /// Not in this version: rnet bridge create NAME --uplink IF makes a bridge into the LAN
    #[arg(long, value_name = "IF", hide = true)]
    uplink: Option<IfName>,

    /// Take the network from a CNI configuration: a list of plugins (.conflist) or a single one (.conf) as JSON. Everything
    /// but labels is theirs to decide then
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    conflist: Option<PathBuf>,
}

/// Makes the network the words ask for.
pub(super) fn create(args: CreateArgs, ctx: &Context) -> Result<u8, ApiError> {
    let (spec, remarks) = spec(args, ctx)?;
    spec.validate()?;
    let network = ctx.client().create_network(&spec)?;
    if ctx.json {
        output::json(&network)?;
    } else {
        output::line(&network_line(&network))?;
    }
    remarks.iter().for_each(|r| output::remark(&format!("warning: network {}: {r}", spec.name)));
    Ok(0)
}

/// The spec, and what there is to say about it.
fn spec(args: CreateArgs, ctx: &Context) -> Result<(NetworkSpec, Vec<String>), ApiError> {
    if args.kind == Type::Lan || args.uplink.is_some() {
        let nic = args.uplink.as_ref().map_or("eth0", IfName::as_str);
        return Err(ApiError::new(Kind::Unsupported, format!("network {}: no network is the LAN itself", args.name))
            .hint(format!("rnet bridge create br0 --uplink {nic}, then: rnet attach br0 CTR ADDRESS")));
    }
    let base = ctx.root.lib.join("networks");
    let (kind, parent, mode) = (args.kind, args.parent.clone(), args.mode.clone());
    let name = args.name.clone();
    let refuse = |what: &str| ApiError::new(Kind::Invalid, format!("network {name}: {what}"));
    let (mut spec, remarks) = plain(args)?;
    match kind {
        Type::Macvlan | Type::Ipvlan => {
            let parent = parent.ok_or_else(|| {
                refuse("no interface is named below it").hint("name one of the host's: --parent eth0")
            })?;
            spec = on_parent(kind, &parent, mode.as_deref(), &spec, &base)?;
        }
        _ if parent.is_some() || mode.is_some() => {
            return Err(refuse("--parent and --mode are for macvlan and ipvlan").hint("add --type macvlan"));
        }
        Type::Routed => {
            if spec.masquerade.is_on() && !spec.outbound.is_empty() {
                return Err(refuse("--outbound-address replaces addresses, and a routed network keeps them")
                    .hint("leave out one of the two"));
            }
            spec.gateway_mode = GatewayMode::Routed;
        }
        Type::Bridge | Type::Lan => {}
    }
    Ok((spec, remarks))
}

/// The words as they are, without what the type adds.
fn plain(args: CreateArgs) -> Result<(NetworkSpec, Vec<String>), ApiError> {
    let conflist = args.conflist.as_deref().map(read_conflist).transpose()?;
    let bare = match conflist {
        Some(conflist) => NetworkSpec::of_conflist(args.name, conflist),
        None => NetworkSpec::new(args.name),
    };
    let mut spec = NetworkSpec {
        subnets: args.subnets,
        gateways: args.gateways,
        ip_ranges: args.ip_ranges,
        exclude: args.exclude,
        ipv6: args.ipv6,
        internal: args.internal,
        isolate: args.isolate,
        icc: args.icc,
        gateway_mode: args.gateway_mode,
        outbound: args.outbound,
        masquerade: if args.no_masq { Toggle::Off } else { Toggle::On },
        dns: args.dns,
        dns_forward: args.dns_forward,
        domain: args.domain,
        rate_ingress: args.rate_ingress.or(args.rate),
        rate_egress: args.rate_egress.or(args.rate),
        mtu: args.mtu,
        vlan_aware: args.vlan_aware,
        bridge: args.bridge_name,
        labels: args.labels.into_iter().collect(),
        ..bare
    };
    let remarks = docker::understand(args.options, &mut spec)?;
    Ok((spec, remarks))
}

/// A network of rnet's own plugins on an interface of the host.
fn on_parent(
    kind: Type,
    parent: &IfName,
    mode: Option<&str>,
    asked: &NetworkSpec,
    base: &Path,
) -> Result<NetworkSpec, ApiError> {
    let word = if kind == Type::Macvlan { "macvlan" } else { "ipvlan" };
    let name = asked.name.clone();
    let refuse = |what: String| ApiError::new(Kind::Invalid, format!("network {name}: {what}"));
    // What is left when all is taken away that such a network can have.
    let understood = NetworkSpec {
        subnets: asked.subnets.clone(),
        gateways: asked.gateways.clone(),
        ip_ranges: asked.ip_ranges.clone(),
        mtu: asked.mtu,
        labels: asked.labels.clone(),
        ..NetworkSpec::new(name.clone())
    };
    if understood != *asked {
        let text = format!("a {word} network takes --subnet, --gateway, --ip-range, --mtu, --mode and --label alone");
        return Err(
            refuse(text).hint("its containers are stations of the LAN, which rnet does not filter or translate")
        );
    }
    understood.validate()?;
    if asked.subnets.is_empty() {
        let text = format!("a {word} network has no subnet of its own");
        return Err(refuse(text).hint(format!("give the subnet of the LAN behind {parent}: --subnet 192.168.1.0/24")));
    }
    let list = json!({
        "cniVersion": "1.1.0",
        "name": name.as_str(),
        "plugins": [{
            "type": word,
            "master": parent,
            "mode": mode.unwrap_or(if kind == Type::Macvlan { "bridge" } else { "l2" }),
            "mtu": asked.mtu.unwrap_or(0),
            "ipam": {"type": "host-local", "dataDir": base, "ranges": ranges(asked), "routes": routes(asked)},
        }],
    });
    let spec = NetworkSpec::of_conflist(name, list);
    Ok(NetworkSpec { labels: asked.labels.clone(), ..spec })
}

/// One set of ranges for each subnet.
fn ranges(asked: &NetworkSpec) -> Value {
    let set = |subnet: &Subnet| {
        let gateway = asked.gateways.iter().find(|g| subnet.contains(**g));
        let range = |range: Option<&AddressRange>| {
            let mut out = json!({"subnet": subnet});
            if let Some(range) = range {
                out["rangeStart"] = json!(range.first());
                out["rangeEnd"] = json!(range.last());
            }
            if let Some(gateway) = gateway {
                out["gateway"] = json!(gateway);
            }
            out
        };
        let inside: Vec<_> = asked.ip_ranges.iter().filter(|r| subnet.contains(r.first())).collect();
        match inside[..] {
            [] => json!([range(None)]),
            _ => inside.into_iter().map(|r| range(Some(r))).collect(),
        }
    };
    asked.subnets.iter().map(set).collect()
}

/// A default route for each gateway that was named: the LAN's own is not guessed.
fn routes(asked: &NetworkSpec) -> Value {
    let any = |g: &IpAddr| if g.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    asked.gateways.iter().map(|g| json!({"dst": any(g), "gw": g})).collect()
}

/// A file that is JSON; what it says is netd's to judge.
fn read_conflist(path: &Path) -> Result<Value, ApiError> {
    let fail = |e: &dyn std::error::Error| {
        ApiError::new(Kind::Invalid, format!("cannot read a CNI configuration from {}", path.display())).because(e)
    };
    let bytes = std::fs::read(path).map_err(|e| fail(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn made(words: &str) -> Result<(NetworkSpec, Vec<String>), ApiError> {
        let words = Words::try_parse_from(format!("create {words}").split_whitespace()).unwrap();
        let root = rnet_api::Root::from_option(Some("/srv/x".into()));
        spec(words.args, &Context { root, json: false })
    }

    #[test]
    fn one_rate_is_both() {
        let (spec, _) = made("blue --rate 8mbit --rate-egress 1mbit").unwrap();
        assert_eq!(spec.rate_ingress.map(|r| r.bits), Some(8_000_000));
        assert_eq!(spec.rate_egress.map(|r| r.bits), Some(1_000_000));
    }

    #[test]
    fn a_parent_makes_a_list() {
        let (spec, _) =
            made("lan --type macvlan --parent eth0 --subnet 10.0.0.0/24 --ip-range 10.0.0.8-10.0.0.9").unwrap();
        spec.validate().unwrap();
        let plugin = &spec.conflist.unwrap()["plugins"][0];
        assert_eq!(plugin["mode"], "bridge");
        let ranges = json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.8", "rangeEnd": "10.0.0.9"}]]);
        assert_eq!(plugin["ipam"]["ranges"], ranges);
        assert_eq!(plugin["ipam"]["routes"], json!([]));
    }

    #[test]
    fn wrong_words_say_what_is_wrong() {
        for (words, said) in [
            ("x --type macvlan", "no interface"),
            ("x --type macvlan --parent eth0", "no subnet"),
            ("x --type ipvlan --parent eth0 --subnet 10.0.0.0/24 --internal", "ipvlan network takes"),
            ("x --parent eth0", "--parent"),
            ("x --mode l2", "--mode"),
            ("x --type lan", "LAN itself"),
            ("x --uplink eth1", "LAN itself"),
            ("x --type routed --outbound-address 192.0.2.1", "--outbound-address"),
            ("x -o com.docker.network.driver.mtu=big", "driver.mtu"),
        ] {
            let error = made(words).unwrap_err();
            assert!(error.message.contains(said), "{words}: {}", error.message);
        }
    }
}
