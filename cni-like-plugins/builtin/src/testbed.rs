//! A host and a container in private namespaces, and a plugin with static addresses between them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use rnet_kernel::{LinkState, Links, Netns, Route};
use rnet_plugin_protocol::drive::Pair;
use rnet_plugin_protocol::{
    AttachmentId, Call, CniResult, Command, Environment, Error, Plugin, Request, Version, View, Work,
};
use serde_json::{Value, json};

use crate::{Kernel, configure};

/// Both namespaces go with the value.
pub(crate) struct Bed {
    pub(crate) host: Netns,
    pub(crate) inside: Netns,
}

impl Bed {
    /// `None` where no namespace can be made; then the test says that it was skipped.
    pub(crate) fn new() -> Option<Self> {
        match (Netns::create(), Netns::create()) {
            (Ok(host), Ok(inside)) => Some(Bed { host, inside }),
            (Err(e), _) | (_, Err(e)) => {
                println!("skipped: {e}");
                None
            }
        }
    }

    /// The same with a device `up0`, which has a default route.
    pub(crate) fn with_uplink() -> Option<Self> {
        let bed = Bed::new()?;
        bed.on_host("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
        bed.on_host("ip addr add 192.0.2.2/24 dev up0; ip route add default via 192.0.2.1");
        Some(bed)
    }

    /// Whether the kernel makes devices of a kind.
    pub(crate) fn makes(&self, kind: &str, arguments: &str) -> bool {
        let script = format!("ip link add probe0 {arguments} && ip link del probe0");
        let made = run(&self.host, &script).0;
        if !made {
            println!("skipped: this kernel makes no {kind} devices");
        }
        made
    }

    pub(crate) fn on_host(&self, script: &str) -> String {
        checked(&self.host, script)
    }

    pub(crate) fn within(&self, script: &str) -> String {
        checked(&self.inside, script)
    }

    pub(crate) fn link(&self, netns: &Netns, name: &str) -> Option<LinkState> {
        Route::open(netns).unwrap().link(&name.parse().unwrap()).unwrap()
    }

    /// Runs a command of the plugin, its delegate and all, as a runtime in the host's namespace would.
    pub(crate) fn call<T: Send>(
        &self,
        config: &Value,
        netns: Option<&Netns>,
        f: impl FnOnce(&Pair<'_>, &mut Call<'_>, &mut Kernel) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        self.host
            .run(|| {
                let request = Request::from_value(config.clone())?;
                let plugin = configure(&request.kind, &request)?.unwrap();
                let ipam: Option<Box<dyn Plugin>> = match &request.ipam {
                    Some(ipam) => configure(ipam["type"].as_str().unwrap(), &request)?,
                    None => None,
                };
                let env = environment(netns);
                let previous = request.previous()?;
                let mut call = Call { env: &env, request: &request, netns: netns.cloned(), previous, leased: None };
                let pair = Pair { plugin: plugin.as_ref(), ipam: ipam.as_deref() };
                f(&pair, &mut call, &mut Kernel::new(Netns::current()?))
            })
            .unwrap()
    }

    pub(crate) fn add(&self, config: &Value) -> Result<CniResult, Error> {
        self.call(config, Some(&self.inside), |pair, call, kernel| pair.add(call, kernel))
    }

    /// What an ADD would do, one line for each operation, the container being `NS`; nothing is done.
    pub(crate) fn plan(&self, config: &Value) -> Result<(Vec<String>, CniResult), Error> {
        let inside = self.inside.to_string();
        self.call(config, Some(&self.inside), |pair, call, kernel| {
            if let Some(ipam) = pair.ipam
                && let Work::Done(leased) = ipam.add(call, &mut View::new(kernel))?
            {
                call.leased = Some(leased);
            }
            match pair.plugin.add(call, &mut View::new(kernel))? {
                Work::Planned(plan, result) => {
                    Ok((plan.lines().iter().map(|l| l.replace(&inside, "NS")).collect(), result))
                }
                Work::Done(_) => panic!("an interface is planned"),
            }
        })
    }

    pub(crate) fn del(&self, config: &Value) -> Result<(), Error> {
        self.call(config, Some(&self.inside), |pair, call, kernel| pair.del(call, kernel))
    }

    pub(crate) fn check(&self, config: &Value, result: &CniResult) -> Result<(), Error> {
        let config = with_previous(config, result);
        self.call(&config, Some(&self.inside), |pair, call, kernel| pair.check(call, kernel))
    }

    pub(crate) fn status(&self, config: &Value) -> Result<(), Error> {
        self.call(config, None, |pair, call, kernel| pair.status(call, kernel))
    }

    pub(crate) fn gc(&self, config: &Value, valid: &[AttachmentId]) -> Result<(), Error> {
        let mut config = config.clone();
        config["cni.dev/valid-attachments"] = json!(valid);
        self.call(&config, None, |pair, call, kernel| pair.gc(call, kernel))
    }

    /// Addresses and routes inside, in the words of ip(8).
    pub(crate) fn picture(&self) -> String {
        picture(&self.inside)
    }

    /// The reference plugin of the same configuration, in the same namespaces. `None` if it is not installed.
    pub(crate) fn reference(&self, command: &str, config: &Value) -> Option<Result<CniResult, Error>> {
        let path = Path::new("/usr/lib/cni").join(config["type"].as_str().unwrap());
        if !path.exists() {
            println!("skipped: {} is not installed", path.display());
            return None;
        }
        let text = config.to_string();
        let env = environment(Some(&self.inside));
        let output = self
            .host
            .run(|| {
                let mut child = Process::new(&path)
                    .env("CNI_COMMAND", command)
                    .env("CNI_CONTAINERID", &env.container)
                    .env("CNI_NETNS", &env.netns)
                    .env("CNI_IFNAME", "eth0")
                    .env("CNI_PATH", "/usr/lib/cni")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
                child.wait_with_output().unwrap()
            })
            .unwrap();
        if !output.status.success() {
            return Some(Err(serde_json::from_slice(&output.stdout).unwrap()));
        }
        if output.stdout.is_empty() {
            return Some(Ok(CniResult::default()));
        }
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        Some(Ok(CniResult::from_json(&value, Version::V1_0_0).unwrap()))
    }
}

/// Addresses and routes of a namespace without what differs from one to the next: numbers, names of host ends,
/// link-local addresses, and whether an address is being probed.
pub(crate) fn picture(netns: &Netns) -> String {
    let text = checked(netns, "ip -o addr show; ip -d route; ip -6 -d route");
    let own =
        |line: &&str| !line.contains("fe80::") && !line.contains(" lo ") && !line.contains(" up0") && !line.is_empty();
    let word = |w: &str| if w.starts_with("veth") { "VETH".to_owned() } else { w.to_owned() };
    let passing = ["nodad", "tentative", "\\"];
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().filter(|w| !passing.contains(w)).collect();
        let numbered = usize::from(words.first().is_some_and(|w| w.ends_with(':')));
        words[numbered..].iter().map(|w| word(w)).collect::<Vec<_>>().join(" ")
    };
    text.lines().filter(own).map(line).collect::<Vec<_>>().join("\n")
}

/// A configuration of a type with further keys.
pub(crate) fn config(kind: &str, own: &Value) -> Value {
    let mut whole = json!({"cniVersion": "1.0.0", "name": "net", "type": kind});
    whole.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    whole
}

/// The same with addresses of both families, and routes.
pub(crate) fn addressed(kind: &str, own: &Value) -> Value {
    let mut whole = config(kind, own);
    whole["ipam"] = json!({
        "type": "static",
        "addresses": [
            {"address": "198.51.100.5/24", "gateway": "198.51.100.1"},
            {"address": "2001:db8::5/64", "gateway": "2001:db8::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "203.0.113.0/24", "gw": "198.51.100.7"}],
    });
    whole
}

/// The same after an ADD.
pub(crate) fn with_previous(config: &Value, result: &CniResult) -> Value {
    let mut config = config.clone();
    config["cniVersion"] = json!("1.1.0");
    config["prevResult"] = result.to_json(Version::V1_1_0);
    config
}

pub(crate) fn request(config: &Value) -> Request {
    Request::from_value(config.clone()).unwrap()
}

/// What a configuration is refused with before anything is looked at.
pub(crate) fn refusal(kind: &str, own: &Value) -> Error {
    let request = request(&config(kind, own));
    configure(kind, &request).unwrap().unwrap().configured().unwrap_err()
}

/// The interfaces of two results are the same but for addresses and names nobody chose; the rest is equal.
pub(crate) fn assert_alike(ours: &CniResult, theirs: &CniResult) {
    let shape = |r: &CniResult| -> Vec<(String, bool, String)> {
        let name = |n: &str| if n.starts_with("veth") { "VETH".to_owned() } else { n.to_owned() };
        r.interfaces.iter().map(|i| (name(&i.name), i.mac.is_empty(), i.sandbox.clone())).collect()
    };
    assert_eq!(shape(ours), shape(theirs));
    assert_eq!((&ours.ips, &ours.routes, &ours.dns), (&theirs.ips, &theirs.routes, &theirs.dns));
}

fn environment(netns: Option<&Netns>) -> Environment {
    let path = |ns: &Netns| format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    Environment {
        command: Command::Add,
        container: "c1".into(),
        netns: netns.map(path).unwrap_or_default(),
        ifname: Some("eth0".parse().unwrap()),
        args: Vec::new(),
        path: Vec::new(),
        netns_override: false,
    }
}

fn run(netns: &Netns, script: &str) -> (bool, String) {
    let output = netns.run(|| Process::new("sh").arg("-ec").arg(script).output().unwrap()).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn checked(netns: &Netns, script: &str) -> String {
    let (success, text) = run(netns, script);
    assert!(success, "{script}: {text}");
    text
}

/// A setting of a namespace.
pub(crate) fn sysctl(netns: &Netns, key: &str) -> String {
    netns.run(|| fs::read_to_string(Path::new("/proc/sys").join(key)).unwrap().trim().to_owned()).unwrap()
}
