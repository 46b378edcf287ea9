//! A list of plugins from end to end: sections 2 and 3 of the CNI specification, "Lifecycle & Ordering" and "Adding",
//! "Deleting", "Checking", "Garbage-collecting a network", "Deriving requests".
//!
//! DEL goes further than the specification, which stops it at the first error: every plugin is asked, and the address of a
//! plugin that cannot be asked, or fails, is freed by its `ipam` directly. What is known of the attachment is forgotten
//! only when all succeeded, so that the call can be repeated once a missing executable is back.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use rnet_kernel::Netns;
use rnet_model::IfName;
use rnet_plan::Surfaces;
use serde_json::{Map, Value};

use super::{Cache, Cached, Extra, NetworkList, PluginConfig};
use crate::drive::{Pair, all};
use crate::{
    AttachmentId, Call, CniResult, Command, Delegation, Environment, Error, Plugin, Request, Version, is_name,
};

/// The plugin of a `type`, built in or an executable, with the configuration of a request. For a delegate the `type` is
/// that of the request's `ipam`.
pub type Resolver<'a> = dyn Fn(&str, &Request) -> Result<Box<dyn Plugin>, Error> + 'a;

/// A container's interface, and what it is made with.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; may be empty for DEL.
    pub netns_path: String,
    /// The same, open; `None` when it is gone.
    pub netns: Option<Netns>,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// Values for capabilities: `portMappings`, `ips`, `mac`, ...
    pub capability_args: Map<String, Value>,
}

impl Attachment {
    /// Container and interface.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container: self.container.clone(), ifname: self.ifname.to_string() }
    }
}

/// A network, ready to be run. One operation at a time for a container, and GC alone, are the caller's to see to
/// ([`super::Gate`]).
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    /// The network.
    pub list: &'a NetworkList,
    /// Who its plugins are.
    pub resolve: &'a Resolver<'a>,
    /// What is known of attachments.
    pub cache: &'a Cache,
    /// `CNI_PATH`: where executables look for their delegates.
    pub path: &'a [String],
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("list", self.list).field("cache", self.cache).finish_non_exhaustive()
    }
}

/// Begins what is said of what a failed ADD could not take back.
const LEFT: &str = "could not be taken back: ";

/// A plugin and its delegate.
struct Step {
    plugin: Box<dyn Plugin>,
    ipam: Option<Box<dyn Plugin>>,
}

impl Step {
    fn pair(&self) -> Pair<'_> {
        Pair { plugin: self.plugin.as_ref(), ipam: self.ipam.as_deref() }
    }
}

/// An attachment with what ADD kept of it.
struct Known<'a> {
    list: Cow<'a, NetworkList>,
    attachment: Attachment,
    previous: Option<CniResult>,
}

impl Chain<'_> {
    /// Whether a failed ADD could not take everything back, so that a DEL has to follow.
    pub fn left_something(error: &Error) -> bool {
        error.details.contains(LEFT)
    }

    /// ADD: the plugins in order, each given the result of the one before. The last result is kept. Whatever fails, DEL
    /// is run for the plugin that failed and those before it, in reverse.
    ///
    /// # Errors
    /// The first failure; what could not be taken back is in its details, and a DEL of the caller tries it again. Nothing
    /// is begun when the interface has been added already (code 7) or a plugin is missing.
    pub fn add(&self, attachment: &Attachment, surfaces: &mut dyn Surfaces) -> Result<CniResult, Error> {
        let id = attachment.id();
        // Before anything is done: whether what is made can be kept.
        match self.cache.read(&self.list.name, &id) {
            Err(e) if e.code != Error::DECODING_FAILURE => return Err(e),
            _ => {}
        }
        if let Some(there) = self.cache.of_interface(&id)?.first() {
            let (container, ifname) = (&id.container, &id.ifname);
            let text = format!("{ifname} of container {container} is in network {:?} already", there.network);
            return Err(Error::config(text).details("DEL comes before the next ADD"));
        }
        let mut steps = Vec::new();
        for plugin in &self.list.plugins {
            let extra = Extra { capability_args: Some(&attachment.capability_args), ..Extra::default() };
            let step = self.list.request(plugin, &extra).and_then(|request| self.step(plugin, &request));
            steps.push((plugin, step.map_err(|e| failed(Command::Add, plugin, e))?));
        }
        let mut previous = None;
        for (index, (plugin, step)) in steps.iter().enumerate() {
            match self.add_one(plugin, step, attachment, previous.as_ref(), surfaces) {
                Ok(result) => previous = Some(result),
                Err(e) => {
                    // Code 3 says that there is nothing to take back.
                    let done = if e.code == Error::UNKNOWN_CONTAINER { index } else { index + 1 };
                    let e = failed(Command::Add, plugin, e);
                    return Err(self.take_back(done, attachment, previous.as_ref(), e, surfaces));
                }
            }
        }
        let result = previous.unwrap_or_default();
        let kept = self.cache.write(&self.entry(attachment, &result));
        match kept {
            Ok(()) => Ok(result),
            Err(e) => Err(self.take_back(steps.len(), attachment, Some(&result), e, surfaces)),
        }
    }

    /// DEL: the plugins in reverse order, with the configuration, arguments and result that ADD kept, and this chain's
    /// where nothing is kept or what is cannot be read. Repeatable.
    ///
    /// # Errors
    /// All failures as one. Everything else has been undone, and the attachment is still known.
    pub fn del(&self, attachment: &Attachment, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        let id = attachment.id();
        let cached = self.cache.read(&self.list.name, &id).or_else(passed_over)?;
        let known = self.known(attachment, cached);
        let plugins = known.list.plugins.as_slice();
        all(self.del_all(&known.list, plugins, &known.attachment, known.previous.as_ref(), surfaces))?;
        self.cache.remove(&self.list.name, &id)
    }

    /// CHECK: the plugins in order, with what ADD kept, up to the first difference.
    ///
    /// # Errors
    /// The difference; code 1 for a network older than 0.4.0, 7 when ADD was not called.
    pub fn check(&self, attachment: &Attachment, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        if self.list.disable_check {
            return Ok(());
        }
        checkable(self.list.version)?;
        let cached = self.cache.read(&self.list.name, &attachment.id())?.ok_or_else(|| {
            Error::config(format!("nothing is known of {} of container {}", attachment.ifname, attachment.container))
                .details("CHECK comes after ADD and before DEL")
        })?;
        cached.result(self.list.version)?;
        let known = self.known(attachment, Some(cached));
        checkable(known.list.version)?;
        for plugin in &known.list.plugins {
            let (attachment, previous) = (&known.attachment, known.previous.as_ref());
            let extra = Extra { capability_args: Some(&attachment.capability_args), previous, valid: None };
            let checked = known.list.request(plugin, &extra).and_then(|request| {
                let env = self.env(Command::Check, Some(attachment));
                let call = call(&env, &request, attachment.netns.clone(), previous);
                self.step(plugin, &request)?.pair().check(&call, surfaces)
            });
            checked.map_err(|e| failed(Command::Check, plugin, e))?;
        }
        Ok(())
    }

    /// GC: DEL of every attachment that is known and not valid, then the plugins are told what is valid. Goes on after a
    /// failure.
    ///
    /// # Errors
    /// All failures as one.
    pub fn gc(&self, valid: &[AttachmentId], surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        if self.list.disable_gc {
            return Ok(());
        }
        let mut faults = Vec::new();
        let known = self.cache.of_network(&self.list.name).unwrap_or_else(|e| {
            faults.push(e);
            Vec::new()
        });
        let (living, stale): (Vec<_>, Vec<_>) = known.into_iter().partition(|cached| valid.contains(&cached.id()));
        for cached in &stale {
            let deleted = left_over(cached, &living).and_then(|attachment| self.del(&attachment, surfaces));
            let what = || format!("{} of container {}", cached.ifname, cached.container);
            faults.extend(deleted.err().map(|e| e.context(what())));
        }
        if self.list.version >= Version::V1_1_0 {
            for plugin in &self.list.plugins {
                let collected = self.gc_one(plugin, valid, surfaces);
                faults.extend(collected.err().map(|e| failed(Command::Gc, plugin, e)));
            }
        }
        all(faults)
    }

    /// STATUS: the plugins in order, up to the first that could not serve an ADD. Networks older than 1.1.0 cannot be
    /// asked, which is no failure.
    ///
    /// # Errors
    /// Code 50 or 51, also when a plugin is missing.
    pub fn status(&self, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        if self.list.version < Version::V1_1_0 {
            return Ok(());
        }
        let missing = |e: Error| Error { code: Error::NOT_AVAILABLE, ..e };
        for plugin in &self.list.plugins {
            let request = self.list.request(plugin, &Extra::default())?;
            let env = self.env(Command::Status, None);
            let step = self.step(plugin, &request).map_err(missing);
            let asked = step.and_then(|step| step.pair().status(&call(&env, &request, None, None), surfaces));
            asked.map_err(|e| failed(Command::Status, plugin, e))?;
        }
        Ok(())
    }

    fn add_one(
        &self,
        plugin: &PluginConfig,
        step: &Step,
        attachment: &Attachment,
        previous: Option<&CniResult>,
        surfaces: &mut dyn Surfaces,
    ) -> Result<CniResult, Error> {
        let extra = Extra { capability_args: Some(&attachment.capability_args), previous, valid: None };
        let request = self.list.request(plugin, &extra)?;
        let env = self.env(Command::Add, Some(attachment));
        step.pair().add(&mut call(&env, &request, attachment.netns.clone(), previous), surfaces)
    }

    /// DEL of the first `done` plugins after `error`.
    fn take_back(
        &self,
        done: usize,
        attachment: &Attachment,
        previous: Option<&CniResult>,
        error: Error,
        surfaces: &mut dyn Surfaces,
    ) -> Error {
        let plugins = self.list.plugins.get(..done).unwrap_or_default();
        match all(self.del_all(self.list, plugins, attachment, previous, surfaces)) {
            Ok(()) => error,
            Err(left) => {
                let left = format!("{LEFT}{left}");
                let details = if error.details.is_empty() { left } else { format!("{}; {left}", error.details) };
                error.details(details)
            }
        }
    }

    fn del_all(
        &self,
        list: &NetworkList,
        plugins: &[PluginConfig],
        attachment: &Attachment,
        previous: Option<&CniResult>,
        surfaces: &mut dyn Surfaces,
    ) -> Vec<Error> {
        // Plugins of older versions do not expect it on stdin; those built in can use it in any version.
        let told = previous.filter(|_| list.version >= Version::V0_4_0);
        let extra = Extra { capability_args: Some(&attachment.capability_args), previous: told, valid: None };
        let mut faults = Vec::new();
        for plugin in plugins.iter().rev() {
            let deleted = list.request(plugin, &extra).and_then(|request| {
                let env = self.env(Command::Del, Some(attachment));
                self.del_one(plugin, &call(&env, &request, attachment.netns.clone(), previous), surfaces)
            });
            faults.extend(deleted.err().map(|e| failed(Command::Del, plugin, e)));
        }
        faults
    }

    fn del_one(&self, plugin: &PluginConfig, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        let mut faults = Vec::new();
        let plugin = (self.resolve)(&plugin.kind, call.request);
        let asks = plugin.as_ref().is_ok_and(|plugin| plugin.delegation() != Delegation::Never);
        let ipam = if asks { self.ipam(call.request) } else { Ok(None) };
        let deleted = match (plugin, ipam) {
            (Err(e), _) => Err(e),
            (Ok(plugin), Ok(ipam)) => Step { plugin, ipam }.pair().del(call, surfaces),
            (Ok(plugin), Err(e)) => {
                faults.push(e);
                Step { plugin, ipam: None }.pair().del(call, surfaces)
            }
        };
        match deleted {
            Ok(()) => {}
            // The container is gone, and everything with it.
            Err(e) if e.code == Error::UNKNOWN_CONTAINER => {}
            Err(e) => {
                // One that answers that it will succeed later frees the address then.
                let free = !asks && e.code != Error::TRY_AGAIN_LATER;
                faults.push(e);
                if free {
                    faults.extend(self.free(call, surfaces).err());
                }
            }
        }
        all(faults)
    }

    /// Frees the address a plugin would have freed by its delegate.
    fn free(&self, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        match self.ipam(call.request)? {
            Some(ipam) => Pair { plugin: ipam.as_ref(), ipam: None }.del(call, surfaces),
            None => Ok(()),
        }
    }

    fn gc_one(&self, plugin: &PluginConfig, valid: &[AttachmentId], surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        let request = self.list.request(plugin, &Extra { valid: Some(valid), ..Extra::default() })?;
        let env = self.env(Command::Gc, None);
        let call = call(&env, &request, None, None);
        match self.step(plugin, &request) {
            Ok(step) => step.pair().gc(&call, surfaces),
            Err(missing) => {
                let freed = match self.ipam(&request) {
                    Ok(Some(ipam)) => Pair { plugin: ipam.as_ref(), ipam: None }.gc(&call, surfaces),
                    _ => Ok(()),
                };
                all([Some(missing), freed.err()].into_iter().flatten().collect())
            }
        }
    }

    fn step(&self, plugin: &PluginConfig, request: &Request) -> Result<Step, Error> {
        let plugin = (self.resolve)(&plugin.kind, request)?;
        let ipam = if plugin.delegation() == Delegation::Never { None } else { self.ipam(request)? };
        Ok(Step { plugin, ipam })
    }

    fn ipam(&self, request: &Request) -> Result<Option<Box<dyn Plugin>>, Error> {
        let kind = request.ipam.as_ref().and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
        kind.map(|kind| (self.resolve)(kind, request)).transpose()
    }

    fn env(&self, command: Command, attachment: Option<&Attachment>) -> Environment {
        Environment {
            command,
            container: attachment.map(|a| a.container.clone()).unwrap_or_default(),
            netns: attachment.map(|a| a.netns_path.clone()).unwrap_or_default(),
            ifname: attachment.map(|a| a.ifname.clone()),
            args: attachment.map(|a| a.args.clone()).unwrap_or_default(),
            path: self.path.to_vec(),
            netns_override: false,
        }
    }

    fn entry(&self, attachment: &Attachment, result: &CniResult) -> Cached {
        Cached {
            network: self.list.name.clone(),
            container: attachment.container.clone(),
            ifname: attachment.ifname.to_string(),
            netns: attachment.netns_path.clone(),
            config: self.list.bytes.clone(),
            args: attachment.args.clone(),
            capability_args: attachment.capability_args.clone(),
            result: Some(result.to_json(self.list.version)),
        }
    }

    /// What ADD used, as far as it can be read, in place of what is given now.
    fn known(&self, attachment: &Attachment, cached: Option<Cached>) -> Known<'_> {
        let mut known = Known { list: Cow::Borrowed(self.list), attachment: attachment.clone(), previous: None };
        let Some(cached) = cached else { return known };
        if let Some(list) = NetworkList::parse_cached(&cached.config).ok().filter(|list| list.name == self.list.name) {
            known.list = Cow::Owned(list);
            // These belong to that configuration. A bare result has neither.
            known.attachment.capability_args.clone_from(&cached.capability_args);
            if !cached.args.is_empty() {
                known.attachment.args.clone_from(&cached.args);
            }
        }
        known.previous = cached.result(known.list.version).ok().flatten();
        known
    }
}

fn call<'a>(
    env: &'a Environment,
    request: &'a Request,
    netns: Option<Netns>,
    previous: Option<&CniResult>,
) -> Call<'a> {
    Call { env, request, netns, previous: previous.cloned(), leased: None }
}

fn failed(command: Command, plugin: &PluginConfig, error: Error) -> Error {
    error.context(format!("{} by plugin {:?}", command.as_str(), plugin.kind))
}

/// A file that cannot be read is like none, a name that can have none is a mistake.
fn passed_over(error: Error) -> Result<Option<Cached>, Error> {
    if error.code == Error::INVALID_ENVIRONMENT { Err(error) } else { Ok(None) }
}

fn checkable(version: Version) -> Result<(), Error> {
    if version >= Version::V0_4_0 {
        return Ok(());
    }
    Err(Error::new(Error::INCOMPATIBLE_VERSION, format!("config version {version} does not allow CHECK"))
        .details(format!("it is known since {}", Version::V0_4_0)))
}

/// An attachment nobody wants any more. Its namespace is taken to be gone where the path can stand for another's by now.
fn left_over(cached: &Cached, living: &[Cached]) -> Result<Attachment, Error> {
    let reused = cached.netns.starts_with("/proc/")
        || living.iter().any(|other| other.netns == cached.netns && other.container != cached.container);
    let path = if reused { "" } else { cached.netns.as_str() };
    Ok(Attachment {
        container: Some(cached.container.clone())
            .filter(|c| is_name(c))
            .ok_or_else(|| Error::new(Error::INVALID_ENVIRONMENT, format!("{:?} is no container", cached.container)))?,
        netns: Some(path).filter(|p| !p.is_empty()).and_then(|path| Netns::open(Path::new(path)).ok()),
        netns_path: path.to_owned(),
        ifname: cached.ifname.parse()?,
        args: cached.args.clone(),
        capability_args: cached.capability_args.clone(),
    })
}
