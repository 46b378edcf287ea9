//! Expressions as bytes. Values travel in the 32 bit registers from the first on; none is kept from one expression to
//! the next.

use std::net::IpAddr;

use super::{Wrong, checked, value, verdict};
use crate::filter::rules::{
    Address, Ct, Ether, Expr, Family, Fib, Field, Ip, Limit, MarkOf, Meta, NatFlags, NatKind, NatTo, Ports, Reject,
    Selector, Test, TupleOf, Unit,
};
use crate::filter::wire::Messages;

/// `NFT_REG32_00`; 16 of them follow each other.
const FIRST: u32 = 8;
/// `enum nft_cmp_ops`.
const EQ: u32 = 0;
const NEQ: u32 = 1;

/// Network protocol that a header field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Ip,
    Ip6,
    Arp,
}

/// The expression list of one rule, as it grows.
pub(super) struct Rule<'a> {
    out: &'a mut Messages,
    family: Family,
    /// The network protocol that earlier expressions made sure of.
    known: Option<Net>,
}

impl<'a> Rule<'a> {
    pub(super) fn new(out: &'a mut Messages, family: Family) -> Self {
        let known = match family {
            Family::Ip => Some(Net::Ip),
            Family::Ip6 => Some(Net::Ip6),
            Family::Arp => Some(Net::Arp),
            Family::Inet | Family::Bridge | Family::Netdev => None,
        };
        Rule { out, family, known }
    }

    pub(super) fn all(&mut self, exprs: &[Expr]) -> Result<(), Wrong> {
        exprs.iter().try_for_each(|expr| self.one(expr))
    }

    fn one(&mut self, expr: &Expr) -> Result<(), Wrong> {
        match expr {
            Expr::Match(selector, test) => self.test(*selector, test)?,
            Expr::In(key, set) => self.lookup(key, set, None, 0)?,
            Expr::NotIn(key, set) => self.lookup(key, set, None, 1)?,
            Expr::Vmap(key, map) => self.lookup(key, map, Some(0), 0)?,
            Expr::Verdict(to) => self.expr("immediate", |out| {
                out.number(1, 0);
                let nest = out.nest(2);
                verdict(out, to)?;
                out.close_nest(nest);
                Ok(())
            })?,
            Expr::Counter => self.expr("counter", |_| Ok(()))?,
            Expr::Masquerade(flags) => self.expr("masq", |out| {
                nat_flags(out, 1, *flags);
                Ok(())
            })?,
            Expr::Nat(kind, to, flags) => self.nat(*kind, to, *flags)?,
            Expr::Redirect(key, map) => {
                self.lookup(key, map, Some(FIRST), 0)?;
                self.numbers("redir", &[(1, FIRST)])?;
            }
            Expr::SetMark { of, mask, xor } => self.set_mark(*of, *mask, *xor)?,
            Expr::CopyMark(of) => {
                let from = if *of == MarkOf::Packet { Selector::Ct(Ct::Mark) } else { Selector::Meta(Meta::Mark) };
                self.load(from, FIRST)?;
                self.store_mark(*of)?;
            }
            Expr::Trace => {
                // One byte, NFT_META_NFTRACE 12.
                self.immediate(FIRST, &[1])?;
                self.numbers("meta", &[(2, 12), (3, FIRST)])?;
            }
            Expr::Reject(how) => self.reject(*how)?,
            Expr::Limit(limit) => self.limit(*limit)?,
        }
        Ok(())
    }

    fn expr(&mut self, name: &str, data: impl FnOnce(&mut Messages) -> Result<(), Wrong>) -> Result<(), Wrong> {
        let item = self.out.nest(1);
        self.out.string(1, name);
        let nest = self.out.nest(2);
        data(self.out)?;
        self.out.close_nest(nest);
        self.out.close_nest(item);
        Ok(())
    }

    fn numbers(&mut self, name: &str, numbers: &[(u16, u32)]) -> Result<(), Wrong> {
        self.expr(name, |out| {
            numbers.iter().for_each(|(kind, number)| out.number(*kind, *number));
            Ok(())
        })
    }

    fn cmp(&mut self, op: u32, bytes: &[u8]) -> Result<(), Wrong> {
        self.expr("cmp", |out| {
            out.number(1, FIRST);
            out.number(2, op);
            value(out, 3, bytes);
            Ok(())
        })
    }

    fn mask(&mut self, mask: &[u8], xor: &[u8]) -> Result<(), Wrong> {
        let len = u32::try_from(mask.len()).expect("a mask has at most 16 bytes");
        self.expr("bitwise", |out| {
            out.number(1, FIRST);
            out.number(2, FIRST);
            out.number(3, len);
            value(out, 4, mask);
            value(out, 5, xor);
            Ok(())
        })
    }

    fn immediate(&mut self, register: u32, bytes: &[u8]) -> Result<(), Wrong> {
        self.expr("immediate", |out| {
            out.number(1, register);
            value(out, 2, bytes);
            Ok(())
        })
    }

    fn load(&mut self, selector: Selector, register: u32) -> Result<(), Wrong> {
        let payload = |base: u32, offset: u32, len: u32| [(1, register), (2, base), (3, offset), (4, len)];
        match selector {
            Selector::Meta(key) => self.numbers("meta", &[(1, register), (2, meta(key))]),
            Selector::Ip(Ip::Saddr) => self.numbers("payload", &payload(1, 12, 4)),
            Selector::Ip(Ip::Daddr) => self.numbers("payload", &payload(1, 16, 4)),
            Selector::Ip6(Ip::Saddr) => self.numbers("payload", &payload(1, 8, 16)),
            Selector::Ip6(Ip::Daddr) => self.numbers("payload", &payload(1, 24, 16)),
            Selector::Sport => self.numbers("payload", &payload(2, 0, 2)),
            Selector::Dport => self.numbers("payload", &payload(2, 2, 2)),
            Selector::Ether(Ether::Daddr) => self.numbers("payload", &payload(0, 0, 6)),
            Selector::Ether(Ether::Saddr) => self.numbers("payload", &payload(0, 6, 6)),
            Selector::Ether(Ether::Type) => self.numbers("payload", &payload(0, 12, 2)),
            Selector::ArpOperation => self.numbers("payload", &payload(1, 6, 2)),
            Selector::Icmpv6Type => self.numbers("payload", &payload(2, 0, 1)),
            Selector::NdTarget => self.numbers("payload", &payload(2, 8, 16)),
            Selector::TcpFlags => self.numbers("payload", &payload(2, 13, 1)),
            Selector::ArpSaddrEther => self.numbers("payload", &payload(1, 8, 6)),
            Selector::ArpSaddrIp => self.numbers("payload", &payload(1, 14, 4)),
            Selector::Ct(key) => {
                let (key, direction) = ct(key);
                self.expr("ct", |out| {
                    out.number(1, register);
                    out.number(2, key);
                    if let Some(of) = direction {
                        out.attr(3, &[u8::from(of == TupleOf::Reply)]);
                    }
                    Ok(())
                })
            }
            Selector::FibDaddrType(fib) => {
                // NFTA_FIB_F_DADDR 2, _IIF 8, _OIF 16; NFT_FIB_RESULT_ADDRTYPE 3.
                let flags = 2 | match fib {
                    Fib::Any => 0,
                    Fib::Iif => 8,
                    Fib::Oif => 16,
                };
                self.numbers("fib", &[(1, register), (2, 3), (3, flags)])
            }
        }
    }

    /// Makes sure that the header a selector reads is there, as nft(8) does.
    fn header(&mut self, selector: Selector) -> Result<(), Wrong> {
        let needed = match selector {
            Selector::Ip(_) => Net::Ip,
            Selector::Ip6(_) | Selector::Icmpv6Type | Selector::NdTarget => Net::Ip6,
            Selector::ArpSaddrIp | Selector::ArpSaddrEther | Selector::ArpOperation => Net::Arp,
            _ => return Ok(()),
        };
        if self.known == Some(needed) {
            return Ok(());
        }
        if self.known.is_some() {
            return Err(format!("{selector:?} can never match in this rule"));
        }
        self.known = Some(needed);
        if self.family == Family::Inet {
            let proto = match needed {
                Net::Ip => 2,
                Net::Ip6 => 10,
                Net::Arp => return Err("an inet table sees no ARP".to_owned()),
            };
            self.load(Selector::Meta(Meta::Nfproto), FIRST)?;
            return self.cmp(EQ, &[proto]);
        }
        let ethertype: u16 = match needed {
            Net::Ip => 0x0800,
            Net::Ip6 => 0x86dd,
            Net::Arp => 0x0806,
        };
        self.load(Selector::Meta(Meta::Protocol), FIRST)?;
        self.cmp(EQ, &ethertype.to_be_bytes())
    }

    fn test(&mut self, selector: Selector, test: &Test) -> Result<(), Wrong> {
        self.header(selector)?;
        let width = width(selector);
        let bytes = |field: &Field| {
            let mut bytes = Vec::with_capacity(16);
            field.put(&mut bytes);
            let right = bytes.len() == width;
            right.then_some(bytes).ok_or_else(|| format!("{selector:?} has {width} bytes, unlike {field:?}"))
        };
        let word = || match width {
            4 => Ok(()),
            _ => Err(format!("{selector:?} has no bits to look at")),
        };
        let bits = |bits: u32| match width {
            4 => Ok(bits.to_ne_bytes().to_vec()),
            1 => u8::try_from(bits).map(|byte| vec![byte]).map_err(|_| format!("{selector:?} has one byte: {bits:#x}")),
            _ => Err(format!("{selector:?} has no bits to look at")),
        };
        self.load(selector, FIRST)?;
        match test {
            Test::Is(field) => {
                self.learn(selector, field);
                self.cmp(EQ, &bytes(field)?)
            }
            Test::Not(field) => self.cmp(NEQ, &bytes(field)?),
            Test::StartsWith(text) => match text.len() {
                1..=15 if width == libc::IFNAMSIZ => self.cmp(EQ, text.as_bytes()),
                _ => Err(format!("{selector:?} does not start with {text:?}")),
            },
            Test::Within(net) | Test::Outside(net) => {
                let network = bytes(&net.network().into())?;
                let mask = prefix_mask(net.prefix(), width);
                self.mask(&mask, &vec![0; width])?;
                self.cmp(if matches!(test, Test::Within(_)) { EQ } else { NEQ }, &network)
            }
            Test::Between(first, last) | Test::NotBetween(first, last) => {
                let (first, last) = (bytes(first)?, bytes(last)?);
                let op = if matches!(test, Test::Between(..)) { EQ } else { NEQ };
                self.expr("range", |out| {
                    out.number(1, FIRST);
                    out.number(2, op);
                    value(out, 3, &first);
                    value(out, 4, &last);
                    Ok(())
                })
            }
            Test::AnyOf(mask) | Test::NoneOf(mask) => {
                word()?;
                self.mask(&mask.to_ne_bytes(), &[0; 4])?;
                self.cmp(if matches!(test, Test::AnyOf(_)) { NEQ } else { EQ }, &[0; 4])
            }
            Test::Bits { mask, wanted: to } | Test::NotBits { mask, unwanted: to } => {
                let mask = bits(*mask)?;
                self.mask(&mask, &vec![0; mask.len()])?;
                self.cmp(if matches!(test, Test::Bits { .. }) { EQ } else { NEQ }, &bits(*to)?)
            }
        }
    }

    /// Remembers the network protocol when a rule checks it itself.
    fn learn(&mut self, selector: Selector, field: &Field) {
        let net = match (selector, field) {
            (Selector::Meta(Meta::Nfproto), Field::Byte(2)) => Net::Ip,
            (Selector::Meta(Meta::Nfproto), Field::Byte(10)) => Net::Ip6,
            (Selector::Meta(Meta::Protocol) | Selector::Ether(Ether::Type), Field::EtherType(0x0800)) => Net::Ip,
            (Selector::Meta(Meta::Protocol) | Selector::Ether(Ether::Type), Field::EtherType(0x86dd)) => Net::Ip6,
            (Selector::Meta(Meta::Protocol) | Selector::Ether(Ether::Type), Field::EtherType(0x0806)) => Net::Arp,
            _ => return,
        };
        self.known.get_or_insert(net);
    }

    fn lookup(&mut self, key: &[Selector], set: &str, to: Option<u32>, flags: u32) -> Result<(), Wrong> {
        let mut register = FIRST;
        let registers: usize = key.iter().map(|selector| width(*selector).div_ceil(4)).sum();
        if key.is_empty() || registers > 16 {
            return Err(format!("a key of {registers} registers cannot be looked up"));
        }
        key.iter().try_for_each(|selector| self.header(*selector))?;
        for selector in key {
            self.load(*selector, register)?;
            register += u32::try_from(width(*selector).div_ceil(4)).expect("a field has at most 4 registers");
        }
        let set = checked(set)?;
        self.expr("lookup", |out| {
            out.string(1, set);
            out.number(2, FIRST);
            if let Some(register) = to {
                out.number(3, register);
            }
            if flags != 0 {
                out.number(5, flags);
            }
            Ok(())
        })
    }

    fn nat(&mut self, kind: NatKind, to: &NatTo, flags: NatFlags) -> Result<(), Wrong> {
        let kind = u32::from(kind == NatKind::Destination);
        let (family, ports) = match to {
            NatTo::Fixed(IpAddr::V4(v4), ports) => {
                self.immediate(FIRST, &v4.octets())?;
                (2, *ports)
            }
            NatTo::Fixed(IpAddr::V6(v6), ports) => {
                self.immediate(FIRST, &v6.octets())?;
                (10, *ports)
            }
            NatTo::Map { key, map, address, ports } => {
                self.lookup(key, map, Some(FIRST), 0)?;
                let (family, port) = match address {
                    Address::Ip => (2, FIRST + 1),
                    Address::Ip6 => (10, FIRST + 4),
                };
                let registers = (*ports == Ports::Mapped).then_some((port, port));
                return self.translate(kind, family, registers, flags);
            }
        };
        // A fixed address fills at most four registers.
        let registers = (FIRST + 4, FIRST + 5);
        if let Some((first, last)) = ports {
            self.immediate(registers.0, &first.to_be_bytes())?;
            self.immediate(registers.1, &last.to_be_bytes())?;
        }
        self.translate(kind, family, ports.map(|_| registers), flags)
    }

    fn translate(&mut self, kind: u32, family: u32, ports: Option<(u32, u32)>, flags: NatFlags) -> Result<(), Wrong> {
        self.expr("nat", |out| {
            out.number(1, kind);
            out.number(2, family);
            out.number(3, FIRST);
            if let Some((first, last)) = ports {
                out.number(5, first);
                if last != first {
                    out.number(6, last);
                }
            }
            nat_flags(out, 7, flags);
            Ok(())
        })
    }

    fn set_mark(&mut self, of: MarkOf, mask: u32, xor: u32) -> Result<(), Wrong> {
        if mask == 0 {
            self.immediate(FIRST, &xor.to_ne_bytes())?;
        } else {
            let from = if of == MarkOf::Packet { Selector::Meta(Meta::Mark) } else { Selector::Ct(Ct::Mark) };
            self.load(from, FIRST)?;
            self.mask(&mask.to_ne_bytes(), &xor.to_ne_bytes())?;
        }
        self.store_mark(of)
    }

    fn store_mark(&mut self, of: MarkOf) -> Result<(), Wrong> {
        match of {
            MarkOf::Packet => self.numbers("meta", &[(2, meta(Meta::Mark)), (3, FIRST)]),
            MarkOf::Connection => self.numbers("ct", &[(2, ct(Ct::Mark).0), (4, FIRST)]),
        }
    }

    fn reject(&mut self, how: Reject) -> Result<(), Wrong> {
        // NFT_REJECT_ICMPX_UNREACH 2 with its codes; NFT_REJECT_TCP_RST 1.
        let (kind, code) = match how {
            Reject::PortUnreachable => (2, 1),
            Reject::HostUnreachable => (2, 2),
            Reject::AdminProhibited => (2, 3),
            Reject::TcpReset => (1, 0),
        };
        self.expr("reject", |out| {
            out.number(1, kind);
            out.attr(2, &[code]);
            Ok(())
        })
    }

    fn limit(&mut self, limit: Limit) -> Result<(), Wrong> {
        let seconds: u64 = match limit.per {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
        };
        self.expr("limit", |out| {
            out.attr(1, &limit.rate.to_be_bytes());
            out.attr(2, &seconds.to_be_bytes());
            out.number(3, limit.burst);
            out.number(4, 0);
            out.number(5, 0);
            Ok(())
        })
    }
}

fn nat_flags(out: &mut Messages, kind: u16, flags: NatFlags) {
    let bits = u32::from(flags.random) << 2 | u32::from(flags.persistent) << 3 | u32::from(flags.fully_random) << 4;
    if bits != 0 {
        out.number(kind, bits);
    }
}

/// `enum nft_meta_keys`.
fn meta(key: Meta) -> u32 {
    match key {
        Meta::Protocol => 1,
        Meta::Mark => 3,
        Meta::Iifname => 6,
        Meta::Oifname => 7,
        Meta::Nfproto => 15,
        Meta::L4proto => 16,
        Meta::Pkttype => 19,
    }
}

/// `enum nft_ct_keys` and the direction of a tuple's.
fn ct(key: Ct) -> (u32, Option<TupleOf>) {
    match key {
        Ct::State => (0, None),
        Ct::Direction => (1, None),
        Ct::Status => (2, None),
        Ct::Mark => (3, None),
        Ct::ProtoSrc(of) => (11, Some(of)),
        Ct::ProtoDst(of) => (12, Some(of)),
        Ct::Ip4(of, Ip::Saddr) => (19, Some(of)),
        Ct::Ip4(of, Ip::Daddr) => (20, Some(of)),
        Ct::Ip6(of, Ip::Saddr) => (21, Some(of)),
        Ct::Ip6(of, Ip::Daddr) => (22, Some(of)),
    }
}

/// Bytes a selector loads.
fn width(selector: Selector) -> usize {
    match selector {
        Selector::Meta(Meta::L4proto | Meta::Nfproto | Meta::Pkttype)
        | Selector::Icmpv6Type
        | Selector::TcpFlags
        | Selector::Ct(Ct::Direction) => 1,
        Selector::Meta(Meta::Protocol)
        | Selector::Sport
        | Selector::Dport
        | Selector::Ether(Ether::Type)
        | Selector::ArpOperation
        | Selector::Ct(Ct::ProtoSrc(_) | Ct::ProtoDst(_)) => 2,
        Selector::Meta(Meta::Mark)
        | Selector::Ip(_)
        | Selector::ArpSaddrIp
        | Selector::Ct(Ct::State | Ct::Status | Ct::Mark | Ct::Ip4(..))
        | Selector::FibDaddrType(_) => 4,
        Selector::Ether(Ether::Saddr | Ether::Daddr) | Selector::ArpSaddrEther => 6,
        Selector::Meta(Meta::Iifname | Meta::Oifname)
        | Selector::Ip6(_)
        | Selector::NdTarget
        | Selector::Ct(Ct::Ip6(..)) => 16,
    }
}

/// A mask of so many leading ones.
fn prefix_mask(prefix: u8, bytes: usize) -> Vec<u8> {
    let ones = usize::from(prefix);
    (0..bytes)
        .map(|at| !(0xff_u8.checked_shr(u32::try_from(ones.saturating_sub(at * 8)).unwrap_or(8)).unwrap_or(0)))
        .collect()
}
