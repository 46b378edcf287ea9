//! Every message byte for byte, as a little-endian machine sends it. One line: header, body, attributes.
#![allow(clippy::unwrap_used)]
#![cfg(target_endian = "little")]

use netlink_packet_route::route::RouteHeader;

use rnet_model::Subnet;

use super::*;
use crate::links::{
    Admin, Devconf4, DeviceKind, Family, Fwmark, IpvlanMode, MacvlanMode, NewDevice, NextHop, PortVlan, QdiscPlace,
    Rule, Switch, Tbf, VlanTarget,
};

struct Known;

impl Names for Known {
    fn index(&mut self, name: &IfName) -> Result<u32, i32> {
        match name.as_str() {
            "br0" => Ok(5),
            "eth0" => Ok(2),
            _ => Err(libc::ENODEV),
        }
    }
}

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

/// Header of 16 bytes, body of `body` bytes, then each attribute of the top level.
fn hex(request: Request, body: usize) -> String {
    let mut bytes = Vec::new();
    request.append(0x0102_0304, &mut bytes);
    assert_eq!(bytes.len() % 4, 0);
    let text = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut parts = vec![text(&bytes[..16]), text(&bytes[16..16 + body])];
    let mut rest = &bytes[16 + body..];
    while !rest.is_empty() {
        let length = usize::from(u16::from_le_bytes([rest[0], rest[1]])).next_multiple_of(4);
        parts.push(text(&rest[..length]));
        rest = &rest[length..];
    }
    parts.join(" ")
}

fn encoded(op: &LinkOp) -> String {
    let body = match op {
        LinkOp::AddAddress(..) | LinkOp::DetectAddress(..) | LinkOp::MoveAddress(..) | LinkOp::DelAddress(..) => 8,
        LinkOp::AddRoute(_) | LinkOp::DelRoute(_) | LinkOp::AddRule(_) | LinkOp::DelRule(_) => 12,
        LinkOp::Tbf(_) | LinkOp::Ingress(_) | LinkOp::MirrorIngress { .. } | LinkOp::DelQdisc(..) => 20,
        _ => 16,
    };
    hex(operation(op, &mut Known).unwrap(), body)
}

fn route(destination: &str, via: Option<&str>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        via: via.map(|v| v.parse().unwrap()),
        dev: name("eth0"),
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

fn operations() -> Vec<LinkOp> {
    let eth0 = || name("eth0");
    let address = |a: &str| a.parse::<IfAddr>().unwrap();
    let mac: MacAddr = "02:00:00:00:00:09".parse().unwrap();
    let gateway = route("10.1.0.0/16", Some("10.0.0.1"));
    let bridge = NewBridge {
        name: name("br0"),
        alias: "rnet:n".into(),
        mtu: Some(1400),
        mac: Some(mac),
        vlan_filtering: true,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    };
    let veth = NewVeth {
        name: name("rv1"),
        alias: "rnet:e".into(),
        master: Some(name("br0")),
        mtu: 1400,
        peer: eth0(),
        mac: None,
        ipv6: AddressGeneration::Off,
        peer_mac: mac,
        netns: None,
    };
    vec![
        LinkOp::NewBridge(bridge),
        LinkOp::NewVeth(veth),
        LinkOp::Up(eth0()),
        LinkOp::Down(eth0()),
        LinkOp::Master(eth0(), name("br0")),
        LinkOp::NoMaster(eth0()),
        LinkOp::Mtu(eth0(), 1400),
        LinkOp::Mac(eth0(), mac),
        LinkOp::Alias(eth0(), "rnet:x".into()),
        LinkOp::Alias(eth0(), String::new()),
        LinkOp::Quiet(eth0()),
        LinkOp::Retire(eth0(), 0x4e45),
        LinkOp::Delete(eth0()),
        LinkOp::DeleteGroup(0x4e45),
        LinkOp::Isolated(eth0(), true),
        LinkOp::AddAddress(eth0(), address("10.0.0.2/24")),
        LinkOp::AddAddress(eth0(), address("10.0.0.2/31")),
        LinkOp::AddAddress(eth0(), address("fd00::2/64")),
        LinkOp::DelAddress(eth0(), address("10.0.0.2/24")),
        LinkOp::AddRoute(route("0.0.0.0/0", Some("10.0.0.1"))),
        LinkOp::AddRoute(Route { metric: Some(9), onlink: true, source: Some(address("10.0.0.2/24").ip()), ..gateway }),
        LinkOp::AddRoute(route("10.1.0.0/16", None)),
        LinkOp::AddRoute(route("10.1.0.0/16", Some("fd00::1"))),
        LinkOp::AddRoute(route("::/0", Some("fd00::1"))),
        LinkOp::DelRoute(route("0.0.0.0/0", Some("10.0.0.1"))),
        LinkOp::DelRoute(route("fd01::/64", None)),
    ]
}

/// What the plugins need beyond what netd does.
fn plugin_operations() -> Vec<LinkOp> {
    let eth0 = || name("eth0");
    let subnet = |s: &str| s.parse::<Subnet>().unwrap();
    let mac: MacAddr = "02:00:00:00:00:09".parse().unwrap();
    let device = |kind| NewDevice { parent: Some(eth0()), ..NewDevice::new(name("new0"), kind) };
    let macvlan = DeviceKind::Macvlan { mode: MacvlanMode::Bridge, bc_queue_len: Some(2000) };
    let plain = |kind| LinkOp::NewDevice(NewDevice::new(name("new0"), kind));
    let bridge = NewBridge {
        mac: Some(mac),
        ipv6: AddressGeneration::Kernel,
        snooping: Snooping::Kernel,
        ..NewBridge::new(name("br0"))
    };
    let veth = NewVeth { ipv6: AddressGeneration::Kernel, mac: Some(mac), ..NewVeth::new(name("rv1"), eth0(), mac) };
    let hop = |via: &str| NextHop { via: Some(via.parse().unwrap()), dev: eth0(), onlink: false };
    let several = Route { more: vec![hop("10.0.0.3")], ..route("10.1.0.0/16", Some("10.0.0.1")) };
    let sized =
        Route { mtu: Some(1400), advmss: Some(1360), table: 1000, scope: Some(254), ..route("10.1.0.0/16", None) };
    let rule = Rule { from: Some(subnet("10.0.0.2/32")), priority: Some(100), ..Rule::new(Family::V4, 100) };
    let six = Rule {
        to: Some(subnet("fd00::/64")),
        iif: Some(eth0()),
        oif: Some(name("br0")),
        fwmark: Some(Fwmark { mark: 1, mask: 0xff }),
        ..Rule::new(Family::V6, 1000)
    };
    let range = PortVlan { from: 10, to: 20, ..PortVlan::tagged(eth0(), 1) };
    let own = PortVlan { target: VlanTarget::Bridge, ..PortVlan::tagged(name("br0"), 5) };
    let tbf = |rate| LinkOp::Tbf(Tbf { dev: eth0(), rate, burst: 10_000, latency_us: 25_000 });
    vec![
        LinkOp::NewDevice(NewDevice {
            mtu: Some(1400),
            mac: Some(mac),
            master: Some(name("br0")),
            alias: Some("x".into()),
            admin: Admin::Up,
            ..device(macvlan)
        }),
        LinkOp::NewDevice(device(DeviceKind::Ipvlan { mode: IpvlanMode::L3s })),
        LinkOp::NewDevice(device(DeviceKind::Vlan { id: 100 })),
        plain(DeviceKind::Dummy),
        plain(DeviceKind::Vrf { table: 100 }),
        plain(DeviceKind::Ifb),
        LinkOp::NewBridge(bridge),
        LinkOp::NewVeth(veth),
        LinkOp::Rename(eth0(), name("eth1")),
        LinkOp::Promisc(eth0(), Switch::On),
        LinkOp::AllMulti(eth0(), Switch::Off),
        LinkOp::TxQueueLen(eth0(), 500),
        LinkOp::Hairpin(eth0(), Switch::On),
        LinkOp::VlanFiltering(name("br0"), Switch::On),
        LinkOp::PortVlan(PortVlan::access(eth0(), 5)),
        LinkOp::PortVlan(range.clone()),
        LinkOp::DelPortVlan(range),
        LinkOp::PortVlan(own),
        LinkOp::Devconf4(eth0(), Devconf4::ArpNotify, 1),
        LinkOp::DetectAddress(eth0(), "fd00::2/64".parse().unwrap()),
        LinkOp::AddRoute(several),
        LinkOp::AddRoute(sized),
        LinkOp::AddRoute(Route { kind: RouteKind::Blackhole, ..route("10.1.0.0/16", None) }),
        LinkOp::AddRule(rule.clone()),
        LinkOp::DelRule(rule),
        LinkOp::AddRule(six),
        tbf(1_000_000),
        tbf(5_000_000_000),
        LinkOp::Ingress(eth0()),
        LinkOp::MirrorIngress { from: eth0(), to: name("br0") },
        LinkOp::DelQdisc(eth0(), QdiscPlace::Root),
        LinkOp::DelQdisc(eth0(), QdiscPlace::Ingress),
    ]
}

#[test]
fn messages_byte_for_byte() {
    let mut lines = Vec::new();
    for op in operations().into_iter().chain(plugin_operations()) {
        lines.push(format!("{op}\n  {}", encoded(&op)));
        for message in finish(&op) {
            let (request, otherwise) = match message {
                Finish::Required(request) | Finish::Ipv6(request) => (request, None),
                Finish::RequiredOr(request, otherwise) => (request, Some(otherwise)),
            };
            lines.push(format!("  then {}", hex(request, 16)));
            lines.extend(otherwise.map(|o| format!("  or {}", hex(o, 16))));
        }
    }
    lines.push(format!("link show eth0\n  {}", hex(get_link(&name("eth0")), 16)));
    lines.push(format!("link show\n  {}", hex(dump_links(), 16)));
    lines.push(format!("addr show\n  {}", hex(dump_addresses(), 8)));
    lines.push(format!("addr show eth0\n  {}", hex(dump_addresses_of(2), 8)));
    lines.push(format!("route show\n  {}\n", hex(dump_routes(AddressFamily::Inet, RouteHeader::RT_TABLE_MAIN), 12)));
    let text = lines.join("\n");
    assert_eq!(text, include_str!("messages.txt"), "\n{text}");
}

#[test]
fn the_other_end_goes_to_its_namespace_by_descriptor() {
    let ns = crate::fake::netns(1).unwrap();
    let fd = u32::try_from(ns.as_fd().as_raw_fd()).unwrap();
    let veth = NewVeth {
        name: name("rv1"),
        alias: String::new(),
        master: None,
        mtu: 1500,
        peer: name("eth0"),
        mac: None,
        ipv6: AddressGeneration::Off,
        peer_mac: "02:00:00:00:00:09".parse().unwrap(),
        netns: Some(ns),
    };
    let op = LinkOp::NewVeth(veth);
    // IFLA_NET_NS_FD (28) is the last attribute of the other end.
    assert!(encoded(&op).ends_with(&format!("08001c00{:08x}", fd.swap_bytes())));
    assert_eq!(finish(&op).len(), 1, "names of another namespace are not touched in this one");
}

#[test]
fn unknown_devices_are_named() {
    let missing = |op: LinkOp| operation(&op, &mut Known).unwrap_err();
    let told = (libc::ENODEV, "no device br9".to_owned());
    assert_eq!(missing(LinkOp::Master(name("eth0"), name("br9"))), told);
    assert_eq!(missing(LinkOp::AddAddress(name("br9"), "10.0.0.2/24".parse().unwrap())), told);
    assert_eq!(missing(LinkOp::DelRoute(Route { dev: name("br9"), ..route("::/0", None) })), told);
}
