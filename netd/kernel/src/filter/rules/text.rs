//! Changes in the words of nft(8).

use std::fmt::{self, Display, Formatter};

use super::{
    Address, ChainKind, Change, Changes, Ct, Data, DataType, Element, Ether, Expr, Family, Fib, Field, Hook, Ip,
    KeyType, MarkOf, Meta, NatFlags, NatKind, NatTo, Place, Policy, Reject, Selector, Set, Table, Test, TupleOf, Unit,
    Verdict,
};

fn list<T: Display>(f: &mut Formatter<'_>, items: &[T], between: &str) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(between)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Arp => "arp",
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
        };
        write!(f, "{family} {}", self.name)
    }
}

impl Display for KeyType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyType::Ipv4Addr => "ipv4_addr",
            KeyType::Ipv6Addr => "ipv6_addr",
            KeyType::InetProto => "inet_proto",
            KeyType::InetService => "inet_service",
            KeyType::Ifname => "ifname",
            KeyType::Mark => "mark",
            KeyType::EtherAddr => "ether_addr",
            KeyType::Nfproto => "nf_proto",
        })
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Field::Ipv4(a) => a.fmt(f),
            Field::Ipv6(a) => a.fmt(f),
            Field::Proto(6) => f.write_str("tcp"),
            Field::Proto(17) => f.write_str("udp"),
            Field::Proto(132) => f.write_str("sctp"),
            Field::Proto(n) | Field::Byte(n) => n.fmt(f),
            Field::Port(n) | Field::Short(n) => n.fmt(f),
            Field::Ifname(name) => write!(f, "\"{name}\""),
            Field::Mark(n) => write!(f, "{n:#010x}"),
            Field::Ether([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
            Field::EtherType(n) => write!(f, "{n:#06x}"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, first) in self.key.iter().enumerate() {
            if at > 0 {
                f.write_str(" . ")?;
            }
            first.fmt(f)?;
            if let Some(last) = self.upto.as_ref().and_then(|upto| upto.get(at)).filter(|last| *last != first) {
                write!(f, "-{last}")?;
            }
        }
        if let Some(comment) = &self.comment {
            write!(f, " comment \"{comment}\"")?;
        }
        match &self.data {
            Some(Data::Verdict(verdict)) => write!(f, " : {verdict}"),
            Some(Data::Value(fields)) => {
                f.write_str(" : ")?;
                list(f, fields, " . ")
            }
            None => Ok(()),
        }
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let side = |of: &TupleOf| if *of == TupleOf::Original { "original" } else { "reply" };
        let end = |ip: &Ip| if *ip == Ip::Saddr { "saddr" } else { "daddr" };
        match self {
            Selector::Meta(Meta::Iifname) => f.write_str("iifname"),
            Selector::Meta(Meta::Oifname) => f.write_str("oifname"),
            Selector::Meta(key) => write!(f, "meta {}", format!("{key:?}").to_lowercase()),
            Selector::Ip(ip) => write!(f, "ip {}", end(ip)),
            Selector::Ip6(ip) => write!(f, "ip6 {}", end(ip)),
            Selector::Sport => f.write_str("th sport"),
            Selector::Dport => f.write_str("th dport"),
            Selector::Ether(Ether::Saddr) => f.write_str("ether saddr"),
            Selector::Ether(Ether::Daddr) => f.write_str("ether daddr"),
            Selector::Ether(Ether::Type) => f.write_str("ether type"),
            Selector::ArpSaddrIp => f.write_str("arp saddr ip"),
            Selector::ArpSaddrEther => f.write_str("arp saddr ether"),
            Selector::ArpOperation => f.write_str("arp operation"),
            Selector::Icmpv6Type => f.write_str("icmpv6 type"),
            Selector::NdTarget => f.write_str("@th,64,128"),
            Selector::TcpFlags => f.write_str("tcp flags"),
            Selector::Ct(Ct::Ip4(of, ip)) => write!(f, "ct {} ip {}", side(of), end(ip)),
            Selector::Ct(Ct::Ip6(of, ip)) => write!(f, "ct {} ip6 {}", side(of), end(ip)),
            Selector::Ct(Ct::ProtoSrc(of)) => write!(f, "ct {} proto-src", side(of)),
            Selector::Ct(Ct::ProtoDst(of)) => write!(f, "ct {} proto-dst", side(of)),
            Selector::Ct(key) => write!(f, "ct {}", format!("{key:?}").to_lowercase()),
            Selector::FibDaddrType(Fib::Any) => f.write_str("fib daddr type"),
            Selector::FibDaddrType(Fib::Iif) => f.write_str("fib daddr . iif type"),
            Selector::FibDaddrType(Fib::Oif) => f.write_str("fib daddr . oif type"),
        }
    }
}

/// Numbers that nft(8) has words for.
fn named(selector: &Selector, field: &Field) -> Option<&'static str> {
    Some(match (selector, field) {
        (Selector::FibDaddrType(_), Field::Mark(2)) => "local",
        (Selector::Meta(Meta::Nfproto), Field::Byte(2)) => "ipv4",
        (Selector::Meta(Meta::Nfproto), Field::Byte(10)) => "ipv6",
        (Selector::Ct(Ct::Direction), Field::Byte(0)) => "original",
        (Selector::Ct(Ct::Direction), Field::Byte(1)) => "reply",
        (_, Field::Proto(58)) => "ipv6-icmp",
        (Selector::FibDaddrType(_), Field::Mark(1)) => "unicast",
        (Selector::FibDaddrType(_), Field::Mark(3)) => "broadcast",
        (Selector::FibDaddrType(_), Field::Mark(5)) => "multicast",
        (Selector::ArpOperation, Field::Short(1)) => "request",
        (Selector::Icmpv6Type, Field::Byte(131)) => "mld-listener-report",
        (Selector::Icmpv6Type, Field::Byte(133)) => "nd-router-solicit",
        (Selector::Icmpv6Type, Field::Byte(134)) => "nd-router-advert",
        (Selector::Icmpv6Type, Field::Byte(135)) => "nd-neighbor-solicit",
        (Selector::Icmpv6Type, Field::Byte(136)) => "nd-neighbor-advert",
        (Selector::Icmpv6Type, Field::Byte(137)) => "nd-redirect",
        (Selector::Icmpv6Type, Field::Byte(143)) => "mld2-listener-report",
        (_, Field::EtherType(0x0800)) => "ip",
        (_, Field::EtherType(0x86dd)) => "ip6",
        (_, Field::EtherType(0x0806)) => "arp",
        _ => return None,
    })
}

fn bits(selector: &Selector, mask: u32) -> String {
    let words: &[(u32, &str)] = match selector {
        Selector::Ct(Ct::State) => &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")],
        Selector::Ct(Ct::Status) => &[(16, "snat"), (32, "dnat")],
        _ => &[],
    };
    let set: Vec<&str> = words.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, word)| *word).collect();
    let known = words.iter().fold(0, |all, (bit, _)| all | bit);
    if mask & !known == 0 && !set.is_empty() { set.join(",") } else { format!("{mask:#010x}") }
}

fn test(f: &mut Formatter<'_>, selector: &Selector, test: &Test) -> fmt::Result {
    let word = |field: &Field| named(selector, field).map_or_else(|| field.to_string(), str::to_owned);
    write!(f, "{selector} ")?;
    match test {
        Test::Is(field) => f.write_str(&word(field)),
        Test::Not(field) => write!(f, "!= {}", word(field)),
        Test::StartsWith(text) => write!(f, "\"{text}*\""),
        Test::Within(net) => net.fmt(f),
        Test::Outside(net) => write!(f, "!= {net}"),
        Test::Between(first, last) => write!(f, "{first}-{last}"),
        Test::NotBetween(first, last) => write!(f, "!= {first}-{last}"),
        Test::AnyOf(mask) => f.write_str(&bits(selector, *mask)),
        Test::NoneOf(mask) => write!(f, "& {} == 0", bits(selector, *mask)),
        Test::Bits { mask, wanted } if *selector == Selector::TcpFlags => {
            write!(f, "& {mask:#04x} == {wanted:#04x}")
        }
        Test::Bits { mask, wanted } => write!(f, "& {mask:#010x} == {wanted:#010x}"),
        Test::NotBits { mask, unwanted } => write!(f, "& {mask:#010x} != {unwanted:#010x}"),
    }
}

impl Display for NatFlags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let flags = [(self.random, "random"), (self.fully_random, "fully-random"), (self.persistent, "persistent")];
        let words: Vec<&str> = flags.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if words.is_empty() { Ok(()) } else { write!(f, " {}", words.join(",")) }
    }
}

fn mark(of: MarkOf) -> &'static str {
    if of == MarkOf::Packet { "meta mark" } else { "ct mark" }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Match(selector, how) => test(f, selector, how),
            Expr::In(key, set) => {
                list(f, key, " . ")?;
                write!(f, " @{set}")
            }
            Expr::NotIn(key, set) => {
                list(f, key, " . ")?;
                write!(f, " != @{set}")
            }
            Expr::Vmap(key, map) => {
                list(f, key, " . ")?;
                write!(f, " vmap @{map}")
            }
            Expr::Verdict(verdict) => verdict.fmt(f),
            Expr::Counter => f.write_str("counter"),
            Expr::Masquerade(flags) => write!(f, "masquerade{flags}"),
            Expr::Nat(kind, to, flags) => {
                f.write_str(if *kind == NatKind::Source { "snat " } else { "dnat " })?;
                match to {
                    NatTo::Fixed(address, ports) => {
                        match (address.is_ipv4(), ports) {
                            (true, _) => write!(f, "ip to {address}")?,
                            (false, None) => write!(f, "ip6 to {address}")?,
                            (false, Some(_)) => write!(f, "ip6 to [{address}]")?,
                        }
                        match ports {
                            Some((first, last)) if first == last => write!(f, ":{first}")?,
                            Some((first, last)) => write!(f, ":{first}-{last}")?,
                            None => {}
                        }
                    }
                    NatTo::Map { key, map, address, .. } => {
                        f.write_str(if *address == Address::Ip { "ip to " } else { "ip6 to " })?;
                        list(f, key, " . ")?;
                        write!(f, " map @{map}")?;
                    }
                }
                flags.fmt(f)
            }
            Expr::Redirect(key, map) => {
                f.write_str("redirect to :")?;
                list(f, key, " . ")?;
                write!(f, " map @{map}")
            }
            Expr::SetMark { of, mask: 0, xor } => write!(f, "{} set {xor:#010x}", mark(*of)),
            Expr::SetMark { of, mask: keep, xor } => {
                write!(f, "{0} set {0} & {keep:#010x} ^ {xor:#010x}", mark(*of))
            }
            Expr::CopyMark(MarkOf::Packet) => f.write_str("meta mark set ct mark"),
            Expr::CopyMark(MarkOf::Connection) => f.write_str("ct mark set meta mark"),
            Expr::Trace => f.write_str("meta nftrace set 1"),
            Expr::Reject(how) => f.write_str(match how {
                Reject::PortUnreachable => "reject with icmpx port-unreachable",
                Reject::HostUnreachable => "reject with icmpx host-unreachable",
                Reject::AdminProhibited => "reject with icmpx admin-prohibited",
                Reject::TcpReset => "reject with tcp reset",
            }),
            Expr::Limit(limit) => {
                let per = match limit.per {
                    Unit::Second => "second",
                    Unit::Minute => "minute",
                    Unit::Hour => "hour",
                };
                write!(f, "limit rate {}/{per} burst {} packets", limit.rate, limit.burst)
            }
        }
    }
}

fn set(f: &mut Formatter<'_>, table: &Table, set: &Set) -> fmt::Result {
    write!(f, "add {} {table} {} {{ type ", if set.data.is_some() { "map" } else { "set" }, set.name)?;
    list(f, &set.key, " . ")?;
    match &set.data {
        Some(DataType::Verdict) => f.write_str(" : verdict")?,
        Some(DataType::Value(types)) => {
            f.write_str(" : ")?;
            list(f, types, " . ")?;
        }
        None => {}
    }
    f.write_str(if set.interval { "; flags interval" } else { "" })?;
    if let Some(comment) = &set.comment {
        write!(f, "; comment \"{comment}\"")?;
    }
    f.write_str("; }")
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Change::EnsureTable(t) => write!(f, "add table {t}"),
            Change::OwnTable(t) => write!(f, "add table {t} {{ flags owner, persist; }}"),
            Change::DestroyTable(t) => write!(f, "destroy table {t}"),
            Change::EnsureChain(t, chain) => {
                write!(f, "add chain {t} {}", chain.name)?;
                let Some(base) = &chain.base else { return Ok(()) };
                let kind = match base.kind {
                    ChainKind::Filter => "filter",
                    ChainKind::Nat => "nat",
                    ChainKind::Route => "route",
                };
                let hook = match base.hook {
                    Hook::Prerouting => "prerouting",
                    Hook::Input => "input",
                    Hook::Forward => "forward",
                    Hook::Output => "output",
                    Hook::Postrouting => "postrouting",
                    Hook::Ingress => "ingress",
                    Hook::Egress => "egress",
                };
                write!(f, " {{ type {kind} hook {hook}")?;
                if let Some(device) = &base.device {
                    write!(f, " device \"{device}\"")?;
                }
                let policy = if base.policy == Policy::Accept { "accept" } else { "drop" };
                write!(f, " priority {}; policy {policy}; }}", base.priority)
            }
            Change::FlushChain(t, chain) => write!(f, "flush chain {t} {chain}"),
            Change::DestroyChain(t, chain) => write!(f, "destroy chain {t} {chain}"),
            Change::EnsureSet(t, of) => set(f, t, of),
            Change::FlushSet(t, set) => write!(f, "flush set {t} {set}"),
            Change::DestroySet(t, set) => write!(f, "destroy set {t} {set}"),
            Change::AddRule(t, rule, place) => {
                match place {
                    Place::Last => write!(f, "add rule {t} {}", rule.chain)?,
                    Place::First => write!(f, "insert rule {t} {}", rule.chain)?,
                    Place::Before(handle) => write!(f, "insert rule {t} {} handle {handle}", rule.chain)?,
                    Place::After(handle) => write!(f, "add rule {t} {} handle {handle}", rule.chain)?,
                }
                rule.exprs.iter().try_for_each(|expr| write!(f, " {expr}"))?;
                rule.comment.as_ref().map_or(Ok(()), |comment| write!(f, " comment \"{comment}\""))
            }
            Change::DestroyRule(t, chain, handle) => write!(f, "destroy rule {t} {chain} handle {handle}"),
            Change::EnsureElements(t, set, elements) => {
                write!(f, "add element {t} {} {{ ", set.name)?;
                list(f, elements, ", ")?;
                f.write_str(" }")
            }
            Change::DestroyElements(t, set, elements) => {
                write!(f, "destroy element {t} {} {{ ", set.name)?;
                list(f, elements, ", ")?;
                f.write_str(" }")
            }
        }
    }
}

impl Display for Changes {
    /// One change a line.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        list(f, self.list(), "\n")
    }
}
