#![doc = include_str!("README.md")]

mod backup;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rnet_kernel::{LinkOp, LinkState, Switch};
use rnet_model::MacAddr;
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::{AttachmentId, Call, CniResult, Error, Plugin, Request, View, Work};
use serde::Deserialize;

use self::backup::Backup;
use self::keys::AllowList;
use crate::chained::container_link;
use crate::common::inside;

const DATA: &str = "/run/cni/tuning";
const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";

/// As it is written; `args.cni` has the same keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    /// Read by [`Tuning::new`]; here for its type.
    #[serde(rename = "dataDir")]
    _data_dir: Option<String>,
    sysctl: Option<BTreeMap<String, String>>,
    mac: Option<String>,
    promisc: Option<bool>,
    mtu: Option<u32>,
    #[serde(rename = "txQLen")]
    tx_queue_len: Option<u32>,
    allmulti: Option<bool>,
}

/// The plugin.
#[derive(Debug)]
pub struct Tuning {
    data: PathBuf,
    allow_list: PathBuf,
    /// As written, for the allow-list and for messages.
    sysctl: BTreeMap<String, String>,
    /// `args.cni`, then the configuration.
    mac: [Option<String>; 2],
    promisc: bool,
    mtu: Option<u32>,
    tx_queue_len: Option<u32>,
    allmulti: Option<bool>,
    /// What is wrong with the configuration; then nothing is asked for.
    wrong: Option<Error>,
}

/// What is asked of the link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LinkWish {
    mac: Option<MacAddr>,
    promisc: bool,
    mtu: Option<u32>,
    tx_queue_len: Option<u32>,
    allmulti: Option<bool>,
}

impl Tuning {
    /// From a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        // DEL and GC need only to know where the files are.
        let data = request.own.get("dataDir").and_then(serde_json::Value::as_str).filter(|d| !d.is_empty());
        let data = PathBuf::from(data.unwrap_or(DATA));
        Tuning::configure(request, &data).unwrap_or_else(|error| Tuning {
            data,
            allow_list: PathBuf::from(ALLOW_LIST),
            sysctl: BTreeMap::new(),
            mac: [None, None],
            promisc: false,
            mtu: None,
            tx_queue_len: None,
            allmulti: None,
            wrong: Some(error),
        })
    }

    /// # Errors
    /// Code 6 for another shape, 7 for keys of sysctls that are none.
    fn configure(request: &Request, data: &Path) -> Result<Self, Error> {
        let config: Config = request.config()?;
        let args = match request.whole.get("args").and_then(|args| args.get("cni")) {
            None | Some(serde_json::Value::Null) => Config::default(),
            Some(args) => Config::deserialize(args)
                .map_err(|e| Error::new(Error::DECODING_FAILURE, format!("cannot read args.cni: {e}")))?,
        };
        let mut sysctl = config.sysctl.unwrap_or_default();
        sysctl.extend(args.sysctl.unwrap_or_default());
        let mut seen = BTreeSet::new();
        for key in sysctl.keys() {
            if !seen.insert(keys::path(key)?) {
                return Err(Error::config("duplicated sysctl keys are not allowed").details(format!("{key:?}")));
            }
        }
        let some = |n: Option<u32>| n.filter(|n| *n != 0);
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        Ok(Tuning {
            data: data.to_path_buf(),
            allow_list: PathBuf::from(ALLOW_LIST),
            sysctl,
            mac: [given(args.mac), given(config.mac)],
            promisc: args.promisc.or(config.promisc).unwrap_or(false),
            mtu: some(args.mtu.or(config.mtu)),
            tx_queue_len: args.tx_queue_len.or(config.tx_queue_len),
            allmulti: args.allmulti.or(config.allmulti),
            wrong: None,
        })
    }

    /// Allows what another file says.
    #[cfg(test)]
    fn allow(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.allow_list);
        self
    }

    fn file(&self, call: &Call<'_>) -> Result<PathBuf, Error> {
        call.ifname()?;
        Ok(self.data.join(backup::file_name(&call.id())))
    }

    /// `CNI_ARGS` < `runtimeConfig` < `args.cni`, the order of the reference plugin `tuning`, which is not that of the
    /// others.
    fn link_wish(&self, call: &Call<'_>) -> Result<LinkWish, Error> {
        let [args, config] = &self.mac;
        let env = call.env.arg("MAC").filter(|m| !m.is_empty());
        let runtime = call.request.runtime.mac.as_deref().filter(|m| !m.is_empty());
        let mac = args.as_deref().or(runtime).or(env).or(config.as_deref());
        Ok(LinkWish {
            mac: mac.map(|m| m.replace('-', ":").parse()).transpose()?,
            promisc: self.promisc,
            mtu: self.mtu,
            tx_queue_len: self.tx_queue_len,
            allmulti: self.allmulti,
        })
    }

    /// The sysctls with the interface's name in them, and how they were written.
    fn sysctls<'a>(&'a self, call: &Call<'_>) -> Result<Vec<(String, &'a str)>, Error> {
        let ifname = call.ifname()?;
        self.sysctl.iter().map(|(key, value)| Ok((keys::of(key, ifname)?, value.as_str()))).collect()
    }
}

impl LinkWish {
    fn is_empty(self) -> bool {
        self == LinkWish { mac: None, promisc: false, mtu: None, tx_queue_len: None, allmulti: None }
    }

    fn ops(self, link: &LinkState) -> Vec<LinkOp> {
        let dev = || link.name.clone();
        [
            self.mac.map(|mac| LinkOp::Mac(dev(), mac)),
            self.promisc.then(|| LinkOp::Promisc(dev(), Switch::On)),
            self.mtu.map(|mtu| LinkOp::Mtu(dev(), mtu)),
            self.allmulti.map(|on| LinkOp::AllMulti(dev(), on.into())),
            self.tx_queue_len.map(|n| LinkOp::TxQueueLen(dev(), n)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The first setting that is not as wished.
    fn difference(self, link: &LinkState) -> Option<String> {
        let differs = |what: &str, wanted: String, is: String| {
            (wanted != is).then(|| format!("{what} of {} is {is}, not {wanted}", link.name))
        };
        let text = |mac: Option<MacAddr>| mac.map_or_else(|| "none".to_owned(), |m| m.to_string());
        let on = |on: bool| Switch::from(on).to_string();
        self.mac
            .and_then(|mac| differs("the MAC address", mac.to_string(), text(link.mac)))
            .or_else(|| differs("promiscuous mode", on(self.promisc), on(link.promisc)))
            .or_else(|| differs("the MTU", self.mtu?.to_string(), link.mtu.to_string()))
            .or_else(|| differs("txQLen", self.tx_queue_len?.to_string(), link.tx_queue_len.to_string()))
            .or_else(|| differs("all-multicast mode", on(self.allmulti?), on(link.allmulti)))
    }
}

fn updated(mut result: CniResult, ifname: &str, wish: LinkWish) -> CniResult {
    for interface in result.interfaces.iter_mut().filter(|i| i.name == ifname) {
        if let Some(mac) = wish.mac {
            interface.mac = mac.to_string();
        }
        if let (Some(mtu), Some(said)) = (wish.mtu, &mut interface.mtu) {
            *said = mtu;
        }
    }
    result
}

impl Plugin for Tuning {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        AllowList::read(&self.allow_list)?.allows(self.sysctl.keys())?;
        let previous = call.previous()?.clone();
        let (wish, sysctls) = (self.link_wish(call)?, self.sysctls(call)?);
        if wish.is_empty() && sysctls.is_empty() {
            return Ok(Work::Planned(Plan::default(), previous));
        }
        let netns = call.netns()?;
        let place = Place::Inside(netns.clone());
        let link = if wish.is_empty() { None } else { Some(container_link(call, view)?) };
        let mut before = BTreeMap::new();
        for (key, value) in &sysctls {
            let missing = || Error::internal(format!("open /proc/sys/{key}: no such file or directory"));
            let old = view.sysctl(&place, key)?.ok_or_else(missing)?;
            if !keys::same(&old, value) {
                before.insert(key.clone(), old);
            }
        }
        let new = Backup::of(call, netns, link.as_ref().map(|l| (l, wish)), before.clone());
        let file = self.file(call)?;
        let kept = Backup::read(&file)?.filter(|there| there.is_of(netns));
        let mut plan = Plan::default();
        let write = |backup: &Backup| Action::File { path: file.clone(), contents: Some(backup.to_json()) };
        let undo = match &kept {
            Some(there) => write(there),
            None => Action::File { path: file.clone(), contents: None },
        };
        let merged = match kept.clone() {
            Some(there) => there.over(new.clone()),
            None => new.clone(),
        };
        plan.undoable("cni.tuning.backup", write(&merged), vec![undo]);
        for (key, value) in sysctls {
            if let Some(old) = before.get(&key) {
                let set =
                    |value: &str| Action::Sysctl { place: place.clone(), key: key.clone(), value: value.to_owned() };
                plan.undoable("cni.tuning.sysctl", set(value), vec![set(old)]);
            }
        }
        if let Some(link) = &link {
            let undo = inside(netns, new.link_ops(&link.name));
            plan.undoable("cni.tuning.link", inside(netns, wish.ops(link)), vec![undo]);
        }
        Ok(Work::Planned(plan, updated(previous, call.ifname()?.as_str(), wish)))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let path = self.file(call)?;
        let Ok(Some(backup)) = Backup::read(&path) else {
            // What cannot be read helps nobody.
            plan.step("cni.tuning.forget", Action::File { path, contents: None });
            return Ok(plan);
        };
        // Removed first: a value the kernel no longer takes must not make every later DEL fail as well.
        plan.step("cni.tuning.forget", Action::File { path, contents: None });
        let Some(netns) = call.netns.as_ref().filter(|ns| backup.is_of(ns)) else { return Ok(plan) };
        let place = Place::Inside(netns.clone());
        for (key, value) in &backup.sysctl {
            // Gone with its interface.
            if view.sysctl(&place, key)?.is_some_and(|now| now != *value) {
                let action = Action::Sysctl { place: place.clone(), key: key.clone(), value: value.clone() };
                plan.step("cni.tuning.restore", action);
            }
        }
        let ifname = call.ifname()?;
        let ops = backup.link_ops(ifname);
        if !ops.is_empty() && view.inside(netns)?.link(ifname)?.is_some() {
            plan.step("cni.tuning.restore", inside(netns, ops));
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        call.previous()?;
        let place = Place::Inside(call.netns()?.clone());
        for (key, wanted) in self.sysctls(call)? {
            let is = view.sysctl(&place, &key)?.unwrap_or_default();
            if !keys::same(&is, wanted) {
                return Err(Error::internal(format!(
                    "Tuning configured value of {key} is {wanted}, current value is {is}"
                )));
            }
        }
        let wish = self.link_wish(call)?;
        match wish.difference(&container_link(call, view)?) {
            Some(difference) => Err(Error::internal(format!("Tuning: {difference}"))),
            None => Ok(()),
        }
    }

    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        for path in backup::stale(&self.data, &call.request.name, valid)? {
            plan.step("cni.tuning.gc", Action::File { path, contents: None });
        }
        Ok(plan)
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        AllowList::read(&self.allow_list).map(drop).map_err(|e| Error { code: Error::NOT_AVAILABLE, ..e })
    }
}
