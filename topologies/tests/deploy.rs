//! Deploy, deploy again, change, fail and destroy, on a world in memory.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rnet_api::{ApiError, Bridge, BridgeRequest, Endpoint, LinkRequest, Sandbox, Status};
use rnet_model::{
    AddressSpec, AttachSpec, ContainerName, ContainerRef, EndpointId, Engine, HostIf, IfName, Kind, SandboxId,
};
use rnet_topology::{Executed, Inputs, Lab, Node, NodeRecord, Observed, Plan, Record, Step, World, apply};

const LAB: &str = "
name: two
topology:
  defaults: {kind: linux}
  nodes:
    left: {exec: [echo left]}
    right:
    lan: {kind: bridge}
  links:
    - endpoints: ['left:eth1', 'right:eth1']
      ipv4: [10.0.0.1/24, 10.0.0.2/24]
    - endpoints: ['lan:p1', 'left:eth0']
";

/// A world in memory; the operation whose number is `fail_at` fails.
#[derive(Default)]
struct Fake {
    there: Observed,
    count: usize,
    fail_at: Option<usize>,
}

impl Fake {
    fn operation(&mut self) -> Result<u128, ApiError> {
        self.count += 1;
        if self.fail_at == Some(self.count) {
            return Err(ApiError::new(Kind::Retry, format!("operation {} fails", self.count)));
        }
        Ok(self.count as u128)
    }

    fn id_of(&self, name: &str) -> String {
        self.there.sandboxes.iter().find(|s| s.container == name).map(|s| s.container_id.clone()).unwrap_or_default()
    }

    /// Names of everything that is there.
    fn inventory(&self) -> BTreeSet<String> {
        let t = &self.there;
        let mut all: BTreeSet<String> = t.sandboxes.iter().map(|s| format!("sandbox {}", s.container)).collect();
        all.extend(t.bridges.iter().map(|b| format!("bridge {}", b.name)));
        all.extend(t.endpoints.iter().map(|e| format!("port {}:{}", e.container, e.ifname)));
        all.extend(t.links.iter().map(|l| {
            let mut ends = l.request.ends.clone().map(|e| format!("{}:{}", e.container_id, e.ifname));
            ends.sort();
            format!("link {}", ends.join(" "))
        }));
        all
    }
}

impl World for Fake {
    fn create_bridge(&mut self, r: &BridgeRequest) -> Result<(), ApiError> {
        self.operation()?;
        let (name, addresses) = (r.name.clone(), r.addresses.clone());
        self.there.bridges.push(Bridge { name, uplink: None, ours: true, addresses, mtu: 9500, ports: 0 });
        Ok(())
    }
    fn remove_bridge(&mut self, name: &IfName) -> Result<(), ApiError> {
        self.operation()?;
        self.there.bridges.retain(|b| b.name != *name);
        Ok(())
    }
    fn start_node(&mut self, node: &Node) -> Result<ContainerName, ApiError> {
        let id = self.operation()?;
        // Not the name: an id is what the runtime makes it.
        let container_id = format!("id-{}", node.container);
        self.there.sandboxes.push(Sandbox {
            id: SandboxId::from_bits(id),
            container_id: container_id.clone(),
            container: node.container.to_string(),
            netns: "/netns".into(),
            endpoints: Vec::new(),
        });
        Ok(container_id.parse()?)
    }
    fn restart_node(&mut self, container: &ContainerName) -> Result<(), ApiError> {
        self.operation()?;
        self.there.stopped.remove(container);
        Ok(())
    }
    fn remove_node(&mut self, container: &ContainerName, _: &NodeRecord) -> Result<(), ApiError> {
        self.operation()?;
        let id = self.id_of(container.as_str());
        self.there.sandboxes.retain(|s| s.container != container.as_str());
        self.there.endpoints.retain(|e| e.container != container.as_str());
        self.there.links.retain(|l| l.request.ends.iter().all(|e| e.container_id.as_str() != id));
        Ok(())
    }
    fn create_links(&mut self, links: &[LinkRequest]) -> Result<Vec<rnet_api::Link>, ApiError> {
        let id = self.operation()?;
        let made: Vec<_> = (0..)
            .zip(links)
            .map(|(i, request)| rnet_api::Link { id: EndpointId::from_bits(id << 32 | i), request: request.clone() })
            .collect();
        self.there.links.extend(made.clone());
        Ok(made)
    }
    fn remove_link(&mut self, id: EndpointId) -> Result<(), ApiError> {
        self.operation()?;
        self.there.links.retain(|l| l.id != id);
        Ok(())
    }
    fn attach(&mut self, spec: &AttachSpec) -> Result<(), ApiError> {
        let id = self.operation()?;
        let (HostIf::Name(bridge), ContainerRef::Of(engine, name)) = (&spec.hostif, &spec.container) else {
            panic!("{spec:?}")
        };
        let addresses = match &spec.address {
            AddressSpec::Static(list) => list.iter().map(|a| a.address).collect(),
            _ => Vec::new(),
        };
        self.there.endpoints.push(Endpoint {
            id: EndpointId::from_bits(id),
            engine: *engine,
            container_id: self.id_of(name.as_str()),
            container: name.to_string(),
            network: None,
            bridge: Some(bridge.clone()),
            ifname: spec.options.ifname.clone().unwrap(),
            host_ifname: spec.options.host_ifname.clone(),
            mac: spec.options.mac,
            mtu: spec.options.mtu.unwrap_or(9500),
            addresses,
            gateways: Vec::new(),
            routes: Vec::new(),
            aliases: Vec::new(),
            gw_priority: 0,
            allow_spoof: false,
            metric: None,
            persistent: true,
            status: Status::Ready,
            generation: 1,
            created: String::new(),
        });
        Ok(())
    }
    fn detach(&mut self, container: &ContainerName, ifname: &IfName) -> Result<(), ApiError> {
        self.operation()?;
        self.there.endpoints.retain(|e| e.container != container.as_str() || e.ifname != *ifname);
        Ok(())
    }
    fn set_sysctl(&mut self, _: &ContainerName, _: &str, _: &str) -> Result<(), ApiError> {
        self.operation().map(|_| ())
    }
    fn exec(&mut self, container: &ContainerName, words: &[String]) -> Result<Executed, ApiError> {
        self.operation()?;
        Ok(Executed { container: container.clone(), command: words.to_vec(), code: 0, output: String::new() })
    }
}

fn lab(text: &str) -> Lab {
    let inputs =
        Inputs { file: Path::new("f"), directory: Path::new("/"), variable: &|_| None, images: &BTreeMap::new() };
    Lab::parse(text, &inputs).unwrap()
}

fn plan(text: &str, record: Option<&Record>, world: &Fake) -> Plan {
    Plan::deploy(&lab(text), Path::new("/f"), record, &world.there).unwrap()
}

fn deploy(text: &str, record: Option<&Record>, world: &mut Fake) -> (Plan, Result<Vec<Executed>, String>) {
    let plan = plan(text, record, world);
    let observed = world.there.clone();
    let result = apply(&plan, &observed, world, &mut |_| {}).map_err(|f| {
        assert!(f.rollback.is_empty(), "{:?}", f.rollback);
        f.error.message
    });
    (plan, result)
}

fn words(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(Step::to_string).collect()
}

#[test]
fn deploy_twice_then_destroy() {
    let mut world = Fake::default();
    let (first, result) = deploy(LAB, None, &mut world);
    assert_eq!(result.unwrap().len(), 1, "one command ran");
    assert_eq!(world.inventory().len(), 5, "{:?}", world.inventory());

    let again = plan(LAB, Some(&first.record), &world);
    assert_eq!(words(&again), Vec::<String>::new(), "nothing to do");
    assert_eq!((again.unchanged, &again.record), (5, &first.record));

    let destroy = Plan::destroy(&first.record, &world.there);
    let observed = world.there.clone();
    apply(&destroy, &observed, &mut world, &mut |_| {}).map_err(|f| f.error).unwrap();
    assert_eq!(world.inventory(), BTreeSet::new());
}

#[test]
fn every_failure_is_rolled_back() {
    let mut whole = Fake::default();
    deploy(LAB, None, &mut whole).1.unwrap();
    for fail_at in 1..=whole.count {
        let mut world = Fake { fail_at: Some(fail_at), ..Fake::default() };
        let (_, result) = deploy(LAB, None, &mut world);
        assert_eq!(result, Err(format!("operation {fail_at} fails")));
        assert_eq!(world.inventory(), BTreeSet::new(), "failure at operation {fail_at}");
    }
}

#[test]
fn a_changed_link_is_replaced_and_put_back_on_failure() {
    let mut world = Fake::default();
    let record = deploy(LAB, None, &mut world).0.record;
    let before = world.inventory();
    let changed = LAB.replace("10.0.0.2/24", "10.0.0.3/24");
    let next = plan(&changed, Some(&record), &world);
    assert_eq!(
        words(&next),
        [
            "- link id-lab-two-left:eth1 -- id-lab-two-right:eth1",
            "+ link left:eth1 10.0.0.1/24 -- right:eth1 10.0.0.3/24 mtu 9500",
        ]
    );
    world.fail_at = Some(world.count + 2);
    deploy(&changed, Some(&record), &mut world).1.unwrap_err();
    assert_eq!(world.inventory(), before);
    assert_eq!(words(&plan(LAB, Some(&record), &world)), Vec::<String>::new(), "the old lab is whole");

    world.fail_at = None;
    let after = deploy(&changed, Some(&record), &mut world).0.record;
    assert_eq!(words(&plan(&changed, Some(&after), &world)), Vec::<String>::new());
}

#[test]
fn removed_and_changed_nodes() {
    let mut world = Fake::default();
    let record = deploy(LAB, None, &mut world).0.record;
    let smaller = "
name: two
topology:
  defaults: {kind: linux}
  nodes:
    left: {exec: [echo other]}
";
    let (next, result) = deploy(smaller, Some(&record), &mut world);
    result.unwrap();
    assert_eq!(
        words(&next),
        [
            "- node lab-two-left",
            "+ node left: namespace lab-two-left",
            "+ exec lab-two-left: echo other",
            "- node lab-two-right",
            "- bridge lan",
        ]
    );
    assert_eq!(world.inventory(), BTreeSet::from(["sandbox lab-two-left".to_owned()]));
}

#[test]
fn what_the_lab_did_not_make_stays() {
    let mut world = Fake::default();
    world.create_bridge(&request("lan")).unwrap();
    let record = deploy(LAB, None, &mut world).0.record;
    assert!(record.bridges.is_empty(), "the bridge was there before");
    // An attachment made by hand on a node is not the lab's to judge.
    let mut by_hand = world.there.endpoints[0].clone();
    by_hand.ifname = "eth7".parse().unwrap();
    world.there.endpoints.push(by_hand);
    assert_eq!(words(&plan(LAB, Some(&record), &world)), Vec::<String>::new());

    let observed = world.there.clone();
    apply(&Plan::destroy(&record, &observed), &observed, &mut world, &mut |_| {}).map_err(|f| f.error).unwrap();
    assert_eq!(world.inventory(), BTreeSet::from(["bridge lan".to_owned()]));

    // A container of the same name that is somebody else's.
    deploy(LAB, None, &mut world).1.unwrap();
    let error = Plan::deploy(&lab(LAB), Path::new("/f"), None, &world.there).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
}

#[test]
fn attachments_of_ports() {
    let mut world = Fake::default();
    deploy(LAB, None, &mut world).1.unwrap();
    let port = &world.there.endpoints[0];
    let host_ifname = port.host_ifname.as_ref().map(|n| n.as_str());
    assert_eq!((port.engine, port.container.as_str(), host_ifname), (Engine::Rnet, "lab-two-left", Some("p1")));
}

#[test]
fn a_thousand_nodes_in_one_ring() {
    let mut text = "name: ring\ntopology:\n  defaults: {kind: linux}\n  nodes:\n".to_owned();
    (0..1000).for_each(|i| text.push_str(&format!("    n{i}:\n")));
    text.push_str("  links:\n");
    for i in 0..1000 {
        let next = (i + 1) % 1000;
        text.push_str(&format!(
            "    - endpoints: [\"n{i}:right\", \"n{next}:left\"]\n      ipv4: [10.{}.{}.1/30, 10.{}.{}.2/30]\n",
            i / 256,
            i % 256,
            i / 256,
            i % 256
        ));
    }
    let mut world = Fake::default();
    let (first, result) = deploy(&text, None, &mut world);
    result.unwrap();
    assert_eq!(world.there.links.len(), 1000);
    assert!(world.count < 1010, "{} operations: the links come in few requests", world.count);
    assert_eq!(words(&plan(&text, Some(&first.record), &world)), Vec::<String>::new());
}

fn request(name: &str) -> BridgeRequest {
    BridgeRequest { name: name.parse().unwrap(), uplink: None, vlan_filtering: false, addresses: Vec::new(), mtu: None }
}
