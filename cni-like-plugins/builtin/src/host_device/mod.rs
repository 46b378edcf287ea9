#![doc = include_str!("README.md")]

mod find;

use rnet_kernel::{LinkKind, LinkOp, LinkState, Netns};
use rnet_model::IfName;
use rnet_plan::Plan;
use rnet_plugin_protocol::{AttachmentId, Call, Delegation, Error, Interface, Plugin, Request, View, Work};

use self::find::Config;
use crate::{common, device};

/// The plugin.
#[derive(Debug)]
pub struct HostDevice {
    config: Result<Config, Error>,
}

impl HostDevice {
    /// From a request. What is wrong with its configuration every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        HostDevice { config: Config::new(request) }
    }

    fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }

    /// The name the host had for the container's interface, if it was lent. The container may have given any of its own
    /// devices an alias, so that the device has to be the one of the previous result, or the configured one.
    fn to_give_back(&self, call: &Call<'_>, link: &LinkState) -> Option<IfName> {
        // A device without the alias was not lent by this plugin.
        let alias = lent(link)?;
        let configured = self.config.as_ref().ok();
        let name = configured.and_then(Config::name);
        let known = is_in_result(call, link) || configured.is_some_and(|c| c.may_be(link, &alias));
        known.then(|| name.cloned().unwrap_or(alias))
    }
}

/// Plans the loan: the host's name goes into the alias, and the device into the container.
fn lend(call: &Call<'_>, link: &LinkState, plan: &mut Plan) -> Result<(), Error> {
    let (netns, ifname, name) = (call.netns()?, call.ifname()?, &link.name);
    let alias = |text: &str| common::host(vec![LinkOp::Alias(name.clone(), text.to_owned())]);
    let before = link.alias.as_deref().unwrap_or_default();
    plan.undoable("cni.alias", alias(name.as_str()), vec![alias(before)]);
    let there = LinkOp::Move { name: name.clone(), netns: netns.clone(), new_name: Some(ifname.clone()) };
    let back = LinkOp::Move { name: ifname.clone(), netns: Netns::current()?, new_name: Some(name.clone()) };
    let mut undo = vec![common::inside(netns, vec![back])];
    if link.up {
        undo.push(common::host(vec![LinkOp::Up(name.clone())]));
    }
    plan.undoable("cni.move", common::host(vec![there]), undo);
    Ok(())
}

/// The name a device comes back under: the one it had, unless another device has taken it.
fn name_on_host(alias: IfName, view: &mut View<'_>) -> Result<IfName, Error> {
    match view.host()?.link(&alias)? {
        None => Ok(alias),
        Some(_) => Ok(common::name(&format!("dev{:08x}", common::random() >> 32))),
    }
}

/// The name the host had for a device, if it was lent.
fn lent(link: &LinkState) -> Option<IfName> {
    link.alias.as_deref()?.parse().ok()
}

/// Whether the previous result has the container's interface with the address it has.
fn is_in_result(call: &Call<'_>, link: &LinkState) -> bool {
    let Some(mac) = link.mac.map(|mac| mac.to_string()) else { return false };
    let told = call.previous.iter().flat_map(|p| &p.interfaces);
    told.filter(|i| !i.sandbox.is_empty() && i.name == link.name.as_str()).any(|i| i.mac.eq_ignore_ascii_case(&mac))
}

impl Plugin for HostDevice {
    fn delegation(&self) -> Delegation {
        Delegation::Allowed
    }

    fn configured(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let config = self.config()?;
        let mut plan = Plan::default();
        if config.in_user_space()? {
            return Ok(Work::Planned(plan, device::result(call, Vec::new())));
        }
        common::refuse_existing(call, view)?;
        let link = config.find(view.host()?)?;
        if link.kind == LinkKind::Loopback {
            return Err(Error::config(format!("{} cannot be lent", link.name)));
        }
        lend(call, &link, &mut plan)?;
        let pci_id = config.pci().map(str::to_owned).unwrap_or_default();
        let interface = Interface { pci_id, ..device::interface(call, link.mac, Some(link.mtu))? };
        let result = device::result(call, vec![interface]);
        device::dress_lent(call, view, &result, &mut plan)?;
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let (Some(netns), Some(ifname)) = (&call.netns, &call.env.ifname) else { return Ok(plan) };
        let Some(link) = view.inside(netns)?.link(ifname)? else { return Ok(plan) };
        let Some(name) = self.to_give_back(call, &link) else { return Ok(plan) };
        let name = name_on_host(name, view)?;
        let back = LinkOp::Move { name: ifname.clone(), netns: Netns::current()?, new_name: Some(name.clone()) };
        plan.step("cni.move", common::inside(netns, vec![LinkOp::Down(ifname.clone()), back]));
        plan.step("cni.alias", common::host(vec![LinkOp::Alias(name, String::new())]));
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        if self.config()?.in_user_space()? {
            return Ok(());
        }
        let link = device::check(call, view, |_| true)?;
        match lent(&link) {
            Some(_) => Ok(()),
            None => Err(Error::internal(format!("interface {} is not the host's: it has no alias", link.name))),
        }
    }

    /// The kernel gives devices back itself.
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let config = self.config()?;
        let not_available = |e: Error| Error { code: Error::NOT_AVAILABLE, ..e };
        if config.in_user_space().map_err(not_available)? {
            return Ok(());
        }
        config.find(view.host()?).map(drop).map_err(not_available)
    }
}

#[cfg(test)]
mod tests;
