//! Subnets for networks that name none.

use rnet_model::Subnet;
use sha2::{Digest as _, Sha256};

use crate::pool::{address, number};

/// Blocks that are cut into subnets of one size each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetPools {
    /// A block, and the prefix length of the subnets made of it; one shorter than the block's own gives nothing.
    pub pools: Vec<(Subnet, u8)>,
}

impl SubnetPools {
    /// The first subnet that overlaps none of `taken`. One step for each taken block that is in the way.
    pub fn next_free(&self, taken: &[Subnet]) -> Option<Subnet> {
        self.pools.iter().find_map(|(block, prefix)| first_free(block, *prefix, taken))
    }
}

fn first_free(block: &Subnet, prefix: u8, taken: &[Subnet]) -> Option<Subnet> {
    if prefix < block.prefix() {
        return None;
    }
    let mut from = block.network();
    loop {
        let subnet = Subnet::containing(from, prefix)?;
        let in_the_way =
            taken.iter().filter(|t| t.overlaps(&subnet)).map(|t| number(t.last()).max(number(subnet.last()))).max();
        let Some(last) = in_the_way else { return Some(subnet) };
        if last >= number(block.last()) {
            return None;
        }
        from = address(last + 1, block.is_ipv4());
    }
}

/// A unique local /64 (RFC 4193 section 3.2.2): the host's random global id and a subnet id made from the network's
/// name, so that a network that is made again gets its prefix again.
pub fn ula_subnet(global_id: [u8; 5], name: &str) -> Subnet {
    let digest = Sha256::digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&global_id);
    bytes[6..8].copy_from_slice(&digest[..2]);
    Subnet::containing(std::net::Ipv6Addr::from(bytes).into(), 64).expect("64 is a prefix length of IPv6")
}
