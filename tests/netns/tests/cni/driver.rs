//! What a container runtime does with plugins: one call, and lists of plugins with results handed on.

use std::path::{Path, PathBuf};
use std::process::Command;

use rnet_kernel::Netns;
use rnet_netns_harness::{Container, Output, World, built, path_text, run_fed};
use serde_json::{Map, Value, json};

/// Where Debian has the reference plugins.
pub(super) const REFERENCE: &str = "/usr/lib/cni";

/// What is missing for tests that need the reference plugins.
pub(super) fn lacks_reference() -> Option<String> {
    let there = Path::new(REFERENCE).join("bridge").exists();
    (!there).then(|| format!("{REFERENCE} (package containernetworking-plugins)"))
}

/// Whose plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Reference,
    Ours,
}

impl Whose {
    /// The folder of the executables.
    #[track_caller]
    pub(super) fn plugins(self, world: &World) -> PathBuf {
        match self {
            Whose::Reference => PathBuf::from(REFERENCE),
            Whose::Ours => world.cni_plugins(),
        }
    }
}

/// A folder with the reference plugins, and ours under these names.
#[track_caller]
pub(super) fn mixed(world: &World, ours: &[&str]) -> PathBuf {
    let dir = world.dir().join(format!("mixed-{}", ours.join("-")));
    std::fs::create_dir(&dir).unwrap();
    for entry in std::fs::read_dir(REFERENCE).unwrap() {
        let name = entry.unwrap().file_name();
        let theirs = !ours.contains(&name.to_str().unwrap());
        let target = if theirs { Path::new(REFERENCE).join(&name) } else { built("rnet-cni") };
        std::os::unix::fs::symlink(target, dir.join(&name)).unwrap();
    }
    dir
}

/// Whose interface a call is about.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) id: String,
    /// Path; may be empty.
    pub(super) netns: String,
    pub(super) ifname: String,
}

impl Attachment {
    pub(super) fn of(container: &Container) -> Self {
        Attachment {
            id: container.name.clone(),
            netns: path_text(&container.path).to_owned(),
            ifname: "eth0".to_owned(),
        }
    }
}

/// What an executable answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) said: Output,
    /// Its stdout; null without one.
    pub(super) value: Value,
}

impl Answer {
    /// The result.
    #[track_caller]
    pub(super) fn ok(self) -> Value {
        self.said.ok();
        self.value
    }

    /// The error's code.
    #[track_caller]
    pub(super) fn code(&self) -> u64 {
        assert!(self.said.code != 0, "{} succeeded:\n{}", self.said.words, self.said.out);
        self.value["code"]
            .as_u64()
            .unwrap_or_else(|| panic!("{}: no error object:\n{}", self.said.words, self.said.out))
    }
}

/// Calls one executable with these variables.
#[track_caller]
pub(super) fn execute(program: &Path, host: &Netns, variables: &[(&str, &str)], input: &[u8]) -> Answer {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(variables.iter().copied());
    let said = run_fed(host, &mut command, input);
    let text = said.out.trim();
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(text).unwrap_or(Value::Null) };
    assert!(text.is_empty() || !value.is_null(), "{}: no JSON on stdout:\n{}\n{}", said.words, said.out, said.err);
    Answer { said, value }
}

/// A list of plugins, called as a runtime does.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    list: Value,
    /// Values of the capabilities.
    runtime: Map<String, Value>,
    /// CNI_ARGS.
    args: String,
    /// One more variable.
    variable: Option<(&'static str, String)>,
}

impl Chain {
    pub(super) fn new(version: &str, name: &str, plugins: Value) -> Self {
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        Chain { list, runtime: Map::new(), args: String::new(), variable: None }
    }

    /// With a value for plugins that declare the capability.
    pub(super) fn capability(mut self, key: &str, value: Value) -> Self {
        self.runtime.insert(key.to_owned(), value);
        self
    }

    pub(super) fn args(mut self, args: &str) -> Self {
        self.args = args.to_owned();
        self
    }

    /// With one more variable in the environment.
    pub(super) fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variable = Some((name, value.to_owned()));
        self
    }

    /// In another version.
    pub(super) fn version(mut self, version: &str) -> Self {
        self.list["cniVersion"] = json!(version);
        self
    }

    /// Compares versions like `1.0.0`, which have one digit in each place.
    fn since(&self, version: &str) -> bool {
        self.list["cniVersion"].as_str().unwrap() >= version
    }

    pub(super) fn knows_check(&self) -> bool {
        self.since("0.4.0")
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().unwrap()
    }

    /// Section 3 of the specification, "Deriving request configuration from plugin configuration".
    fn request(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut request = plugin.clone();
        request["cniVersion"] = self.list["cniVersion"].clone();
        request["name"] = self.list["name"].clone();
        let declared = request.as_object_mut().unwrap().remove("capabilities").unwrap_or_default();
        let wanted = |key: &String| declared[key.as_str()] == json!(true);
        let given: Map<_, _> = self.runtime.clone().into_iter().filter(|(key, _)| wanted(key)).collect();
        if !given.is_empty() {
            request["runtimeConfig"] = Value::Object(given);
        }
        if let Some(previous) = previous {
            request["prevResult"] = previous.clone();
        }
        request
    }

    fn call(&self, on: &Node<'_>, command: &str, plugin: &Value, previous: Option<&Value>) -> Answer {
        let program = on.plugins.join(plugin["type"].as_str().unwrap());
        let request = self.request(plugin, previous);
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", on.attachment.id.as_str()),
            ("CNI_NETNS", on.attachment.netns.as_str()),
            ("CNI_IFNAME", on.attachment.ifname.as_str()),
            ("CNI_PATH", path_text(on.plugins)),
            ("CNI_ARGS", self.args.as_str()),
        ];
        let more = self.variable.iter().map(|(name, value)| (*name, value.as_str()));
        let variables: Vec<_> = variables.into_iter().chain(more).collect();
        execute(&program, on.host, &variables, request.to_string().as_bytes())
    }

    /// ADD, plugin by plugin, up to the first failure.
    pub(super) fn add(&self, on: &Node<'_>) -> Answer {
        let mut last: Option<Answer> = None;
        for plugin in self.plugins() {
            let answer = self.call(on, "ADD", plugin, last.as_ref().map(|l| &l.value));
            let failed = answer.said.code != 0;
            last = Some(answer);
            if failed {
                break;
            }
        }
        last.unwrap()
    }

    /// CHECK, up to the first failure.
    pub(super) fn check(&self, on: &Node<'_>, result: &Value) -> Answer {
        let calls = self.plugins().iter().map(|plugin| self.call(on, "CHECK", plugin, Some(result)));
        first_failure_or_last(calls)
    }

    /// DEL, backwards, up to the first failure.
    pub(super) fn del(&self, on: &Node<'_>, result: Option<&Value>) -> Answer {
        let result = result.filter(|_| self.since("0.4.0"));
        first_failure_or_last(self.plugins().iter().rev().map(|plugin| self.call(on, "DEL", plugin, result)))
    }

    /// GC or STATUS of each plugin, up to the first failure.
    pub(super) fn maintain(&self, on: &Node<'_>, command: &str, more: &Value) -> Answer {
        first_failure_or_last(self.plugins().iter().map(|plugin| {
            let mut plugin = plugin.clone();
            plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            self.call(on, command, &plugin, None)
        }))
    }
}

fn first_failure_or_last(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut last = None;
    for answer in answers {
        let failed = answer.said.code != 0;
        last = Some(answer);
        if failed {
            break;
        }
    }
    last.unwrap()
}

/// Where a call happens.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) host: &'a Netns,
    /// CNI_PATH.
    pub(super) plugins: &'a Path,
    pub(super) attachment: Attachment,
}
