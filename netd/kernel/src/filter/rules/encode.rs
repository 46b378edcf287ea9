//! Changes as nf_tables messages. Layouts and numbers: include/uapi/linux/netfilter/nf_tables.h; user data of sets,
//! elements and rules: the type-length-values of libnftnl, which nft(8) prints.

mod exprs;

use super::{
    Base, Chain, ChainKind, Change, Data, DataType, Element, Family, Field, Hook, KeyType, Place, Policy, Rule, Set,
    Table, Verdict,
};
use crate::filter::wire::{ELEM_INTERVAL_END, LIST_LIMIT, Messages, NLM_F_APPEND, NLM_F_CREATE, Verb};

/// Why a change cannot be said to the kernel.
pub(in crate::filter) type Wrong = String;

const NAME_BYTES: usize = 255;
const COMMENT_BYTES: usize = 127;
const KEY_BYTES: usize = 64;

/// `enum nft_table_flags`.
const TABLE_OWNER: u32 = 2;
pub(in crate::filter) const TABLE_PERSIST: u32 = 4;
/// `enum nft_set_flags`.
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_CONCAT: u32 = 0x80;
/// The data type "verdict" of a map.
const DATA_VERDICT: u32 = 0xffff_ff00;
/// Comment in the user data of a set; those of rules and elements are type 0.
const SET_COMMENT: u8 = 7;
const COMMENT: u8 = 0;

/// Appends the messages of a change.
pub(in crate::filter) fn change(out: &mut Messages, change: &Change) -> Result<(), Wrong> {
    match change {
        Change::EnsureTable(t) => plain(out, Verb::NewTable, NLM_F_CREATE, t, None),
        Change::OwnTable(t) => own_table(out, t),
        Change::DestroyTable(t) => plain(out, Verb::DelTable, 0, t, None),
        Change::EnsureChain(t, c) => chain(out, t, c),
        Change::FlushChain(t, c) => plain(out, Verb::DelRule, 0, t, Some((2, c))),
        Change::DestroyChain(t, c) => plain(out, Verb::DelChain, 0, t, Some((3, c))),
        Change::EnsureSet(t, s) => set(out, t, s),
        Change::FlushSet(t, s) => plain(out, Verb::DelSetElem, 0, t, Some((2, s))),
        Change::DestroySet(t, s) => plain(out, Verb::DelSet, 0, t, Some((2, s))),
        Change::AddRule(t, r, place) => rule(out, t, r, *place),
        Change::DestroyRule(t, c, handle) => one_rule(out, Verb::DelRule, t, c, *handle),
        Change::EnsureElements(t, s, list) => elements(out, Verb::NewSetElem, t, s, list),
        Change::DestroyElements(t, s, list) => elements(out, Verb::DelSetElem, t, s, list),
    }
}

/// A message about a table, or about one object in it by the attribute of its name.
pub(in crate::filter) fn plain(
    out: &mut Messages,
    verb: Verb,
    flags: u16,
    table: &Table,
    object: Option<(u16, &str)>,
) -> Result<(), Wrong> {
    let at = about(out, verb, flags, table)?;
    if let Some((kind, name)) = object {
        out.string(kind, checked(name)?);
    }
    out.close(at);
    Ok(())
}

fn own_table(out: &mut Messages, table: &Table) -> Result<(), Wrong> {
    let at = about(out, Verb::NewTable, NLM_F_CREATE, table)?;
    out.number(2, TABLE_OWNER | TABLE_PERSIST);
    out.close(at);
    Ok(())
}

/// A message about one rule.
pub(super) fn one_rule(out: &mut Messages, verb: Verb, table: &Table, chain: &str, handle: u64) -> Result<(), Wrong> {
    let at = about(out, verb, 0, table)?;
    out.string(2, checked(chain)?);
    out.attr(3, &handle.to_be_bytes());
    out.close(at);
    Ok(())
}

fn about(out: &mut Messages, verb: Verb, flags: u16, table: &Table) -> Result<usize, Wrong> {
    Ok(out.about(verb, flags, number(table.family), checked(&table.name)?))
}

fn chain(out: &mut Messages, table: &Table, chain: &Chain) -> Result<(), Wrong> {
    let at = about(out, Verb::NewChain, NLM_F_CREATE, table)?;
    out.string(3, checked(&chain.name)?);
    if let Some(base) = &chain.base {
        let kind = match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        };
        out.string(7, kind);
        out.number(5, u32::from(base.policy == Policy::Accept));
        let nest = out.nest(4);
        out.number(1, hook(table.family, base)?);
        out.number(2, base.priority.cast_unsigned());
        if let Some(device) = &base.device {
            out.string(3, device.as_str());
        }
        out.close_nest(nest);
    }
    out.close(at);
    Ok(())
}

/// `enum nf_inet_hooks` and its siblings.
fn hook(family: Family, base: &Base) -> Result<u32, Wrong> {
    let number = match (family, base.hook) {
        (Family::Netdev, Hook::Ingress) | (Family::Arp, Hook::Input) => 0,
        (Family::Netdev, Hook::Egress) | (Family::Arp, Hook::Output) => 1,
        (Family::Netdev | Family::Arp, hook) => return Err(format!("a chain of this family has no hook {hook:?}")),
        (_, Hook::Prerouting) => 0,
        (_, Hook::Input) => 1,
        (_, Hook::Forward) => 2,
        (_, Hook::Output) => 3,
        (_, Hook::Postrouting) => 4,
        (Family::Inet, Hook::Ingress) => 5,
        (_, hook) => return Err(format!("a chain of this family has no hook {hook:?}")),
    };
    Ok(number)
}

fn set(out: &mut Messages, table: &Table, set: &Set) -> Result<(), Wrong> {
    let key = size(&set.key);
    if set.key.is_empty() || key > KEY_BYTES {
        return Err(format!("the key of set {} has {key} bytes, 1 to {KEY_BYTES} are possible", set.name));
    }
    // Identity inside the transaction, which the kernel demands.
    let id = out.next_seq();
    let at = about(out, Verb::NewSet, NLM_F_CREATE, table)?;
    out.string(2, checked(&set.name)?);
    let concat = set.interval && set.key.len() > 1;
    let flags = if set.interval { SET_INTERVAL } else { 0 }
        | if set.data.is_some() { SET_MAP } else { 0 }
        | if concat { SET_CONCAT } else { 0 };
    out.number(3, flags);
    out.number(4, type_id(&set.key));
    out.number(5, narrow(key));
    match &set.data {
        Some(DataType::Verdict) => {
            out.number(6, DATA_VERDICT);
            out.number(7, 0);
        }
        Some(DataType::Value(fields)) => {
            out.number(6, type_id(fields));
            out.number(7, narrow(size(fields)));
        }
        None => {}
    }
    if concat {
        let desc = out.nest(9);
        let list = out.nest(2);
        for field in &set.key {
            let item = out.nest(1);
            out.number(1, narrow(field.bytes()));
            out.close_nest(item);
        }
        out.close_nest(list);
        out.close_nest(desc);
    }
    out.number(10, id);
    // Byte order of a single field, by which nft(8) reads keys: 1 host, 2 network, 0 a concatenation.
    let order: u32 = match set.key.as_slice() {
        [KeyType::Ifname | KeyType::Mark | KeyType::Nfproto] => 1,
        [_] => 2,
        _ => 0,
    };
    let mut user = vec![0, 4];
    user.extend_from_slice(&order.to_ne_bytes());
    if let Some(text) = &set.comment {
        user.extend_from_slice(&comment(SET_COMMENT, text)?);
    }
    out.attr(13, &user);
    out.close(at);
    Ok(())
}

fn rule(out: &mut Messages, table: &Table, rule: &Rule, place: Place) -> Result<(), Wrong> {
    let flags = match place {
        Place::Last | Place::After(_) => NLM_F_CREATE | NLM_F_APPEND,
        Place::First | Place::Before(_) => NLM_F_CREATE,
    };
    let at = about(out, Verb::NewRule, flags, table)?;
    out.string(2, checked(&rule.chain)?);
    if let Place::Before(handle) | Place::After(handle) = place {
        out.attr(6, &handle.to_be_bytes());
    }
    let list = out.nest(4);
    exprs::Rule::new(out, table.family).all(&rule.exprs)?;
    out.close_nest(list);
    if let Some(text) = &rule.comment {
        out.attr(7, &comment(COMMENT, text)?);
    }
    out.close(at);
    Ok(())
}

/// Adds, removes or asks for elements, in as many messages as they need.
pub(in crate::filter) fn elements(
    out: &mut Messages,
    verb: Verb,
    table: &Table,
    set: &Set,
    elements: &[Element],
) -> Result<(), Wrong> {
    let flags = if verb == Verb::NewSetElem { NLM_F_CREATE } else { 0 };
    let mut rest = elements;
    while !rest.is_empty() {
        let at = about(out, verb, flags, table)?;
        out.string(2, checked(&set.name)?);
        let list = out.nest(3);
        while let Some((first, tail)) = rest.split_first() {
            // An element with a comment, two long keys and a chain name has less than 1 kB.
            if out.bytes().len() - list > LIST_LIMIT {
                break;
            }
            element(out, set, first, verb)?;
            rest = tail;
        }
        out.close_nest(list);
        out.close(at);
    }
    Ok(())
}

fn element(out: &mut Messages, set: &Set, element: &Element, verb: Verb) -> Result<(), Wrong> {
    let key = fields(&element.key, &set.key).map_err(|e| format!("set {}: {e}", set.name))?;
    let last = element.upto.as_ref().map(|upto| fields(upto, &set.key)).transpose()?;
    if last.is_some() && !set.interval {
        return Err(format!("set {} holds no intervals", set.name));
    }
    let last = set.interval.then(|| last.unwrap_or_else(|| key.clone()));
    if last.as_ref().is_some_and(|last| *last < key) {
        return Err(format!("set {}: an interval ends before it starts", set.name));
    }
    let item = out.nest(1);
    value(out, 1, &key);
    if let (Some(last), true) = (&last, set.key.len() > 1) {
        value(out, 10, last);
    }
    if verb == Verb::NewSetElem {
        match (&element.data, &set.data) {
            (Some(Data::Verdict(to)), Some(DataType::Verdict)) => {
                let nest = out.nest(2);
                verdict(out, to)?;
                out.close_nest(nest);
            }
            (Some(Data::Value(data)), Some(DataType::Value(types))) => value(out, 2, &fields(data, types)?),
            (None, None) => {}
            _ => return Err(format!("an element of {} has data of another type", set.name)),
        }
        if let Some(text) = &element.comment {
            out.attr(6, &comment(COMMENT, text)?);
        }
    }
    out.close_nest(item);
    // A single field's interval is two elements, the second being the first key behind it.
    if let (Some(last), 1, true) = (last, set.key.len(), verb != Verb::GetSetElem)
        && let Some(behind) = successor(last)
    {
        let item = out.nest(1);
        out.number(3, ELEM_INTERVAL_END);
        value(out, 1, &behind);
        out.close_nest(item);
    }
    Ok(())
}

/// The next key; none behind the last one.
fn successor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (next, carry) = byte.overflowing_add(1);
        *byte = next;
        if !carry {
            return Some(key);
        }
    }
    None
}

pub(super) fn value(out: &mut Messages, kind: u16, bytes: &[u8]) {
    let nest = out.nest(kind);
    out.attr(1, bytes);
    out.close_nest(nest);
}

fn verdict(out: &mut Messages, verdict: &Verdict) -> Result<(), Wrong> {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Continue => (-1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    let nest = out.nest(2);
    out.number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        out.string(2, checked(chain)?);
    }
    out.close_nest(nest);
    Ok(())
}

/// The bytes of a key; in a concatenation every field is padded to whole registers.
pub(super) fn fields(values: &[Field], types: &[KeyType]) -> Result<Vec<u8>, Wrong> {
    if values.len() != types.len() || values.iter().zip(types).any(|(v, t)| v.key_type() != Some(*t)) {
        return Err(format!("{values:?} is not of type {types:?}"));
    }
    let mut bytes = Vec::with_capacity(16);
    for value in values {
        value.put(&mut bytes);
        if values.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    Ok(bytes)
}

/// Bytes of a set's keys, as the kernel counts them.
pub(in crate::filter) fn key_bytes(set: &Set) -> u32 {
    narrow(size(&set.key))
}

/// Bytes of a key of these fields.
pub(super) fn size(types: &[KeyType]) -> usize {
    match types {
        [one] => one.bytes(),
        many => many.iter().map(|kind| kind.bytes().next_multiple_of(4)).sum(),
    }
}

/// nft(8)'s number of a type; a concatenation has six bits per field.
fn type_id(types: &[KeyType]) -> u32 {
    types.iter().fold(0, |id, kind| {
        let one = match kind {
            KeyType::Nfproto => 2,
            KeyType::Ipv4Addr => 7,
            KeyType::Ipv6Addr => 8,
            KeyType::EtherAddr => 9,
            KeyType::InetProto => 12,
            KeyType::InetService => 13,
            KeyType::Mark => 19,
            KeyType::Ifname => 41,
        };
        (id << 6) | one
    })
}

fn comment(kind: u8, text: &str) -> Result<Vec<u8>, Wrong> {
    let wrong = || format!("a comment has at most {COMMENT_BYTES} bytes and no NUL: {text:?}");
    if text.len() > COMMENT_BYTES || text.contains('\0') {
        return Err(wrong());
    }
    let mut bytes = vec![kind, u8::try_from(text.len() + 1).map_err(|_| wrong())?];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    Ok(bytes)
}

fn checked(name: &str) -> Result<&str, Wrong> {
    match name.len() {
        1..=NAME_BYTES if !name.contains('\0') => Ok(name),
        _ => Err(format!("a name in nf_tables has 1 to {NAME_BYTES} bytes and no NUL: {name:?}")),
    }
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("keys and fields are short")
}

/// `NFPROTO_*`.
pub(in crate::filter) fn number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Arp => 3,
        Family::Netdev => 5,
        Family::Bridge => 7,
        Family::Ip6 => 10,
    }
}

impl KeyType {
    /// Bytes without padding.
    pub(super) fn bytes(self) -> usize {
        match self {
            KeyType::Ipv4Addr | KeyType::Mark => 4,
            KeyType::Ipv6Addr | KeyType::Ifname => 16,
            KeyType::InetProto | KeyType::Nfproto => 1,
            KeyType::InetService => 2,
            KeyType::EtherAddr => 6,
        }
    }
}

impl Field {
    fn key_type(&self) -> Option<KeyType> {
        Some(match self {
            Field::Ipv4(_) => KeyType::Ipv4Addr,
            Field::Ipv6(_) => KeyType::Ipv6Addr,
            Field::Proto(_) => KeyType::InetProto,
            Field::Port(_) => KeyType::InetService,
            Field::Ifname(_) => KeyType::Ifname,
            Field::Mark(_) => KeyType::Mark,
            Field::Ether(_) => KeyType::EtherAddr,
            Field::Byte(_) => KeyType::Nfproto,
            Field::EtherType(_) | Field::Short(_) => return None,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Field::Ipv4(a) => out.extend_from_slice(&a.octets()),
            Field::Ipv6(a) => out.extend_from_slice(&a.octets()),
            Field::Proto(n) | Field::Byte(n) => out.push(*n),
            Field::Port(n) | Field::EtherType(n) | Field::Short(n) => out.extend_from_slice(&n.to_be_bytes()),
            Field::Mark(n) => out.extend_from_slice(&n.to_ne_bytes()),
            Field::Ether(a) => out.extend_from_slice(a),
            Field::Ifname(name) => {
                let end = out.len() + libc::IFNAMSIZ;
                out.extend_from_slice(name.as_str().as_bytes());
                out.resize(end, 0);
            }
        }
    }
}
