#![doc = include_str!("README.md")]

mod host_filter;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rnet_kernel::KernelError;
use rnet_kernel::rules::{Changes, Element, Field, NfTables, Set};
use rnet_plan::{Action, Plan};
use rnet_plugin_protocol::{AttachmentId, Call, Error, Plugin, Request, Version, View, Work};
use serde::Deserialize;

use self::host_filter::HostFilter;
use crate::chained::since;
use crate::table::{self, Ipv};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    backend: Option<String>,
    ingress_policy: Option<String>,
    iptables_admin_chain_name: Option<String>,
}

/// Who may send to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Open,
    SameBridge,
    Isolated,
}

/// The plugin.
#[derive(Debug)]
pub struct Firewall {
    policy: Policy,
    admin: String,
    /// What is wrong with the configuration. DEL and GC need none.
    wrong: Option<Error>,
}

impl Firewall {
    /// From a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        Firewall::configure(request).unwrap_or_else(|error| Firewall {
            policy: Policy::Open,
            admin: String::new(),
            wrong: Some(error),
        })
    }

    /// # Errors
    /// Code 1 before version 0.4.0, 6 for another shape, 7 for a policy or backend that is none.
    fn configure(request: &Request) -> Result<Self, Error> {
        since(request, Version::V0_4_0)?;
        let config: Config = request.config()?;
        let backend = config.backend.unwrap_or_default();
        if !matches!(backend.as_str(), "" | "auto" | "iptables" | "firewalld" | "nftables") {
            return Err(Error::config(format!("unknown firewall backend: {backend:?}")));
        }
        let policy = match config.ingress_policy.as_deref() {
            None | Some("" | "open") => Policy::Open,
            Some("same-bridge") => Policy::SameBridge,
            Some("isolated") => Policy::Isolated,
            Some(other) => return Err(Error::config(format!("unknown ingress policy: {other:?}"))),
        };
        let admin = config.iptables_admin_chain_name.filter(|n| !n.is_empty());
        Ok(Firewall { policy, admin: admin.unwrap_or_else(|| "CNI-ADMIN".into()), wrong: None })
    }

    fn sets_of(&self, address: &IpNetwork) -> Vec<Set> {
        let v = Ipv::of(address.ip());
        match self.policy {
            Policy::Open => vec![],
            Policy::SameBridge => vec![v.sealed()],
            Policy::Isolated => vec![v.sealed(), v.isolated()],
        }
    }
}

fn sets() -> Vec<Set> {
    Ipv::BOTH.into_iter().flat_map(|v| [v.sealed(), v.isolated(), v.fenced()]).collect()
}

fn addresses(call: &Call<'_>) -> Vec<IpNetwork> {
    call.previous.iter().flat_map(|p| &p.ips).map(|ip| ip.address).collect()
}

/// Lets packets of these addresses through the host's own table `filter`, of each family where its policy throws
/// forwarded packets away; nothing where it does not. What `owner` had let through before no longer is.
///
/// # Errors
/// What the kernel said to a question.
pub fn admit(tables: &mut NfTables, owner: &str, addresses: &[IpAddr], plan: &mut Plan) -> Result<(), KernelError> {
    let generation = tables.generation()?;
    let mut changes = Changes::new();
    for v in Ipv::BOTH {
        let of_family: Vec<IpNetwork> =
            addresses.iter().filter(|a| Ipv::of(**a) == v).map(|a| IpNetwork::from(*a)).collect();
        let Some(filter) = HostFilter::dropping(tables, v)? else { continue };
        if !of_family.is_empty() {
            filter.admit(tables, &of_family, owner, "", &mut changes)?;
        }
    }
    if !changes.is_empty() {
        plan.step("firewall.admit", Action::TablesUnlessChanged(changes, generation));
    }
    Ok(())
}

/// Whether [`admit`] with these addresses is still in force.
///
/// # Errors
/// What the kernel said.
pub fn admits(tables: &mut NfTables, owner: &str, addresses: &[IpAddr]) -> Result<bool, KernelError> {
    for v in Ipv::BOTH {
        let count = addresses.iter().filter(|a| Ipv::of(**a) == v).count();
        let Some(filter) = HostFilter::dropping(tables, v)?.filter(|_| count > 0) else { continue };
        if filter.rules_of(tables, owner)? != 2 * count || !filter.leads(tables)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes back all that [`admit`] has let through for `owner`.
///
/// # Errors
/// What the kernel said to a question.
pub fn forget(tables: &mut NfTables, owner: &str, plan: &mut Plan) -> Result<(), KernelError> {
    host_filter::forget(tables, &|comment| comment == owner, plan)
}

impl Plugin for Firewall {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let previous = call.previous()?.clone();
        let owner = table::owner(&call.request.name, &call.id());
        let mut plan = Plan::default();
        let addresses = addresses(call);
        let tables = view.tables()?;
        let generation = tables.generation()?;
        let mut filters = Vec::new();
        for v in Ipv::BOTH {
            let of_family: Vec<IpNetwork> = addresses.iter().filter(|a| Ipv::of(a.ip()) == v).copied().collect();
            if let Some(filter) = HostFilter::dropping(tables, v)?.filter(|_| !of_family.is_empty()) {
                filters.push((v, filter, of_family));
            }
        }
        if self.policy == Policy::Open && filters.is_empty() {
            return Ok(Work::Planned(plan, previous));
        }
        let mut changes = table::base(tables)?;
        table::keep_own(tables, &mut changes, &addresses)?;
        for address in &addresses {
            for set in self.sets_of(address) {
                let element = Element::key([Field::from(address.ip())]).comment(&owner);
                table::put(tables, &mut changes, &set, element)?;
            }
        }
        for (v, filter, of_family) in &filters {
            for address in of_family {
                let element = Element::key([Field::from(address.ip())]).comment(&owner);
                table::put(tables, &mut changes, &v.fenced(), element)?;
            }
            filter.admit(tables, of_family, &owner, &self.admin, &mut changes)?;
        }
        // One transaction: what is let in and what fences it off come together.
        let action = match filters.is_empty() {
            true => Action::Tables(changes),
            false => Action::TablesUnlessChanged(changes, generation),
        };
        plan.step("cni.firewall", action);
        Ok(Work::Planned(plan, previous))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let owner = table::owner(&call.request.name, &call.id());
        let tables = view.tables()?;
        host_filter::forget(tables, &|comment| comment == owner, &mut plan)?;
        if !tables.table_exists(&table::table())? {
            return Ok(plan);
        }
        let changes = table::take_all(tables, &sets(), &|comment| comment == owner)?;
        table::remove(changes, &mut plan);
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        call.previous()?;
        let owner = table::owner(&call.request.name, &call.id());
        let tables = view.tables()?;
        let table = table::table();
        let addresses = addresses(call);
        for address in &addresses {
            for set in self.sets_of(address) {
                let there = tables.table_exists(&table)?;
                let found = if there { tables.get_element(&table, &set, &[Field::from(address.ip())])? } else { None };
                if found.and_then(|e| e.comment).as_deref() != Some(owner.as_str()) {
                    return Err(Error::internal(format!("firewall: {address} is not in {}", set.name)));
                }
            }
        }
        for v in Ipv::BOTH {
            let count = addresses.iter().filter(|a| Ipv::of(a.ip()) == v).count();
            let Some(filter) = HostFilter::dropping(tables, v)?.filter(|_| count > 0) else { continue };
            let gone = match (filter.rules_of(tables, &owner)? < 2 * count, filter.leads(tables)?) {
                (true, _) => format!("firewall: rules of {} are gone from RNET-CNI", call.env.container),
                (false, false) => "firewall: nothing leads from FORWARD to RNET-CNI".to_owned(),
                (false, true) => continue,
            };
            return Err(Error::internal(gone).details("the host's own filter throws forwarded packets away"));
        }
        Ok(())
    }

    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let network = &call.request.name;
        let tables = view.tables()?;
        host_filter::forget(tables, &|comment| table::is_stale(comment, network, valid), &mut plan)?;
        table::sweep(tables, &sets(), network, valid, &mut plan)?;
        Ok(plan)
    }

    fn status(&self, _: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let asked = view.tables().and_then(|tables| tables.table_exists(&table::table()));
        asked.map(drop).map_err(|e| Error::new(Error::NOT_AVAILABLE, format!("firewall: nf_tables: {e}")))
    }
}
