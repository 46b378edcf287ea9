//! The state of a kernel's network as lines that can be compared: what is random or passing has names of its own.

use std::collections::BTreeMap;
use std::process::Command;

use rnet_kernel::Netns;
use rnet_netns_harness::{SOON, run_in, wait_for};
use serde_json::{Value, json};

/// Each property with its value.
pub(super) type Lines = BTreeMap<String, String>;

/// Begins hardware addresses a test gives itself; all others are random.
pub(super) const FIXED: &str = "c2:11:22:";

/// What follows traffic, time or the order of things, not anybody's wish.
const PASSING: [&str; 24] = [
    "ifindex",
    "link_index",
    "operstate",
    "state",
    "hello_timer",
    "tcn_timer",
    "topology_change",
    "topology_change_detected",
    "topology_change_timer",
    "gc_timer",
    "root_id",
    "bridge_id",
    "id",
    "no",
    "designated_port",
    "designated_cost",
    "designated_bridge",
    "designated_root",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "config_pending",
    "topology_change_ack",
    "link_netnsid",
];
const PASSING_FLAGS: [&str; 3] = ["LOWER_UP", "NO-CARRIER", "M-DOWN"];

/// Aliases for random names, given in the order of the links; random addresses are told apart by nothing.
#[derive(Debug, Default)]
pub(super) struct Aliases(Vec<(String, String)>);

impl Aliases {
    /// Of the links of namespaces, the host's first.
    pub(super) fn of<'a>(namespaces: impl Iterator<Item = &'a Netns>) -> Self {
        let mut all = Aliases::default();
        let (mut pairs, mut ifbs) = (0, 0);
        for netns in namespaces {
            let mut links = parsed(netns, "ip -j link").as_array().cloned().unwrap_or_default();
            links.sort_by_key(|l| l["ifindex"].as_u64());
            for link in links {
                let name = link["ifname"].as_str().unwrap_or_default();
                if is_random(name, "veth") {
                    pairs += 1;
                    all.0.push((name.to_owned(), format!("pair{pairs}")));
                }
                if is_random(name, "bwp") {
                    ifbs += 1;
                    all.0.push((name.to_owned(), format!("ifb{ifbs}")));
                }
            }
        }
        all
    }

    /// A text with the aliases in it.
    pub(super) fn apply(&self, text: &str) -> String {
        let text = self.0.iter().fold(text.to_owned(), |text, (random, alias)| text.replace(random, alias));
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(from) = rest.find(in_address) {
            let run = &rest[from..];
            let run = &run[..run.find(|c| !in_address(c)).unwrap_or(run.len())];
            out.push_str(&rest[..from]);
            out.push_str(plain_address(run));
            rest = &rest[from + run.len()..];
        }
        out + rest
    }
}

fn in_address(c: char) -> bool {
    c == ':' || c.is_ascii_alphanumeric()
}

/// An address that nobody chose has another name.
fn plain_address(word: &str) -> &str {
    let is_mac = word.len() == 17 && word.split(':').all(|b| b.len() == 2 && u8::from_str_radix(b, 16).is_ok());
    // Groups, nobody and everybody.
    let known = |mac: &str| ["00:00:00", "01:", "33:33", "ff:ff", FIXED].iter().any(|k| mac.starts_with(k));
    // RFC 4291 appendix A: an address made of a hardware address has ff:fe in its middle.
    let derived = word.starts_with("fe80::") && word.contains("ff:fe");
    match word {
        mac if is_mac && !known(mac) => "<mac>",
        _ if derived => "<link-local>",
        other => other,
    }
}

fn is_random(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).unwrap_or_default();
    rest.len() >= 8 && rest.bytes().all(|b| b.is_ascii_hexdigit())
}

fn text(netns: &Netns, words: &str) -> String {
    let mut words = words.split_whitespace();
    run_in(netns, Command::new(words.next().unwrap()).args(words)).ok().out
}

fn parsed(netns: &Netns, words: &str) -> Value {
    let said = text(netns, words);
    if said.trim().is_empty() { Value::Null } else { serde_json::from_str(&said).unwrap() }
}

/// The hardware address of a link.
pub(super) fn mac(netns: &Netns, link: &str) -> Value {
    parsed(netns, &format!("ip -j link show {link}"))[0]["address"].clone()
}

/// Puts a value, property by property.
pub(super) fn flatten(path: &str, value: &Value, put: &mut dyn FnMut(String, String)) {
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter().filter(|(key, _)| !PASSING.contains(&key.as_str())) {
                flatten(&format!("{path}/{key}"), value, put);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{path}/{at}"), item, put);
            }
        }
        Value::Array(items) => {
            let mut words: Vec<String> = items.iter().map(plain).collect();
            words.retain(|w| !PASSING_FLAGS.contains(&w.as_str()));
            words.sort();
            put(path.to_owned(), words.join(","));
        }
        other => put(path.to_owned(), plain(other)),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The kernel gives a device its own address when it has a carrier, and a bridge a carrier when a port has one: both in
/// its own time (net/core/link_watch.c).
fn is_settled(netns: &Netns) -> bool {
    let addresses = text(netns, "ip -6 -o address");
    let links = parsed(netns, "ip -d -j link");
    let links = links.as_array().map_or(&[][..], Vec::as_slice);
    let has = |link: &Value, flag: &str| link["flags"].as_array().is_some_and(|flags| flags.contains(&json!(flag)));
    let settled = |link: &Value| {
        let name = link["ifname"].as_str().unwrap_or_default();
        let carrier = has(link, "LOWER_UP");
        let routes = link["linkinfo"]["info_kind"] == "vrf";
        let derives = link["inet6_addr_gen_mode"] == "eui64" && link["link_type"] == "ether" && !routes;
        let ipv6 = netns.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")));
        let ipv6 = ipv6.unwrap().is_ok_and(|off| off.trim() == "0");
        let own = || addresses.lines().any(|l| l.contains(&format!(" {name} ")) && l.contains(" fe80::"));
        let ports = links.iter().any(|port| port["master"] == name && has(port, "LOWER_UP"));
        (carrier || !ports || !has(link, "UP")) && (!(carrier && derives && ipv6) || own())
    };
    !addresses.contains("tentative") && links.iter().all(settled)
}

/// Everything of a namespace.
pub(super) fn read(what: &str, netns: &Netns, aliases: &Aliases, lines: &mut Lines) {
    wait_for("links to be settled", SOON, || is_settled(netns));
    let mut put = |path: String, value: String| {
        lines.insert(format!("{what} {}", aliases.apply(&path)), aliases.apply(&value));
    };
    let links = parsed(netns, "ip -d -j link");
    let names: Vec<&str> = links.as_array().into_iter().flatten().filter_map(|l| l["ifname"].as_str()).collect();
    for (name, link) in names.iter().zip(links.as_array().into_iter().flatten()) {
        flatten(&format!("link {name}"), link, &mut put);
    }
    for line in text(netns, "ip -o address").lines() {
        // 2: eth0    inet 10.1.0.2/24 brd 10.1.0.255 scope global eth0\       valid_lft forever preferred_lft forever
        let line = words(line);
        let mut parts = line.splitn(5, ' ').skip(1);
        let mut part = || parts.next().unwrap_or_default();
        put(format!("address {} {} {}", part(), part(), part()), part().to_owned());
    }
    for (family, listing) in ["-4", "-6"].into_iter().flat_map(|f| [(f, "route show table all"), (f, "rule")]) {
        let kind = listing.split(' ').next().unwrap_or_default();
        for line in text(netns, &format!("ip {family} -d {listing}")).lines() {
            if !line.contains("multicast ff00::/8") {
                put(format!("{kind} {}", words(&line.replace(" linkdown", ""))), "there".into());
            }
        }
    }
    for line in text(netns, "ip neighbour show nud permanent").lines() {
        put(format!("neighbour {}", words(line)), "there".into());
    }
    let mut port = "";
    let vlans = text(netns, "bridge vlan");
    for line in vlans.lines().skip(1) {
        // The port stands before its first VLAN only.
        let vlan = if line.starts_with(char::is_whitespace) {
            line
        } else {
            line.split_once(char::is_whitespace).map_or("", |(name, rest)| {
                port = name;
                rest
            })
        };
        put(format!("bridge vlan {port} {}", words(vlan)), "there".into());
    }
    sysctls(netns, &names, &mut put);
    traffic_control(netns, &names, &mut put);
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sysctls(netns: &Netns, names: &[&str], put: &mut dyn FnMut(String, String)) {
    // /proc/sys/net shows the namespace of the thread that opens it (net/sysctl_net.c).
    let folders = names.iter().copied().chain(["all", "default"]);
    let folders: Vec<String> =
        folders.flat_map(|dev| [format!("ipv4/conf/{dev}"), format!("ipv6/conf/{dev}")]).collect();
    let read = || {
        let mut found = Vec::new();
        for folder in folders {
            for entry in std::fs::read_dir(format!("/proc/sys/net/{folder}")).into_iter().flatten().flatten() {
                let value = std::fs::read_to_string(entry.path()).unwrap_or_else(|_| "cannot be read".into());
                found.push((format!("{folder}/{}", entry.file_name().display()), value.trim().to_owned()));
            }
        }
        found.push(("ipv4/ip_forward".into(), std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()));
        found
    };
    for (key, value) in netns.run(read).unwrap() {
        // A secret of the device.
        if !key.ends_with("stable_secret") {
            put(format!("sysctl {key}"), value.trim().to_owned());
        }
    }
}

fn traffic_control(netns: &Netns, names: &[&str], put: &mut dyn FnMut(String, String)) {
    let qdiscs = text(netns, "tc -d qdisc show");
    let qdiscs: String = qdiscs.lines().filter(|l| !l.contains("noqueue")).map(|l| format!("{l}\n")).collect();
    for line in qdiscs.lines() {
        // qdisc tbf 1: dev eth0 root refcnt 2 rate 8Mbit burst 100000b/1 mpu 0b lat 25ms linklayer ethernet
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["qdisc", "tbf", handle, "dev", dev, ref more @ ..] => {
                put(format!("tc tbf {dev}"), handle.to_owned());
                let pairs = more.split_first().map_or(more, |(_, pairs)| pairs).chunks(2);
                for pair in pairs.filter(|pair| pair[0] != "refcnt") {
                    put(format!("tc tbf {dev}/{}", pair[0]), pair.last().unwrap_or(&"").to_string());
                }
            }
            _ => put(format!("tc {}", words.join(" ")), "there".into()),
        }
    }
    // Without a qdisc there is nothing a filter could hang on.
    for name in names.iter().filter(|name| qdiscs.contains(&format!(" dev {name} "))) {
        for parent in ["root", "ingress"] {
            let said = text(netns, &format!("tc filter show dev {name} {parent}"));
            for line in said.lines() {
                put(format!("tc filter {name} {parent} {}", words(line)), "there".into());
            }
        }
    }
}
