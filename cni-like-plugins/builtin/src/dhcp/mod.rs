#![doc = include_str!("README.md")]

mod change;
mod exchange;
mod keeper;
mod message;
mod process;
mod store;
mod terms;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rnet_kernel::{LinkOp, Links, Netns, Route};
use rnet_model::IfName;
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, CniResult, Error, IpConfig, Plugin, Request as CniRequest, View, Work};
use serde::Deserialize;
use serde_json::{Map, Value};

use self::exchange::{Answer, Client, Failure, Grant};
pub use self::keeper::keep_if_asked;
use self::store::{Lease, Record, Store};
use self::terms::{Ask, Provide, Request, Terms};

const DATA: &str = "/run/cni/dhcp";
/// How long ADD looks for a server, in seconds: longer than a bridge with spanning tree keeps a new port shut.
const TIMEOUT: u64 = 40;
/// How long ADD asks for the address of an earlier lease before it looks for another.
const REBOOT: Duration = Duration::from_secs(4);

/// `ipam` as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    request: Vec<Request>,
    #[serde(default)]
    provide: Vec<Provide>,
    #[serde(default)]
    priority: u32,
    #[serde(default)]
    data_dir: String,
    #[serde(default)]
    timeout: u64,
}

/// The plugin.
#[derive(Debug)]
pub struct Dhcp {
    network: String,
    config: Config,
    store: Store,
}

impl Dhcp {
    /// From the `ipam` of a configuration.
    ///
    /// # Errors
    /// Code 6 for another shape, 5 without a current folder for a relative `dataDir`.
    pub fn new(request: &CniRequest, ipam: &Map<String, Value>) -> Result<Self, Error> {
        let config = Config::deserialize(&Value::Object(ipam.clone()))
            .map_err(|e| Error::new(Error::DECODING_FAILURE, format!("cannot read ipam of the configuration: {e}")))?;
        let data = if config.data_dir.is_empty() { DATA } else { config.data_dir.as_str() };
        let store = Store::new(&absolute(Path::new(data))?, &request.name);
        Ok(Dhcp { network: request.name.clone(), config, store })
    }

    fn ask(&self, call: &Call<'_>) -> Result<Ask, Error> {
        let priority = Some(self.config.priority).filter(|p| *p != 0);
        Ask::new(&self.config.request, &self.config.provide, priority, |key| call.env.arg(key))
    }

    /// The lease of an attachment: one that goes on, the earlier one once more, or a new one.
    fn lease(&self, record: &Record, netns: &Netns, ifname: &IfName, earlier: Option<&Lease>) -> Result<Lease, Error> {
        let id = record.client_id();
        let client = Client::open(netns, ifname, &id, &record.ask)?;
        let since = store::now();
        if let Some(earlier) = earlier.filter(|l| l.is_valid()) {
            let (address, server) = (earlier.terms.address.ip(), earlier.terms.server);
            if let Answer::Granted(grant) = client.reboot(address, server, Instant::now() + REBOOT)? {
                return Ok(Lease::new(*grant, since));
            }
        }
        let timeout = if self.config.timeout == 0 { TIMEOUT } else { self.config.timeout };
        let since = store::now();
        match client.discover(Instant::now() + Duration::from_secs(timeout)) {
            Ok(grant) => Ok(Lease::new(grant, since)),
            Err(Failure::Kernel(e)) => Err(e.into()),
            Err(other) => Err(Error::new(Error::TRY_AGAIN_LATER, format!("dhcp: no lease for {ifname}: {other}"))
                .details(format!("the link of {ifname} was asked for {timeout} s"))),
        }
    }

    /// Writes what there is to keep, and has it kept.
    fn keep(&self, record: &Record) -> Result<(), Error> {
        let file = self.store.write(record)?;
        keeper::start(&file).map_err(|e| Error::io("dhcp: start the keeper of a lease", &e))
    }

    /// Ends the keeper, gives the address back, forgets the lease. What cannot be told to the server is not: it finds
    /// out when the lease ends.
    fn forget(&self, record: &Record, netns: Option<&Netns>) -> Result<(), Error> {
        if let Some(keeper) = &record.keeper {
            keeper.end()?;
        }
        // It may have renewed the lease until it ended.
        let last = self.store.read(&record.id())?;
        let record = last.as_ref().unwrap_or(record);
        if let Some(grant) = record.lease.as_ref().filter(|l| l.is_valid()).and_then(Lease::grant) {
            give_back(record, &grant, netns);
        }
        self.store.remove(&record.id())
    }
}

fn give_back(record: &Record, grant: &Grant, netns: Option<&Netns>) {
    let same = |ns: &Netns| (ns.id().dev, ns.id().ino) == record.netns_inode;
    let opened = || Netns::open(&record.netns).ok();
    let Some(netns) = netns.cloned().or_else(opened).filter(same) else { return };
    let Ok(ifname) = record.ifname() else { return };
    let id = record.client_id();
    if let Ok(client) = Client::open(&netns, &ifname, &id, &record.ask) {
        let _ = client.release(grant);
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|e| Error::io(format!("dhcp: find {}", path.display()), &e))
}

/// Frames pass only when the interface is up, which the plugin that made it may leave for later.
fn raise(netns: &Netns, ifname: &IfName) -> Result<(), Error> {
    let mut route = Route::open(netns)?;
    let link = route.link(ifname)?.ok_or_else(|| {
        Error::internal(format!("dhcp: interface {ifname} not found"))
            .details("addresses come through the interface: the plugin that asks for them has to make it before")
    })?;
    if !link.up
        && let Some(fault) = route.batch(&[LinkOp::Up(ifname.clone())])?.into_iter().next()
    {
        return Err(fault.error.into());
    }
    Ok(())
}

fn result(terms: &Terms) -> CniResult {
    let ip =
        IpConfig { interface: None, address: IpNetwork::V4(terms.address), gateway: terms.gateway.map(IpAddr::V4) };
    CniResult { ips: vec![ip], routes: terms.routes.clone(), dns: terms.dns.clone(), ..CniResult::default() }
}

impl Plugin for Dhcp {
    fn needs_interface(&self) -> bool {
        true
    }

    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        let (netns, ifname, ask, id) = (call.netns()?, call.ifname()?, self.ask(call)?, call.id());
        raise(netns, ifname)?;
        let inode = (netns.id().dev, netns.id().ino);
        let earlier = self.store.read(&id)?;
        if let Some(earlier) = &earlier {
            // Asked again for what there is, as the reference answers it.
            let kept = earlier.keeper.is_some_and(|k| k.is_alive()) && earlier.netns_inode == inode;
            let same = kept && earlier.ask == ask;
            if let Some(lease) = earlier.lease.as_ref().filter(|l| same && l.is_valid()) {
                return Ok(Work::Done(result(&lease.terms)));
            }
            if let Some(keeper) = &earlier.keeper {
                keeper.end()?;
            }
        }
        let mut record = Record {
            network: self.network.clone(),
            container: id.container,
            ifname: id.ifname,
            netns: absolute(Path::new(&call.env.netns))?,
            netns_inode: inode,
            ask,
            lease: None,
            keeper: None,
            fault: None,
        };
        let lease = self.lease(&record, netns, ifname, earlier.as_ref().and_then(|e| e.lease.as_ref()))?;
        let made = result(&lease.terms);
        record.lease = Some(lease);
        if let Err(error) = self.keep(&record) {
            self.forget(&record, Some(netns))?;
            return Err(error);
        }
        Ok(Work::Done(made))
    }

    fn del(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        match self.store.read(&call.id())? {
            Some(record) => self.forget(&record, call.netns.as_ref())?,
            None => self.store.remove(&call.id())?,
        }
        Ok(Plan::default())
    }

    fn check(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        let id = call.id();
        let whose = format!("{} of container {}", id.ifname, id.container);
        let record = self.store.read(&id)?.ok_or_else(|| Error::internal(format!("dhcp: {whose} has no lease")))?;
        if !record.keeper.is_some_and(|k| k.is_alive()) {
            return Err(Error::internal(format!("dhcp: nobody renews the lease of {whose}"))
                .details("its process was ended by somebody; ADD asks for the same address again"));
        }
        let why = record.fault.clone().unwrap_or_default();
        let lease = record.lease.as_ref().filter(|l| l.is_valid());
        let lease = lease.ok_or_else(|| Error::internal(format!("dhcp: the lease of {whose} is lost")).details(why))?;
        let address = IpNetwork::V4(lease.terms.address);
        if call.previous()?.ips.iter().any(|ip| ip.address == address) {
            return Ok(());
        }
        Err(Error::internal(format!("dhcp: {whose} has the address {address} by now"))
            .details("the server gave another one than before"))
    }

    fn gc(&self, _: &Call<'_>, valid: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        let records = self.store.all()?;
        let stale = records.iter().filter(|r| !valid.contains(&r.id()));
        let faults: Vec<Error> = stale.filter_map(|record| self.forget(record, None).err()).collect();
        match faults.into_iter().next() {
            Some(first) => Err(first),
            None => Ok(Plan::default()),
        }
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}
