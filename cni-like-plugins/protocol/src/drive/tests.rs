#![allow(clippy::unwrap_used)]
use std::sync::Mutex;

use rnet_kernel::Netns;
use serde_json::json;

use super::*;
use crate::AttachmentId;
use crate::testing::Nothing;
use crate::{Environment, IpConfig, Request};

/// What was asked of whom, in order.
type Log = Mutex<Vec<String>>;

#[derive(Debug)]
struct Noted<'a> {
    name: &'static str,
    log: &'a Log,
    needs_interface: bool,
    /// The command that fails.
    fails: &'static str,
}

impl Noted<'_> {
    fn note(&self, command: &str, call: &Call<'_>) -> Result<(), Error> {
        let leased = if call.leased.is_some() { " leased" } else { "" };
        self.log.lock().unwrap().push(format!("{} {command}{leased}", self.name));
        if self.fails == command { Err(Error::internal(format!("{} {command}", self.name))) } else { Ok(()) }
    }

    fn result() -> CniResult {
        let ip = IpConfig { interface: None, address: "10.0.0.2/24".parse().unwrap(), gateway: None };
        CniResult { ips: vec![ip], ..CniResult::default() }
    }
}

impl Plugin for Noted<'_> {
    fn delegation(&self) -> Delegation {
        Delegation::Allowed
    }
    fn needs_interface(&self) -> bool {
        self.needs_interface
    }
    fn add(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        self.note("add", call).map(|()| Work::Done(Noted::result()))
    }
    fn dress(&self, call: &Call<'_>, bare: CniResult, _: &mut View<'_>) -> Result<Work, Error> {
        self.note("dress", call).map(|()| Work::Done(bare))
    }
    fn del(&self, call: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        self.note("del", call).map(|()| Plan::default())
    }
    fn check(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Ok(Plan::default())
    }
    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// ADD, or DEL, with a delegate of this kind and a failure; who was asked what.
fn asked(command: &str, needs_interface: bool, fails: [&'static str; 2]) -> (Vec<String>, bool) {
    let log = Log::default();
    let main = Noted { name: "main", log: &log, needs_interface: false, fails: fails[0] };
    let ipam = Noted { name: "ipam", log: &log, needs_interface, fails: fails[1] };
    let env = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_CONTAINERID" => Some("c1".to_owned()),
        "CNI_NETNS" | "CNI_PATH" => Some("/x".to_owned()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        _ => None,
    };
    let env = Environment::read(env).unwrap().unwrap();
    let request = Request::from_value(json!({"cniVersion": "1.1.0", "name": "n", "type": "main"})).unwrap();
    let netns = Some(Netns::current().unwrap());
    let mut call = Call { env: &env, request: &request, netns, previous: None, leased: None };
    let pair = Pair { plugin: &main, ipam: Some(&ipam) };
    let well = match command {
        "ADD" => pair.add(&mut call, &mut Nothing).is_ok(),
        _ => pair.del(&call, &mut Nothing).is_ok(),
    };
    (log.into_inner().unwrap(), well)
}

#[test]
fn a_lease_comes_before_the_interface_and_goes_after_it() {
    assert_eq!(asked("ADD", false, [""; 2]), (vec!["ipam add".into(), "main add leased".into()], true));
    assert_eq!(asked("DEL", false, [""; 2]), (vec!["main del".into(), "ipam del".into()], true));
    let undone = ["ipam add", "main add leased", "ipam del leased"].map(String::from).to_vec();
    assert_eq!(asked("ADD", false, ["add", ""]), (undone, false));
}

#[test]
fn a_lease_through_the_interface_comes_after_it_and_goes_before_it() {
    let all = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(asked("ADD", true, [""; 2]), (all(&["main add", "ipam add", "main dress leased"]), true));
    assert_eq!(asked("DEL", true, [""; 2]), (all(&["ipam del", "main del"]), true));
    assert_eq!(asked("DEL", true, ["", "del"]), (all(&["ipam del", "main del"]), false));
    assert_eq!(asked("ADD", true, ["add", ""]), (all(&["main add"]), false));
    assert_eq!(asked("ADD", true, ["", "add"]), (all(&["main add", "ipam add", "ipam del", "main del"]), false));
    let undress = ["main add", "ipam add", "main dress leased", "ipam del leased", "main del leased"];
    assert_eq!(asked("ADD", true, ["dress", ""]), (all(&undress), false));
}
