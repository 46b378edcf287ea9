//! From the text of a topology file to a [`Lab`]: substitution, YAML, inheritance, then every word to its type.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use rnet_model::{ContainerName, IfAddr, IfName, InvalidInput};
use serde_saphyr::Spanned;

use crate::error::{At, Place, TopologyError};
use crate::file::{Body, Endpoint, File, Link as LinkEntry, Ordered};
use crate::lab::{Bind, BridgeNode, DEFAULT_MTU, End, Inputs, Lab, Link, Node, NodeBody, Port, Process, stable_mac};
use crate::merge::{destination, inherit};
use crate::subst::substitute;
use crate::words;

/// Endpoint words that are no node in containerlab but choose a link type.
const SPECIAL_NODES: [&str; 3] = ["host", "mgmt-net", "macvlan"];
/// Link types of containerlab that rnet does not make.
const OTHER_LINK_TYPES: [&str; 7] = ["host", "mgmt-net", "macvlan", "dummy", "vxlan", "vxlan-stitch", "veth-stitch"];
/// What keeps a node alive whose file names no command.
const IDLE: [&str; 3] = ["tail", "-f", "/dev/null"];

pub(crate) fn lab(text: &str, inputs: &Inputs<'_>) -> Result<Lab, TopologyError> {
    let at = At::file(inputs.file);
    if let Some(place) = template_action(text) {
        return Err(at
            .place(Some(place))
            .unsupported("Go templates are not supported", Some("write the topology out")));
    }
    let text = substitute(text, at, inputs.variable)?;
    let options = serde_saphyr::options! { with_snippet: false, legacy_octal_numbers: true };
    let file: File = serde_saphyr::from_str_with_options(&text, options).map_err(|e| yaml_error(at, &e))?;
    Reader { at, inputs, file: &file, kinds: HashMap::new() }.lab()
}

fn template_action(text: &str) -> Option<Place> {
    text.lines().zip(1..).find_map(|(line, number)| {
        let code = line.split(" #").next().filter(|l| !l.trim_start().starts_with('#'))?;
        let column = code.find("{{")? as u64 + 1;
        Some(Place { line: number, column })
    })
}

fn yaml_error(at: At<'_>, e: &serde_saphyr::Error) -> TopologyError {
    let text = e.without_snippet().to_string();
    let place = e.location().and_then(Place::of);
    // The place is told in front, in the form editors know.
    let text = match text.rfind(" at line ") {
        Some(end) if place.is_some() => text[..end].trim_end_matches(','),
        _ => &text,
    };
    let at = at.place(place);
    // The reader's advice about its own settings is not for the user.
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or(text);
    let Some((unknown, known)) = text.strip_prefix("unknown field `").and_then(|t| t.split_once('`')) else {
        return at.syntax(text);
    };
    let known = known.trim_start_matches(", expected one of ").split(", ").map(|k| k.trim_matches('`'));
    let near = known.map(|k| (distance(unknown, k), k)).min().filter(|(far, _)| *far <= 2);
    at.syntax(format!(
        "unknown key {unknown:?}{}",
        near.map(|(_, k)| format!("; maybe {k:?} is meant")).unwrap_or_default()
    ))
}

/// Levenshtein distance in bytes: how many letters to add, drop or change.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// What a node name stands for in a link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Node,
    Bridge,
}

struct Reader<'a> {
    at: At<'a>,
    inputs: &'a Inputs<'a>,
    file: &'a File,
    kinds: HashMap<String, Role>,
}

fn place<T>(spanned: &Spanned<T>) -> Option<Place> {
    Place::of(spanned.referenced).or_else(|| Place::of(spanned.defined))
}

impl<'a> Reader<'a> {
    fn lab(mut self) -> Result<Lab, TopologyError> {
        let file = self.file;
        let at = self.at.place(place(&file.name));
        let name = &file.name.value;
        name.parse::<ContainerName>().map_err(|e| at.value("name of the lab", &e))?;
        let topology = &file.topology;
        if topology.nodes.0.is_empty() {
            return Err(at.invalid("the lab has no nodes", None));
        }
        let mut lab = Lab {
            name: name.clone(),
            nodes: Vec::new(),
            bridges: Vec::new(),
            links: Vec::new(),
            ports: Vec::new(),
            warnings: Vec::new(),
        };
        for (key, body) in &topology.nodes.0 {
            let merged = inherit(topology, body);
            match self.role(key, &merged)? {
                Role::Node => lab.nodes.push(self.node(key, &merged)?),
                Role::Bridge => lab.bridges.push(self.bridge(key, &merged)?),
            }
        }
        let mut seen = HashSet::new();
        for entry in &topology.links {
            self.link(entry, &mut lab, &mut seen)?;
        }
        lab.warnings = self.warnings();
        Ok(lab)
    }

    fn role(&mut self, key: &Spanned<String>, body: &Body) -> Result<Role, TopologyError> {
        let at = self.at.place(place(key));
        let name = &key.value;
        if SPECIAL_NODES.contains(&name.as_str()) {
            return Err(
                at.invalid(format!("no node can have the name {name:?}: in a link it means something else"), None)
            );
        }
        let Some(kind) = &body.kind else {
            return Err(at.invalid(
                format!("node {name:?} has no kind"),
                Some("write `kind: linux`, at the node or under topology.defaults"),
            ));
        };
        let at = at.place(place(kind));
        let role = match kind.value.as_str() {
            "linux" => Role::Node,
            "bridge" => Role::Bridge,
            other => {
                return Err(at.unsupported(
                    format!("node {name:?} is of kind {other:?}"),
                    Some("rnet makes nodes of kind linux and bridge"),
                ));
            }
        };
        self.kinds.insert(name.clone(), role);
        Ok(role)
    }

    fn node(&self, key: &Spanned<String>, body: &Body) -> Result<Node, TopologyError> {
        let at = self.at.place(place(key));
        let name = &key.value;
        let whom = format!("node {name:?}");
        name.parse::<ContainerName>().map_err(|e| at.value(&whom, &e))?;
        let container = self.container_name(name).map_err(|e| at.value(&whom, &e))?;
        if let Some(mode) = body.network_mode.as_ref().filter(|m| !matches!(m.value.as_str(), "none" | "bridge")) {
            return Err(at.place(place(mode)).unsupported(
                format!("{whom} has the network mode {:?}", mode.value),
                Some("each node has a namespace of its own; leave network-mode out"),
            ));
        }
        if let Some(x) = body.x_rnet.as_ref().filter(|x| !x.value.addresses.is_empty()) {
            return Err(at.place(place(x)).invalid(
                format!("{whom}: addresses under x-rnet are for bridges"),
                Some("give the address with the link"),
            ));
        }
        let exec = body.exec.iter().map(|line| self.words(&whom, name, line)).collect::<Result<_, _>>()?;
        Ok(Node {
            container,
            exec,
            sysctls: self.sysctls(&whom, &body.sysctls)?,
            body: self.body(key, body)?,
            name: name.clone(),
        })
    }

    /// `lab-LAB-NODE`; containerlab's `prefix` key changes the first word, empty leaves the bare node name.
    fn container_name(&self, node: &str) -> Result<ContainerName, InvalidInput> {
        let lab = &self.file.name.value;
        match self.file.prefix.as_ref().map(|p| p.value.as_str()) {
            None => format!("lab-{lab}-{node}").parse(),
            Some("") => node.parse(),
            Some("__lab-name") => format!("{lab}-{node}").parse(),
            Some(prefix) => format!("{prefix}-{lab}-{node}").parse(),
        }
    }

    fn body(&self, key: &Spanned<String>, body: &Body) -> Result<NodeBody, TopologyError> {
        let at = self.at.place(place(key));
        let name = &key.value;
        let image = body.image.as_ref();
        let rootfs = match (body.x_rnet.as_ref().and_then(|x| x.value.rootfs.as_ref()), image) {
            (Some(rootfs), _) => self.path(&self.magic(name, &rootfs.value)),
            (None, Some(image)) => self.image(name, image)?,
            (None, None) => {
                let needs_process = [("cmd", &body.cmd), ("entrypoint", &body.entrypoint), ("user", &body.user)];
                if let Some((what, word)) =
                    needs_process.into_iter().find_map(|(what, w)| w.as_ref().map(|w| (what, w)))
                {
                    return Err(at.place(place(word)).invalid(
                        format!("node {name:?} has the key {what} and nothing to run it in"),
                        Some("give it an image, or `x-rnet: {rootfs: DIR}`"),
                    ));
                }
                return Ok(NodeBody::Namespace);
            }
        };
        let mut command = Vec::new();
        for line in [&body.entrypoint, &body.cmd].into_iter().flatten() {
            command.extend(self.words(&format!("node {name:?}"), name, line)?);
        }
        if command.is_empty() {
            command = IDLE.map(str::to_owned).to_vec();
        }
        let env = body.env.0.iter().map(|(k, v)| (k.value.clone(), self.magic(name, v))).collect();
        Ok(NodeBody::Rootfs(Box::new(Process {
            rootfs,
            image: image.map(|i| i.value.clone()),
            command,
            env,
            binds: body.binds.iter().map(|b| self.bind(name, b)).collect::<Result<_, _>>()?,
            user: body.user.as_ref().map(|u| u.value.clone()),
            hostname: body.hostname.as_ref().map_or_else(|| name.clone(), |h| h.value.clone()),
            cap_add: body.cap_add.iter().map(|c| c.value.clone()).collect(),
        })))
    }

    fn image(&self, node: &str, image: &Spanned<String>) -> Result<PathBuf, TopologyError> {
        if let Some(dir) = self.inputs.images.get(&image.value) {
            return Ok(dir.clone());
        }
        let known = self.file.images.0.iter().find(|(name, _)| name.value == image.value);
        known.map(|(_, dir)| self.path(dir)).ok_or_else(|| {
            self.at.place(place(image)).invalid(
                format!("node {node:?}: the image {:?} has no root file system", image.value),
                Some(&format!(
                    "give its directory: --image {0}=DIR, or `images: {{\"{0}\": DIR}}` in the file; without an image \
                     the node is a plain network namespace",
                    image.value
                )),
            )
        })
    }

    fn bind(&self, node: &str, bind: &Spanned<String>) -> Result<Bind, TopologyError> {
        let text = self.magic(node, &bind.value);
        let mut parts = text.splitn(3, ':');
        let (source, target, options) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let target = target.filter(|t| t.starts_with('/') && !source.is_empty()).ok_or_else(|| {
            self.at.place(place(bind)).invalid(
                format!("node {node:?}: the bind {:?} is not SOURCE:DESTINATION[:OPTIONS]", bind.value),
                Some("the destination is an absolute path in the node"),
            )
        })?;
        debug_assert_eq!(destination(&text), target);
        Ok(Bind { source: self.path(source), destination: target.into(), options: options.map(str::to_owned) })
    }

    /// A path of the file: absolute, `~` or relative to the file's directory.
    fn path(&self, text: &str) -> PathBuf {
        let home =
            text.strip_prefix("~/").and_then(|rest| Some(Path::new(&(self.inputs.variable)("HOME")?).join(rest)));
        home.unwrap_or_else(|| self.inputs.directory.join(text))
    }

    fn magic(&self, node: &str, text: &str) -> String {
        if !text.contains("__clab") {
            return text.to_owned();
        }
        let lab = &self.file.name.value;
        let directory = self.inputs.directory.join(format!("clab-{lab}"));
        text.replace("__clabLabName__", lab)
            .replace("__clabNodeName__", node)
            .replace("__clabNodeDir__", &directory.join(node).to_string_lossy())
            .replace("__clabDir__", &directory.to_string_lossy())
    }

    fn words(&self, whom: &str, node: &str, line: &Spanned<String>) -> Result<Vec<String>, TopologyError> {
        let at = self.at.place(place(line));
        let words = words::split(&self.magic(node, &line.value))
            .map_err(|why| at.invalid(format!("{whom}: the command {:?} cannot be split: {why}", line.value), None))?;
        if words.is_empty() {
            return Err(at.invalid(format!("{whom}: a command is empty"), None));
        }
        Ok(words)
    }

    fn sysctls(&self, whom: &str, entries: &Ordered<String>) -> Result<BTreeMap<String, String>, TopologyError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
        let check = |(key, value): &(Spanned<String>, String)| {
            let name = &key.value;
            let plain = name.chars().all(fine) && !name.contains("..") && !name.contains("//") && !name.contains("./");
            if !name.starts_with("net.") || !plain {
                return Err(self.at.place(place(key)).invalid(
                    format!("{whom}: the setting {name:?} is not one of a network namespace"),
                    Some("settings begin with `net.`, like net.ipv4.ip_forward"),
                ));
            }
            Ok((name.clone(), value.clone()))
        };
        entries.0.iter().map(check).collect()
    }

    fn bridge(&self, key: &Spanned<String>, body: &Body) -> Result<BridgeNode, TopologyError> {
        let at = self.at.place(place(key));
        let whom = format!("bridge {:?}", key.value);
        let name: IfName = key.value.parse().map_err(|e| at.value(&whom, &e))?;
        let addresses = body.x_rnet.as_ref().map_or(&[][..], |x| &x.value.addresses);
        Ok(BridgeNode { name, addresses: addresses.iter().map(|a| self.address(&whom, a)).collect::<Result<_, _>>()? })
    }

    fn address(&self, whom: &str, text: &Spanned<String>) -> Result<IfAddr, TopologyError> {
        text.value.parse().map_err(|e| self.at.place(place(text)).value(whom, &e))
    }

    fn link(
        &self,
        entry: &Spanned<LinkEntry>,
        lab: &mut Lab,
        seen: &mut HashSet<(String, IfName)>,
    ) -> Result<(), TopologyError> {
        let at = self.at.place(place(entry));
        let link = &entry.value;
        if let Some(kind) = link.link_type.as_ref().filter(|t| t.value != "veth") {
            let at = at.place(place(kind));
            return Err(match kind.value.as_str() {
                known if OTHER_LINK_TYPES.contains(&known) => at.unsupported(
                    format!("links of type {known:?} are not supported"),
                    Some("links of type veth are, between nodes and to nodes of kind bridge"),
                ),
                other => at.invalid(format!("{other:?} is not a type of links"), Some("write `type: veth`")),
            });
        }
        let [first, second] = &link.endpoints[..] else {
            return Err(match link.endpoints.len() {
                more if more > 2 => at.unsupported(
                    format!("a link has {more} endpoints"),
                    Some("make a node of kind bridge and link each endpoint to it"),
                ),
                less => at.invalid(format!("a link has two endpoints, this one has {less}"), None),
            });
        };
        let mtu = self.mtu(link)?;
        let (left, right) = (self.end(first, link, 0, seen)?, self.end(second, link, 1, seen)?);
        match (left, right) {
            ((Role::Node, left), (Role::Node, right)) => {
                lab.links.push(Link { ends: [left, right], mtu: mtu.unwrap_or(DEFAULT_MTU) });
            }
            ((Role::Bridge, port), (Role::Node, end)) | ((Role::Node, end), (Role::Bridge, port)) => {
                if !port.addresses.is_empty() {
                    return Err(at.invalid(
                        format!("the port {} of bridge {} cannot have an address", port.ifname, port.node),
                        Some("give it to the bridge: `x-rnet: {addresses: [..]}` at its node"),
                    ));
                }
                let bridge = port.node.parse().map_err(|e| at.value("bridge", &e))?;
                lab.ports.push(Port { bridge, port: port.ifname, end, mtu });
            }
            ((Role::Bridge, left), (Role::Bridge, right)) => {
                return Err(
                    at.unsupported(format!("a link between the bridges {} and {}", left.node, right.node), None)
                );
            }
        }
        Ok(())
    }

    fn mtu(&self, link: &LinkEntry) -> Result<Option<u32>, TopologyError> {
        let Some(mtu) = &link.mtu else { return Ok(None) };
        let range = rnet_model::AttachOptions::MTU;
        if !range.contains(&mtu.value) {
            let (least, most) = (range.start(), range.end());
            return Err(self
                .at
                .place(place(mtu))
                .invalid(format!("MTU {} is not from {least} to {most}", mtu.value), None));
        }
        Ok(Some(mtu.value))
    }

    fn end(
        &self,
        endpoint: &Spanned<Endpoint>,
        link: &LinkEntry,
        index: usize,
        seen: &mut HashSet<(String, IfName)>,
    ) -> Result<(Role, End), TopologyError> {
        let at = self.at.place(place(endpoint));
        let (node, interface, mac, own) = match &endpoint.value {
            Endpoint::Brief(text) => {
                let (node, interface) = text.split_once(':').ok_or_else(|| {
                    at.invalid(format!("the endpoint {text:?} is not NODE:INTERFACE"), Some("write it as \"web:eth1\""))
                })?;
                (node, interface, None, [None, None])
            }
            Endpoint::Extended(e) => {
                (e.node.as_str(), e.interface.as_str(), e.mac.as_ref(), [e.ipv4.as_ref(), e.ipv6.as_ref()])
            }
        };
        let whom = format!("endpoint {node}:{interface}");
        let role = *self.kinds.get(node).ok_or_else(|| self.no_such_node(at, node))?;
        let ifname: IfName = interface.parse().map_err(|e| at.value(&whom, &e))?;
        // The ports of all bridges are in one namespace, where a name is there once.
        let owner = if role == Role::Bridge { "\0bridges" } else { node };
        if !seen.insert((owner.to_owned(), ifname.clone())) {
            return Err(at.invalid(format!("{whom} is in two links"), None));
        }
        let mut addresses = Vec::new();
        for (text, family) in own.into_iter().zip(["ipv4", "ipv6"]) {
            let brief = if family == "ipv4" { &link.ipv4 } else { &link.ipv6 };
            let given = text.or_else(|| brief.get(index)).filter(|t| !t.value.is_empty());
            let Some(given) = given else { continue };
            let address = self.address(&whom, given)?;
            if address.ip().is_ipv4() != (family == "ipv4") {
                return Err(at
                    .place(place(given))
                    .invalid(format!("{whom}: {address} is not an {family} address"), None));
            }
            addresses.push(address);
        }
        let mac = match mac {
            Some(mac) => mac.value.parse().map_err(|e| at.place(place(mac)).value(&whom, &e))?,
            None => stable_mac(&self.file.name.value, node, &ifname),
        };
        Ok((role, End { node: node.to_owned(), ifname, mac, addresses }))
    }

    fn no_such_node(&self, at: At<'_>, node: &str) -> TopologyError {
        if SPECIAL_NODES.contains(&node) {
            return at.unsupported(
                format!("links to {node:?} are not supported"),
                Some("links between nodes and to nodes of kind bridge are"),
            );
        }
        let known: Vec<_> = self.file.topology.nodes.0.iter().take(12).map(|(key, _)| key.value.as_str()).collect();
        at.invalid(format!("there is no node {node:?}"), Some(&format!("nodes of the lab: {}", known.join(" "))))
    }

    /// Keys without effect, of the nodes and of what nodes inherit.
    fn warnings(&self) -> Vec<String> {
        let topology = &self.file.topology;
        let named = [&topology.kinds, &topology.groups, &topology.nodes];
        let bodies =
            std::iter::once(&topology.defaults).chain(named.into_iter().flat_map(|b| b.0.iter().map(|(_, b)| b)));
        let keys = bodies.flat_map(Body::without_effect).chain(self.file.mgmt.as_ref().map(|m| ("mgmt", place(m))));
        let mut keys: Vec<_> = keys.collect();
        keys.sort_by_key(|(_, place)| *place);
        keys.into_iter()
            .map(|(key, place)| {
                let line = place.map(|p| format!(":{}", p.line)).unwrap_or_default();
                format!("{}{line}: the key {key} has no effect", self.inputs.file.display())
            })
            .collect()
    }
}
