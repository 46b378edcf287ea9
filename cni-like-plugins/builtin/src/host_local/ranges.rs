//! Ranges of addresses: what the configuration says, and which address comes next.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use rnet_plugin_protocol::Error;
use serde::Deserialize;

/// A range as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RangeConfig {
    subnet: Option<IpNetwork>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl RangeConfig {
    /// Whether anything is given.
    pub(super) fn is_given(&self) -> bool {
        self.subnet.is_some()
    }
}

/// A range, everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) subnet: IpNetwork,
    first: u128,
    last: u128,
    pub(super) gateway: IpAddr,
}

/// Ranges an attachment gets one address of. All of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeSet(pub(super) Vec<Range>);

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Range {
    /// Fills in what is missing: the first address is the gateway's and, unless told otherwise, the range's too.
    pub(super) fn new(config: &RangeConfig) -> Result<Self, Error> {
        let subnet = config.subnet.ok_or_else(|| Error::config("host-local: a range needs a subnet"))?;
        let bits = if subnet.is_ipv4() { 32 } else { 128 };
        if subnet.prefix() > bits - 2 {
            return Err(Error::config(format!("host-local: network {subnet} too small to allocate from")));
        }
        if subnet.ip() != subnet.network() {
            return Err(Error::config(format!(
                "host-local: network has host bits set. For a subnet mask of length {} the network address is {}",
                subnet.prefix(),
                subnet.network()
            )));
        }
        let inside = |what: &str, ip: IpAddr| {
            let fits = subnet.contains(ip);
            fits.then_some(ip).ok_or_else(|| Error::config(format!("host-local: {what} {ip} not in network {subnet}")))
        };
        let network = number(subnet.network());
        let end = number(subnet.broadcast());
        let gateway = config.gateway.unwrap_or_else(|| address(network + 1, subnet.ip()));
        let first = config.range_start.map(|ip| inside("RangeStart", ip)).transpose()?.map_or(network + 1, number);
        // The last address of an IPv4 network is its broadcast address.
        let usable = if subnet.is_ipv4() { end - 1 } else { end };
        let last = config.range_end.map(|ip| inside("RangeEnd", ip)).transpose()?.map_or(usable, number);
        if first > last {
            return Err(Error::config(format!("host-local: range of {subnet} ends before it starts")));
        }
        Ok(Range { subnet, first, last, gateway })
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.subnet.is_ipv4() == ip.is_ipv4() && (self.first..=self.last).contains(&number(ip))
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// Addresses that can be given away.
    pub(super) fn size(&self) -> u128 {
        let all = self.last - self.first + 1;
        all - u128::from(self.contains(self.gateway))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let like = self.subnet.ip();
        write!(f, "{}-{}", address(self.first, like), address(self.last, like))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

impl RangeSet {
    pub(super) fn new(configs: &[RangeConfig]) -> Result<Self, Error> {
        let ranges = configs.iter().map(Range::new).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = ranges.first() else { return Err(Error::config("host-local: empty range set")) };
        if ranges.iter().any(|r| r.subnet.is_ipv4() != first.subnet.is_ipv4()) {
            return Err(Error::config("host-local: mixed address families in one range set"));
        }
        let set = RangeSet(ranges);
        for (i, range) in set.0.iter().enumerate() {
            if let Some(other) = set.0[..i].iter().find(|other| other.overlaps(range)) {
                return Err(Error::config(format!("host-local: subnets {other} and {range} overlap")));
            }
        }
        Ok(set)
    }

    pub(super) fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b)))
    }

    pub(super) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|r| r.contains(ip))
    }

    /// Every address once, in order, beginning behind `last` and going round; gateways are left out.
    pub(super) fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let count = self.0.len();
        let (at, start) = last
            .and_then(|ip| Some((self.0.iter().position(|r| r.contains(ip))?, number(ip))))
            .map_or((0, None), |(at, last)| (at, Some(last)));
        // The range of the last one comes twice: its end first, its beginning at the very end.
        let spans = (0..=count).map(move |step| {
            let range = &self.0[(at + step) % count];
            let from = start.filter(|_| step == 0).map_or(Some(range.first), |last| last.checked_add(1));
            let to = start.filter(|_| step == count).unwrap_or(range.last);
            let whole = start.is_some() || step < count;
            (range, from.filter(|_| whole), to)
        });
        spans
            .flat_map(|(range, from, to)| {
                Numbers { next: from, to }.map(move |n| (address(n, range.subnet.ip()), range))
            })
            .filter(|(ip, range)| *ip != range.gateway)
    }
}

/// From `next`, if there is one, to `to` inclusive.
struct Numbers {
    next: Option<u128>,
    to: u128,
}

impl Iterator for Numbers {
    type Item = u128;
    fn next(&mut self) -> Option<u128> {
        let now = self.next.filter(|next| *next <= self.to)?;
        self.next = now.checked_add(1);
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn set(ranges: serde_json::Value) -> Result<RangeSet, Error> {
        RangeSet::new(&Vec::<RangeConfig>::deserialize(&ranges).unwrap())
    }

    fn order(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        set.after(last.map(|l| l.parse().unwrap())).map(|(ip, _)| ip.to_string()).collect()
    }

    #[test]
    fn addresses_go_round_and_skip_gateways() {
        let one = set(json!([{"subnet": "10.0.0.0/29"}])).unwrap();
        assert_eq!(order(&one, None), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(order(&one, Some("10.0.0.4")), ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        // What lies in no range any more starts at the beginning.
        assert_eq!(order(&one, Some("10.9.9.9")).len(), 5);
        let two = set(json!([
            {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.8", "rangeEnd": "10.0.0.9"},
            {"subnet": "10.0.1.0/24", "rangeStart": "10.0.1.1", "rangeEnd": "10.0.1.2", "gateway": "10.0.1.2"},
        ]))
        .unwrap();
        assert_eq!(order(&two, None), ["10.0.0.8", "10.0.0.9", "10.0.1.1"]);
        assert_eq!(order(&two, Some("10.0.0.8")), ["10.0.0.9", "10.0.1.1", "10.0.0.8"]);
        assert_eq!(order(&two, Some("10.0.1.1")), ["10.0.0.8", "10.0.0.9", "10.0.1.1"]);
    }

    #[test]
    fn the_ends_of_the_number_space_are_reached_and_not_passed() {
        let v6 = set(json!([{"subnet": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff9/126"}]));
        assert_eq!(v6.unwrap_err().code, Error::INVALID_NETWORK_CONFIG, "/126 with host bits");
        let v6 = set(json!([{"subnet": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"}])).unwrap();
        assert_eq!(order(&v6, None).len(), 2);
        assert_eq!(order(&v6, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).len(), 2);
        let v4 = set(json!([{"subnet": "255.255.255.248/29"}])).unwrap();
        assert_eq!(order(&v4, None).last().unwrap(), "255.255.255.254");
        let all = set(json!([{"subnet": "0.0.0.0/0"}])).unwrap();
        assert_eq!(all.after(None).next().unwrap().0.to_string(), "0.0.0.2");
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        for (bad, word) in [
            (json!([{"subnet": "10.0.0.1/24"}]), "host bits"),
            (json!([{"subnet": "10.0.0.0/31"}]), "too small"),
            (json!([{"subnet": "fd00::/127"}]), "too small"),
            (json!([{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]), "RangeStart"),
            (json!([{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.1"}]), "RangeEnd"),
            (json!([{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}]), "ends before"),
            (json!([{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]), "mixed"),
            (json!([{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/16"}]), "overlap"),
            (json!([{"rangeStart": "10.0.0.9"}]), "subnet"),
            (json!([]), "empty"),
        ] {
            let error = set(bad.clone()).unwrap_err();
            assert_eq!(error.code, Error::INVALID_NETWORK_CONFIG, "{bad}");
            assert!(error.msg.contains(word), "{bad}: {error}");
        }
    }
}
