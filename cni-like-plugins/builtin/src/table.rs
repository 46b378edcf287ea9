//! The nf_tables table of the plugins, `inet rnet_cni`: rules that never grow, and sets whose elements are what an ADD
//! adds and a DEL removes.
//!
//! The table is put there by the first plugin that needs it, in one transaction that may be repeated, and removed with
//! its last element. Each element's comment says whose it is.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rnet_kernel::KernelError;
use rnet_kernel::rules::{
    Address, Chain, ChainInfo, ChainKind, Changes, Ct, DataType, Element, Expr, Family, Field, Hook, Ip, KeyType, Meta,
    NatFlags, NatKind, NatTo, NfTables, Place, Ports, Rule, Selector, Set, Table, Test, Verdict,
};
use rnet_model::Subnet;
use rnet_plan::{Action, Plan};
use rnet_plugin_protocol::{AttachmentId, Error, IpConfig};
use sha2::{Digest, Sha256};

use crate::common::subnet;

/// Told apart by its last number: a table of another version is put right by the first plugin of this one.
const VERSION: &str = "version_2";
/// Bytes a comment of nf_tables may have.
const COMMENT: usize = 127;
const ENOENT: i32 = 2;

/// The table.
pub(crate) fn table() -> Table {
    Table::new(Family::Inet, "rnet_cni")
}

/// The sets of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv {
    V4,
    V6,
}

impl Ipv {
    pub(crate) const BOTH: [Ipv; 2] = [Ipv::V4, Ipv::V6];

    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Ipv::V4 } else { Ipv::V6 }
    }

    fn named(self, name: &str) -> String {
        format!("{name}{}", if self == Ipv::V4 { 4 } else { 6 })
    }

    fn key(self) -> KeyType {
        if self == Ipv::V4 { KeyType::Ipv4Addr } else { KeyType::Ipv6Addr }
    }

    fn address(self) -> Address {
        if self == Ipv::V4 { Address::Ip } else { Address::Ip6 }
    }

    fn header(self, field: Ip) -> Selector {
        if self == Ipv::V4 { Selector::Ip(field) } else { Selector::Ip6(field) }
    }

    fn loopback(self) -> Subnet {
        let text = if self == Ipv::V4 { "127.0.0.0/8" } else { "::1/128" };
        text.parse().expect("a prefix")
    }

    fn multicast(self) -> Subnet {
        let text = if self == Ipv::V4 { "224.0.0.0/4" } else { "ff00::/8" };
        text.parse().expect("a prefix")
    }

    /// Addresses whose packets leave with the host's address, unless they stay in a subnet of [`Ipv::own`].
    pub(crate) fn masquerade(self) -> Set {
        Set::new(self.named("masquerade"), &[self.key()])
    }

    /// Pairs of a subnet with itself: what does not leave the network.
    pub(crate) fn own(self) -> Set {
        Set::new(self.named("own"), &[self.key(), self.key()]).intervals()
    }

    /// Published ports of every address of the host.
    pub(crate) fn ports(self) -> Set {
        let data = DataType::Value(vec![self.key(), KeyType::InetService]);
        Set::map(self.named("ports"), &[KeyType::InetProto, KeyType::InetService], data)
    }

    /// Published ports of one address of the host.
    pub(crate) fn ports_at(self) -> Set {
        let data = DataType::Value(vec![self.key(), KeyType::InetService]);
        Set::map(self.named("ports_at"), &[self.key(), KeyType::InetProto, KeyType::InetService], data)
    }

    /// Container ports that are published, and reached from their own subnet and from the host itself too.
    pub(crate) fn reflected(self) -> Set {
        Set::new(self.named("reflected"), &[self.key(), KeyType::InetProto, KeyType::InetService])
    }

    /// Container ports whose callers all come in with the host's address.
    pub(crate) fn hidden(self) -> Set {
        Set::new(self.named("hidden"), &[self.key(), KeyType::InetProto, KeyType::InetService])
    }

    /// Containers nobody of [`Ipv::sealed`] in another network reaches.
    pub(crate) fn sealed(self) -> Set {
        Set::new(self.named("sealed"), &[self.key()])
    }

    /// Containers nobody of their own network reaches.
    pub(crate) fn isolated(self) -> Set {
        Set::new(self.named("isolated"), &[self.key()])
    }

    /// Containers that are let through a host's filter that drops: only answers, each other and published ports.
    pub(crate) fn fenced(self) -> Set {
        Set::new(self.named("fenced"), &[self.key()])
    }

    /// Whether it is a set of this family.
    pub(crate) fn has(self, set: &Set) -> bool {
        self.sets().contains(set)
    }

    /// Every set of the family.
    fn sets(self) -> [Set; 9] {
        [
            self.masquerade(),
            self.own(),
            self.ports(),
            self.ports_at(),
            self.reflected(),
            self.hidden(),
            self.sealed(),
            self.isolated(),
            self.fenced(),
        ]
    }
}

/// Devices of the host that take packets for 127.0.0.0/8, with the addresses behind them for whose ports they do.
pub(crate) fn localnet() -> Set {
    Set::new("localnet", &[KeyType::Ifname, KeyType::Ipv4Addr])
}

/// Every set.
pub(crate) fn sets() -> Vec<Set> {
    Ipv::BOTH.into_iter().flat_map(Ipv::sets).chain([localnet()]).collect()
}

/// Whose an element is: the network, the attachment, and words for whoever lists the table.
pub(crate) fn owner(network: &str, id: &AttachmentId) -> String {
    let mut text = format!("{}{} {} {}", network_key(network), attachment_key(id), id.ifname, id.container);
    text.truncate(COMMENT);
    text
}

fn digest(text: &str, bytes: usize) -> String {
    Sha256::digest(text.as_bytes()).iter().take(bytes).map(|b| format!("{b:02x}")).collect()
}

/// What the comments of a network's elements begin with.
pub(crate) fn network_key(network: &str) -> String {
    digest(network, 6)
}

fn attachment_key(id: &AttachmentId) -> String {
    digest(&format!("{}\0{}", id.container, id.ifname), 8)
}

/// Whether a comment is of this network and of none of these attachments.
pub(crate) fn is_stale(comment: &str, network: &str, valid: &[AttachmentId]) -> bool {
    comment
        .strip_prefix(&network_key(network))
        .is_some_and(|rest| !valid.iter().any(|v| rest.starts_with(&attachment_key(v))))
}

/// The chains of the rules.
fn chains() -> [Chain; 5] {
    [
        // Before anything is translated: what an answer is translated back to comes later.
        Chain::base("guard", ChainKind::Filter, Hook::Prerouting, -300),
        Chain::base("forward", ChainKind::Filter, Hook::Forward, 1),
        Chain::base("prerouting", ChainKind::Nat, Hook::Prerouting, -100),
        Chain::base("output", ChainKind::Nat, Hook::Output, -100),
        Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, 100),
    ]
}

fn is_version(chain: &ChainInfo) -> bool {
    chain.name.starts_with("version_")
}

/// Whether these are the chains of this version, each with as many rules as it has to have.
fn is_whole(there: &[ChainInfo]) -> bool {
    let rules = rules();
    let full = |chain: &Chain| {
        let count = rules.iter().filter(|r| r.chain == chain.name).count();
        there.iter().any(|c| c.name == chain.name && usize::try_from(c.uses).is_ok_and(|uses| uses == count))
    };
    let mut versions = there.iter().filter(|c| is_version(c));
    versions.next().is_some_and(|c| c.name == VERSION) && versions.next().is_none() && chains().iter().all(full)
}

/// The rules are still there.
///
/// # Errors
/// When somebody has taken some away.
pub(crate) fn check(tables: &mut NfTables) -> Result<(), Error> {
    let table = table();
    if is_whole(&tables.chains(&table)?) {
        return Ok(());
    }
    Err(Error::internal(format!("rules of table {table} are gone")).details("the next ADD puts them there again"))
}

/// What has to stand before changes of elements: nothing when the table is there as it has to be.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn base(tables: &mut NfTables) -> Result<Changes, KernelError> {
    let table = table();
    let there = tables.chains(&table)?;
    let mut changes = Changes::new();
    if is_whole(&there) {
        return Ok(changes);
    }
    changes.ensure_table(&table);
    for set in sets() {
        changes.ensure_set(&table, set);
    }
    for chain in chains() {
        // Flushed and filled in one transaction: whoever comes second makes the same again.
        changes.ensure_chain(&table, chain.clone()).flush_chain(&table, &chain.name);
    }
    for rule in rules() {
        changes.add_rule(&table, rule, Place::Last);
    }
    for other in there.iter().filter(|c| is_version(c) && c.name != VERSION) {
        changes.destroy_chain(&table, &other.name);
    }
    changes.ensure_chain(&table, Chain::plain(VERSION));
    Ok(changes)
}

fn rules() -> Vec<Rule> {
    Ipv::BOTH
        .into_iter()
        .flat_map(|v| translation("prerouting", v))
        .chain(Ipv::BOTH.into_iter().flat_map(|v| translation("output", v)))
        .chain(Ipv::BOTH.into_iter().flat_map(hiding))
        .chain([guard()])
        .chain(Ipv::BOTH.into_iter().flat_map(fences))
        .collect()
}

/// What `route_localnet` of a device would let in: packets from outside to the host's loopback addresses.
fn guard() -> Rule {
    let lo = Field::Ifname("lo".parse().expect("a name"));
    let exprs = vec![
        Expr::Match(Selector::Meta(Meta::Iifname), Test::Not(lo)),
        Expr::Match(Ipv::V4.header(Ip::Daddr), Test::Within(Ipv::V4.loopback())),
        Expr::Verdict(Verdict::Drop),
    ];
    Rule::new("guard", exprs).comment("loopback addresses are for the host alone")
}

/// What containers may send to each other.
fn fences(v: Ipv) -> Vec<Rule> {
    let source = || vec![v.header(Ip::Saddr)];
    let target = || vec![v.header(Ip::Daddr)];
    let pair = || vec![v.header(Ip::Saddr), v.header(Ip::Daddr)];
    let drop = || Expr::Verdict(Verdict::Drop);
    let known = Ct::ESTABLISHED | Ct::RELATED;
    let rule = |exprs: Vec<Expr>, comment: &str| Rule::new("forward", exprs).comment(comment);
    vec![
        rule(
            vec![Expr::In(target(), v.isolated().name), Expr::In(pair(), v.own().name), drop()],
            "isolated from its own network",
        ),
        rule(
            vec![
                Expr::In(target(), v.sealed().name),
                Expr::In(source(), v.sealed().name),
                Expr::NotIn(pair(), v.own().name),
                drop(),
            ],
            "from another network",
        ),
        rule(
            vec![
                Expr::In(target(), v.fenced().name),
                Expr::Match(Selector::Ct(Ct::State), Test::NoneOf(known)),
                Expr::Match(Selector::Ct(Ct::Status), Test::NoneOf(Ct::DNAT)),
                Expr::NotIn(source(), v.fenced().name),
                drop(),
            ],
            "what the host's own filter would have thrown away",
        ),
    ]
}

/// Published ports, by address first.
fn translation(chain: &str, v: Ipv) -> Vec<Rule> {
    let map = |key: Vec<Selector>, set: Set| {
        let to = NatTo::Map { key, map: set.name, address: v.address(), ports: Ports::Mapped };
        Expr::Nat(NatKind::Destination, to, NatFlags::default())
    };
    let port = || vec![Selector::Meta(Meta::L4proto), Selector::Dport];
    let at: Vec<Selector> = std::iter::once(v.header(Ip::Daddr)).chain(port()).collect();
    vec![
        // An address that is not this host's is none of its business, whoever asks for it.
        Rule::new(chain, vec![Expr::to_local(), map(at, v.ports_at())]).comment("a port of one address"),
        Rule::new(chain, vec![Expr::to_local(), map(port(), v.ports())]).comment("a port of every address of the host"),
    ]
}

fn hiding(v: Ipv) -> Vec<Rule> {
    let to = || vec![v.header(Ip::Daddr), Selector::Meta(Meta::L4proto), Selector::Dport];
    let pair = || vec![v.header(Ip::Saddr), v.header(Ip::Daddr)];
    let translated = || Expr::Match(Selector::Ct(Ct::Status), Test::AnyOf(Ct::DNAT));
    let masquerade = || Expr::Masquerade(NatFlags::default());
    let chain = "postrouting";
    vec![
        Rule::new(chain, vec![translated(), Expr::In(to(), v.hidden().name), masquerade()]).comment("snat asked for"),
        Rule::new(
            chain,
            vec![translated(), Expr::In(to(), v.reflected().name), Expr::In(pair(), v.own().name), masquerade()],
        )
        .comment("the answer has to come back this way"),
        Rule::new(
            chain,
            vec![
                translated(),
                Expr::In(to(), v.reflected().name),
                Expr::Match(v.header(Ip::Saddr), Test::Within(v.loopback())),
                masquerade(),
            ],
        )
        .comment("from the host itself, by its loopback address"),
        Rule::new(chain, vec![Expr::In(pair(), v.own().name), Expr::Verdict(Verdict::Return)])
            .comment("does not leave its network"),
        Rule::new(
            chain,
            vec![
                Expr::In(vec![v.header(Ip::Saddr)], v.masquerade().name),
                Expr::Match(v.header(Ip::Daddr), Test::Outside(v.multicast())),
                masquerade(),
            ],
        )
        .comment("leaves with the host's address"),
    ]
}

/// Adds what makes these addresses leave with the host's own.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn hide(
    tables: &mut NfTables,
    ips: impl Iterator<Item = IpNetwork>,
    owner: &str,
) -> Result<Changes, KernelError> {
    let mut changes = base(tables)?;
    let ips: Vec<IpNetwork> = ips.collect();
    keep_own(tables, &mut changes, &ips)?;
    for net in ips {
        let v = Ipv::of(net.ip());
        put(tables, &mut changes, &v.masquerade(), Element::key([Field::from(net.ip())]).comment(owner))?;
    }
    Ok(changes)
}

/// First and last address of a subnet.
type Span = (IpAddr, IpAddr);

/// Adds the subnets of addresses to what does not leave its network. The kernel refuses intervals that overlap, so of
/// subnets within each other only the widest is there, until the table goes: what stays in it stays unmasqueraded.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn keep_own(tables: &mut NfTables, changes: &mut Changes, nets: &[IpNetwork]) -> Result<(), KernelError> {
    let within = |a: &Span, b: &Span| b.0 <= a.0 && a.1 <= b.1;
    for v in Ipv::BOTH {
        let subnets = nets.iter().filter(|net| Ipv::of(net.ip()) == v).map(subnet);
        let wanted: BTreeSet<Span> = subnets.map(|s| (s.network(), s.last())).collect();
        if wanted.is_empty() {
            continue;
        }
        let there: Vec<Span> = elements(tables, &v.own())?.iter().filter_map(span).collect();
        let widest = |one: &Span| {
            let around = wanted.iter().chain(&there).filter(|other| within(one, other));
            around.min_by_key(|(first, last)| (*first, Reverse(*last))).copied()
        };
        let put: BTreeSet<Span> = wanted.iter().filter_map(widest).collect();
        let narrow = |one: &&Span| put.iter().any(|p| p != *one && within(one, p));
        let gone: Vec<Element> = there.iter().filter(narrow).map(pair).collect();
        if !gone.is_empty() {
            changes.destroy_elements(&table(), &v.own(), gone);
        }
        // One that is there already may go with the table before this is committed.
        changes.ensure_elements(&table(), &v.own(), put.iter().map(pair).collect());
    }
    Ok(())
}

fn pair((first, last): &Span) -> Element {
    let (first, last) = (Field::from(*first), Field::from(*last));
    Element { upto: Some(vec![last.clone(), last]), ..Element::key([first.clone(), first]) }
}

fn span(element: &Element) -> Option<Span> {
    let ip = |fields: &[Field]| match fields.first()? {
        Field::Ipv4(ip) => Some(IpAddr::from(*ip)),
        Field::Ipv6(ip) => Some(IpAddr::from(*ip)),
        _ => None,
    };
    Some((ip(&element.key)?, ip(element.upto.as_ref().unwrap_or(&element.key))?))
}

/// The elements of a set of the table; none where it is not there.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn elements(tables: &mut NfTables, set: &Set) -> Result<Vec<Element>, KernelError> {
    match tables.elements(&table(), set) {
        Err(e) if e.errno == ENOENT => Ok(Vec::new()),
        other => other,
    }
}

/// Adds an element, in the place of one that somebody else left under the same key.
pub(crate) fn put(
    tables: &mut NfTables,
    changes: &mut Changes,
    set: &Set,
    element: Element,
) -> Result<(), KernelError> {
    let table = table();
    if tables.get_element(&table, set, &element.key)?.is_some_and(|there| there != element) {
        changes.destroy_elements(&table, set, vec![element.clone()]);
    }
    changes.ensure_elements(&table, set, vec![element]);
    Ok(())
}

/// Removes the elements with these keys that are `owner`'s. Where one of them is not there, all of `owner`'s elements of
/// `sets` are: what was added had other keys.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn take(
    tables: &mut NfTables,
    keys: impl Iterator<Item = (Set, Vec<Field>)>,
    sets: &[Set],
    owner: &str,
) -> Result<Changes, KernelError> {
    let table = table();
    let mut changes = Changes::new();
    let mut keys = keys.peekable();
    let mut known = keys.peek().is_some();
    for (set, key) in keys {
        match tables.get_element(&table, &set, &key)? {
            Some(element) if element.comment.as_deref() == Some(owner) => {
                changes.destroy_elements(&table, &set, vec![element]);
            }
            _ => known = false,
        }
    }
    if known { Ok(changes) } else { take_all(tables, sets, &|comment| comment == owner) }
}

/// Removes every element with such a comment from these sets.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn take_all(
    tables: &mut NfTables,
    sets: &[Set],
    whose: &dyn Fn(&str) -> bool,
) -> Result<Changes, KernelError> {
    let mut changes = Changes::new();
    for set in sets {
        let is = |e: &Element| e.comment.as_deref().is_some_and(whose);
        let all: Vec<Element> = elements(tables, set)?.into_iter().filter(is).collect();
        if !all.is_empty() {
            changes.destroy_elements(&table(), set, all);
        }
    }
    Ok(changes)
}

/// The sets of [`hide`].
pub(crate) fn hiding_sets() -> Vec<Set> {
    Ipv::BOTH.map(Ipv::masquerade).to_vec()
}

/// Plans a change of elements, and the removal of the table if nothing is left in it.
pub(crate) fn remove(changes: Changes, plan: &mut Plan) {
    if !changes.is_empty() {
        plan.step("cni.table", Action::Tables(changes));
        remove_unused(plan);
    }
}

/// The same if nobody has changed anything since this generation.
pub(crate) fn remove_unless_changed(changes: Changes, generation: u32, plan: &mut Plan) {
    if !changes.is_empty() {
        plan.step("cni.table", Action::TablesUnlessChanged(changes, generation));
        remove_unused(plan);
    }
}

fn remove_unused(plan: &mut Plan) {
    // The subnets of networks stay until nothing else is there: they only ever spare traffic.
    let own = Ipv::BOTH.map(|v| v.own().name);
    let used = sets().into_iter().filter(|s| !own.contains(&s.name));
    plan.step("cni.table", Action::RemoveUnused(table(), used.collect()));
}

/// Plans the removal of what [`hide`] added.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn show(tables: &mut NfTables, ips: &[IpAddr], owner: &str, plan: &mut Plan) -> Result<(), KernelError> {
    // The previous result and the container itself may both name an address, and it can be removed once only.
    let ips: BTreeSet<IpAddr> = ips.iter().copied().collect();
    let keys = ips.into_iter().map(|ip| (Ipv::of(ip).masquerade(), vec![Field::from(ip)]));
    let changes = take(tables, keys, &hiding_sets(), owner)?;
    remove(changes, plan);
    Ok(())
}

/// Every address is still in its set.
///
/// # Errors
/// The first that is not.
pub(crate) fn check_hidden(tables: &mut NfTables, ips: &[IpConfig], owner: &str) -> Result<(), Error> {
    let table = table();
    let there = tables.table_exists(&table)?;
    for ip in ips {
        let address = ip.address.ip();
        let set = Ipv::of(address).masquerade();
        let found = if there { tables.get_element(&table, &set, &[Field::from(address)])? } else { None };
        if found.and_then(|e| e.comment).as_deref() != Some(owner) {
            return Err(Error::internal(format!("masquerading of {address} is gone")));
        }
    }
    if ips.is_empty() { Ok(()) } else { check(tables) }
}

/// Plans the removal of every element of a network that belongs to none of the valid attachments, from these sets.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn sweep(
    tables: &mut NfTables,
    sets: &[Set],
    network: &str,
    valid: &[AttachmentId],
    plan: &mut Plan,
) -> Result<(), KernelError> {
    let changes = take_all(tables, sets, &|comment| is_stale(comment, network, valid))?;
    remove(changes, plan);
    Ok(())
}
