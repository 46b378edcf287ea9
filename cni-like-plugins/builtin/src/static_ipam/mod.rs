#![doc = include_str!("README.md")]

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rnet_plan::Plan;
use rnet_plugin_protocol::{
    AttachmentId, Call, CniResult, Dns, Error, IpConfig, Plugin, Route, View, Work, loose_address,
};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    addresses: Vec<AddressConfig>,
    #[serde(default)]
    routes: Option<Vec<Route>>,
    #[serde(default)]
    dns: Dns,
}

#[derive(Debug, Deserialize)]
struct AddressConfig {
    address: String,
    gateway: Option<IpAddr>,
}

/// The plugin.
#[derive(Debug)]
pub struct Static {
    addresses: Vec<(IpNetwork, Option<IpAddr>)>,
    routes: Vec<Route>,
    dns: Dns,
    /// What is wrong with the configuration.
    wrong: Option<Error>,
}

impl Static {
    /// From the `ipam` of a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(ipam: &Map<String, Value>) -> Self {
        Static::configure(ipam).unwrap_or_else(|error| Static {
            addresses: Vec::new(),
            routes: Vec::new(),
            dns: Dns::default(),
            wrong: Some(error),
        })
    }

    /// # Errors
    /// Code 6 for another shape, 7 for an address without prefix length.
    fn configure(ipam: &Map<String, Value>) -> Result<Self, Error> {
        let config = Config::deserialize(&Value::Object(ipam.clone()))
            .map_err(|e| Error::new(Error::DECODING_FAILURE, format!("cannot read ipam of the configuration: {e}")))?;
        let addresses =
            config.addresses.iter().map(|a| Ok((cidr(&a.address)?, a.gateway))).collect::<Result<_, Error>>()?;
        Ok(Static { addresses, routes: config.routes.unwrap_or_default(), dns: config.dns, wrong: None })
    }

    /// Those of `CNI_ARGS` come on top; those of `args.cni` and of the runtime take the place of the configured ones.
    fn all(&self, call: &Call<'_>) -> Result<Vec<(IpNetwork, Option<IpAddr>)>, Error> {
        call.env.only_args(&["IP", "GATEWAY", "MAC"])?;
        let mut all = self.addresses.clone();
        let words =
            |key| call.env.arg(key).into_iter().flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty());
        for ip in words("IP") {
            all.push((cidr(ip)?, None));
        }
        for gateway in words("GATEWAY") {
            let ip: IpAddr =
                gateway.parse().map_err(|_| Error::config(format!("static: invalid gateway address: {gateway}")))?;
            all.iter_mut().filter(|(net, _)| net.contains(ip)).for_each(|(_, gateway)| *gateway = Some(ip));
        }
        for given in [&call.request.args.ips, &call.request.runtime.ips] {
            if !given.is_empty() {
                all = given.iter().map(|ip| Ok((cidr(ip)?, None))).collect::<Result<_, Error>>()?;
            }
        }
        Ok(all)
    }
}

fn cidr(text: &str) -> Result<IpNetwork, Error> {
    match loose_address(text)? {
        (ip, Some(prefix)) => IpNetwork::new(ip, prefix).map_err(|e| Error::config(format!("static: {text}: {e}"))),
        (ip, None) => {
            let prefix = if ip.is_ipv4() { 24 } else { 64 };
            Err(Error::config(format!("static: the address {text} is not in CIDR notation"))
                .details(format!("write it with its prefix length, {ip}/{prefix}")))
        }
    }
}

impl Plugin for Static {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        let ips = self.all(call)?.into_iter();
        let ips = ips.map(|(address, gateway)| IpConfig { interface: None, address, gateway }).collect();
        Ok(Work::Done(CniResult { ips, routes: self.routes.clone(), dns: self.dns.clone(), ..CniResult::default() }))
    }

    fn del(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn check(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        let there = &call.previous()?.ips;
        match self.all(call)?.iter().find(|(net, _)| !there.iter().any(|ip| ip.address == *net)) {
            Some((net, _)) => Err(Error::internal(format!("static: Failed to match addr {net} on interface"))),
            None => Ok(()),
        }
    }

    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}
