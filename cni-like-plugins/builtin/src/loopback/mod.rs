#![doc = include_str!("README.md")]

use rnet_kernel::LinkOp;
use rnet_plan::{Action, Place, Plan};
use rnet_plugin_protocol::{AttachmentId, Call, CniResult, Error, Interface, IpConfig, Plugin, View, Work};

use crate::common::name;

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct Loopback;

impl Plugin for Loopback {
    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        let netns = call.netns()?;
        let place = Place::Inside(netns.clone());
        let mut plan = Plan::default();
        let undo = vec![Action::Links(place.clone(), vec![LinkOp::Down(name("lo"))])];
        plan.undoable("cni.loopback", Action::Links(place, vec![LinkOp::Up(name("lo"))]), undo);
        // What an earlier plugin made is handed on as it is.
        let result = call.previous.clone().unwrap_or_else(|| {
            let lo = Interface {
                name: "lo".into(),
                mac: "00:00:00:00:00:00".into(),
                sandbox: call.env.netns.clone(),
                ..Interface::default()
            };
            let ip = |text: &str| IpConfig {
                interface: Some(0),
                address: text.parse().expect("a loopback address with its prefix"),
                gateway: None,
            };
            CniResult { interfaces: vec![lo], ips: vec![ip("127.0.0.1/8"), ip("::1/128")], ..CniResult::default() }
        });
        Ok(Work::Planned(plan, result))
    }

    fn del(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        if let Some(netns) = &call.netns {
            plan.step("cni.loopback", Action::Links(Place::Inside(netns.clone()), vec![LinkOp::Down(name("lo"))]));
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let lo = view.inside(call.netns()?)?.link(&name("lo"))?;
        if lo.is_some_and(|lo| lo.up) { Ok(()) } else { Err(Error::internal("loopback interface lo is down")) }
    }

    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }

    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}
