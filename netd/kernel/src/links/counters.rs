//! What a device has counted.

/// Counters of a device since it was made (`struct rtnl_link_stats64`, linux/if_link.h), as the device sees them: what
/// the host's end of a pair has received, the container has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets that came in and were not passed on.
    pub rx_dropped: u64,
    /// Packets that were to be sent and were not.
    pub tx_dropped: u64,
}
