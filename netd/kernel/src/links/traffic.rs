//! Traffic control, and VLANs of bridge ports.

use std::fmt;

use rnet_model::IfName;

/// A token bucket at the root of a device. Another qdisc being there is EEXIST, an equal one success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tbf {
    /// Device.
    pub dev: IfName,
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
    /// Microseconds a packet waits before it is dropped rather than queued.
    pub latency_us: u32,
}

impl Tbf {
    /// Bytes that may wait: what the rate lets through in the latency, at least two of the largest packets the
    /// bucket takes whole: where only one fits, TCP loses every second one. A burst on top, as tc(8) has it, would let packets wait for as long as a burst takes.
    pub fn limit(&self) -> u32 {
        /// A segment train of 64 KiB with its headers (GSO_LEGACY_MAX_SIZE, linux/netdevice.h).
        const LARGEST: u32 = 65_536 + 128;
        let waiting = u128::from(self.rate) * u128::from(self.latency_us) / 1_000_000;
        u32::try_from(waiting).unwrap_or(u32::MAX).max(2 * self.burst.min(LARGEST))
    }
}

impl fmt::Display for Tbf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tbf { dev, rate, burst, latency_us } = self;
        write!(f, "dev {dev} root tbf rate {rate}bps burst {burst}b latency {latency_us}us")
    }
}

/// Which qdisc of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QdiscPlace {
    /// What leaves goes through it.
    Root,
    /// What comes in.
    Ingress,
}

impl fmt::Display for QdiscPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QdiscPlace::Root => "root",
            QdiscPlace::Ingress => "ingress",
        })
    }
}

/// A qdisc as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// `TCA_KIND`: `tbf`, `ingress`, `clsact`.
    pub kind: String,
    /// Major number in the upper 16 bits.
    pub handle: u32,
    /// `TC_H_ROOT` (all ones), `TC_H_INGRESS` or the class it is in.
    pub parent: u32,
    /// Of a token bucket.
    pub tbf: Option<TbfState>,
}

/// A token bucket as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TbfState {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes, rounded: the kernel keeps the time they take, in units of 64 ns.
    pub burst: u64,
    /// Bytes that may wait.
    pub limit: u32,
}

impl TbfState {
    /// Whether it is what was asked for, as exactly as the kernel keeps it.
    pub fn is(&self, wanted: &Tbf) -> bool {
        let unit = wanted.rate.saturating_mul(64) / 1_000_000_000 + 1;
        self.rate == wanted.rate && self.limit == wanted.limit() && self.burst.abs_diff(u64::from(wanted.burst)) <= unit
    }
}

/// A range of VLANs of a bridge port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlan {
    /// The port, or the bridge.
    pub dev: IfName,
    /// Whether `dev` is the one or the other.
    pub target: VlanTarget,
    /// First, 1 to 4094.
    pub from: u16,
    /// Last, the same or higher.
    pub to: u16,
    /// Frames without a tag belong to it; only for a single one.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
}

/// Whose VLANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VlanTarget {
    /// A port's.
    #[default]
    Port,
    /// The bridge's own, as a device of the host (`BRIDGE_FLAGS_SELF`).
    Bridge,
}

impl PortVlan {
    /// One, tagged, of a port.
    pub fn tagged(dev: IfName, vid: u16) -> Self {
        PortVlan { dev, target: VlanTarget::Port, from: vid, to: vid, pvid: false, untagged: false }
    }

    /// One whose frames come and go without a tag, of a port.
    pub fn access(dev: IfName, vid: u16) -> Self {
        PortVlan { pvid: true, untagged: true, ..PortVlan::tagged(dev, vid) }
    }
}

impl fmt::Display for PortVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dev {} vid {}", self.dev, self.from)?;
        if self.to != self.from {
            write!(f, "-{}", self.to)?;
        }
        for (on, word) in
            [(self.pvid, " pvid"), (self.untagged, " untagged"), (self.target == VlanTarget::Bridge, " self")]
        {
            f.write_str(if on { word } else { "" })?;
        }
        Ok(())
    }
}
