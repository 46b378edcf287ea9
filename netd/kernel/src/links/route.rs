//! Routes and policy rules.

use std::fmt;
use std::net::IpAddr;

use rnet_model::{IfName, Subnet};

/// A route, reported or asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: Subnet,
    /// Next hop; `None` = on link.
    pub via: Option<IpAddr>,
    /// Device by name when asked for; reported routes carry it too. A route that is not unicast has none: it does not
    /// matter when asked for and is reported as `lo`.
    pub dev: IfName,
    /// Metric (`RTA_PRIORITY`); `None` = the kernel's default.
    pub metric: Option<u32>,
    /// The next hop is taken to be on the link (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Who made it (`rtm_protocol`, linux/rtnetlink.h): 2 = kernel, 3 = boot, 4 = static, [`Route::OURS`] = rnet.
    pub protocol: u8,
    /// Table (`RTA_TABLE`), [`Route::MAIN`] unless rules of policy routing lead elsewhere.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
    /// `rtm_scope`, of IPv4: 0 = universe, 253 = link, 254 = host; `None` = link without a next hop, else universe.
    pub scope: Option<u8>,
    /// Bytes (`RTAX_MTU`).
    pub mtu: Option<u32>,
    /// Bytes (`RTAX_ADVMSS`).
    pub advmss: Option<u32>,
    /// The further next hops of a route that has several, of equal weight.
    pub more: Vec<NextHop>,
}

/// A further next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// Next hop; `None` = on link.
    pub via: Option<IpAddr>,
    /// Device.
    pub dev: IfName,
    /// The next hop is taken to be on the link.
    pub onlink: bool,
}

/// What a route does (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// Leads to a next hop.
    #[default]
    Unicast,
    /// Discards.
    Blackhole,
    /// Discards and answers that the host is unreachable.
    Unreachable,
    /// Discards and answers that it is prohibited.
    Prohibit,
}

impl RouteKind {
    const ALL: [RouteKind; 4] = [RouteKind::Unicast, RouteKind::Blackhole, RouteKind::Unreachable, RouteKind::Prohibit];

    pub(crate) fn number(self) -> u8 {
        match self {
            RouteKind::Unicast => libc::RTN_UNICAST,
            RouteKind::Blackhole => libc::RTN_BLACKHOLE,
            RouteKind::Unreachable => libc::RTN_UNREACHABLE,
            RouteKind::Prohibit => libc::RTN_PROHIBIT,
        }
    }

    pub(crate) fn of(number: u8) -> Option<Self> {
        RouteKind::ALL.into_iter().find(|k| k.number() == number)
    }
}

impl Route {
    /// RT_TABLE_MAIN.
    pub const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

    /// The route protocol number of rnet, outside the numbers rtnetlink.h and iproute2 know.
    pub const OURS: u8 = 0x4e;

    /// Ours, unicast, on the link, in the main table.
    pub fn new(destination: Subnet, dev: IfName) -> Self {
        Route {
            destination,
            via: None,
            dev,
            metric: None,
            onlink: false,
            source: None,
            protocol: Route::OURS,
            table: Route::MAIN,
            kind: RouteKind::Unicast,
            scope: None,
            mtu: None,
            advmss: None,
            more: Vec::new(),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RouteKind::Unicast => "",
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Prohibit => "prohibit ",
        })?;
        if self.destination.prefix() == 0 {
            f.write_str("default")?;
        } else {
            write!(f, "{}", self.destination)?;
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if self.kind == RouteKind::Unicast {
            write!(f, " dev {}", self.dev)?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        let numbers = [
            ("scope", self.scope.map(u32::from)),
            ("metric", self.metric),
            ("mtu", self.mtu),
            ("advmss", self.advmss),
            ("table", Some(self.table).filter(|t| *t != Route::MAIN)),
        ];
        for (word, number) in numbers {
            number.map_or(Ok(()), |n| write!(f, " {word} {n}"))?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        for hop in &self.more {
            f.write_str(" nexthop")?;
            hop.via.map_or(Ok(()), |via| write!(f, " via {via}"))?;
            write!(f, " dev {}", hop.dev)?;
            if hop.onlink {
                f.write_str(" onlink")?;
            }
        }
        Ok(())
    }
}

/// Address family of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

/// A mark that packets have to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fwmark {
    /// `FRA_FWMARK`.
    pub mark: u32,
    /// Bits that count (`FRA_FWMASK`).
    pub mask: u32,
}

/// A policy rule that leads to a table. Selectors that are `None` match everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which packets at all.
    pub family: Family,
    /// Source addresses.
    pub from: Option<Subnet>,
    /// Destination addresses.
    pub to: Option<Subnet>,
    /// Device they came in at.
    pub iif: Option<IfName>,
    /// Device the socket is bound to.
    pub oif: Option<IfName>,
    /// Mark.
    pub fwmark: Option<Fwmark>,
    /// Table it leads to.
    pub table: u32,
    /// Order, smallest first; `None` when asked for = just before the first rule that has one (fib_default_rule_pref),
    /// when removed = any.
    pub priority: Option<u32>,
}

impl Rule {
    /// Everything of a family to a table.
    pub fn new(family: Family, table: u32) -> Self {
        Rule { family, from: None, to: None, iif: None, oif: None, fwmark: None, table, priority: None }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.family == Family::V6 {
            f.write_str("-6 ")?;
        }
        match self.from {
            Some(from) => write!(f, "from {from}")?,
            None => f.write_str("from all")?,
        }
        self.to.map_or(Ok(()), |to| write!(f, " to {to}"))?;
        self.iif.as_ref().map_or(Ok(()), |d| write!(f, " iif {d}"))?;
        self.oif.as_ref().map_or(Ok(()), |d| write!(f, " oif {d}"))?;
        self.fwmark.map_or(Ok(()), |m| write!(f, " fwmark {:#x}/{:#x}", m.mark, m.mask))?;
        self.priority.map_or(Ok(()), |p| write!(f, " priority {p}"))?;
        write!(f, " lookup {}", self.table)
    }
}
