//! A segment that hosts and other stations share: a bridge in the world's own namespace.

use std::process::Command;

use rnet_kernel::Netns;

use crate::{Host, Output, SOON, World, path_text, run_in, wait_for};

/// A station on the LAN that is no host of ours.
#[derive(Debug)]
pub struct Peer {
    /// Its namespace.
    pub netns: Netns,
}

impl World {
    fn lan(&self) {
        if !self.lan_is_up.replace(true) {
            self.ip("link add lan0 type bridge forward_delay 0");
            self.ip("link set lan0 up");
            self.ip("link set lo up");
        }
    }

    /// Gives a host a NIC in the LAN, up, with these addresses.
    #[track_caller]
    pub fn plug(&self, host: &Host, nic: &str, addresses: &[&str]) {
        self.cable(&host.netns, path_text(&host.netns_file), &format!("p-{}-{nic}", host.name), nic, addresses);
    }

    /// A station on the LAN with these addresses on `eth0`.
    #[track_caller]
    pub fn peer(&self, name: &str, addresses: &[&str]) -> Peer {
        let netns = Netns::create().expect("root may make a namespace");
        let file = self.dir().join(format!("{name}.peer"));
        netns.bind(&file).expect("a namespace can be bound");
        self.peers.borrow_mut().push(file.clone());
        self.cable(&netns, path_text(&file), &format!("p-{name}"), "eth0", addresses);
        Peer { netns }
    }

    #[track_caller]
    fn cable(&self, netns: &Netns, file: &str, port: &str, nic: &str, addresses: &[&str]) {
        self.lan();
        self.ip(&format!("link add {port} type veth peer name {nic} netns {file}"));
        self.ip(&format!("link set {port} master lan0 up"));
        let inside = |words: &str| run_in(netns, Command::new("ip").args(words.split_whitespace())).ok();
        inside("link set lo up");
        inside(&format!("link set {nic} up"));
        for address in addresses {
            let more = if address.contains(':') { "nodad" } else { "broadcast +" };
            inside(&format!("address add {address} dev {nic} {more}"));
        }
        // The kernel's own address and the local routes come with the carrier, which takes its time on a busy machine.
        let expected = 1 + addresses.iter().filter(|a| a.contains(':')).count();
        let routes = format!("-6 route show table local type local dev {nic}");
        wait_for("a NIC to have its routes", SOON, || inside(&routes).out.lines().count() >= expected);
    }
}

impl Peer {
    /// Runs a program on the station.
    pub fn run(&self, words: &str) -> Output {
        let mut words = words.split_whitespace();
        let program = words.next().expect("a program");
        run_in(&self.netns, Command::new(program).args(words))
    }

    /// Whether an address answers.
    pub fn reaches(&self, address: &str) -> bool {
        self.run(&format!("ping -c 1 -W 1 {address}")).code == 0
    }
}
