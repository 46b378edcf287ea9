//! What a container's annotations ask for. Pure.
//!
//! | annotation | value |
//! |---|---|
//! | `rnet.network` | `NAME[,NAME]...`: one interface on each of these networks |
//! | `rnet.attach`, `rnet.attach.N` | `HOSTIF ADDRESS [MAC|U:text][@VLAN]`, the words of `rnet attach`; several separated by `;` |
//!
//! Networks come first, then `rnet.attach`, then `rnet.attach.N` by number. Any other key that begins with `rnet.` is an
//! error: a misspelt annotation must not become a container without the network it asked for.

use std::collections::BTreeMap;

use rnet_model::{AddressSpec, AttachOptions, AttachSpec, ContainerRef, HostIf, InvalidInput, NetworkName, PortSpec};

/// Most interfaces one container may ask for.
const LIMIT: usize = 64;
/// Most entries of published ports; each may be a range.
const PORTS: usize = 1024;

/// One interface a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// On a network.
    Network(NetworkName),
    /// On a host interface.
    Attach(Box<AttachSpec>),
    /// Ports of the host, after all interfaces.
    Publish(Vec<PortSpec>),
}

/// Whether the annotations ask for anything at all.
pub(super) fn any(annotations: &BTreeMap<String, String>) -> bool {
    annotations.keys().any(|k| k.starts_with("rnet."))
}

/// The wishes of a container, in the order of its interfaces.
pub(super) fn parse(
    annotations: &BTreeMap<String, String>,
    container: &ContainerRef,
) -> Result<Vec<Wish>, InvalidInput> {
    let mut networks = Vec::new();
    let mut ports = Vec::new();
    let mut attaches: Vec<(Option<u32>, &str, &str)> = Vec::new();
    for (key, value) in annotations.iter().filter(|(k, _)| k.starts_with("rnet.")) {
        match key.as_str() {
            "rnet.network" => networks = parse_networks(value)?,
            "rnet.publish" => ports = parse_ports(value)?,
            "rnet.attach" => attaches.push((None, key, value)),
            _ => attaches.push((Some(number(key)?), key, value)),
        }
    }
    attaches.sort();
    let mut wishes: Vec<Wish> = networks.into_iter().map(Wish::Network).collect();
    for (_, key, value) in attaches {
        let before = wishes.len();
        for entry in value.split(';').map(str::trim).filter(|e| !e.is_empty()) {
            wishes.push(Wish::Attach(Box::new(parse_attach(entry, container)?)));
        }
        if wishes.len() == before {
            return Err(InvalidInput::new("annotation", key, "is empty").hint(FORM));
        }
    }
    if !ports.is_empty() {
        wishes.push(Wish::Publish(ports));
    }
    if wishes.len() > LIMIT {
        let reason = format!("ask for {} interfaces, at most {LIMIT} are allowed", wishes.len());
        return Err(InvalidInput::new("annotations", "rnet.*", reason));
    }
    Ok(wishes)
}

const FORM: &str = "write it as: br0 192.168.115.10/24@gw";

fn number(key: &str) -> Result<u32, InvalidInput> {
    key.strip_prefix("rnet.attach.")
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| {
            InvalidInput::new("annotation", key, "is not known")
                .hint("known are rnet.network, rnet.attach, rnet.attach.N and rnet.publish")
        })
}

fn parse_networks(value: &str) -> Result<Vec<NetworkName>, InvalidInput> {
    let names: Vec<NetworkName> = value.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>()?;
    let mut seen = std::collections::HashSet::new();
    match names.iter().find(|n| !seen.insert(*n)) {
        Some(twice) => Err(InvalidInput::new("annotation rnet.network", value, format!("names {twice} twice"))),
        None => Ok(names),
    }
}

/// Words of `rnet publish`, separated by commas or spaces.
fn parse_ports(value: &str) -> Result<Vec<PortSpec>, InvalidInput> {
    let words = value.split([',', ' ']).filter(|word| !word.is_empty());
    let ports: Vec<PortSpec> = words.map(str::parse).collect::<Result<_, _>>()?;
    match ports.len() {
        0 => Err(InvalidInput::new("annotation", "rnet.publish", "is empty").hint("write it as: 8080:80, 53:53/udp")),
        1..=PORTS => Ok(ports),
        more => Err(InvalidInput::new("annotation", "rnet.publish", format!("has {more} entries, at most {PORTS}"))),
    }
}

fn parse_attach(entry: &str, container: &ContainerRef) -> Result<AttachSpec, InvalidInput> {
    let words: Vec<&str> = entry.split_whitespace().collect();
    let (hostif, address, mac) = match words[..] {
        [hostif, address] => (hostif, address, None),
        [hostif, address, mac] => (hostif, address, Some(mac)),
        _ => {
            let reason = "is not HOSTIF ADDRESS [MAC|U:text][@VLAN]";
            return Err(InvalidInput::new("annotation rnet.attach", entry, reason).hint(FORM));
        }
    };
    let hostif: HostIf = hostif.parse()?;
    let address: AddressSpec = address.parse()?;
    // The runtime calls the hook again for the next container of that id; the attachment must not outlive this one.
    let mut options = AttachOptions { no_persist: true, ..AttachOptions::default() };
    if let Some(word) = mac {
        options.apply_mac_word(word)?;
    }
    let spec = AttachSpec { hostif, container: container.clone(), address, options };
    spec.validate()?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(pairs: &[(&str, &str)]) -> Result<Vec<String>, InvalidInput> {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let show = |wish: &Wish| match wish {
            Wish::Network(name) => format!("network {name}"),
            Wish::Attach(spec) => {
                let mac = spec.options.mac.map(|m| format!(" {m}")).unwrap_or_default();
                let vlan = spec.options.vlan.map(|v| format!("@{v}")).unwrap_or_default();
                assert!(spec.options.no_persist && spec.container == ContainerRef::Pid(7));
                format!("{} {}{mac}{vlan}", spec.hostif, spec.address)
            }
            Wish::Publish(ports) => format!("publish {}", crate::output::list(ports)),
        };
        parse(&annotations, &ContainerRef::Pid(7)).map(|list| list.iter().map(show).collect())
    }

    #[test]
    fn forms_and_order() {
        assert_eq!(wishes(&[("io.kubernetes.x", "y"), ("rnetx", "z")]), Ok(vec![]));
        let all = wishes(&[
            ("rnet.attach", "br0 192.168.115.10/24@gw; br1  10.0.0.2/24,fd00::2/64  02:00:00:00:00:01@10 ;"),
            ("rnet.attach.10", "br10 none"),
            ("rnet.attach.2", "br2 auto U:x"),
            ("rnet.network", "blue, green"),
            ("rnet.publish", "8080:80, 53:53/udp"),
        ]);
        assert_eq!(
            all.unwrap(),
            [
                "network blue",
                "network green",
                "br0 192.168.115.10/24@gw",
                "br1 10.0.0.2/24,fd00::2/64 02:00:00:00:00:01@10",
                &format!("br2 auto {}", rnet_model::MacAddr::from_text("x")),
                "br10 none",
                "publish 8080:80/tcp, 53:53/udp",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (key, value) in [
            ("rnet.network", ""),
            ("rnet.network", "blue,"),
            ("rnet.network", "blue,blue"),
            ("rnet.network", "host"),
            ("rnet.attach", ""),
            ("rnet.attach", " ; "),
            ("rnet.attach", "br0"),
            ("rnet.attach", "br0 192.168.115.10"),
            ("rnet.attach", "br0 192.168.115.10/24 02:00:00:00:00:01 more"),
            ("rnet.attach", "br0/x none"),
            ("rnet.attach", "br0 none;br1"),
            ("rnet.attach.x", "br0 none"),
            ("rnet.attach.", "br0 none"),
            ("rnet.attach.+1", "br0 none"),
            ("rnet.attach.99999999999", "br0 none"),
            ("rnet.atach", "br0 none"),
            ("rnet.ports", "80:80"),
            ("rnet.publish", ""),
            ("rnet.publish", "80:x"),
            ("rnet.", ""),
        ] {
            assert!(wishes(&[(key, value)]).is_err(), "{key}={value}");
        }
        let many = "br0 none;".repeat(LIMIT + 1);
        assert!(wishes(&[("rnet.attach", &many)]).is_err());
    }
}
