//! Names, ids, addresses and specs of rnet.
//!
//! Owns: what a valid value is. Every type here is built once at the edge (command line, API body, file) and is
//! total afterwards. Refuses: any input or output; nothing in this crate opens a file, a socket or reads a clock.

mod address;
mod attach;
mod container;
mod error;
mod id;
mod mac;
mod name;
mod network;
mod port;
mod protocol;
mod rate;
mod route;
mod vlan;

pub use address::{AddressRange, IfAddr, Subnet, one_of_each_family};
pub use attach::{AddressSpec, AttachOptions, AttachSpec, Gateway, HostIf, StaticAddress};
pub use container::{ContainerRef, Engine, NetworkMode};
pub use error::{InvalidInput, Kind};
pub use id::{EndpointId, NetworkId, SandboxId};
pub use mac::MacAddr;
pub use name::{ContainerName, DnsName, IfName, NetworkName};
pub use network::{EndpointOptions, GatewayMode, Isolation, NetworkSpec, NetworkType, Toggle};
pub use port::{ExposedPort, PortRange, PortSpec, PublishedPort};
pub use protocol::Protocol;
pub use rate::Rate;
pub use route::RouteSpec;
pub use vlan::{VlanId, VlanSet};
