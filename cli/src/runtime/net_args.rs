//! The network words of `rnet run`.

use std::net::IpAddr;

use clap::Args;
use rnet_api::ApiError;
use rnet_model::{DnsName, EndpointOptions, ExposedPort, MacAddr, PortSpec};
use rnet_runtime::{DnsOption, DnsSettings, ExtraHost, LinkSpec, NetWord, NetworkSettings, SearchDomain};

use crate::output;

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct NetworkArgs {
    /// NETWORK[,NETWORK...], none, host or container:CTR; or name=NETWORK with options, see below; repeatable
    /// [default: bridge]
    #[arg(long = "net", visible_alias = "network", value_name = "MODE")]
    net: Vec<NetWord>,

    /// Static address on the first network, one of IPv4 and one of IPv6 at most [default: the next free one]
    #[arg(long = "ip", visible_alias = "ip6", value_name = "IP")]
    ips: Vec<IpAddr>,

    /// MAC address on the first network, or U:text for a stable one made from the text [default: random]
    #[arg(long, value_name = "MAC")]
    mac_address: Option<MacAddr>,

    /// Further name on the first network; repeatable
    #[arg(long = "network-alias", visible_alias = "net-alias", value_name = "NAME")]
    aliases: Vec<DnsName>,

    /// Let frames with other source addresses than its own through on the first network: for routers and labs
    #[arg(long)]
    allow_spoof: bool,

    /// Publish a port: [IP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp]; repeatable
    #[arg(short = 'p', long = "publish", value_name = "SPEC")]
    ports: Vec<PortSpec>,

    /// Publish every exposed port at a free port of the host
    #[arg(short = 'P', long)]
    publish_all: bool,

    /// Port the program listens on, for -P and --link; repeatable
    #[arg(long, value_name = "PORT[-END][/PROTO]")]
    expose: Vec<ExposedPort>,

    /// Tell of a container that runs on a common network: variables, a name, and its ports are reachable; repeatable
    #[arg(long = "link", value_name = "CTR[:ALIAS]")]
    links: Vec<LinkSpec>,

    /// Name server to ask for names of the outside; repeatable [default: the network's, else the host's]
    #[arg(long = "dns", value_name = "IP")]
    servers: Vec<IpAddr>,

    /// Domain to search names in, or "." for none; repeatable [default: the networks', else the host's]
    #[arg(long = "dns-search", value_name = "NAME")]
    search: Vec<SearchDomain>,

    /// Word for "options" of resolv.conf; repeatable
    #[arg(long = "dns-option", visible_alias = "dns-opt", value_name = "WORD")]
    options: Vec<DnsOption>,

    /// Line of /etc/hosts; host-gateway is the host as the first network reaches it; repeatable
    #[arg(long = "add-host", value_name = "NAME:IP|host-gateway")]
    extra_hosts: Vec<ExtraHost>,

    /// What follows the hostname, with a dot between
    #[arg(long, value_name = "NAME")]
    domainname: Option<DnsName>,
}

impl NetworkArgs {
    /// All words together; says what has no effect.
    pub(super) fn into_settings(self) -> Result<NetworkSettings, ApiError> {
        let first = EndpointOptions {
            ips: self.ips,
            mac: self.mac_address,
            aliases: self.aliases,
            allow_spoof: self.allow_spoof,
            ..EndpointOptions::default()
        };
        rnet_model::one_of_each_family(&first.ips)?;
        let settings = NetworkSettings {
            ports: self.ports,
            expose: self.expose,
            publish_all: self.publish_all,
            dns: DnsSettings { servers: self.servers, search: self.search, options: self.options },
            extra_hosts: self.extra_hosts,
            links: self.links,
            domainname: self.domainname,
            ..NetworkSettings::from_words(&self.net, first)?
        };
        settings.check()?.iter().for_each(|warning| output::remark(&format!("warning: {warning}")));
        Ok(settings)
    }
}
