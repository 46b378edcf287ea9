//! `inet NAME`: what is routed, to and from the bridges of networks.

use super::super::FilterSet;
use super::super::rules::{
    Address, Chain, ChainKind, Ct, DataType, Expr, Fib, Field, Hook, Ip, KeyType, Meta, NatFlags, NatKind, NatTo,
    Ports, Rule, Selector, Set, Test, TupleOf,
};
use super::{accept, back, drop, goto, outside, rule, within as is};

/// Pairs `bridge . bridge` of one and the same bridge: what stays inside a network. nf_tables cannot compare two
/// fields of a packet, it can look a pair up.
pub(in crate::filter) const WITHIN: &str = "within";
pub(in crate::filter) const MASQUERADE: [&str; 2] = ["masquerade4", "masquerade6"];
/// Every masqueraded prefix as it was given; see `intervals`.
pub(in crate::filter) const PREFIXES: [&str; 2] = ["prefixes4", "prefixes6"];
pub(in crate::filter) const OUTBOUND: [&str; 2] = ["outbound4", "outbound6"];
/// The same for the prefixes that leave with an address of their own.
pub(in crate::filter) const OUTBOUNDS: [&str; 2] = ["outbound_prefixes4", "outbound_prefixes6"];
/// Published on every address.
pub(in crate::filter) const PUBLISHED: [&str; 2] = ["published4", "published6"];
/// Published on one address.
pub(in crate::filter) const PUBLISHED_AT: [&str; 2] = ["published4_at", "published6_at"];
/// Served on every loopback address.
pub(in crate::filter) const LOOPBACK: [&str; 2] = ["loopback4", "loopback6"];
/// Served on one loopback address.
pub(in crate::filter) const LOOPBACK_AT: [&str; 2] = ["loopback4_at", "loopback6_at"];
/// Pairs of one and the same address of a container with published ports: through br_netfilter no device a packet came in
/// by is known any more when it leaves.
pub(in crate::filter) const ITSELF: [&str; 2] = ["itself4", "itself6"];
pub(in crate::filter) const OPENED: [&str; 2] = ["opened4", "opened6"];
pub(in crate::filter) const HOST_DROPS: &str = "host_drops";
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(in crate::filter) const NFPROTO: [u8; 2] = [2, 10];

const FROM_INTERNAL: &str = "from_internal";
const FROM_ISOLATED: &str = "from_isolated";
const BETWEEN: &str = "between";
const HELD_APART: &str = "held_apart";
const TO_CONTAINERS: &str = "to_containers";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const INPUT: &str = "input";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

const IIF: Selector = Selector::Meta(Meta::Iifname);
const OIF: Selector = Selector::Meta(Meta::Oifname);
const L4PROTO: Selector = Selector::Meta(Meta::L4proto);
const ADDRESS: [KeyType; 2] = [KeyType::Ipv4Addr, KeyType::Ipv6Addr];
/// `RTN_LOCAL`, `RTN_UNICAST`, `RTN_BROADCAST`, `RTN_MULTICAST` (linux/rtnetlink.h).
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;
const BROADCAST: u32 = 3;
const MULTICAST: u32 = 5;

pub(in crate::filter) fn sets() -> Vec<(&'static str, Set)> {
    let set = |name: &'static str, key: &[KeyType]| (name, Set::new(name, key));
    let map = |name: &'static str, key: &[KeyType], value: &[KeyType]| {
        (name, Set::map(name, key, DataType::Value(value.to_vec())))
    };
    let intervals = |(name, set): (&'static str, Set)| (name, set.intervals());
    let mut all: Vec<_> = FilterSet::ALL.iter().map(|of| set(of.name(), &[KeyType::Ifname])).collect();
    all.push(set(WITHIN, &[KeyType::Ifname, KeyType::Ifname]));
    all.push((HOST_DROPS, Set::map(HOST_DROPS, &[KeyType::Nfproto], DataType::Verdict)));
    for (at, address) in ADDRESS.into_iter().enumerate() {
        let (proto, port) = (KeyType::InetProto, KeyType::InetService);
        all.extend([
            intervals(set(MASQUERADE[at], &[address])),
            set(PREFIXES[at], &[address, address]),
            intervals(map(OUTBOUND[at], &[address], &[address])),
            map(OUTBOUNDS[at], &[address, address], &[address]),
            map(PUBLISHED[at], &[proto, port], &[address, port]),
            map(PUBLISHED_AT[at], &[address, proto, port], &[address, port]),
            map(LOOPBACK[at], &[proto, port], &[port]),
            map(LOOPBACK_AT[at], &[address, proto, port], &[port]),
            set(OPENED[at], &[address, proto, port]),
            set(ITSELF[at], &[address, address]),
            set(super::bridge::LINKED[at], &[address, address, proto, port]),
        ]);
    }
    all
}

/// Priorities are those of nft(8)'s names: dstnat -100, filter 0, srcnat 100.
pub(super) fn chains() -> Vec<Chain> {
    vec![
        Chain::plain(FROM_INTERNAL),
        Chain::plain(FROM_ISOLATED),
        Chain::plain(BETWEEN),
        Chain::plain(HELD_APART),
        Chain::plain(TO_CONTAINERS),
        Chain::base(PREROUTING, ChainKind::Nat, Hook::Prerouting, -100),
        Chain::base(INPUT, ChainKind::Filter, Hook::Input, 0),
        Chain::base(FORWARD, ChainKind::Filter, Hook::Forward, 0),
        Chain::base(OUTPUT, ChainKind::Nat, Hook::Output, -100),
        Chain::base(POSTROUTING, ChainKind::Nat, Hook::Postrouting, 100),
    ]
}

pub(super) fn rules() -> Vec<Rule> {
    let mut all = destination_rules();
    all.extend(input_rules());
    all.extend(forward_rules());
    all.extend(postrouting_rules());
    all
}

fn fib(of: Fib, kind: u32) -> Expr {
    Expr::is(Selector::FibDaddrType(of), Field::Mark(kind))
}

fn fib_not(of: Fib, kind: u32) -> Expr {
    Expr::Match(Selector::FibDaddrType(of), Test::Not(Field::Mark(kind)))
}

fn replies() -> Expr {
    Expr::Match(Selector::Ct(Ct::State), Test::AnyOf(Ct::ESTABLISHED | Ct::RELATED))
}

fn dnatted() -> Expr {
    Expr::Match(Selector::Ct(Ct::Status), Test::AnyOf(Ct::DNAT))
}

fn loopback4() -> Test {
    Test::Within("127.0.0.0/8".parse().expect("a prefix"))
}

fn loopback6() -> Test {
    Test::Is(Field::Ipv6(std::net::Ipv6Addr::LOCALHOST))
}

fn daddr(at: usize) -> Selector {
    [Selector::Ip(Ip::Daddr), Selector::Ip6(Ip::Daddr)][at]
}

fn saddr(at: usize) -> Selector {
    [Selector::Ip(Ip::Saddr), Selector::Ip6(Ip::Saddr)][at]
}

/// Published ports: for destinations that are this host's own and not loopback.
fn destination_rules() -> Vec<Rule> {
    let none = NatFlags::default();
    let dnat = |at: usize, key: Vec<Selector>, map: &str| {
        let address = [Address::Ip, Address::Ip6][at];
        Expr::Nat(NatKind::Destination, NatTo::Map { key, map: map.to_owned(), address, ports: Ports::Mapped }, none)
    };
    let family = |at: usize| Expr::is(Selector::Meta(Meta::Nfproto), Field::Byte(NFPROTO[at]));
    let mut all = Vec::new();
    for (at, words) in [(0, "an address of its own"), (1, "the same for IPv6")] {
        all.push(rule(TO_CONTAINERS, words, [dnat(at, vec![daddr(at), L4PROTO, Selector::Dport], PUBLISHED_AT[at])]));
    }
    for (at, words) in [(0, "every other address"), (1, "the same for IPv6")] {
        all.push(rule(TO_CONTAINERS, words, [family(at), dnat(at, vec![L4PROTO, Selector::Dport], PUBLISHED[at])]));
    }
    all.extend([
        rule(PREROUTING, "what is for other hosts is left alone", [fib_not(Fib::Any, LOCAL), back()]),
        rule(PREROUTING, "loopback is nothing that comes in", [Expr::Match(daddr(0), loopback4()), back()]),
        rule(PREROUTING, "the same for IPv6", [Expr::Match(daddr(1), loopback6()), back()]),
        rule(PREROUTING, "a published port", [goto(TO_CONTAINERS)]),
    ]);
    for (at, loopback) in [loopback4(), loopback6()].into_iter().enumerate() {
        let words = ["one loopback address, by netd's proxy", "every loopback address", "nothing else of loopback"];
        let key = vec![daddr(at), L4PROTO, Selector::Dport];
        let redirect = |key, map: &str| Expr::Redirect(key, map.to_owned());
        let lo = Expr::Match(daddr(at), loopback);
        let any = redirect(vec![L4PROTO, Selector::Dport], LOOPBACK[at]);
        all.extend([
            rule(OUTPUT, words[0], [lo.clone(), redirect(key, LOOPBACK_AT[at])]),
            rule(OUTPUT, words[1], [lo.clone(), any]),
            rule(OUTPUT, words[2], [lo, back()]),
        ]);
    }
    all.push(rule(
        OUTPUT,
        "this host's own connections to a published port",
        [fib(Fib::Any, LOCAL), goto(TO_CONTAINERS)],
    ));
    all
}

fn input_rules() -> Vec<Rule> {
    let from = |set: FilterSet| is(IIF, set.name());
    vec![
        rule(INPUT, "an internal network ends at its own bridge", [from(FilterSet::Internal), goto(FROM_INTERNAL)]),
        rule(
            INPUT,
            "the gateway of another network is part of that network",
            [from(FilterSet::Isolated), goto(FROM_ISOLATED)],
        ),
        rule(FROM_INTERNAL, "replies to what the host itself asked", [replies(), accept()]),
        rule(FROM_INTERNAL, "the bridge's own addresses", [fib(Fib::Iif, LOCAL), accept()]),
        rule(FROM_INTERNAL, "DHCP", [fib(Fib::Iif, BROADCAST), accept()]),
        rule(FROM_INTERNAL, "neighbour discovery", [fib(Fib::Iif, MULTICAST), accept()]),
        rule(FROM_INTERNAL, "every other address of the host is outside", [drop()]),
        rule(FROM_ISOLATED, "replies to what the host itself asked", [replies(), accept()]),
        rule(FROM_ISOLATED, "the bridge's own addresses", [fib(Fib::Iif, LOCAL), accept()]),
        rule(
            FROM_ISOLATED,
            "an address in a network's prefix that is not on this bridge",
            [is(daddr(0), MASQUERADE[0]), fib_not(Fib::Iif, BROADCAST), drop()],
        ),
        rule(FROM_ISOLATED, "the same for IPv6", [is(daddr(1), MASQUERADE[1]), drop()]),
    ]
}

fn forward_rules() -> Vec<Rule> {
    let (from, to) = (|set: FilterSet| is(IIF, set.name()), |set: FilterSet| is(OIF, set.name()));
    let inside = || Expr::In(vec![IIF, OIF], WITHIN.to_owned());
    let networks = FilterSet::Networks.name();
    let opened = |at: usize| {
        let ct = [Ct::Ip4(TupleOf::Original, Ip::Daddr), Ct::Ip6(TupleOf::Original, Ip::Daddr)][at];
        let family = Expr::is(Selector::Meta(Meta::Nfproto), Field::Byte(NFPROTO[at]));
        let key = vec![Selector::Ct(ct), L4PROTO, Selector::Ct(Ct::ProtoDst(TupleOf::Original))];
        [family, Expr::In(key, OPENED[at].to_owned()), accept()]
    };
    let linked = |at: usize| {
        let key = vec![saddr(at), daddr(at), L4PROTO, Selector::Dport];
        [Expr::In(key, super::bridge::LINKED[at].to_owned()), accept()]
    };
    let untracked = Expr::Match(Selector::Ct(Ct::State), Test::AnyOf(Ct::ESTABLISHED | Ct::RELATED | Ct::UNTRACKED));
    vec![
        rule(
            FORWARD,
            "ports that are held apart do not meet by way of the host",
            [from(FilterSet::Apart), inside(), goto(HELD_APART)],
        ),
        rule(FORWARD, "inside one network: routed back, or bridged through br_netfilter", [inside(), accept()]),
        rule(FORWARD, "nothing leaves an internal network", [from(FilterSet::Internal), drop()]),
        rule(FORWARD, "nothing enters an internal network", [to(FilterSet::Internal), drop()]),
        rule(
            FORWARD,
            "published, and the host's firewall lets nothing in",
            [
                to(FilterSet::Networks),
                outside(IIF, networks),
                dnatted(),
                Expr::is(Selector::Ct(Ct::Direction), Field::Byte(0)),
                Expr::Vmap(vec![Selector::Meta(Meta::Nfproto)], HOST_DROPS.to_owned()),
            ],
        ),
        rule(FORWARD, "published, and its answers", [to(FilterSet::Networks), dnatted(), accept()]),
        rule(FORWARD, "opened, and its answers", opened(0)),
        rule(FORWARD, "the same for IPv6", opened(1)),
        rule(FORWARD, "from network to network", [from(FilterSet::Networks), to(FilterSet::Networks), goto(BETWEEN)]),
        rule(FORWARD, "replies to what a container asked outside", [to(FilterSet::Networks), replies(), accept()]),
        rule(FORWARD, "closed to everybody outside unless published", [to(FilterSet::Networks), drop()]),
        rule(BETWEEN, "isolated: talks to no other network", [from(FilterSet::Isolated), drop()]),
        rule(BETWEEN, "isolated: heard by no other network", [to(FilterSet::Isolated), drop()]),
        rule(HELD_APART, "a published port", [dnatted(), accept()]),
        rule(HELD_APART, "answers, and neighbour discovery through br_netfilter", [untracked, accept()]),
        rule(HELD_APART, "linked, through br_netfilter", linked(0)),
        rule(HELD_APART, "the same for IPv6", linked(1)),
        rule(HELD_APART, "everything else", [drop()]),
    ]
}

fn postrouting_rules() -> Vec<Rule> {
    let none = NatFlags::default();
    let itself =
        |at: usize| [dnatted(), Expr::In(vec![saddr(at), daddr(at)], ITSELF[at].to_owned()), Expr::Masquerade(none)];
    let leaves = || outside(OIF, FilterSet::Networks.name());
    let snat = |at: usize| {
        let address = [Address::Ip, Address::Ip6][at];
        let to = NatTo::Map { key: vec![saddr(at)], map: OUTBOUND[at].to_owned(), address, ports: Ports::Kept };
        Expr::Nat(NatKind::Source, to, none)
    };
    let multicast = || Expr::Match(daddr(1), Test::Outside("ff00::/8".parse().expect("a prefix")));
    let lo = || Expr::Match(OIF, Test::Not(Field::Ifname("lo".parse().expect("a name"))));
    vec![
        rule(
            POSTROUTING,
            "a published port from inside its own network: the answer has to come back this way",
            [dnatted(), Expr::In(vec![IIF, OIF], WITHIN.to_owned()), Expr::Masquerade(none)],
        ),
        rule(POSTROUTING, "a container's own published port, bridged through br_netfilter", itself(0)),
        rule(POSTROUTING, "the same for IPv6", itself(1)),
        rule(
            POSTROUTING,
            "leaves the host with an address of its own; no broadcast, no multicast",
            [leaves(), fib(Fib::Any, UNICAST), snat(0)],
        ),
        rule(POSTROUTING, "the same for IPv6", [leaves(), lo(), multicast(), snat(1)]),
        rule(
            POSTROUTING,
            "leaves the host with the host's address; no broadcast, no multicast",
            [is(saddr(0), MASQUERADE[0]), leaves(), fib(Fib::Any, UNICAST), Expr::Masquerade(none)],
        ),
        rule(
            POSTROUTING,
            "the same for IPv6",
            [is(saddr(1), MASQUERADE[1]), leaves(), lo(), multicast(), Expr::Masquerade(none)],
        ),
    ]
}
