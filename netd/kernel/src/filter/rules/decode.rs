//! Answers of the kernel as values. Anything unknown is left out, never an error: tables of others are read too.

use super::encode::size;
use super::{
    Base, ChainInfo, ChainKind, Data, DataType, Element, Family, Field, Hook, KeyType, Policy, RuleInfo, Set, Table,
    Verdict,
};
use crate::filter::wire::{ELEM_INTERVAL_END, Message, attributes, c_string, u32_be};

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn of<'a>(message: &Message<'a>, wanted: u16) -> Option<&'a [u8]> {
    message.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Whether a message is about an object of this table.
pub(super) fn in_table(message: &Message<'_>, table: &str) -> bool {
    of(message, 1).is_some_and(|name| c_string(name) == table)
}

/// The table a message is about.
pub(super) fn table(message: &Message<'_>) -> Option<Table> {
    Some(Table::new(family_of(message.family())?, c_string(of(message, 1)?)))
}

/// `enum nfproto`.
pub(crate) fn family_of(number: u8) -> Option<Family> {
    Some(match number {
        1 => Family::Inet,
        2 => Family::Ip,
        3 => Family::Arp,
        5 => Family::Netdev,
        7 => Family::Bridge,
        10 => Family::Ip6,
        _ => return None,
    })
}

pub(super) fn chain(message: &Message<'_>, family: Family) -> Option<ChainInfo> {
    let name = c_string(of(message, 3)?);
    let base = of(message, 4).and_then(|hook| {
        let kind = match c_string(of(message, 7)?).as_str() {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            "route" => ChainKind::Route,
            _ => return None,
        };
        Some(Base {
            kind,
            hook: hook_of(family, u32_be(find(hook, 1)?)?)?,
            priority: u32_be(find(hook, 2)?)?.cast_signed(),
            policy: if of(message, 5).and_then(u32_be) == Some(0) { Policy::Drop } else { Policy::Accept },
            device: find(hook, 3).and_then(|name| c_string(name).parse().ok()),
        })
    });
    Some(ChainInfo { name, base, uses: of(message, 6).and_then(u32_be).unwrap_or(0) })
}

fn hook_of(family: Family, number: u32) -> Option<Hook> {
    let hooks: &[Hook] = match family {
        Family::Netdev => &[Hook::Ingress, Hook::Egress],
        Family::Arp => &[Hook::Input, Hook::Output, Hook::Forward],
        _ => &[Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting, Hook::Ingress],
    };
    hooks.get(usize::try_from(number).ok()?).copied()
}

pub(super) fn rule(message: &Message<'_>, chain: &str) -> Option<RuleInfo> {
    if c_string(of(message, 2)?) != chain {
        return None;
    }
    let handle = u64::from_be_bytes(of(message, 3)?.get(..8)?.try_into().ok()?);
    Some(RuleInfo { handle, comment: of(message, 7).and_then(comment) })
}

/// The comment in user data: type, length, text with NUL.
fn comment(user: &[u8]) -> Option<String> {
    let mut rest = user;
    while let [kind, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        if *kind == 0 {
            return Some(c_string(value));
        }
        rest = &tail[usize::from(*len)..];
    }
    None
}

/// An element before the two halves of an interval are put together.
#[derive(Debug)]
pub(super) struct Half {
    key: Vec<u8>,
    end: bool,
    element: Element,
}

impl Half {
    /// Whether an interval starts where that of an element does, or the keys are the same.
    pub(super) fn starts_as(&self, element: &Element) -> bool {
        !self.end && self.element.key == element.key
    }

    /// The element, when it is the start of one.
    pub(super) fn start(self) -> Option<Element> {
        (!self.end).then_some(self.element)
    }
}

/// Whether an answer holds an element of any type, the mere end of an interval not being one.
pub(super) fn has_element(message: &Message<'_>) -> bool {
    let lists = message.attributes().filter(|(kind, _)| *kind == 3);
    lists
        .flat_map(|(_, list)| attributes(list))
        .any(|(_, item)| find(item, 3).and_then(u32_be).unwrap_or(0) & ELEM_INTERVAL_END == 0)
}

/// Elements of one answer; those of another shape than the set's are left out.
pub(super) fn halves(message: &Message<'_>, set: &Set) -> Vec<Half> {
    let lists = message.attributes().filter(|(kind, _)| *kind == 3);
    lists.flat_map(|(_, list)| attributes(list)).filter_map(|(_, item)| half(item, set)).collect()
}

fn half(item: &[u8], set: &Set) -> Option<Half> {
    let key = find(find(item, 1)?, 1)?;
    let end = find(item, 3).and_then(u32_be).unwrap_or(0) & ELEM_INTERVAL_END != 0;
    let data = match &set.data {
        Some(DataType::Verdict) if !end => Some(Data::Verdict(verdict(find(find(item, 2)?, 2)?)?)),
        Some(DataType::Value(types)) if !end => Some(Data::Value(fields(find(find(item, 2)?, 1)?, types)?)),
        _ => None,
    };
    let element = Element {
        key: fields(key, &set.key)?,
        upto: find(item, 10).and_then(|end| fields(find(end, 1)?, &set.key)),
        data,
        comment: find(item, 6).and_then(comment),
    };
    Some(Half { key: key.to_vec(), end, element })
}

/// Puts intervals of single fields together; a last key equal to the first is no interval.
pub(super) fn whole(mut halves: Vec<Half>, set: &Set) -> Vec<Element> {
    if set.interval && set.key.len() == 1 {
        // Where two intervals touch, one ends before the other begins.
        halves.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    }
    let mut elements: Vec<Element> = Vec::with_capacity(halves.len());
    let mut open = false;
    for half in halves {
        if half.end {
            if let (true, Some(last)) = (open, elements.last_mut()) {
                last.upto = predecessor(half.key).and_then(|key| fields(&key, &set.key));
            }
            open = false;
        } else {
            open = set.interval && set.key.len() == 1;
            elements.push(half.element);
        }
    }
    if let (true, Some(last)) = (open, elements.last_mut()) {
        last.upto = fields(&vec![0xff; size(&set.key)], &set.key);
    }
    for element in &mut elements {
        if element.upto.as_ref() == Some(&element.key) {
            element.upto = None;
        }
    }
    elements
}

fn predecessor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (next, borrow) = byte.overflowing_sub(1);
        *byte = next;
        if !borrow {
            return Some(key);
        }
    }
    None
}

fn verdict(bytes: &[u8]) -> Option<Verdict> {
    let chain = || find(bytes, 2).map(c_string);
    Some(match u32_be(find(bytes, 1)?)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// The fields of a key or of data.
fn fields(bytes: &[u8], types: &[KeyType]) -> Option<Vec<Field>> {
    let mut rest = bytes;
    types
        .iter()
        .map(|kind| {
            let value = rest.get(..kind.bytes())?;
            rest = rest.get(kind.bytes().next_multiple_of(4)..).unwrap_or(&[]);
            Some(match kind {
                KeyType::Ipv4Addr => Field::Ipv4(<[u8; 4]>::try_from(value).ok()?.into()),
                KeyType::Ipv6Addr => Field::Ipv6(<[u8; 16]>::try_from(value).ok()?.into()),
                KeyType::InetProto => Field::Proto(*value.first()?),
                KeyType::InetService => Field::Port(u16::from_be_bytes(value.try_into().ok()?)),
                KeyType::Ifname => Field::Ifname(c_string(value).parse().ok()?),
                KeyType::Mark => Field::Mark(u32::from_ne_bytes(value.try_into().ok()?)),
                KeyType::Nfproto => Field::Byte(*value.first()?),
                KeyType::EtherAddr => Field::Ether(value.try_into().ok()?),
            })
        })
        .collect()
}
