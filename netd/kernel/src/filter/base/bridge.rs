//! `bridge NAME`: what the ports of networks may send, and to which other ports.
//!
//! A port is known by its name alone: conntrack and the bridge itself are not asked, which not every kernel can.

use std::net::Ipv4Addr;

use super::super::rules::{Chain, ChainKind, Ether, Expr, Field, Hook, Ip, KeyType, Meta, Rule, Selector, Set, Test};
use super::{
    ADVERTISE_NEIGHBOUR, ADVERTISE_ROUTER, REDIRECT, SOLICIT_NEIGHBOUR, SOLICIT_ROUTER, TCP, UDP, accept, drop, goto,
    icmpv6, port, protocol, rule, syn, within as is,
};

/// Ports that send what is theirs only.
pub(in crate::filter) const GUARDED: &str = "guarded";
pub(in crate::filter) const MACS: &str = "guard_mac";
pub(in crate::filter) const ADDRESSES: [&str; 2] = ["guard4", "guard6"];
/// Ports that hear nothing of each other.
pub(in crate::filter) const QUIET: &str = "quiet";
/// What they may say all the same; in both tables.
pub(in crate::filter) const LINKED: [&str; 2] = ["linked4", "linked6"];

const PREROUTING: &str = "prerouting";
const INPUT: &str = "input";
const FORWARD: &str = "forward";
const GUARD: &str = "guard";
const GUARD_ARP: &str = "guard_arp";
const GUARD_IP4: &str = "guard_ip4";
const GUARD_IP6: &str = "guard_ip6";
const BETWEEN_QUIET: &str = "between_quiet";

const PORT: Selector = Selector::Meta(Meta::Iifname);
/// Of the frame itself: a tag is seen, also when the device has taken it off.
const ETHER_TYPE: Selector = Selector::Ether(Ether::Type);
const IP: Field = Field::EtherType(0x0800);
const IP6: Field = Field::EtherType(0x86dd);
const ARP: Field = Field::EtherType(0x0806);
/// Multicast listener reports, RFC 2710 and RFC 3810.
const LISTENER_REPORT: u8 = 131;
const LISTENER_REPORT_2: u8 = 143;

pub(in crate::filter) fn sets() -> Vec<(&'static str, Set)> {
    let (v4, v6) = (KeyType::Ipv4Addr, KeyType::Ipv6Addr);
    let set = |name: &'static str, key: &[KeyType]| (name, Set::new(name, key));
    vec![
        set(GUARDED, &[KeyType::Ifname]),
        set(MACS, &[KeyType::Ifname, KeyType::EtherAddr]),
        set(ADDRESSES[0], &[KeyType::Ifname, v4]),
        set(ADDRESSES[1], &[KeyType::Ifname, v6]),
        set(QUIET, &[KeyType::Ifname]),
        set(LINKED[0], &[v4, v4, KeyType::InetProto, KeyType::InetService]),
        set(LINKED[1], &[v6, v6, KeyType::InetProto, KeyType::InetService]),
    ]
}

/// Priorities are those of nft(8)'s names in this family: dstnat -300, filter -200. Prerouting comes before br_netfilter.
pub(super) fn chains() -> Vec<Chain> {
    vec![
        Chain::plain(GUARD),
        Chain::plain(GUARD_ARP),
        Chain::plain(GUARD_IP4),
        Chain::plain(GUARD_IP6),
        Chain::plain(BETWEEN_QUIET),
        Chain::base(PREROUTING, ChainKind::Filter, Hook::Prerouting, -300),
        Chain::base(INPUT, ChainKind::Filter, Hook::Input, -200),
        Chain::base(FORWARD, ChainKind::Filter, Hook::Forward, -200),
    ]
}

pub(super) fn rules() -> Vec<Rule> {
    let mut all = guard_rules();
    all.extend(arp_rules());
    all.extend(ip_rules());
    all.extend(ip6_rules());
    all.extend(quiet_rules());
    all
}

fn own(selector: Selector, set: &str) -> Expr {
    Expr::In(vec![PORT, selector], set.to_owned())
}

fn strange(selector: Selector, set: &str) -> Expr {
    Expr::NotIn(vec![PORT, selector], set.to_owned())
}

fn guard_rules() -> Vec<Rule> {
    let reserved = |last| Field::Ether([0x01, 0x80, 0xc2, 0, 0, last]);
    let link_local = Test::Between(reserved(0), reserved(0x0f));
    vec![
        rule(PREROUTING, "what a container's port sends", [is(PORT, GUARDED), goto(GUARD)]),
        rule(
            INPUT,
            "frames for the bridge itself come by no other way: spanning tree, LLDP, LACP",
            [is(PORT, GUARDED), Expr::Match(Selector::Ether(Ether::Daddr), link_local), drop()],
        ),
        rule(GUARD, "another hardware address", [strange(Selector::Ether(Ether::Saddr), MACS), drop()]),
        rule(GUARD, "IPv4", [Expr::is(ETHER_TYPE, IP), goto(GUARD_IP4)]),
        rule(GUARD, "IPv6", [Expr::is(ETHER_TYPE, IP6), goto(GUARD_IP6)]),
        rule(GUARD, "ARP", [Expr::is(ETHER_TYPE, ARP), goto(GUARD_ARP)]),
        rule(GUARD, "tags and all other protocols", [drop()]),
    ]
}

fn arp_rules() -> Vec<Rule> {
    let request = Expr::is(Selector::ArpOperation, Field::Short(1));
    let nobody = Expr::is(Selector::ArpSaddrIp, Field::Ipv4(Ipv4Addr::UNSPECIFIED));
    vec![
        rule(GUARD_ARP, "says another hardware address", [strange(Selector::ArpSaddrEther, MACS), drop()]),
        rule(GUARD_ARP, "says its own address", [own(Selector::ArpSaddrIp, ADDRESSES[0]), accept()]),
        rule(GUARD_ARP, "asks whether an address is free", [request, nobody, accept()]),
        rule(GUARD_ARP, "says another address", [drop()]),
    ]
}

fn ip_rules() -> Vec<Rule> {
    let dhcp = |from, to| [protocol(UDP), port(Selector::Sport, from), port(Selector::Dport, to)];
    let [udp, sport, dport] = dhcp(67, 68);
    let [client_udp, client_sport, client_dport] = dhcp(68, 67);
    let nobody = Expr::is(Selector::Ip(Ip::Saddr), Field::Ipv4(Ipv4Addr::UNSPECIFIED));
    vec![
        rule(GUARD_IP4, "a DHCP server", [udp, sport, dport, drop()]),
        rule(GUARD_IP4, "from its own address", [own(Selector::Ip(Ip::Saddr), ADDRESSES[0]), accept()]),
        rule(GUARD_IP4, "a DHCP client", [nobody, client_udp, client_sport, client_dport, accept()]),
        rule(GUARD_IP4, "from another address", [drop()]),
    ]
}

fn ip6_rules() -> Vec<Rule> {
    let nd = |kind: u8, reason: &str, last: Vec<Expr>| {
        Rule::new(GUARD_IP6, [icmpv6(kind).to_vec(), last].concat()).comment(reason)
    };
    let nobody = || Expr::is(Selector::Ip6(Ip::Saddr), Field::Ipv6(std::net::Ipv6Addr::UNSPECIFIED));
    let unspecified = |kind: u8, reason: &str| {
        Rule::new(GUARD_IP6, [vec![nobody()], icmpv6(kind).to_vec(), vec![accept()]].concat()).comment(reason)
    };
    let server = [protocol(UDP), port(Selector::Sport, 547), port(Selector::Dport, 546), drop()];
    vec![
        nd(ADVERTISE_ROUTER, "a router", vec![drop()]),
        nd(REDIRECT, "a router's redirect", vec![drop()]),
        nd(ADVERTISE_NEIGHBOUR, "says another address", vec![strange(Selector::NdTarget, ADDRESSES[1]), drop()]),
        Rule::new(GUARD_IP6, server).comment("a DHCP server"),
        rule(GUARD_IP6, "from its own address", [own(Selector::Ip6(Ip::Saddr), ADDRESSES[1]), accept()]),
        Rule::new(
            GUARD_IP6,
            [vec![nobody()], icmpv6(SOLICIT_NEIGHBOUR).to_vec(), vec![own(Selector::NdTarget, ADDRESSES[1]), accept()]]
                .concat(),
        )
        .comment("asks whether its own address is free"),
        unspecified(SOLICIT_ROUTER, "asks for routers"),
        unspecified(LISTENER_REPORT, "joins its groups"),
        unspecified(LISTENER_REPORT_2, "joins its groups"),
        rule(GUARD_IP6, "from another address", [drop()]),
    ]
}

fn quiet_rules() -> Vec<Rule> {
    let (saddr, daddr) =
        ([Selector::Ip(Ip::Saddr), Selector::Ip6(Ip::Saddr)], [Selector::Ip(Ip::Daddr), Selector::Ip6(Ip::Daddr)]);
    let l4proto = Selector::Meta(Meta::L4proto);
    let asks = |at: usize| {
        let key = vec![saddr[at], daddr[at], l4proto, Selector::Dport];
        [Expr::In(key, LINKED[at].to_owned()), accept()]
    };
    let answers = |at: usize| {
        let key = vec![daddr[at], saddr[at], l4proto, Selector::Sport];
        [Expr::In(key, LINKED[at].to_owned()), accept()]
    };
    let nd = |kind| {
        let exprs = [icmpv6(kind).to_vec(), vec![accept()]].concat();
        Rule::new(BETWEEN_QUIET, exprs).comment("who is there")
    };
    vec![
        rule(
            FORWARD,
            "from a quiet port to a quiet port",
            [is(PORT, QUIET), is(Selector::Meta(Meta::Oifname), QUIET), goto(BETWEEN_QUIET)],
        ),
        rule(BETWEEN_QUIET, "who is there", [Expr::is(ETHER_TYPE, ARP), accept()]),
        nd(SOLICIT_NEIGHBOUR),
        nd(ADVERTISE_NEIGHBOUR),
        rule(BETWEEN_QUIET, "linked", asks(0)),
        rule(BETWEEN_QUIET, "the same for IPv6", asks(1)),
        rule(BETWEEN_QUIET, "an answer begins no connection", [protocol(TCP), syn(), drop()]),
        rule(BETWEEN_QUIET, "answers to what is linked", answers(0)),
        rule(BETWEEN_QUIET, "the same for IPv6", answers(1)),
        rule(BETWEEN_QUIET, "everything else", [drop()]),
    ]
}
