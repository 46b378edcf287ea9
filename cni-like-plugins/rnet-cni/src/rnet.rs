//! Type `rnet`: hands the container to netd, over its socket, and answers with what netd made of it. Everything is netd's:
//! the bridge, the address, the record. `RNET_ROOT` says which netd, as for every program of rnet.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use rnet_api::{
    ApiError, CniAdd, CniCheck, CniDel, CniGc, CniId, CniNetns, CniReply, CniStatus, DirectClient, Endpoint, Root,
};
use rnet_kernel::Netns;
use rnet_model::{Kind, NetworkName};
use rnet_plugin_protocol::{
    AttachmentId, CniResult, Command, Environment, Error, Interface, IpConfig, Request, Route, loose_address,
    wanted_mac,
};
use serde_json::Value;

/// The `type`.
pub(crate) const NAME: &str = "rnet";

/// Asks netd; `None` is an answer without words. `netns` is the container's namespace, if the command has one.
///
/// # Errors
/// By the codes of the CNI specification: 7 for what the configuration asks wrongly, 11 when netd cannot be reached now.
pub(crate) fn answer(
    env: &Environment,
    request: &Request,
    netns: Option<&Netns>,
    previous: Option<&CniResult>,
) -> Result<Option<CniResult>, Error> {
    let network = network(request)?;
    let client = DirectClient::new(&Root::from_env());
    match env.command {
        Command::Add => {
            let ask = wanted(env, request, network, netns)?;
            let reply = client.add(&ask).map_err(|e| refused(env.command, &e))?;
            Ok(Some(result(&reply, env, request)))
        }
        Command::Check => {
            let ask = CniCheck { id: id(env)?, netns: place(env, netns)?, list: request.name.clone() };
            let reply = client.check(&ask).map_err(|e| refused(env.command, &e))?;
            compare(&reply, env, previous).map(|()| None)
        }
        Command::Del => {
            let ask = CniDel { id: id(env)?, list: request.name.clone() };
            client.del(&ask).map(|_| None).map_err(|e| refused(env.command, &e))
        }
        Command::Gc => {
            // What cannot be netd's is none of its attachments.
            let valid = request.valid.iter().flatten().filter_map(|a| of_attachment(a).ok()).collect();
            let ask = CniGc { list: request.name.clone(), valid };
            client.gc(&ask).map(|_| None).map_err(|e| refused(env.command, &e))
        }
        Command::Status => client.status(&CniStatus { network }).map(|_| None).map_err(|e| refused(env.command, &e)),
        Command::Version => Ok(None),
    }
}

/// The configuration: `network`, and nothing that netd decides.
fn network(request: &Request) -> Result<NetworkName, Error> {
    let text = match request.own.get("network") {
        Some(Value::String(text)) => text,
        Some(_) => return Err(Error::new(Error::DECODING_FAILURE, "network is no string")),
        None => {
            return Err(Error::config("missing key network").details(
                "type rnet puts the container on a network of netd: \"network\": \"NAME\" of rnet network ls",
            ));
        }
    };
    let unsupported = |key: &str, why: &str| Err(Error::new(Error::UNSUPPORTED_FIELD, key).details(why));
    if request.ipam.is_some() {
        return unsupported("ipam", "netd gives the addresses of its networks");
    }
    let asks = |value: &Option<Value>| value.as_ref().is_some_and(|v| !v.is_null() && *v != Value::Array(Vec::new()));
    if asks(&request.runtime.port_mappings) {
        return unsupported("runtimeConfig.portMappings", "put plugin portmap behind this one in the list");
    }
    if asks(&request.runtime.bandwidth) {
        return unsupported("runtimeConfig.bandwidth", "put plugin bandwidth behind this one in the list");
    }
    for key in request.own.keys().filter(|key| *key != "network") {
        eprintln!("type rnet has no key {key:?}");
    }
    Ok(text.parse::<NetworkName>()?)
}

fn wanted(env: &Environment, request: &Request, network: NetworkName, netns: Option<&Netns>) -> Result<CniAdd, Error> {
    env.only_args(&["IP", "MAC", "GATEWAY"])?;
    let from_env = env.arg("IP").into_iter().flat_map(|list| list.split(',')).filter(|ip| !ip.is_empty());
    let all = from_env.chain(request.args.ips.iter().chain(&request.runtime.ips).map(String::as_str));
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in all {
        let (ip, _) = loose_address(text)?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(CniAdd {
        id: id(env)?,
        netns: place(env, netns)?,
        list: request.name.clone(),
        network,
        ips,
        mac: wanted_mac(None, env.arg("MAC"), request)?,
    })
}

fn id(env: &Environment) -> Result<CniId, Error> {
    let missing = || Error::new(Error::INVALID_ENVIRONMENT, "required env variables [CNI_IFNAME] missing");
    let container = env.container.parse();
    Ok(CniId {
        container_id: container.map_err(|e| Error::new(Error::INVALID_ENVIRONMENT, format!("CNI_CONTAINERID: {e}")))?,
        ifname: env.ifname.clone().ok_or_else(missing)?,
    })
}

fn of_attachment(attachment: &AttachmentId) -> Result<CniId, Error> {
    Ok(CniId { container_id: attachment.container.parse()?, ifname: attachment.ifname.parse()? })
}

fn place(env: &Environment, netns: Option<&Netns>) -> Result<CniNetns, Error> {
    let missing = || Error::new(Error::INVALID_ENVIRONMENT, "required env variables [CNI_NETNS] missing");
    let path = PathBuf::from(&env.netns);
    let path = std::path::absolute(&path).unwrap_or(path);
    Ok(CniNetns { path, inode: netns.ok_or_else(missing)?.id().ino })
}

/// What netd made, in the words of CNI: bridge, host end, container's end.
fn result(reply: &CniReply, env: &Environment, request: &Request) -> CniResult {
    let endpoint = &reply.endpoint;
    let text = |mac: Option<rnet_model::MacAddr>| mac.map(|m| m.to_string()).unwrap_or_default();
    let named = |name: &str, mac: String| Interface { name: name.to_owned(), mac, ..Interface::default() };
    let mut interfaces = Vec::new();
    interfaces.extend(endpoint.bridge.as_ref().map(|name| named(name.as_str(), text(reply.bridge_mac))));
    interfaces.extend(
        endpoint
            .host_ifname
            .as_ref()
            .map(|name| Interface { mtu: Some(endpoint.mtu), ..named(name.as_str(), text(reply.host_mac)) }),
    );
    interfaces.push(Interface {
        mtu: Some(endpoint.mtu),
        sandbox: env.netns.clone(),
        ..named(endpoint.ifname.as_str(), text(endpoint.mac))
    });
    let inside = interfaces.len() - 1;
    let gateway = |six: bool| endpoint.gateways.iter().copied().find(|g| g.is_ipv6() == six);
    let address = |a: &rnet_model::IfAddr| {
        let network = IpNetwork::new(a.ip(), a.prefix()).ok()?;
        Some(IpConfig { interface: Some(inside), address: network, gateway: gateway(a.ip().is_ipv6()) })
    };
    let everywhere = |gateway: &IpAddr| {
        let zero: IpAddr = if gateway.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
        let route = Route::new(IpNetwork::new(zero, 0).ok()?, Some(*gateway));
        Some(Route { priority: endpoint.metric, ..route })
    };
    CniResult {
        ips: endpoint.addresses.iter().filter_map(address).collect(),
        routes: endpoint.gateways.iter().filter_map(everywhere).collect(),
        dns: request.dns.clone(),
        interfaces,
    }
}

/// CHECK: what netd sees, and whether the result the runtime kept is of this very interface.
fn compare(reply: &CniReply, env: &Environment, previous: Option<&CniResult>) -> Result<(), Error> {
    if let Some(problem) = reply.problems.first() {
        let rest = reply.problems.get(1..).unwrap_or_default().join("; ");
        return Err(Error::internal(problem.clone()).details(rest));
    }
    let missing = || Error::config("required prevResult missing");
    let previous = previous.ok_or_else(missing)?;
    let Endpoint { ifname, mac, addresses, .. } = &reply.endpoint;
    let kept = previous.interfaces.iter().position(|i| i.name == ifname.as_str() && !i.sandbox.is_empty());
    if let Some(kept) = kept.and_then(|index| previous.interfaces.get(index))
        && mac.is_some_and(|mac| !kept.mac.eq_ignore_ascii_case(&mac.to_string()))
    {
        return Err(Error::internal(format!("{ifname} of container {} has another MAC address", env.container))
            .details(format!("prevResult says {}", kept.mac)));
    }
    let ours = |ip: &&IpConfig| ip.interface.is_none() || ip.interface == kept;
    let there = |ip: &&IpConfig| addresses.iter().any(|a| a.ip() == ip.address.ip());
    match previous.ips.iter().filter(ours).find(|ip| !there(ip)) {
        None => Ok(()),
        Some(ip) => Err(Error::internal(format!("{ifname} of container {} never had {}", env.container, ip.address))),
    }
}

/// netd's refusal in the codes of the specification.
fn refused(command: Command, error: &ApiError) -> Error {
    let code = match error.kind {
        _ if command == Command::Status => Error::NOT_AVAILABLE,
        Kind::Retry | Kind::Unavailable => Error::TRY_AGAIN_LATER,
        Kind::Missing | Kind::Invalid => Error::INVALID_NETWORK_CONFIG,
        _ => Error::INTERNAL,
    };
    Error::new(code, error.chain()).details(error.hint.clone().unwrap_or_default())
}
