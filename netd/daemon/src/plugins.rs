//! Lists of CNI plugins as networks: which are accepted, and how one is run for a container. Those of rnet run in this
//! process, those of others are executables of the configured directories.

use std::net::IpAddr;

use rnet_api::{ApiError, Root};
use rnet_kernel::{Links as _, Netns, Route};
use rnet_model::{IfAddr, Kind, MacAddr, NetworkSpec};
use rnet_plan::fail;
use rnet_plugin_protocol::runtime::{Attachment, Cache, Chain, Directories, Executable, Extra, Limits, NetworkList};
use rnet_plugin_protocol::{CniResult, Delegation, Error, Interface, IpConfig, Plugin, Request, Version};
use rnet_plugins_builtin::{Kernel, configure, names};
use serde_json::{Map, Value, json};

use crate::config;
use crate::engine::{Failing, Made, Refused, Work};

/// Everything lists are run with.
#[derive(Debug)]
pub(crate) struct Plugins {
    directories: Directories,
    cache: Cache,
    host: Netns,
}

/// The plugin of rnet that asks netd.
const OURSELVES: &str = "rnet";

impl Plugins {
    /// Of one instance; `host` is its own namespace.
    ///
    /// # Errors
    /// For a directory that can be none.
    pub(crate) fn new(root: &Root, config: &config::Plugins, host: Netns) -> Result<Self, ApiError> {
        let limits = Limits { time: std::time::Duration::from_secs(config.time_seconds), ..Limits::default() };
        let directories = Directories::new(config.directories.clone(), limits)
            .map_err(|e| ApiError::new(Kind::Invalid, e.to_string()))?;
        Ok(Plugins { directories, cache: Cache::new(root.run.join("cni")), host })
    }

    /// Reads a list and looks for its plugins.
    ///
    /// # Errors
    /// For a list that is none, or a plugin that is not there, with the directories that were searched.
    pub(crate) fn accept(&self, spec: &NetworkSpec) -> Result<NetworkList, ApiError> {
        let of_network = |e: ApiError| ApiError { message: format!("network {}: {}", spec.name, e.message), ..e };
        let list = parse(spec).map_err(of_network)?;
        for plugin in &list.plugins {
            let request = list.request(plugin, &Extra::default()).map_err(|e| of_network(invalid(&e)))?;
            let found = self.look_for(&plugin.kind, &request).map_err(of_network)?;
            if let Found::Foreign(executable) = &found {
                speaks(executable, &plugin.kind, list.version).map_err(of_network)?;
            }
            let found = found.plugin();
            let ipam = request.ipam.as_ref().and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
            if let Some(kind) = ipam.filter(|_| found.delegation() != Delegation::Never) {
                self.look_for(kind, &request).map_err(of_network)?;
            }
        }
        Ok(list)
    }

    fn look_for(&self, kind: &str, request: &Request) -> Result<Found, ApiError> {
        if kind == OURSELVES {
            return Err(ApiError::new(Kind::Invalid, format!("plugin {kind:?} would ask netd for a network of netd"))
                .hint("it is for other runtimes; containers of rnet name the network itself"));
        }
        let own = configure(kind, request).and_then(|own| match own {
            Some(plugin) => plugin.configured().map(|()| Some(plugin)),
            None => Ok(None),
        });
        if let Some(plugin) = own.map_err(|e| invalid(&e.context(format!("plugin {kind:?}"))))? {
            return Ok(Found::Own(plugin));
        }
        match self.directories.find(kind) {
            Ok(found) => Ok(Found::Foreign(found)),
            Err(e) if is_missing(&e) => {
                Err(ApiError::new(Kind::Missing, format!("there is no plugin {kind:?}")).hint(format!(
                    "searched: {}, which [plugins] of netd.toml changes; built in are {}",
                    self.searched(),
                    names().collect::<Vec<_>>().join(", ")
                )))
            }
            Err(e) => Err(invalid(&e)),
        }
    }

    fn resolve(&self, kind: &str, request: &Request) -> Result<Box<dyn Plugin>, Error> {
        match configure(kind, request)? {
            Some(plugin) => Ok(plugin),
            None => Ok(Box::new(self.directories.find(kind)?)),
        }
    }

    fn searched(&self) -> String {
        self.directories.path().join(", ")
    }

    /// ADD: afterwards the interface is there, or nothing of it, or [`Refused::whole`] is false.
    pub(crate) fn add(&self, work: &Work, netns: Netns) -> Result<Made, Refused> {
        let whole = |error| Refused { error, whole: true };
        let list = parse(&work.spec).map_err(whole)?;
        let attachment = attachment(work, &list, Some(netns.clone()));
        let mut kernel = Kernel::new(self.host.clone());
        let resolve = |kind: &str, request: &Request| self.resolve(kind, request);
        let path = self.directories.path();
        let chain = Chain { list: &list, resolve: &resolve, cache: &self.cache, path: &path };
        fail::point("chain.add");
        let result = chain
            .add(&attachment, &mut kernel)
            .map_err(|e| Refused { whole: !Chain::left_something(&e), error: self.failed("connect", work, &e) })?;
        fail::point("chain.add.done");
        let made = look(&result, work, &netns).and_then(|made| given(work, made));
        made.map_err(|error| match chain.del(&attachment, &mut kernel) {
            Ok(()) => whole(error),
            Err(left) => Refused { error: error.hint(format!("and it could not be taken back: {left}")), whole: false },
        })
    }

    /// DEL. With [`Failing::Goes`] nothing is known of it afterwards, even if it fails.
    pub(crate) fn del(&self, work: &Work, failing: Failing) -> Result<(), ApiError> {
        let list = parse(&work.spec)?;
        let attachment = attachment(work, &list, work.record.reopen());
        let mut kernel = Kernel::new(self.host.clone());
        let resolve = |kind: &str, request: &Request| self.resolve(kind, request);
        let path = self.directories.path();
        let chain = Chain { list: &list, resolve: &resolve, cache: &self.cache, path: &path };
        fail::point("chain-rm.del");
        let deleted = chain.del(&attachment, &mut kernel);
        fail::point("chain-rm.del.done");
        deleted.map_err(|e| {
            if failing == Failing::Goes
                && let Err(left) = self.cache.remove(&list.name, &attachment.id())
            {
                tracing::warn!(error = %left, "cannot forget a result");
            }
            self.failed("disconnect", work, &e)
        })
    }

    /// What failed on which network for which container, by which plugin, and what can be done.
    fn failed(&self, verb: &str, work: &Work, error: &Error) -> ApiError {
        let way = if verb == "connect" { "to" } else { "from" };
        let message = format!("cannot {verb} {} {way} network {}", work.record.container, work.network);
        let kind = match error.code {
            // Whatever a plugin of others ran into may be gone the next time.
            Error::INTERNAL.. | 100..Error::INTERNAL => Kind::Retry,
            _ => error.kind(),
        };
        let mut api = ApiError::new(kind, message);
        api.causes.push(error.msg.clone());
        api.causes.extend(Some(error.details.clone()).filter(|d| !d.is_empty()));
        api.hint(match (is_missing(error), verb) {
            (true, "connect") => format!("put it into one of {}", self.searched()),
            (true, _) => format!(
                "what the others made is removed; put it back into one of {} and repeat the command",
                self.searched()
            ),
            (false, "connect") if Chain::left_something(error) => {
                format!(
                    "something may be left of it: rnet network disconnect {} {}",
                    work.network, work.record.container
                )
            }
            (false, "connect") => "what was made is taken back; when that is over, repeat the command".to_owned(),
            (false, _) => "the others were asked too; repeat the command when that is over".to_owned(),
        })
    }
}

/// A plugin, and whose it is.
enum Found {
    Own(Box<dyn Plugin>),
    Foreign(Executable),
}

impl Found {
    fn plugin(&self) -> &dyn Plugin {
        match self {
            Found::Own(plugin) => plugin.as_ref(),
            Found::Foreign(executable) => executable,
        }
    }
}

/// All plugins of a list are spoken to in one version.
fn speaks(executable: &Executable, kind: &str, version: Version) -> Result<(), ApiError> {
    let versions = executable
        .versions()
        .map_err(|e| invalid(&e.context(format!("plugin {kind:?} does not say which versions it speaks"))))?;
    if versions.contains(&version) {
        return Ok(());
    }
    let spoken: Vec<_> = versions.iter().map(|v| v.as_str()).collect();
    Err(ApiError::new(Kind::Unsupported, format!("plugin {kind:?} does not speak {version}"))
        .hint(format!("it speaks {}; change \"cniVersion\" of the list", spoken.join(", "))))
}

fn is_missing(error: &Error) -> bool {
    error.msg.contains("failed to find plugin")
}

fn invalid(error: &Error) -> ApiError {
    let api = ApiError::new(error.kind(), error.msg.clone());
    if error.details.is_empty() { api } else { api.hint(error.details.clone()) }
}

fn parse(spec: &NetworkSpec) -> Result<NetworkList, ApiError> {
    let bytes = spec.conflist.as_ref().map(Value::to_string).unwrap_or_default();
    NetworkList::parse(bytes.as_bytes()).map_err(|e| invalid(&e))
}

/// The container's side of a call. What was asked for is a capability where a plugin declares it, and an argument where
/// none does.
fn attachment(work: &Work, list: &NetworkList, netns: Option<Netns>) -> Attachment {
    let record = &work.record;
    let declared = |key: &str| {
        list.plugins.iter().any(|p| p.object.get("capabilities").and_then(|c| c.get(key)) == Some(&Value::Bool(true)))
    };
    let mut args = vec![("IgnoreUnknown".to_owned(), "1".to_owned())];
    let mut capability_args = Map::new();
    if !record.ips.is_empty() {
        let ips: Vec<String> = record.ips.iter().map(ToString::to_string).collect();
        if declared("ips") {
            capability_args.insert("ips".to_owned(), json!(ips));
        } else {
            args.push(("IP".to_owned(), ips.join(",")));
        }
    }
    if let Some(mac) = record.mac {
        if declared("mac") {
            capability_args.insert("mac".to_owned(), json!(mac.to_string()));
        } else {
            args.push(("MAC".to_owned(), mac.to_string()));
        }
    }
    Attachment {
        container: record.cni_id.clone(),
        netns_path: netns.as_ref().map(|_| record.path.display().to_string()).unwrap_or_default(),
        netns,
        ifname: record.ifname.clone(),
        args,
        capability_args,
    }
}

/// What is shown of a result, and of the interface itself.
fn look(result: &CniResult, work: &Work, netns: &Netns) -> Result<Made, ApiError> {
    let ifname = &work.record.ifname;
    let fail =
        |e| ApiError::new(Kind::Retry, format!("cannot look for {ifname} of {}", work.record.container)).because(&e);
    let link = Route::open(netns).and_then(|mut inside| inside.link(ifname)).map_err(fail)?.ok_or_else(|| {
        let text = format!("the plugins of network {} made no interface {ifname}", work.network);
        ApiError::new(Kind::Invalid, text).hint("the first plugin of the list has to make it")
    })?;
    let inside = |i: &Interface| !i.sandbox.is_empty() && i.name == ifname.as_str();
    let index = result.interfaces.iter().position(inside);
    let ours = |ip: &&IpConfig| ip.interface.is_none() || ip.interface == index || index.is_none();
    let ips: Vec<&IpConfig> = result.ips.iter().filter(ours).collect();
    let of_host: Vec<_> = result.interfaces.iter().filter(|i| i.sandbox.is_empty()).collect();
    let name = |i: Option<&&Interface>| i.and_then(|i| i.name.parse().ok());
    let told = index.and_then(|i| result.interfaces.get(i)).and_then(|i| i.mac.parse::<MacAddr>().ok());
    Ok(Made {
        bridge: name(of_host.first().filter(|_| of_host.len() > 1)),
        host_ifname: name(of_host.last()),
        mac: link.mac.or(told),
        mtu: link.mtu,
        addresses: ips.iter().filter_map(|ip| IfAddr::new(ip.address.ip(), ip.address.prefix()).ok()).collect(),
        gateways: gateways(&ips),
    })
}

/// At most one of each family.
fn gateways(ips: &[&IpConfig]) -> Vec<IpAddr> {
    let of = |six: bool| ips.iter().filter_map(|ip| ip.gateway).find(|g| g.is_ipv6() == six);
    [of(false), of(true)].into_iter().flatten().collect()
}

/// Whether the plugins gave what was asked for: not all of them can.
fn given(work: &Work, made: Made) -> Result<Made, ApiError> {
    let network = &work.network;
    let refuse = |what: String| {
        Err(ApiError::new(Kind::Conflict, format!("the plugins of network {network} did not give {what}"))
            .hint("leave it out, or use plugins that take it"))
    };
    if let Some(ip) = work.record.ips.iter().find(|ip| !made.addresses.iter().any(|a| a.ip() == **ip)) {
        return refuse(format!("address {ip}"));
    }
    match work.record.mac {
        Some(mac) if made.mac != Some(mac) => refuse(format!("MAC address {mac}")),
        _ => Ok(made),
    }
}
