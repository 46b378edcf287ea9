//! A route a user asks for inside a container.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::{InvalidInput, string_value};
use crate::{AddressRange, Subnet};

/// `DST[@VIA]`: a destination prefix and, unless it is on the link, the next hop of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteSpec {
    /// Destination.
    pub destination: Subnet,
    /// Next hop; `None` = on link.
    pub via: Option<IpAddr>,
}

impl FromStr for RouteSpec {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let (destination, via) = match s.split_once('@') {
            Some((d, v)) => (d, Some(v)),
            None => (s, None),
        };
        let via: Option<IpAddr> = via
            .map(|v| v.parse().map_err(|_| InvalidInput::new("route", s, format!("{v:?} is not a next hop address"))))
            .transpose()?;
        let destination: Subnet = match destination {
            "default" if via.is_some_and(|v| v.is_ipv6()) => {
                Subnet::containing(IpAddr::from([0u16; 8]), 0).expect("::/0 is a prefix")
            }
            "default" => Subnet::containing(IpAddr::from([0u8; 4]), 0).expect("0.0.0.0/0 is a prefix"),
            text => text.parse()?,
        };
        if via.is_some_and(|v| v.is_ipv4() != destination.is_ipv4()) {
            return Err(InvalidInput::new("route", s, "destination and next hop are of different families"));
        }
        Ok(RouteSpec { destination, via })
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        self.via.map_or(Ok(()), |via| write!(f, "@{via}"))
    }
}
string_value!(RouteSpec, "route inside the container, DST[@VIA]");

impl From<Subnet> for AddressRange {
    fn from(net: Subnet) -> Self {
        net.to_string().parse().expect("a prefix is a range")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in ["10.0.0.0/8@192.168.1.1", "10.0.0.0/8", "fd00::/64@fe80::1"] {
            assert_eq!(good.parse::<RouteSpec>().map(|r| r.to_string()), Ok(good.to_owned()));
        }
        assert_eq!("default@10.0.0.1".parse::<RouteSpec>().map(|r| r.to_string()), Ok("0.0.0.0/0@10.0.0.1".into()));
        for bad in ["10.0.0.1/8", "10.0.0.0/8@fd00::1", "10.0.0.0/8@", "x@1.1.1.1", ""] {
            assert!(bad.parse::<RouteSpec>().is_err(), "{bad}");
        }
    }
}
