//! What a server grants, out of the options of its answer, and what the client asks for. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use rnet_plugin_protocol::{Dns, Error, Route};
use serde::{Deserialize, Serialize};

use super::message::{Message, Options, code};

/// What is asked for unless `skipDefault` says otherwise.
const DEFAULTS: [u8; 7] =
    [code::MASK, code::ROUTER, code::DNS, code::DOMAIN, code::STATIC_ROUTES, code::SEARCH, code::ROUTES];
/// RT_SCOPE_LINK of linux/rtnetlink.h.
const SCOPE_LINK: u8 = 253;
/// Seconds that stand for ever (RFC 2131 section 3.3).
const FOREVER: u32 = u32::MAX;

/// `request[]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    #[serde(default)]
    skip_default: bool,
    #[serde(default)]
    option: String,
}

/// `provide[]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Provide {
    #[serde(default)]
    option: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    from_arg: String,
}

/// What goes into every message that asks for an address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Ask {
    /// Numbers of option 55.
    pub(super) wanted: BTreeSet<u8>,
    /// Options of our own.
    pub(super) provided: Options,
    /// Metric of the routes.
    pub(super) priority: Option<u32>,
}

/// What was granted, for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) address: Ipv4Network,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) routes: Vec<Route>,
    pub(super) dns: Dns,
    pub(super) server: Ipv4Addr,
    /// Seconds from the request on; `None` = for ever.
    pub(super) times: Option<Times>,
}

/// Seconds from the request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Times {
    /// T1: the server is asked to go on.
    pub(super) renew: u32,
    /// T2: any server is.
    pub(super) rebind: u32,
    /// The address may not be used any more.
    pub(super) expire: u32,
}

/// Name or number of an option, as dhcp-options(5) calls them and as far as the reference knows them.
fn number(option: &str) -> Result<u8, Error> {
    Ok(match option {
        "dhcp-client-identifier" => code::CLIENT_ID,
        "subnet-mask" => code::MASK,
        "routers" => code::ROUTER,
        "host-name" => code::HOST_NAME,
        "user-class" => code::USER_CLASS,
        "vendor-class-identifier" => code::VENDOR_CLASS,
        _ => {
            let number = option.parse().ok().filter(|n| !matches!(*n, code::PAD | code::END));
            return number.ok_or_else(|| {
                Error::config(format!("dhcp: Can not parse option {option:?}")).details("a number from 1 to 254")
            });
        }
    })
}

impl Ask {
    /// `arg` reads `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 7 for an option that is none, or a value of more than 255 bytes.
    pub(super) fn new<'a>(
        request: &[Request],
        provide: &[Provide],
        priority: Option<u32>,
        arg: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, Error> {
        let mut wanted = BTreeSet::new();
        for one in request.iter().filter(|r| !r.option.is_empty() || !r.skip_default) {
            wanted.insert(number(&one.option)?);
        }
        if !request.iter().any(|r| r.skip_default) {
            wanted.extend(DEFAULTS);
        }
        let mut provided = Options::new();
        for one in provide {
            let number = number(&one.option)?;
            let values = [Some(one.value.as_str()), arg(&one.from_arg)];
            for value in values.into_iter().flatten().filter(|v| !v.is_empty()) {
                if value.len() > 255 {
                    return Err(Error::config(format!("dhcp: value too long for option {:?}", one.option))
                        .details(format!("it has {} bytes, and an option at most 255", value.len())));
                }
                provided.insert(number, value.as_bytes().to_vec());
            }
        }
        Ok(Ask { wanted, provided, priority })
    }
}

impl Terms {
    /// Out of an OFFER or an ACK.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(super) fn of(message: &Message, ask: &Ask) -> Result<Self, String> {
        let missing = |what: &str| format!("the server's answer has no {what}");
        let mask = message.address(code::MASK).ok_or_else(|| missing("subnet mask (option 1)"))?;
        let address = Ipv4Network::with_netmask(message.yours, mask)
            .map_err(|_| format!("the server's answer has the subnet mask {mask}, which is none"))?;
        if message.yours.is_unspecified() || message.yours.is_broadcast() || message.yours.is_multicast() {
            return Err(missing("address"));
        }
        let gateway = message.options.get(&code::ROUTER).and_then(|v| addresses(v).next());
        Ok(Terms {
            address,
            gateway,
            routes: routes(message, gateway, ask.priority),
            dns: dns(message),
            server: message.address(code::SERVER_ID).ok_or_else(|| missing("server identifier (option 54)"))?,
            times: times(message).ok_or_else(|| missing("lease time (option 51)"))?,
        })
    }
}

/// RFC 2131 section 4.4.5 where the server says nothing, or nothing that makes sense. At least a second, so that a
/// server that grants nothing does not make us ask without end.
fn times(message: &Message) -> Option<Option<Times>> {
    let expire = message.word(code::LEASE_TIME)?.max(1);
    if expire == FOREVER {
        return Some(None);
    }
    let part = |eighths: u64| u32::try_from(u64::from(expire) * eighths / 8).unwrap_or(expire);
    let rebind = message.word(code::REBINDING_TIME).filter(|t| *t <= expire).unwrap_or_else(|| part(7)).max(1);
    let renew = message.word(code::RENEWAL_TIME).filter(|t| *t <= rebind).unwrap_or_else(|| part(4).min(rebind)).max(1);
    Some(Some(Times { renew, rebind, expire }))
}

fn addresses(bytes: &[u8]) -> impl Iterator<Item = Ipv4Addr> + use<'_> {
    bytes.chunks_exact(4).map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3]))
}

/// RFC 3442: with option 121 the router and option 33 are not looked at.
fn routes(message: &Message, gateway: Option<Ipv4Addr>, priority: Option<u32>) -> Vec<Route> {
    let mut found = message.options.get(&code::ROUTES).map(|v| classless(v)).unwrap_or_default();
    if found.is_empty() {
        found.extend(message.options.get(&code::STATIC_ROUTES).map(|v| classful(v)).unwrap_or_default());
        let all = Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
        found.extend(gateway.map(|gw| (all, gw)));
    }
    // RFC 3442: a router of 0.0.0.0 stands for the link itself.
    let on_link = |gw: Ipv4Addr| gw.is_unspecified();
    found
        .into_iter()
        .map(|(dst, gw)| Route {
            priority,
            scope: on_link(gw).then_some(SCOPE_LINK),
            ..Route::new(IpNetwork::V4(dst), (!on_link(gw)).then_some(IpAddr::V4(gw)))
        })
        .collect()
}

/// RFC 3442: prefix length, as many bytes of the destination as matter, router.
fn classless(bytes: &[u8]) -> Vec<(Ipv4Network, Ipv4Addr)> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some((&prefix, behind)) = rest.split_first() {
        let length = usize::from(prefix).div_ceil(8);
        if prefix > 32 || behind.len() < length + 4 {
            break;
        }
        let mut octets = [0; 4];
        octets[..length].copy_from_slice(&behind[..length]);
        let destination = Ipv4Network::new(octets.into(), prefix).expect("the prefix length is at most 32");
        let destination = Ipv4Network::new(destination.network(), prefix).expect("the prefix length is at most 32");
        let router = addresses(&behind[length..length + 4]).next().expect("four bytes are an address");
        found.push((destination, router));
        rest = &behind[length + 4..];
    }
    found
}

/// RFC 2132 section 5.8: pairs of a destination, whose class gives its prefix length, and a router.
fn classful(bytes: &[u8]) -> Vec<(Ipv4Network, Ipv4Addr)> {
    let mut found = Vec::new();
    for pair in bytes.chunks_exact(8) {
        let prefix = match pair[0] {
            // The default route is not to be given here.
            _ if pair[..4] == [0; 4] => continue,
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        };
        let mut both = addresses(pair);
        let (destination, router) = both.next().zip(both.next()).expect("eight bytes are two addresses");
        let whole = Ipv4Network::new(destination, prefix).expect("the prefix length is at most 32");
        found.push((Ipv4Network::new(whole.network(), prefix).expect("the prefix length is at most 32"), router));
    }
    found
}

fn dns(message: &Message) -> Dns {
    let servers = message.options.get(&code::DNS).map(|v| addresses(v).map(|a| a.to_string()).collect());
    Dns {
        nameservers: servers.unwrap_or_default(),
        domain: message
            .text(code::DOMAIN)
            .map(|d| d.trim_end_matches('.').to_owned())
            .filter(|d| is_domain(d))
            .unwrap_or_default(),
        search: message.options.get(&code::SEARCH).map(|v| search(v)).unwrap_or_default(),
        options: Vec::new(),
    }
}

/// What may stand in a line of resolv.conf(5).
fn is_domain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 3397: names as in DNS messages, with pointers into the option.
fn search(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some((name, next)) = name_at(bytes, at) else { break };
        at = next;
        found.extend(Some(name).filter(|d| is_domain(d)));
    }
    found
}

/// A name and where the next one begins. Pointers lead backwards only, so there is no circle.
fn name_at(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut labels, mut at, mut next, mut bound) = (Vec::new(), start, None, start);
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((labels.join("."), next.unwrap_or(at + 1))),
            1..=63 => {
                labels.push(std::str::from_utf8(bytes.get(at + 1..at + 1 + length)?).ok()?.to_owned());
                at += 1 + length;
            }
            192.. => {
                let to = (length & 63) << 8 | usize::from(*bytes.get(at + 1)?);
                next.get_or_insert(at + 2);
                if to >= bound {
                    return None;
                }
                (at, bound) = (to, to);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::message::Kind;
    use super::*;

    fn ack(options: &[(u8, &[u8])]) -> Message {
        let mut all = Options::from([
            (code::MASK, vec![255, 255, 255, 0]),
            (code::SERVER_ID, vec![10, 0, 0, 1]),
            (code::LEASE_TIME, vec![0, 0, 0, 80]),
        ]);
        all.extend(options.iter().map(|(k, v)| (*k, v.to_vec())));
        Message {
            kind: Kind::Ack,
            xid: 1,
            secs: 0,
            broadcast: false,
            client: Ipv4Addr::UNSPECIFIED,
            yours: "10.0.0.9".parse().unwrap(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            options: all,
        }
    }

    fn terms(options: &[(u8, &[u8])]) -> Terms {
        Terms::of(&ack(options), &Ask::default()).unwrap()
    }

    fn routes_of(options: &[(u8, &[u8])]) -> Vec<String> {
        let word = |r: &Route| format!("{} {}", r.dst, r.gw.map_or_else(|| "link".to_owned(), |g| g.to_string()));
        terms(options).routes.iter().map(word).collect()
    }

    #[test]
    fn classless_routes_beat_the_others() {
        let router: (u8, &[u8]) = (code::ROUTER, &[10, 0, 0, 1, 10, 0, 0, 2]);
        let statics: (u8, &[u8]) = (code::STATIC_ROUTES, &[172, 16, 5, 0, 10, 0, 0, 3, 192, 168, 1, 0, 10, 0, 0, 4]);
        let classless: (u8, &[u8]) =
            (code::ROUTES, &[0, 10, 0, 0, 5, 20, 172, 20, 31, 10, 0, 0, 6, 32, 1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(routes_of(&[router]), ["0.0.0.0/0 10.0.0.1"]);
        assert_eq!(
            routes_of(&[router, statics]),
            ["172.16.0.0/16 10.0.0.3", "192.168.1.0/24 10.0.0.4", "0.0.0.0/0 10.0.0.1"]
        );
        assert_eq!(
            routes_of(&[router, statics, classless]),
            ["0.0.0.0/0 10.0.0.5", "172.20.16.0/20 10.0.0.6", "1.2.3.4/32 link"]
        );
        assert_eq!(routes_of(&[(code::ROUTES, &[33, 1])]), [""; 0]);
        assert_eq!(terms(&[router]).gateway, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn times_have_an_order() {
        let times = |t1: u32, t2: u32| {
            let (t1, t2) = (t1.to_be_bytes(), t2.to_be_bytes());
            let times = terms(&[(code::RENEWAL_TIME, &t1), (code::REBINDING_TIME, &t2)]).times.unwrap();
            (times.renew, times.rebind, times.expire)
        };
        assert_eq!(terms(&[]).times.unwrap(), Times { renew: 40, rebind: 70, expire: 80 });
        assert_eq!(times(10, 20), (10, 20, 80));
        assert_eq!(times(30, 20), (20, 20, 80));
        assert_eq!(times(10, 90), (10, 70, 80));
        assert_eq!(times(0, 0), (1, 1, 80));
        assert_eq!(terms(&[(code::LEASE_TIME, &[255; 4])]).times, None);
    }

    #[test]
    fn names_are_read_and_nothing_else_gets_into_resolv_conf() {
        let found = terms(&[
            (code::DNS, &[10, 0, 0, 2, 10, 0, 0, 3, 7]),
            (code::DOMAIN, b"example.org.\0"),
            (code::SEARCH, b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04\x02a;\x00"),
        ])
        .dns;
        assert_eq!(found.nameservers, ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(found.domain, "example.org");
        assert_eq!(found.search, ["eng.apple.com", "marketing.apple.com"]);
        assert_eq!(terms(&[(code::DOMAIN, b"a\nnameserver 1.2.3.4")]).dns.domain, "");
        assert_eq!(search(b"\xc0\x00"), [""; 0], "a pointer to itself");
        assert_eq!(search(b"\x01a\xc0\x00"), [""; 0], "a circle");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (number, word) in
            [(code::MASK, "subnet mask"), (code::SERVER_ID, "server"), (code::LEASE_TIME, "lease time")]
        {
            let mut message = ack(&[]);
            message.options.remove(&number);
            assert!(Terms::of(&message, &Ask::default()).unwrap_err().contains(word));
        }
        assert!(
            Terms::of(&ack(&[(code::MASK, &[255, 0, 255, 0])]), &Ask::default()).unwrap_err().contains("255.0.255.0")
        );
    }

    #[test]
    fn options_by_name_and_number() {
        let request: Vec<Request> = serde_json::from_str(r#"[{"option": "routers"}, {"option": "42"}]"#).unwrap();
        let provide: Vec<Provide> = serde_json::from_str(
            r#"[{"option": "host-name", "value": "x", "fromArg": "NAME"}, {"option": "60", "value": "v"}]"#,
        )
        .unwrap();
        let ask = Ask::new(&request, &provide, None, |k| (k == "NAME").then_some("pod")).unwrap();
        assert!([1, 3, 6, 15, 33, 42, 119, 121].iter().all(|n| ask.wanted.contains(n)));
        assert_eq!(ask.provided, Options::from([(12, b"pod".to_vec()), (60, b"v".to_vec())]));
        let only: Vec<Request> = serde_json::from_str(r#"[{"skipDefault": true, "option": "subnet-mask"}]"#).unwrap();
        assert_eq!(Ask::new(&only, &[], None, |_| None).unwrap().wanted, BTreeSet::from([1]));
        for bad in ["", "router", "0", "255", "256"] {
            assert_eq!(number(bad).unwrap_err().code, Error::INVALID_NETWORK_CONFIG, "{bad}");
        }
        let long: Vec<Provide> =
            serde_json::from_value(serde_json::json!([{"option": "12", "value": "x".repeat(256)}])).unwrap();
        assert!(Ask::new(&[], &long, None, |_| None).unwrap_err().msg.contains("value too long"));
    }
}
