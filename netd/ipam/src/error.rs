//! Why an address is not given.

use std::net::IpAddr;

use rnet_model::{Kind, Subnet};

/// A refused request of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpamError {
    /// Every address that may be handed out is held, resting, or seen in use.
    #[error("subnet {subnet} has no free address{}", .next.map_or_else(String::new, |s| format!("; one is free again in {s} s")))]
    Exhausted {
        /// The pool's subnet.
        subnet: Subnet,
        /// Seconds until the first resting address is free.
        next: Option<u64>,
    },
    /// Somebody else holds it.
    #[error("address {address} is held by {owner}")]
    Held {
        /// The address.
        address: IpAddr,
        /// Its owner.
        owner: String,
    },
    /// It is in another subnet.
    #[error("address {address} is not in subnet {subnet}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The pool's subnet.
        subnet: Subnet,
    },
    /// No container can have it.
    #[error("address {address} is the {what} of {subnet}")]
    Special {
        /// The address.
        address: IpAddr,
        /// `gateway`, `network address`, `broadcast address`.
        what: &'static str,
        /// The pool's subnet.
        subnet: Subnet,
    },
}

impl IpamError {
    /// What the refusal means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            IpamError::Exhausted { next: Some(_), .. } => Kind::Retry,
            IpamError::Exhausted { next: None, .. } | IpamError::Held { .. } => Kind::Conflict,
            IpamError::Outside { .. } | IpamError::Special { .. } => Kind::Invalid,
        }
    }
}
