//! A network as a list of plugins: section 1 of the CNI specification, "Network configuration format", and the request of
//! each plugin: section 3, "Deriving request configuration from plugin configuration".

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::files;
use crate::{AttachmentId, CniResult, Error, LIMIT, OLD_ATTACHMENTS, Request, VALID_ATTACHMENTS, Version, is_name};

/// Keys that are the runtime's to set in a request, and so none of a configuration.
const RESERVED: [&str; 3] = ["runtimeConfig", "args", "prevResult"];

/// A network: its plugins in order, and the version all of them are spoken to in.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// `name`.
    pub name: String,
    /// The newest of `cniVersion` and `cniVersions` that is known here; 0.1.0 without both.
    pub version: Version,
    /// `disableCheck`: CHECK does nothing and succeeds.
    pub disable_check: bool,
    /// `disableGC`: GC does nothing and succeeds.
    pub disable_gc: bool,
    /// At least one.
    pub plugins: Vec<PluginConfig>,
    /// The whole as JSON, plugins of other files included: what the cache of results keeps.
    pub bytes: Vec<u8>,
}

/// A plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// `type`: a file name.
    pub kind: String,
    /// All keys, known or not, less those of `cni.dev/`.
    pub object: Map<String, Value>,
}

/// A file of a folder of configurations, and the network in it or its fault.
pub type Listed = (PathBuf, Result<NetworkList, Error>);

/// What a runtime adds to a plugin's configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extra<'a> {
    /// Values for capabilities; a plugin sees those it declares.
    pub capability_args: Option<&'a Map<String, Value>>,
    /// `prevResult`.
    pub previous: Option<&'a CniResult>,
    /// What is still valid, for GC.
    pub valid: Option<&'a [AttachmentId]>,
}

/// Who wrote a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A user: reserved keys are a mistake.
    User,
    /// A runtime, which may have set `args` before it kept the configuration.
    Cache,
}

impl NetworkList {
    /// Reads a list, or a single plugin's configuration (`type` and no `plugins`) as a list of one.
    ///
    /// # Errors
    /// Code 6 for another shape, 1 if no version is known, 7 for a wrong name, type or reserved key and for a list
    /// without plugins.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        build(object(bytes)?, Origin::User, bytes)
    }

    /// Reads what a cache of results kept. Reserved keys are no error there: `args` stays, the others go.
    ///
    /// # Errors
    /// As [`NetworkList::parse`].
    pub fn parse_cached(bytes: &[u8]) -> Result<Self, Error> {
        build(object(bytes)?, Origin::Cache, bytes)
    }

    /// The network of that name in a folder of configurations (`/etc/cni/net.d`): `*.conflist` before `*.conf` and
    /// `*.json`, the first by name of its file. Broken files of other networks are passed over.
    ///
    /// # Errors
    /// Code 7 when there is none, naming broken files; the fault of the list's own file or folder otherwise.
    pub fn load(confdir: &Path, name: &str) -> Result<Self, Error> {
        let mut broken = Vec::new();
        for path in configurations(confdir)? {
            let named = read(&path).and_then(|bytes| Ok((object(&bytes)?, bytes)));
            match named {
                Ok((value, bytes)) if value.get("name").and_then(Value::as_str) == Some(name) => {
                    return open(&path, value, &bytes).map_err(|e| e.context(path.display().to_string()));
                }
                Ok(_) => {}
                Err(e) => broken.push(format!("{}: {e}", path.display())),
            }
        }
        let missing = Error::config(format!("no network {name:?} in {}", confdir.display()));
        Err(if broken.is_empty() { missing } else { missing.details(broken.join("; ")) })
    }

    /// Every configuration of a folder in the order [`NetworkList::load`] looks at them, the broken ones with their fault.
    ///
    /// # Errors
    /// Code 5 when the folder cannot be read. A folder that is not there is empty.
    pub fn list(confdir: &Path) -> Result<Vec<Listed>, Error> {
        let one = |path: PathBuf| {
            let list = read(&path).and_then(|bytes| open(&path, object(&bytes)?, &bytes));
            (path, list)
        };
        Ok(configurations(confdir)?.into_iter().map(one).collect())
    }

    /// What a plugin of this list is given on stdin.
    ///
    /// # Errors
    /// As [`Request::from_value`].
    pub fn request(&self, plugin: &PluginConfig, extra: &Extra<'_>) -> Result<Request, Error> {
        let mut object = plugin.object.clone();
        let capabilities = object.remove("capabilities");
        object.insert("cniVersion".to_owned(), json!(self.version.as_str()));
        object.insert("name".to_owned(), json!(self.name));
        let declared = |key: &str| capabilities.as_ref().and_then(|c| c.get(key)) == Some(&Value::Bool(true));
        let supplied = extra.capability_args.into_iter().flatten();
        let runtime: Map<_, _> =
            supplied.filter(|(key, _)| declared(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        if !runtime.is_empty() {
            object.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        if let Some(previous) = extra.previous {
            object.insert("prevResult".to_owned(), previous.to_json(self.version));
        }
        if let Some(valid) = extra.valid {
            object.insert(VALID_ATTACHMENTS.to_owned(), json!(valid));
            object.insert(OLD_ATTACHMENTS.to_owned(), json!(valid));
        }
        Request::from_value(Value::Object(object))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    files::read(path, LIMIT).map_err(|e| Error::io(path.display(), &e))
}

fn with_ending(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let ends = |path: &PathBuf| path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending));
    let mut paths = files::names(folder).map_err(|e| Error::io(folder.display(), &e))?;
    paths.retain(|path| ends(path) && !path.is_dir());
    Ok(paths)
}

fn configurations(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = with_ending(folder, &["conflist"])?;
    paths.extend(with_ending(folder, &["conf", "json"])?);
    Ok(paths)
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    if u64::try_from(bytes.len()).is_ok_and(|len| len > LIMIT) {
        return Err(decoding(format!("the network is longer than {LIMIT} bytes")));
    }
    match serde_json::from_slice(bytes).map_err(|e| decoding(format!("the network is no JSON: {e}")))? {
        Value::Object(object) => Ok(object),
        _ => Err(decoding("the network is no JSON object")),
    }
}

/// A list of a file, with the plugins of the folder named after the network next to it.
fn open(path: &Path, mut object: Map<String, Value>, bytes: &[u8]) -> Result<NetworkList, Error> {
    let listed = path.extension().is_some_and(|e| e == "conflist");
    if !listed || flag(&object, "loadOnlyInlinedPlugins")? {
        return build(object, Origin::User, bytes);
    }
    let name = name(&object)?;
    let folder = path.parent().unwrap_or_else(|| Path::new(".")).join(name);
    let mut more = Vec::new();
    for path in with_ending(&folder, &["conf"])? {
        let plugin = read(&path).and_then(|bytes| self::object(&bytes));
        more.push(Value::Object(plugin.map_err(|e| e.context(path.display().to_string()))?));
    }
    if more.is_empty() {
        return build(object, Origin::User, bytes);
    }
    let inlined = plugins(&object)?.cloned().unwrap_or_default();
    object.insert("plugins".to_owned(), inlined.into_iter().chain(more).collect());
    // DEL has to see the plugins ADD saw, whatever has become of the folder.
    object.insert("loadOnlyInlinedPlugins".to_owned(), json!(true));
    let bytes = Value::Object(object.clone()).to_string();
    build(object, Origin::User, bytes.as_bytes())
}

fn build(object: Map<String, Value>, origin: Origin, bytes: &[u8]) -> Result<NetworkList, Error> {
    let name = name(&object)?.to_owned();
    let single = object.contains_key("type") && plugins(&object)?.is_none();
    let version = version(&object)?;
    let (disable_check, disable_gc) = if single {
        (false, false)
    } else {
        flag(&object, "loadOnlyInlinedPlugins")?;
        (flag(&object, "disableCheck")?, flag(&object, "disableGC")?)
    };
    let objects = if single { vec![Value::Object(object)] } else { plugins(&object)?.cloned().unwrap_or_default() };
    if objects.is_empty() {
        return Err(Error::config(format!("network {name:?} has no plugins")));
    }
    let numbered = objects.into_iter().enumerate();
    let plugins = numbered
        .map(|(index, value)| plugin(value, origin).map_err(|e| e.context(format!("plugin {index} of {name:?}"))))
        .collect::<Result<Vec<_>, Error>>()?;
    let list = NetworkList { name, version, disable_check, disable_gc, plugins, bytes: bytes.to_vec() };
    if origin == Origin::User {
        for plugin in &list.plugins {
            list.request(plugin, &Extra::default()).map_err(|e| e.context(format!("plugin {:?}", plugin.kind)))?;
        }
    }
    Ok(list)
}

fn plugin(value: Value, origin: Origin) -> Result<PluginConfig, Error> {
    let Value::Object(mut object) = value else { return Err(decoding("a plugin is a JSON object")) };
    let kind = match object.get("type") {
        None | Some(Value::Null) => return Err(Error::config("the plugin has no type")),
        Some(Value::String(kind)) => kind.clone(),
        Some(_) => return Err(decoding("type is no string")),
    };
    is_file_name(&kind)?;
    match object.get("capabilities") {
        None | Some(Value::Null) => {}
        Some(Value::Object(declared)) if declared.values().all(Value::is_boolean) => {}
        Some(_) => return Err(decoding("capabilities are no object of booleans")),
    }
    for key in RESERVED.into_iter().filter(|key| object.contains_key(*key)).collect::<Vec<_>>() {
        match (origin, key) {
            (Origin::User, _) => {
                return Err(Error::config(format!("{key} is reserved"))
                    .details("the runtime sets it in the request; it may not stand in a configuration"));
            }
            (Origin::Cache, "args") => {}
            (Origin::Cache, _) => drop(object.remove(key)),
        }
    }
    object.retain(|key, _| !key.starts_with("cni.dev/"));
    Ok(PluginConfig { kind, object })
}

/// A `type` names a file of a folder of plugins, and leads nowhere else.
pub(super) fn is_file_name(kind: &str) -> Result<(), Error> {
    if kind.is_empty() || kind.contains(['/', '\0']) || kind == "." || kind == ".." {
        return Err(Error::config(format!("invalid plugin type {kind:?}")).details("it is the name of a file"));
    }
    Ok(())
}

fn name(object: &Map<String, Value>) -> Result<&str, Error> {
    match object.get("name") {
        None | Some(Value::Null) => Err(Error::config("missing network name")),
        Some(Value::String(name)) if is_name(name) => Ok(name),
        Some(Value::String(name)) => Err(Error::config(format!("invalid network name {name:?}"))
            .details("a letter or a digit, then letters, digits, '_', '.' and '-'")),
        Some(_) => Err(decoding("name is no string")),
    }
}

fn plugins(object: &Map<String, Value>) -> Result<Option<&Vec<Value>>, Error> {
    match object.get("plugins") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(plugins)) => Ok(Some(plugins)),
        Some(_) => Err(decoding("plugins is no list")),
    }
}

/// The newest version that is known. Newer ones are for other runtimes.
fn version(object: &Map<String, Value>) -> Result<Version, Error> {
    let mut texts = Vec::new();
    match object.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for value in list {
                texts.push(value.as_str().ok_or_else(|| decoding("cniVersions is no list of strings"))?);
            }
        }
        Some(_) => return Err(decoding("cniVersions is no list")),
    }
    match object.get("cniVersion") {
        None | Some(Value::Null) if texts.is_empty() => return Ok(Version::V0_1_0),
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() && !texts.is_empty() => {}
        Some(Value::String(text)) => texts.push(text),
        Some(_) => return Err(decoding("cniVersion is no string")),
    }
    texts.iter().filter_map(|text| text.parse::<Version>().ok()).max().ok_or_else(|| {
        Error::new(Error::INCOMPATIBLE_VERSION, format!("no version of {} is supported", texts.join(", ")))
            .details(format!("supported: {}", Version::ALL.map(Version::as_str).join(", ")))
    })
}

/// A boolean, also as a string.
fn flag(object: &Map<String, Value>, key: &str) -> Result<bool, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(value) => Err(decoding(format!("{key} is no boolean: {value}"))),
    }
}

fn decoding(msg: impl Into<String>) -> Error {
    Error::new(Error::DECODING_FAILURE, msg)
}
