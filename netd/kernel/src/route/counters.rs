//! The counters of many devices at once.
//!
//! `RTM_GETSTATS` and not `RTM_GETLINK`: a link's message is 1.5 KiB, of which the counters are 200 bytes, and the dumps
//! the engine works with are asked without them (`RTEXT_FILTER_SKIP_STATS`).

use std::collections::HashMap;

use netlink_packet_core::NLM_F_DUMP;
use rnet_model::IfName;

use super::Route;
use super::encode::Request;
use super::parse::counters;
use crate::KernelError;
use crate::links::Counters;

/// linux/rtnetlink.h
const RTM_GETSTATS: u16 = 94;
/// `IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64)`, linux/if_link.h.
const ONLY_LINK_64: u32 = 1;

impl Route {
    /// The counters of devices, in the order of their names, from one dump; `None` where there is no such device.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn counters(&mut self, devices: &[IfName]) -> Result<Vec<Option<Counters>>, KernelError> {
        // struct if_stats_msg: family, padding, ifindex, filter_mask.
        let mut body = vec![0; 8];
        body.extend(ONLY_LINK_64.to_ne_bytes());
        let request = Request::raw(NLM_F_DUMP, RTM_GETSTATS, body);
        let all: HashMap<u32, Counters> = self
            .socket
            .dump(&request, |body, all| all.extend(counters(body)))
            .map_err(|e| e.of("read the counters of devices"))?
            .into_iter()
            .collect();
        // The names are looked up afterwards: a device that was made meanwhile is not there yet.
        Ok(devices.iter().map(|dev| all.get(&self.index_of(dev)?).copied()).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::testing::root_or_skip;
    use crate::{LinkOp, Links, Netns, NewVeth, Route, announce};

    #[test]
    fn what_one_end_sends_the_other_receives() {
        if !root_or_skip() {
            return;
        }
        let ns = Netns::create().unwrap();
        let mut route = Route::open(&ns).unwrap();
        let name = |n: &str| n.parse::<rnet_model::IfName>().unwrap();
        let pair = NewVeth::new(name("left"), name("right"), "02:00:00:00:00:02".parse().unwrap());
        let up = [LinkOp::NewVeth(pair), LinkOp::Up(name("left")), LinkOp::Up(name("right"))];
        assert!(route.batch(&up).unwrap().is_empty());
        let names = [name("left"), name("absent"), name("right")];
        let before = route.counters(&names).unwrap();
        let begun = std::time::Instant::now();
        // A device that came up a moment ago may still throw away what it is to send (net/core/link_watch.c).
        let after = loop {
            announce(&ns, &name("left"), "02:00:00:00:00:01".parse().unwrap(), &["10.0.0.1".parse().unwrap()]).unwrap();
            let after = route.counters(&names).unwrap();
            if after[0].unwrap().tx_packets > before[0].unwrap().tx_packets {
                break after;
            }
            assert!(begun.elapsed().as_secs() < 5, "nothing is counted");
        };
        assert_eq!((before[1], after[1]), (None, None));
        assert!(after[2].unwrap().rx_bytes > before[2].unwrap().rx_bytes);
    }
}
