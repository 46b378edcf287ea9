#![allow(clippy::unwrap_used)]
//! The executor against surfaces that only write down what they are told.

use rnet_kernel::{
    Address, Conntrack, Fault, Filter, FilterChange, FilterState, FlowFilter, KernelError, LinkOp, LinkState, Links,
    Port, Qdisc, RouteEntry, Rule, Sysctls, VlanEntry,
};
use rnet_model::IfName;

use crate::{Action, Place, Plan, Surfaces, apply};

/// Writes down every line; fails the operations whose line contains one of `broken`.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    broken: Vec<&'static str>,
}

impl Links for Notes {
    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        Ok(Vec::new())
    }
    fn link(&mut self, _: &IfName) -> Result<Option<LinkState>, KernelError> {
        Ok(None)
    }
    fn addresses(&mut self) -> Result<Vec<Address>, KernelError> {
        Ok(Vec::new())
    }
    fn addresses_of(&mut self, _: u32) -> Result<Vec<Address>, KernelError> {
        Ok(Vec::new())
    }
    fn link_by_index(&mut self, _: u32) -> Result<Option<LinkState>, KernelError> {
        Ok(None)
    }
    fn port(&mut self, _: &IfName) -> Result<Option<Port>, KernelError> {
        Ok(None)
    }
    fn port_vlans(&mut self, _: &IfName) -> Result<Vec<VlanEntry>, KernelError> {
        Ok(Vec::new())
    }
    fn qdiscs(&mut self, _: &IfName) -> Result<Vec<Qdisc>, KernelError> {
        Ok(Vec::new())
    }
    fn ingress_mirrors(&mut self, _: &IfName) -> Result<Vec<u32>, KernelError> {
        Ok(Vec::new())
    }
    fn rules(&mut self) -> Result<Vec<Rule>, KernelError> {
        Ok(Vec::new())
    }
    fn routes_of_table(&mut self, _: u32) -> Result<Vec<RouteEntry>, KernelError> {
        Ok(Vec::new())
    }
    fn routes(&mut self) -> Result<Vec<RouteEntry>, KernelError> {
        Ok(Vec::new())
    }
    fn routes_through(&mut self, _: &IfName) -> Result<Vec<RouteEntry>, KernelError> {
        Ok(Vec::new())
    }
    fn batch(&mut self, ops: &[LinkOp]) -> Result<Vec<Fault>, KernelError> {
        let mut faults = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            let line = op.to_string();
            if self.broken.iter().any(|b| line.contains(b)) {
                faults.push(Fault { index, error: KernelError::os(line, libc_eexist()) });
            } else {
                self.lines.push(line);
            }
        }
        Ok(faults)
    }
}

fn libc_eexist() -> i32 {
    nix::errno::Errno::EEXIST as i32
}

impl Filter for Notes {
    fn ensure_base(&mut self) -> Result<bool, KernelError> {
        Ok(false)
    }
    fn state(&mut self) -> Result<FilterState, KernelError> {
        Ok(FilterState::new())
    }
    fn settle(&mut self, _: &FilterState) -> Result<bool, KernelError> {
        Ok(false)
    }
    fn touched(&mut self) -> Result<bool, KernelError> {
        Ok(false)
    }
    fn change(&mut self, _: &[FilterChange], _: &[FilterChange]) -> Result<(), KernelError> {
        Ok(())
    }
    fn remove_base(&mut self) -> Result<(), KernelError> {
        Ok(())
    }
}

impl Sysctls for Notes {
    fn get(&mut self, _: &str) -> Result<Option<String>, KernelError> {
        Ok(None)
    }
    fn set(&mut self, key: &str, value: &str) -> Result<(), KernelError> {
        self.lines.push(format!("{key}={value}"));
        Ok(())
    }
}

impl Surfaces for Notes {
    fn links(&mut self, _: &Place) -> Result<&mut dyn Links, KernelError> {
        Ok(self)
    }
    fn filter(&mut self) -> &mut dyn Filter {
        self
    }
    fn tables(&mut self) -> Result<&mut rnet_kernel::rules::NfTables, KernelError> {
        Err(KernelError::text("open nf_tables", "not in this test"))
    }
    fn flows(&mut self) -> Result<&mut Conntrack, KernelError> {
        self.lines.push("flows".into());
        Err(KernelError::text("open conntrack", "not in this test"))
    }
    fn sysctls(&mut self, _: &Place) -> Result<&mut dyn Sysctls, KernelError> {
        Ok(self)
    }
}

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

fn host(ops: Vec<LinkOp>) -> Action {
    Action::Links(Place::Host, ops)
}

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.undoable("one", host(vec![LinkOp::Up(name("br0"))]), vec![host(vec![LinkOp::Delete(name("br0"))])]);
    plan.undoable(
        "two",
        host(vec![LinkOp::Up(name("v0")), LinkOp::Master(name("v0"), name("br0"))]),
        vec![host(vec![LinkOp::Delete(name("v0"))])],
    );
    plan.step("three", Action::Sysctl { place: Place::Host, key: "net/ipv4/ip_forward".into(), value: "1".into() });
    plan
}

#[test]
fn everything_in_order() {
    let mut notes = Notes::default();
    apply(&plan(), &mut notes).unwrap();
    assert_eq!(notes.lines, ["link set br0 up", "link set v0 up", "link set v0 master br0", "net/ipv4/ip_forward=1"]);
}

#[test]
fn a_step_that_failed_half_way_is_taken_back_too() {
    let mut notes = Notes { broken: vec!["master"], ..Notes::default() };
    let failure = apply(&plan(), &mut notes).unwrap_err();
    assert_eq!(failure.step, 1);
    assert!(failure.left.is_empty());
    assert_eq!(notes.lines, ["link set br0 up", "link set v0 up", "link del v0", "link del br0"]);
}

#[test]
fn what_did_not_happen_is_not_undone() {
    let mut notes = Notes { broken: vec!["v0"], ..Notes::default() };
    apply(&plan(), &mut notes).unwrap_err();
    assert_eq!(notes.lines, ["link set br0 up", "link del br0"], "v0 may be somebody else's");
}

#[test]
fn what_cannot_be_taken_back_is_said() {
    let mut notes = Notes { broken: vec!["v0 master", "link del br0"], ..Notes::default() };
    let failure = apply(&plan(), &mut notes).unwrap_err();
    assert_eq!(failure.left.len(), 1);
    assert!(failure.left[0].contains("link del br0"));
}

#[test]
fn flows_are_forgotten_when_there_are_any_to_forget() {
    let published = FlowFilter { original_port: Some(53), ..FlowFilter::new(17) };
    let mut plan = Plan::default();
    plan.step("none", Action::ForgetFlows(Vec::new()));
    plan.undoable("some", Action::ForgetFlows(vec![published]), vec![host(vec![LinkOp::Up(name("v0"))])]);
    let mut notes = Notes::default();
    assert_eq!(apply(&plan, &mut notes).unwrap_err().step, 1);
    assert_eq!(notes.lines, ["flows", "link set v0 up"], "some may be forgotten when it fails");
    assert_eq!(plan.lines(), ["conntrack -D -p udp --orig-port-dst 53"]);
}
