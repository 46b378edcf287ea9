//! The clocks: what is shown to people, and what durations are measured by.

use rnet_model::{EndpointId, NetworkId, SandboxId};

/// RFC 3339, seconds.
pub(super) fn wall() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since boot: not moved by settings of the wall clock, the same for every daemon of this boot.
pub(super) fn boot_seconds() -> u64 {
    u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec).unwrap_or(0)
}

/// The 128 bits of a new ULID.
fn ulid_bits() -> u128 {
    let millis = u128::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    (millis << 80) | (u128::from(random()) << 16) | u128::from(random() & 0xffff)
}

/// 64 random bits from getrandom(2), which never fails on a booted system.
pub(super) fn random() -> u64 {
    let mut bytes = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

pub(super) fn endpoint_id() -> EndpointId {
    EndpointId::from_bits(ulid_bits())
}

pub(super) fn network_id() -> NetworkId {
    NetworkId::from_bits(ulid_bits())
}

pub(super) fn sandbox_id() -> SandboxId {
    SandboxId::from_bits(ulid_bits())
}
