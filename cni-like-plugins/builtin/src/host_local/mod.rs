#![doc = include_str!("README.md")]

mod files;
mod ranges;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use rnet_plan::Plan;
use rnet_plugin_protocol::{
    AttachmentId, Call, CniResult, Dns, Error, IpConfig, Plugin, Request, Route, View, Work, loose_address,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use self::files::Files;
use self::ranges::{RangeConfig, RangeSet};

const DATA: &str = "/var/lib/cni/networks";

/// `ipam` as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(flatten)]
    old: RangeConfig,
    #[serde(default)]
    ranges: Vec<Vec<RangeConfig>>,
    #[serde(default)]
    routes: Option<Vec<Route>>,
    /// Read by [`HostLocal::new`]; here for its type.
    #[serde(default, rename = "dataDir")]
    _data_dir: String,
    #[serde(default)]
    resolv_conf: String,
}

/// The plugin.
#[derive(Debug)]
pub struct HostLocal {
    network: String,
    data: PathBuf,
    sets: Vec<RangeSet>,
    routes: Vec<Route>,
    resolv_conf: String,
    /// What is wrong with the configuration; then there are no ranges.
    wrong: Option<Error>,
}

impl HostLocal {
    /// From the `ipam` of a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request, ipam: &Map<String, Value>) -> Self {
        // DEL and GC need only to know where the files are.
        let data = ipam.get("dataDir").and_then(Value::as_str).filter(|d| !d.is_empty()).unwrap_or(DATA);
        HostLocal::configure(request, ipam, Path::new(data)).unwrap_or_else(|error| HostLocal {
            network: request.name.clone(),
            data: PathBuf::from(data),
            sets: Vec::new(),
            routes: Vec::new(),
            resolv_conf: String::new(),
            wrong: Some(error),
        })
    }

    /// # Errors
    /// Code 6 for another shape, 7 for ranges that contradict themselves.
    fn configure(request: &Request, ipam: &Map<String, Value>, data: &Path) -> Result<Self, Error> {
        let config = Config::deserialize(&Value::Object(ipam.clone()))
            .map_err(|e| Error::new(Error::DECODING_FAILURE, format!("cannot read ipam of the configuration: {e}")))?;
        let mut ranges = config.ranges;
        if config.old.is_given() {
            ranges.insert(0, vec![config.old]);
        }
        if let Some(given) = &request.runtime.ip_ranges {
            let given = Vec::<Vec<RangeConfig>>::deserialize(given)
                .map_err(|e| Error::new(Error::DECODING_FAILURE, format!("cannot read ipRanges: {e}")))?;
            ranges.splice(0..0, given);
        }
        let sets = ranges.iter().map(|set| RangeSet::new(set)).collect::<Result<Vec<_>, _>>()?;
        if sets.is_empty() {
            return Err(Error::config("host-local: no IP ranges specified")
                .details("add \"ranges\": [[{\"subnet\": \"10.1.0.0/16\"}]]"));
        }
        for (i, set) in sets.iter().enumerate() {
            if let Some(other) = sets[..i].iter().find(|other| other.overlaps(set)) {
                return Err(Error::config(format!("host-local: range set {set} overlaps with {other}")));
            }
        }
        Ok(HostLocal {
            network: request.name.clone(),
            data: data.to_path_buf(),
            sets,
            routes: config.routes.unwrap_or_default(),
            resolv_conf: config.resolv_conf,
            wrong: None,
        })
    }

    /// One address of a set: the requested one, or the next that is free.
    fn take(
        &self,
        files: &Files,
        owner: &AttachmentId,
        number: usize,
        wanted: Option<IpAddr>,
    ) -> Result<IpConfig, Error> {
        let set = &self.sets[number];
        let lease = |ip: IpAddr| {
            let range = set.range_of(ip).expect("the address was taken out of this set");
            let address = IpNetwork::new(ip, range.subnet.prefix()).expect("the prefix length is that of its subnet");
            IpConfig { interface: None, address, gateway: Some(range.gateway) }
        };
        if let Some(ip) = wanted {
            if set.range_of(ip).is_some_and(|r| r.gateway == ip) {
                return Err(Error::internal(format!("requested ip {ip} is subnet's gateway")));
            }
            let taken = files.reserve(owner, number, std::iter::once(ip))?;
            return taken.map(lease).ok_or_else(|| {
                let text = format!("requested IP address {ip} is not available in range set {set}");
                match files.owner(ip) {
                    Some(by) => Error::internal(text).details(format!("container {} has it", by.container)),
                    None => Error::internal(text),
                }
            });
        }
        let taken = files.reserve(owner, number, set.after(files.last(number)).map(|(ip, _)| ip))?;
        taken.map(lease).ok_or_else(|| {
            Error::internal(format!("no IP addresses available in range set: {set}"))
                .details(format!("reservations are the files in {}", self.data.join(&self.network).display()))
        })
    }

    fn take_all(
        &self,
        files: &Files,
        owner: &AttachmentId,
        mut wanted: BTreeSet<IpAddr>,
        ips: &mut Vec<IpConfig>,
    ) -> Result<(), Error> {
        let there = files.of(owner);
        for (number, set) in self.sets.iter().enumerate() {
            if let Some(ip) = there.iter().find(|ip| set.range_of(**ip).is_some()) {
                return Err(Error::internal(format!(
                    "{ip} has been allocated to {}, duplicate allocation is not allowed",
                    owner.container
                )));
            }
            let here = wanted.iter().copied().find(|ip| set.range_of(*ip).is_some());
            here.map(|ip| wanted.remove(&ip));
            ips.push(self.take(files, owner, number, here)?);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let left: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        Err(Error::internal(format!("failed to allocate all requested IPs: {}", left.join(" "))))
    }
}

/// What the caller asks for by number, from all three carriers.
fn wanted(call: &Call<'_>) -> Result<BTreeSet<IpAddr>, Error> {
    call.env.only_args(&["IP", "GATEWAY", "MAC"])?;
    let env = call.env.arg("IP").into_iter().flat_map(|ips| ips.split(','));
    let request = call.request;
    let all =
        env.chain(request.args.ips.iter().map(String::as_str)).chain(request.runtime.ips.iter().map(String::as_str));
    all.filter(|ip| !ip.trim().is_empty()).map(|ip| loose_address(ip).map(|(ip, _)| ip)).collect()
}

impl Plugin for HostLocal {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        let dns = if self.resolv_conf.is_empty() { Dns::default() } else { resolv_conf(&self.resolv_conf)? };
        let wanted = wanted(call)?;
        let owner = call.id();
        let files = Files::open(&self.data, &self.network)?;
        let mut ips = Vec::new();
        if let Err(error) = self.take_all(&files, &owner, wanted, &mut ips) {
            for ip in ips.iter().rev() {
                files.release_one(&owner, ip.address.ip())?;
            }
            return Err(error);
        }
        Ok(Work::Done(CniResult { ips, routes: self.routes.clone(), dns, ..CniResult::default() }))
    }

    fn del(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        if let Some(files) = Files::existing(&self.data, &self.network)? {
            files.release(&call.id())?;
        }
        Ok(Plan::default())
    }

    fn check(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        let owner = call.id();
        let found = match Files::existing(&self.data, &self.network)? {
            Some(files) => files.of(&owner),
            None => Vec::new(),
        };
        let missing = |ip: &IpAddr| self.sets.iter().any(|s| s.range_of(*ip).is_some()) && !found.contains(ip);
        let ips: Vec<IpAddr> = call.previous()?.ips.iter().map(|ip| ip.address.ip()).collect();
        if found.is_empty() || ips.iter().any(missing) {
            return Err(Error::internal(format!(
                "host-local: Failed to find address added by container {}",
                owner.container
            )));
        }
        Ok(())
    }

    fn gc(&self, _: &Call<'_>, valid: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        if let Some(files) = Files::existing(&self.data, &self.network)? {
            let stale: BTreeSet<AttachmentId> = files.all()?.into_iter().map(|(_, owner)| owner).collect();
            let kept = |owner: &AttachmentId| {
                // A file of an old version names no interface.
                valid.iter().any(|v| v == owner || (owner.ifname.is_empty() && v.container == owner.container))
            };
            stale.iter().filter(|owner| !kept(owner)).try_for_each(|owner| files.release(owner))?;
        }
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        let Some(files) = Files::existing(&self.data, &self.network)? else { return Ok(()) };
        let taken = files.addresses()?;
        for set in &self.sets {
            let used = taken.iter().filter(|ip| set.range_of(**ip).is_some_and(|r| r.gateway != **ip)).count();
            let size = set.0.iter().map(ranges::Range::size).fold(0, u128::saturating_add);
            if u128::try_from(used).is_ok_and(|used| used >= size) {
                return Err(Error::new(Error::NOT_AVAILABLE, format!("host-local: all addresses of {set} are in use")));
            }
        }
        Ok(())
    }
}

/// The part of resolv.conf(5) that a result has words for.
fn resolv_conf(path: &str) -> Result<Dns, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(format!("host-local: read {path}"), &e))?;
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    Ok(dns)
}
