//! Frames of a container with another source address than its own: dropped on the bridge, in table `bridge rnet_cni`.
//!
//! One rule for all: the port and the source address have to be in a set together, if the port is in another one.

use rnet_kernel::KernelError;
use rnet_kernel::rules::{
    Chain, ChainKind, Changes, Element, Ether, Expr, Family, Field, Hook, KeyType, Meta, NfTables, Place, Rule,
    Selector, Set, Table, Verdict,
};
use rnet_model::{IfName, MacAddr};
use rnet_plan::{Action, Plan};
use rnet_plugin_protocol::{AttachmentId, Error};

use crate::table;

const VERSION: &str = "version_1";

fn here() -> Table {
    Table::new(Family::Bridge, "rnet_cni")
}

/// Ports that are looked at.
fn ports() -> Set {
    Set::new("ports", &[KeyType::Ifname])
}

/// Source addresses of ports.
fn sources() -> Set {
    Set::new("sources", &[KeyType::Ifname, KeyType::EtherAddr])
}

fn base(tables: &mut NfTables) -> Result<Changes, KernelError> {
    let table = here();
    let mut changes = Changes::new();
    if tables.chains(&table)?.iter().any(|chain| chain.name == VERSION) {
        return Ok(changes);
    }
    let port = || Selector::Meta(Meta::Iifname);
    let rule = vec![
        Expr::In(vec![port()], ports().name),
        Expr::NotIn(vec![port(), Selector::Ether(Ether::Saddr)], sources().name),
        Expr::Verdict(Verdict::Drop),
    ];
    let chain = Chain::base("prerouting", ChainKind::Filter, Hook::Prerouting, -300);
    changes
        .ensure_table(&table)
        .ensure_set(&table, ports())
        .ensure_set(&table, sources())
        .ensure_chain(&table, chain)
        .flush_chain(&table, "prerouting")
        .add_rule(&table, Rule::new("prerouting", rule).comment("another source address than its own"), Place::Last)
        .ensure_chain(&table, Chain::plain(VERSION));
    Ok(changes)
}

/// Lets a port send with this address only.
pub(crate) fn allow_only(
    tables: &mut NfTables,
    port: &IfName,
    mac: MacAddr,
    network: &str,
    id: &AttachmentId,
) -> Result<Changes, KernelError> {
    let owner = table::owner(network, id);
    let mut changes = base(tables)?;
    let name = Field::Ifname(port.clone());
    let source = Element::key([name.clone(), Field::Ether(mac.octets())]).comment(&owner);
    changes.ensure_elements(&here(), &sources(), vec![source]).ensure_elements(
        &here(),
        &ports(),
        vec![Element::key([name]).comment(&owner)],
    );
    Ok(changes)
}

/// The elements whose comment is as asked.
fn select(tables: &mut NfTables, wanted: impl Fn(&str) -> bool) -> Result<Vec<(Set, Vec<Element>)>, KernelError> {
    let table = here();
    if !tables.table_exists(&table)? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for set in [ports(), sources()] {
        let elements: Vec<Element> =
            tables.elements(&table, &set)?.into_iter().filter(|e| e.comment.as_deref().is_some_and(&wanted)).collect();
        found.push((set, elements));
    }
    Ok(found)
}

fn remove(found: Vec<(Set, Vec<Element>)>, plan: &mut Plan) {
    let mut changes = Changes::new();
    for (set, elements) in found.into_iter().filter(|(_, elements)| !elements.is_empty()) {
        changes.destroy_elements(&here(), &set, elements);
    }
    if !changes.is_empty() {
        plan.step("cni.spoof", Action::Tables(changes));
        plan.step("cni.spoof", Action::RemoveUnused(here(), vec![ports()]));
    }
}

/// Takes the port of an attachment out.
pub(crate) fn forget(
    tables: &mut NfTables,
    network: &str,
    id: &AttachmentId,
    plan: &mut Plan,
) -> Result<(), KernelError> {
    let owner = table::owner(network, id);
    remove(select(tables, |comment| comment == owner)?, plan);
    Ok(())
}

/// Takes out the ports of a network that belong to no valid attachment.
pub(crate) fn sweep(
    tables: &mut NfTables,
    network: &str,
    valid: &[AttachmentId],
    plan: &mut Plan,
) -> Result<(), KernelError> {
    remove(select(tables, |comment| table::is_stale(comment, network, valid))?, plan);
    Ok(())
}

/// The port of an attachment is in both sets.
pub(crate) fn check(tables: &mut NfTables, network: &str, id: &AttachmentId) -> Result<(), Error> {
    let owner = table::owner(network, id);
    let found = select(tables, |comment| comment == owner)?;
    if found.len() == 2 && found.iter().all(|(_, elements)| !elements.is_empty()) {
        return Ok(());
    }
    Err(Error::internal("the rules against other source addresses are gone"))
}
