//! Features of the kernel, tried in a namespace that is thrown away: what its configuration says may be a module that is
//! not there.

use rnet_kernel::rules::{
    Chain, ChainKind, Changes, DataType, Expr, Family, Hook, Ip, KeyType, NatFlags, Place, Rule, Selector, Set, Table,
    Test,
};
use rnet_kernel::{
    DeviceKind, IpvlanMode, KernelError, LinkOp, Links as _, MacvlanMode, Netns, NewBridge, NewDevice, NewVeth,
    NfTables, Route,
};
use rnet_model::IfName;

use super::{Feature, Need};

/// Tries all features.
///
/// # Errors
/// When no namespace can be made.
pub(super) fn features() -> Result<Vec<Feature>, KernelError> {
    let ns = Netns::create()?;
    let mut links = Route::open(&ns)?;
    let mut out = Vec::new();
    let mut add = |name, purpose, need, tried: Result<(), KernelError>| {
        out.push(Feature { name, purpose, need, missing: tried.err().map(|e| e.said()) });
    };
    let name = |text: &str| text.parse::<IfName>().expect("these are names");
    let mut make = |op: LinkOp| match links.batch(&[op])?.pop() {
        Some(fault) => Err(fault.error),
        None => Ok(()),
    };
    add("bridge", "networks", Need::Always, make(LinkOp::NewBridge(NewBridge::new(name("br0")))));
    let mac = "02:00:00:00:00:01".parse().expect("it is an address");
    add(
        "veth",
        "interfaces of containers",
        Need::Always,
        make(LinkOp::NewVeth(NewVeth::new(name("v0"), name("v1"), mac))),
    );
    let filtering = NewBridge { vlan_filtering: true, ..NewBridge::new(name("br1")) };
    add("VLAN filtering of bridges", "attach with a VLAN", Need::Sometimes, make(LinkOp::NewBridge(filtering)));
    let device = |kind, number: usize| {
        LinkOp::NewDevice(NewDevice { parent: Some(name("v0")), ..NewDevice::new(name(&format!("d{number}")), kind) })
    };
    let macvlan = DeviceKind::Macvlan { mode: MacvlanMode::Bridge, bc_queue_len: None };
    add("macvlan", "networks and plugins of type macvlan", Need::Sometimes, make(device(macvlan, 0)));
    let ipvlan = DeviceKind::Ipvlan { mode: IpvlanMode::L2 };
    add("ipvlan", "networks and plugins of type ipvlan", Need::Sometimes, make(device(ipvlan, 1)));
    add("802.1Q devices", "plugins of type vlan", Need::Sometimes, make(device(DeviceKind::Vlan { id: 7 }, 2)));
    tables(&ns, &mut add);
    Ok(out)
}

fn tables(ns: &Netns, add: &mut impl FnMut(&'static str, &'static str, Need, Result<(), KernelError>)) {
    let mut nft = match NfTables::open(ns) {
        Ok(nft) => nft,
        Err(error) => return add("nf_tables", "networks", Need::Always, Err(error)),
    };
    let inet = Table::new(Family::Inet, "inet");
    let mut commit = |build: &dyn Fn(&mut Changes)| {
        let mut changes = Changes::new();
        build(&mut changes);
        nft.commit(&changes, None)
    };
    add(
        "nf_tables of family inet",
        "networks",
        Need::Always,
        commit(&|c| {
            c.ensure_table(&inet);
        }),
    );
    add(
        "NAT (nf_nat, masquerade)",
        "the way out of networks",
        Need::Always,
        commit(&|c| {
            c.ensure_table(&inet);
            c.ensure_chain(&inet, Chain::base("nat", ChainKind::Nat, Hook::Postrouting, 100));
            c.add_rule(&inet, Rule::new("nat", [Expr::Masquerade(NatFlags::default())]), Place::Last);
        }),
    );
    add(
        "fib expression of nf_tables",
        "published ports",
        Need::Always,
        commit(&|c| {
            c.ensure_table(&inet);
            c.ensure_chain(&inet, Chain::base("fib", ChainKind::Filter, Hook::Prerouting, 0));
            c.add_rule(&inet, Rule::new("fib", [Expr::to_local()]), Place::Last);
        }),
    );
    add(
        "maps of nf_tables",
        "published ports",
        Need::Always,
        commit(&|c| {
            c.ensure_table(&inet);
            let value = DataType::Value(vec![KeyType::Ipv4Addr, KeyType::InetService]);
            c.ensure_set(&inet, Set::map("map", &[KeyType::InetProto, KeyType::InetService], value));
        }),
    );
    add(
        "connection tracking (nf_conntrack)",
        "answers to containers",
        Need::Always,
        commit(&|c| {
            c.ensure_table(&inet);
            c.ensure_chain(&inet, Chain::base("ct", ChainKind::Filter, Hook::Forward, 0));
            let state = Expr::Match(
                Selector::Ct(rnet_kernel::rules::Ct::State),
                Test::AnyOf(rnet_kernel::rules::Ct::ESTABLISHED),
            );
            c.add_rule(&inet, Rule::new("ct", [state]), Place::Last);
        }),
    );
    let bridge = Table::new(Family::Bridge, "bridge");
    add(
        "nf_tables of family bridge",
        "fixed addresses of containers",
        Need::Sometimes,
        commit(&|c| {
            c.ensure_table(&bridge);
            c.ensure_chain(&bridge, Chain::base("port", ChainKind::Filter, Hook::Prerouting, 0));
            let source = Expr::In(vec![Selector::Ip(Ip::Saddr)], "known".into());
            c.ensure_set(&bridge, Set::new("known", &[KeyType::Ipv4Addr]));
            c.add_rule(&bridge, Rule::new("port", [source]), Place::Last);
        }),
    );
}
