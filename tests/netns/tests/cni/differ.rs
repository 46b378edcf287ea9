//! The reference plugins and ours do the same on two machines that are alike, and everything that can be seen of it is
//! compared.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rnet_kernel::Netns;
use rnet_netns_harness::{Container, Host, World, run, run_or_skip};
use serde_json::{Value, json};

use super::driver::{Answer, Attachment, Chain, Node, Whose, lacks_reference};
use super::state::{self, Aliases, Lines};

/// What may differ, by patterns of a difference's text (`*` is anything, `?` one character), and why.
const ALLOWED: &[(&str, &str)] = &[
    (
        "after DEL: host sysctl ipv4/conf/cni0/route_localnet: reference \"1\", ours \"0\"",
        "with its last published port a device is closed again: nothing guards the host's loopback addresses then",
    ),
    ("* link pair*/num_?x_queues: *", "one queue: nothing wakes a second one, and making it costs a grace period"),
    ("* link eth0/num_?x_queues: *", "the other end of the same pair"),
    ("* link ifb?/txqlen: *", "the same on the device that shapes the other way: its tbf has the queue"),
    ("* host link cni0.100/num_?x_queues: *", "the gateway's device is one end of such a pair too"),
    ("* host link cni0.100/txqlen: *", "the same"),
    (
        "* host link */linkinfo/info_data/mcast_snooping: reference \"1\", ours \"0\"",
        "its timers walk all ports whenever one joins: half of an ADD at 400 containers",
    ),
    (
        "* host link */linkinfo/info_data/no_linklocal_learn: reference \"0\", ours \"1\"",
        "a frame to a reserved address is dropped after the bridge has learned its source: it teaches nothing now",
    ),
    (
        "* host bridge vlan pair? 1 Egress Untagged: reference \"there\", no ours",
        "the gateway's port is in its VLAN alone: frames of VLAN 1 have no business there",
    ),
    ("* c1 link red/txqlen: *", "the kernel's default; a VRF has no queue"),
    (
        "* c1 route unicast default via 10.88.0.1 dev eth0 table * proto boot *: no reference, ours \"there\"",
        "the route goes with the interface into the VRF: the reference lost it before 1.3",
    ),
    ("* link pair*/txqlen: no reference, ours \"1000\"", "the kernel's default; no queue holds packets on a veth"),
    ("* link eth0/txqlen: no reference, ours \"1000\"", "the other end of the same pair"),
    (
        "* host sysctl ipv6/conf/pair*/accept_ra: reference \"0\", ours \"1\"",
        "a port of a bridge hears no router advertisements: the bridge takes them (br_handle_frame)",
    ),
    (
        "* address * inet6 *: reference \"scope global *\", ours \"scope global nodad *\"",
        "what accept_dad = 0 says for the interface, said for the address too: the interface may be up before",
    ),
    (
        "* host link cni0/address: reference \"00:00:00:00:00:00\", ours \"<mac>\"",
        "the bridge's address is its own: it does not come and go with the ports",
    ),
    (
        "* result c?/interfaces/0/mac: reference \"false\", ours \"true\"",
        "the same: the reference's changes with the ports",
    ),
    (
        "* host link cni0/mtu: reference \"1500\", ours \"1400\"",
        "the configured MTU is set on the bridge: without, the kernel forgets it with the last port (br_mtu_auto_adjust)",
    ),
    ("* host sysctl ipv6/conf/cni0/mtu: reference \"1500\", ours \"1400\"", "the same"),
    (
        "* result c?/dns/*: no reference, ours *",
        "bridge hands on what its address plugin says of name resolution, as the reference does since 1.4",
    ),
    ("* host link pair?/ifalias: no reference, ours *", "says whose the host's end is, for GC and for who looks"),
    ("* host link ifb?/ifalias: no reference, ours *", "the same of the device that shapes the other way"),
    (
        "* link eth0/ifalias: no reference, ours *",
        "says whose the interface is, so that DEL of another network leaves it",
    ),
    ("after DEL: host link far0/ifalias: reference \"far0\", no ours", "the reference leaves its note on the device"),
    (
        "* c1 sysctl ipv4/conf/eth0/arp_notify: reference \"0\", ours \"1\"",
        "the neighbours are told at once, as the reference's other plugins do",
    ),
    ("* tc filter pair? * action order 2: *", "the reference's library sends the one action twice"),
    ("* tc filter pair? * index 2 ref 1 bind 1: *", "the same"),
    ("* c1 rule *from 10.88.0.2 lookup 100 proto *: *", "marked as ours, so that DEL removes no rule of others"),
    (
        "* c1 route unicast fe80::/64 dev eth0 table 100 *: reference \"there\", no ours",
        "the rule to the table is of IPv4: no packet of IPv6 gets there",
    ),
    (
        "* sysctl ipv6/conf/eth0/keep_addr_on_down: reference \"0\", ours \"1\"",
        "an interface that goes down keeps its addresses, as with the reference since 1.2",
    ),
    ("* tc tbf */lat: *", "a queue given in time"),
    ("* tc tbf */limit: *", "a queue given in bytes, short where the reference's adds 25 ms"),
    ("* tc tbf */linklayer: *", "the kernel's word for a rate table that was sent whole; both count Ethernet frames"),
    (
        "a key nobody knows: reference \"999\", ours \"4\"",
        "the specification's code for what is wrong with CNI_ARGS, which the reference does not use",
    ),
    (
        "at the end: host sysctl ipv6/conf/cni0/accept_ra: reference \"0\", ours \"1\"",
        "a bridge that was there before is somebody else's: its switches are left alone",
    ),
];

/// A machine with one set of plugins.
pub(super) struct Stage<'a> {
    pub(super) world: &'a World,
    pub(super) host: Host,
    pub(super) whose: Whose,
    /// CNI_PATH.
    pub(super) plugins: PathBuf,
    containers: RefCell<Vec<Container>>,
    results: RefCell<BTreeMap<String, Value>>,
    lines: RefCell<Lines>,
}

impl<'a> Stage<'a> {
    fn new(world: &'a World, whose: Whose) -> Self {
        Stage {
            world,
            host: world.host("node"),
            whose,
            plugins: whose.plugins(world),
            containers: RefCell::default(),
            results: RefCell::default(),
            lines: RefCell::default(),
        }
    }

    /// A folder of the test's own.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.world.dir().join(name)
    }

    pub(super) fn container(&self, name: &str) -> Container {
        let container = self.host.container(name);
        self.containers.borrow_mut().push(container.clone());
        container
    }

    pub(super) fn node(&self, attachment: Attachment) -> Node<'_> {
        Node { host: &self.host.netns, plugins: &self.plugins, attachment }
    }

    /// ADD, which has to succeed.
    #[track_caller]
    pub(super) fn add(&self, chain: &Chain, container: &Container) -> Value {
        let result = chain.add(&self.node(Attachment::of(container))).ok();
        self.results.borrow_mut().insert(container.name.clone(), result.clone());
        result
    }

    /// ADD, whose failure is noted by its code.
    #[track_caller]
    pub(super) fn add_fails(&self, what: &str, chain: &Chain, container: &Container) -> Answer {
        let answer = chain.add(&self.node(Attachment::of(container)));
        self.note(what, answer.code());
        answer
    }

    /// ADD, which has to fail; the codes of the reference are not always the specification's.
    #[track_caller]
    pub(super) fn fails(&self, chain: &Chain, container: &Container) {
        chain.add(&self.node(Attachment::of(container))).code();
    }

    /// CHECK, which has to succeed.
    #[track_caller]
    pub(super) fn check(&self, chain: &Chain, container: &Container) {
        if chain.knows_check() {
            chain.check(&self.node(Attachment::of(container)), &self.result(container)).ok();
        }
    }

    /// CHECK, which has to fail.
    #[track_caller]
    pub(super) fn check_fails(&self, chain: &Chain, container: &Container) {
        chain.check(&self.node(Attachment::of(container)), &self.result(container)).code();
    }

    /// DEL, which has to succeed.
    #[track_caller]
    pub(super) fn del(&self, chain: &Chain, container: &Container) {
        let result = self.results.borrow_mut().remove(&container.name);
        chain.del(&self.node(Attachment::of(container)), result.as_ref()).ok();
    }

    fn result(&self, container: &Container) -> Value {
        self.results.borrow()[&container.name].clone()
    }

    /// Notes something that was seen.
    pub(super) fn note(&self, what: &str, value: impl ToString) {
        self.lines.borrow_mut().insert(what.to_owned(), value.to_string());
    }

    /// Notes the state of all namespaces and the results there are.
    #[track_caller]
    pub(super) fn record(&self, phase: &str) {
        let containers = self.containers.borrow();
        let all = || std::iter::once(&self.host.netns).chain(containers.iter().map(|c| &c.netns));
        let aliases = Aliases::of(all());
        let mut lines = Lines::new();
        state::read("host", &self.host.netns, &aliases, &mut lines);
        for container in containers.iter() {
            state::read(&container.name, &container.netns, &aliases, &mut lines);
        }
        for (name, result) in self.results.borrow().iter() {
            let mut result = result.clone();
            let container = containers.iter().find(|c| c.name == *name);
            for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
                let netns =
                    container.filter(|_| interface.get("sandbox").is_some()).map_or(&self.host.netns, |c| &c.netns);
                interface["mac"] = json!(interface["mac"] == state::mac(netns, interface["name"].as_str().unwrap()));
            }
            state::flatten(&format!("result {name}"), &result, &mut |path, value| {
                lines.insert(path, aliases.apply(&value));
            });
        }
        let lines = lines.into_iter().map(|(path, value)| (format!("{phase}: {path}"), value));
        self.lines.borrow_mut().extend(lines);
    }
}

/// Runs `script` with both sets of plugins and compares all it noted.
#[track_caller]
pub(super) fn differential(script: impl Fn(&Stage<'_>) + Sync) {
    differential_or_skip(|| None, script);
}

/// The same for a kernel or a machine that may lack something.
#[track_caller]
pub(super) fn differential_or_skip(lacks: impl FnOnce() -> Option<String>, script: impl Fn(&Stage<'_>) + Sync) {
    run_or_skip(
        || lacks_reference().or_else(lacks),
        |_| {
            let noted = |whose: Whose| {
                let mut lines = Lines::new();
                run(|world| {
                    let stage = Stage::new(world, whose);
                    script(&stage);
                    lines = stage.lines.take();
                });
                lines
            };
            let (reference, ours) = std::thread::scope(|scope| {
                let reference = scope.spawn(|| noted(Whose::Reference));
                let ours = noted(Whose::Ours);
                (reference.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), ours)
            });
            assert!(!reference.is_empty(), "nothing was noted");
            let found = differences(&reference, &ours);
            assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(60)].join("\n"));
        },
    );
}

fn differences(reference: &Lines, ours: &Lines) -> Vec<String> {
    let mut keys: Vec<&String> = reference.keys().chain(ours.keys()).collect();
    keys.sort();
    keys.dedup();
    let differing = keys.into_iter().filter(|key| reference.get(*key) != ours.get(*key));
    let said = |whose: &str, lines: &Lines, key: &str| match lines.get(key) {
        Some(value) => format!("{whose} {value:?}"),
        None => format!("no {whose}"),
    };
    differing
        .map(|key| format!("{key}: {}, {}", said("reference", reference, key), said("ours", ours, key)))
        .filter(|text| !ALLOWED.iter().any(|(pattern, _)| matches(pattern, text)))
        .collect()
}

/// Whether a text is of a pattern: `*` is anything, `?` one character.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text.chars();
    let mut signs = pattern.chars();
    match (signs.next(), rest.next()) {
        (None, first) => first.is_none(),
        (Some('*'), first) => matches(signs.as_str(), text) || (first.is_some() && matches(pattern, rest.as_str())),
        (Some(sign), Some(first)) if sign == '?' || sign == first => matches(signs.as_str(), rest.as_str()),
        _ => false,
    }
}

/// What the kernel lacks to make a link of a kind.
pub(super) fn lacks_kind(kind: &str) -> Option<String> {
    let netns = Netns::create().unwrap();
    let mut ip = std::process::Command::new("ip");
    let said = rnet_netns_harness::run_in(&netns, ip.args(["link", "add", "probe0", "type", kind]));
    said.err.contains("Unknown device type").then(|| format!("a kernel with {kind} devices"))
}

/// What the kernel lacks to tell VLANs apart on a bridge.
pub(super) fn lacks_vlan_filtering() -> Option<String> {
    let netns = Netns::create().unwrap();
    let mut ip = std::process::Command::new("ip");
    let said = rnet_netns_harness::run_in(&netns, ip.args("link add probe0 type bridge vlan_filtering 1".split(' ')));
    (said.code != 0).then(|| "a kernel whose bridges filter VLANs".to_owned())
}

/// A folder's regular files with their contents.
pub(super) fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    files
        .map(|e| (e.file_name().display().to_string(), std::fs::read_to_string(e.path()).unwrap_or_default()))
        .collect()
}

#[test]
fn patterns_match_whole_texts() {
    assert!(matches("a*c", "abc") && matches("*c", "cc") && matches("a*", "a") && matches("a?c", "abc"));
    assert!(!matches("a*c", "abcd") && !matches("b*", "abc") && !matches("abc", "abcd"));
}
