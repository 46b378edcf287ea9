//! The base ruleset as a value, and the one moment when the `nft` program is run: to put it there.
//!
//! The rules are data (the `nftables` crate's schema); docs/ruleset.md shows them with reasons and a test compares the
//! two. The table carries its version as an empty chain whose name is a digest of the ruleset, so a build with other
//! rules notices by itself, and so that the question "is it there and right" is answered by netlink alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nftables::expr::{
    CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
};
use nftables::helper::NftablesError;
use nftables::schema::{
    Chain, Element, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::{JumpTarget, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use rnet_model::Subnet;

use super::{FilterChange, FilterSet, FilterState, intervals};
use crate::{KernelError, Netns};

/// Pairs `bridge . bridge` of one and the same bridge: what stays inside a network. nf_tables cannot compare two
/// fields of a packet, it can look a pair up.
pub(super) const WITHIN: &str = "within";
/// Every masqueraded IPv4 prefix as it was given; see `intervals`.
pub(super) const PREFIXES4: &str = "prefixes4";
/// The same for IPv6.
pub(super) const PREFIXES6: &str = "prefixes6";

const FROM_INTERNAL: &str = "from_internal";
const FROM_ISOLATED: &str = "from_isolated";
const BETWEEN: &str = "between";
const INPUT: &str = "input";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

/// Hook, chain type and priority of the base chains, the other chains after them.
/// Priorities are those of nft(8)'s names: filter = 0, srcnat = 100.
const BASE_CHAINS: [(&str, NfHook, NfChainType, i32); 3] = [
    (INPUT, NfHook::Input, NfChainType::Filter, 0),
    (FORWARD, NfHook::Forward, NfChainType::Filter, 0),
    (POSTROUTING, NfHook::Postrouting, NfChainType::NAT, 100),
];
const OTHER_CHAINS: [&str; 3] = [FROM_INTERNAL, FROM_ISOLATED, BETWEEN];

/// Where `nft` is looked for before PATH: a daemon's PATH often lacks the sbin folders.
const NFT_FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// A set of the base table: name, key type, and whether it holds intervals.
fn sets() -> Vec<(&'static str, SetTypeValue<'static>, bool)> {
    let one = SetTypeValue::Single;
    let pair = |kind| SetTypeValue::Concatenated(vec![kind, kind].into());
    vec![
        (FilterSet::Networks.name(), one(SetType::Ifname), false),
        (FilterSet::Isolated.name(), one(SetType::Ifname), false),
        (FilterSet::Internal.name(), one(SetType::Ifname), false),
        (WITHIN, pair(SetType::Ifname), false),
        (FilterSet::Masquerade4.name(), one(SetType::Ipv4Addr), true),
        (FilterSet::Masquerade6.name(), one(SetType::Ipv6Addr), true),
        (PREFIXES4, pair(SetType::Ipv4Addr), false),
        (PREFIXES6, pair(SetType::Ipv6Addr), false),
    ]
}

/// A rule before it has a table: chain, reason (its comment in the kernel), statements.
type RuleSpec = (&'static str, &'static str, Vec<Statement<'static>>);

fn rules() -> Vec<RuleSpec> {
    let mut all = input_rules();
    all.extend(forward_rules());
    all.extend(postrouting_rules());
    all
}

fn input_rules() -> Vec<RuleSpec> {
    let elsewhere = |set: FilterSet, protocol, own: &[&'static str]| {
        vec![
            is(payload(protocol, "daddr"), set),
            compare(fib(&[FibFlag::Daddr, FibFlag::Iif]), Operator::NEQ, types(own)),
            Statement::Drop(None),
        ]
    };
    vec![
        (
            INPUT,
            "an internal network ends at its own bridge",
            vec![is(meta(MetaKey::Iifname), FilterSet::Internal), goto(FROM_INTERNAL)],
        ),
        (
            INPUT,
            "the gateway of another network is part of that network",
            vec![is(meta(MetaKey::Iifname), FilterSet::Isolated), goto(FROM_ISOLATED)],
        ),
        (FROM_INTERNAL, "replies to what the host itself asked", vec![replies(), Statement::Accept(None)]),
        (
            FROM_INTERNAL,
            "the bridge's own addresses, neighbour discovery and DHCP",
            vec![
                compare(
                    fib(&[FibFlag::Daddr, FibFlag::Iif]),
                    Operator::EQ,
                    types(&["local", "broadcast", "multicast"]),
                ),
                Statement::Accept(None),
            ],
        ),
        (FROM_INTERNAL, "every other address of the host is outside", vec![Statement::Drop(None)]),
        (FROM_ISOLATED, "replies to what the host itself asked", vec![replies(), Statement::Accept(None)]),
        (
            FROM_ISOLATED,
            "an address in a network's prefix that is not on this bridge",
            elsewhere(FilterSet::Masquerade4, "ip", &["local", "broadcast"]),
        ),
        (FROM_ISOLATED, "the same for IPv6", elsewhere(FilterSet::Masquerade6, "ip6", &["local"])),
    ]
}

fn forward_rules() -> Vec<RuleSpec> {
    let (from, to) = (|set| is(meta(MetaKey::Iifname), set), |set| is(meta(MetaKey::Oifname), set));
    let pair = NamedExpression::Concat(vec![meta(MetaKey::Iifname), meta(MetaKey::Oifname)]);
    let inside = compare(Expression::Named(pair), Operator::EQ, Expression::String(format!("@{WITHIN}").into()));
    let drop = || Statement::Drop(None);
    vec![
        (
            FORWARD,
            "inside one network: routed back, or bridged through br_netfilter",
            vec![inside, Statement::Accept(None)],
        ),
        (FORWARD, "nothing leaves an internal network", vec![from(FilterSet::Internal), drop()]),
        (FORWARD, "nothing enters an internal network", vec![to(FilterSet::Internal), drop()]),
        (FORWARD, "from network to network", vec![from(FilterSet::Networks), to(FilterSet::Networks), goto(BETWEEN)]),
        (
            FORWARD,
            "replies to what a container asked outside",
            vec![to(FilterSet::Networks), replies(), Statement::Accept(None)],
        ),
        (FORWARD, "closed to everybody outside unless published", vec![to(FilterSet::Networks), drop()]),
        (BETWEEN, "isolated: talks to no other network", vec![from(FilterSet::Isolated), drop()]),
        (BETWEEN, "isolated: heard by no other network", vec![to(FilterSet::Isolated), drop()]),
    ]
}

fn postrouting_rules() -> Vec<RuleSpec> {
    let leaves = || compare(meta(MetaKey::Oifname), Operator::NEQ, reference(FilterSet::Networks));
    vec![
        (
            POSTROUTING,
            "leaves the host with the host's address; no broadcast, no multicast",
            vec![
                is(payload("ip", "saddr"), FilterSet::Masquerade4),
                leaves(),
                compare(fib(&[FibFlag::Daddr]), Operator::EQ, Expression::String("unicast".into())),
                Statement::Masquerade(None),
            ],
        ),
        (
            POSTROUTING,
            "the same for IPv6",
            vec![
                is(payload("ip6", "saddr"), FilterSet::Masquerade6),
                leaves(),
                compare(meta(MetaKey::Oifname), Operator::NEQ, Expression::String("lo".into())),
                compare(
                    payload("ip6", "daddr"),
                    Operator::NEQ,
                    Expression::Named(NamedExpression::Prefix(Prefix {
                        addr: Box::new(Expression::String("ff00::".into())),
                        len: 8,
                    })),
                ),
                Statement::Masquerade(None),
            ],
        ),
    ]
}

fn compare(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn reference(set: FilterSet) -> Expression<'static> {
    Expression::String(format!("@{}", set.name()).into())
}

fn is(left: Expression<'static>, set: FilterSet) -> Statement<'static> {
    compare(left, Operator::EQ, reference(set))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

/// Type of the route to an address, as seen from the device when `Iif` is given: an address of another device of the
/// host is not local then.
fn fib(flags: &[FibFlag]) -> Expression<'static> {
    Expression::Named(NamedExpression::Fib(Fib { result: FibResult::Type, flags: flags.iter().copied().collect() }))
}

fn types(names: &[&'static str]) -> Expression<'static> {
    let word = |name: &'static str| Expression::String(name.into());
    match names {
        [name] => word(name),
        names => Expression::Named(NamedExpression::Set(names.iter().map(|n| SetItem::Element(word(n))).collect())),
    }
}

fn replies() -> Statement<'static> {
    let state = Expression::Named(NamedExpression::CT(CT { key: "state".into(), family: None, dir: None }));
    let words = ["established", "related"].map(|word| Expression::String(word.into()));
    compare(state, Operator::IN, Expression::List(words.to_vec()))
}

fn goto(chain: &'static str) -> Statement<'static> {
    Statement::Goto(JumpTarget { target: chain.into() })
}

/// The objects of the table, in an order in which they can be made.
fn objects(table: &str) -> Vec<NfListObject<'static>> {
    let name = || Cow::<'static, str>::Owned(table.to_owned());
    let mut all = Vec::new();
    all.extend(sets().into_iter().map(|(set, set_type, interval)| {
        NfListObject::Set(Box::new(Set {
            family: NfFamily::INet,
            table: name(),
            name: set.into(),
            set_type,
            flags: interval.then(|| HashSet::from([SetFlag::Interval])),
            ..Set::default()
        }))
    }));
    let plain =
        |chain: Cow<'static, str>| Chain { family: NfFamily::INet, table: name(), name: chain, ..Chain::default() };
    all.extend(OTHER_CHAINS.map(|chain| NfListObject::Chain(plain(chain.into()))));
    all.extend(BASE_CHAINS.map(|(chain, hook, kind, prio)| {
        NfListObject::Chain(Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(prio),
            policy: Some(NfChainPolicy::Accept),
            ..plain(chain.into())
        })
    }));
    all.extend(rules().into_iter().map(|(chain, reason, statements)| {
        NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: name(),
            chain: chain.into(),
            expr: statements.into(),
            comment: Some(reason.into()),
            ..Rule::default()
        })
    }));
    all
}

/// Name of the empty chain that says which ruleset the table holds: FNV-1a of the ruleset.
pub(super) fn version_chain() -> String {
    let text = canonical(&objects("rnet"));
    let digest = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("version_{digest:016x}")
}

/// JSON with the unordered flag lists in order, so that equal rulesets are equal texts.
fn canonical(objects: &[NfListObject<'static>]) -> String {
    fn sort(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Array(items) => items.iter_mut().for_each(sort),
            serde_json::Value::Object(fields) => {
                for (name, field) in fields {
                    sort(field);
                    if let ("flags", Some(flags)) = (name.as_str(), field.as_array_mut()) {
                        flags.sort_by_key(ToString::to_string);
                    }
                }
            }
            _ => {}
        }
    }
    let lines = objects.iter().map(|object| {
        let mut value = serde_json::to_value(object).expect("the schema serialises to JSON");
        sort(&mut value);
        value.to_string() + "\n"
    });
    lines.collect()
}

/// A chain as it must be for the table to be right: how often it is used (its rules, and the rules that lead to it)
/// and whether a hook calls it. The kernel counts the same in `NFTA_CHAIN_USE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExpectedChain {
    pub(super) uses: u32,
    pub(super) hooked: bool,
}

/// All chains of the table but the version's.
pub(super) fn expected_chains() -> BTreeMap<&'static str, ExpectedChain> {
    let other = OTHER_CHAINS.iter().map(|chain| (*chain, ExpectedChain { uses: 0, hooked: false }));
    let base = BASE_CHAINS.iter().map(|(chain, ..)| (*chain, ExpectedChain { uses: 0, hooked: true }));
    let mut chains: BTreeMap<_, _> = other.chain(base).collect();
    for (chain, _, statements) in rules() {
        let target = statements.iter().find_map(|statement| match statement {
            Statement::Goto(jump) => Some(jump.target.as_ref()),
            _ => None,
        });
        for (name, expected) in &mut chains {
            expected.uses += u32::from(*name == chain) + u32::from(target == Some(name));
        }
    }
    chains
}

/// All sets of the table with the bytes of a key (`NFTA_SET_KEY_LEN`).
pub(super) fn expected_sets() -> Vec<(&'static str, u32)> {
    let len = |kind: &SetType| match kind {
        SetType::Ifname | SetType::Ipv6Addr => 16,
        _ => 4,
    };
    let key = |kind: &SetTypeValue<'_>| match kind {
        SetTypeValue::Single(kind) => len(kind),
        SetTypeValue::Concatenated(kinds) => kinds.iter().map(len).sum(),
    };
    sets().iter().map(|(name, kind, _)| (*name, key(kind))).collect()
}

/// One transaction that replaces whatever is there: rules and elements appear together, so nothing is open between.
fn transaction(table: &str, carried: &FilterState) -> Nftables<'static> {
    let bare = || NfListObject::Table(Table { family: NfFamily::INet, name: table.to_owned().into(), handle: None });
    let mut commands = vec![NfCmd::Add(bare()), NfCmd::Delete(bare()), NfCmd::Add(bare())];
    commands.push(NfCmd::Add(NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: table.to_owned().into(),
        name: version_chain().into(),
        ..Chain::default()
    })));
    commands.extend(objects(table).into_iter().map(NfCmd::Add));
    commands.extend(elements(table, carried).into_iter().map(NfCmd::Add));
    Nftables { objects: commands.into_iter().map(NfObject::CmdObject).collect() }
}

/// The elements of a state, spread over the sets that hold them.
fn elements(table: &str, state: &FilterState) -> Vec<NfListObject<'static>> {
    let word = |text: String| Expression::String(text.into());
    let mut by_set: BTreeMap<&'static str, Vec<Expression<'static>>> = BTreeMap::new();
    let mut nets: Vec<Subnet> = Vec::new();
    for change in state {
        match change {
            FilterChange::Device(set, device) => {
                let name = || word(device.to_string());
                by_set.entry(set.name()).or_default().push(name());
                if *set == FilterSet::Networks {
                    let pair = NamedExpression::Concat(vec![name(), name()]);
                    by_set.entry(WITHIN).or_default().push(Expression::Named(pair));
                }
            }
            FilterChange::Masquerade(net) => nets.push(*net),
            _ => {}
        }
    }
    for net in &nets {
        let (set, register) = match net.is_ipv4() {
            true => (FilterSet::Masquerade4, PREFIXES4),
            false => (FilterSet::Masquerade6, PREFIXES6),
        };
        let pair = NamedExpression::Concat(vec![word(net.network().to_string()), word(netmask(net).to_string())]);
        by_set.entry(register).or_default().push(Expression::Named(pair));
        let inner = nets.iter().any(|outer| {
            outer != net
                && intervals::Range::of(outer).covers(&intervals::Range::of(net))
                && outer.is_ipv4() == net.is_ipv4()
        });
        if !inner {
            let prefix = Prefix { addr: Box::new(word(net.network().to_string())), len: net.prefix().into() };
            by_set.entry(set.name()).or_default().push(Expression::Named(NamedExpression::Prefix(prefix)));
        }
    }
    let object = |(set, elem): (&'static str, Vec<Expression<'static>>)| {
        NfListObject::Element(Element {
            family: NfFamily::INet,
            table: table.to_owned().into(),
            name: set.into(),
            elem: elem.into(),
        })
    };
    by_set.into_iter().map(object).collect()
}

fn netmask(net: &Subnet) -> IpAddr {
    let key = intervals::register_key(net);
    let bytes = key.key.bytes();
    let mask = &bytes[bytes.len() / 2..];
    match <[u8; 4]>::try_from(mask) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(mask).expect("a mask has 4 or 16 bytes")),
    }
}

/// Runs `nft` in the namespace to (re)make the table with these elements.
pub(super) fn install(ns: &Netns, table: &str, nft: &NftProgram, carried: &FilterState) -> Result<(), KernelError> {
    let operation = || format!("install table inet {table}");
    let program = nft.find().map_err(|text| {
        KernelError { text: Some(text), ..KernelError::os(operation(), libc::EOPNOTSUPP) }
            .hint("install nftables (the nft program, 1.0 or newer)")
    })?;
    let ruleset = transaction(table, carried);
    let no_arguments: [&str; 0] = [];
    ns.run(|| nftables::helper::apply_ruleset_with_args(&ruleset, Some(program.as_path()), no_arguments))?
        .map_err(|error| refused(operation(), error))
}

/// The words of `nft` as an error with the errno they stand for.
fn refused(operation: String, error: NftablesError) -> KernelError {
    match error {
        NftablesError::NftExecution { program, inner } => {
            KernelError::io(format!("{operation}: run {}", program.to_string_lossy()), &inner)
        }
        NftablesError::NftFailed { stderr, .. } => {
            let said = stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("nft failed without a word");
            let errno = [libc::EPERM, libc::EBUSY, libc::EEXIST, libc::ENOMEM, libc::ENOBUFS]
                .into_iter()
                .find(|errno| stderr.contains(nix::errno::Errno::from_raw(*errno).desc()))
                // The kernel answers an expression or chain type it does not have with ENOENT or EOPNOTSUPP.
                .unwrap_or(libc::EOPNOTSUPP);
            let error = KernelError { text: Some(format!("nft says: {said}")), ..KernelError::os(operation, errno) };
            match errno {
                libc::EPERM => error.hint("rnet's daemon needs CAP_NET_ADMIN in its network namespace"),
                libc::EOPNOTSUPP => error.hint("the kernel needs nf_tables with inet, nat, masquerade, ct and fib"),
                _ => error,
            }
        }
        other => KernelError::text(operation, other.to_string()),
    }
}

/// Where the `nft` program may be.
#[derive(Debug, Clone)]
pub(super) struct NftProgram {
    pub(super) folders: Vec<PathBuf>,
}

impl NftProgram {
    /// The usual folders, then those of PATH.
    pub(super) fn usual(path: Option<OsString>) -> Self {
        let from_path = path.iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
        NftProgram { folders: NFT_FOLDERS.iter().map(PathBuf::from).chain(from_path).collect() }
    }

    /// Absolute path of the program, or the words that say where it was looked for.
    pub(super) fn find(&self) -> Result<PathBuf, String> {
        let executable = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        self.folders.iter().map(|folder| folder.join("nft")).find(|path| executable(path)).ok_or_else(|| {
            let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
            format!("the nft program is in none of {}", folders.join(", "))
        })
    }
}
