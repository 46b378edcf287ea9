//! What the tests of this crate share: a host and a container, on the real kernel in private namespaces or in memory,
//! and plugins called as a runtime calls them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use rnet_kernel::fake::{FakeFilter, FakeLinks, FakeNet, FakeSysctls};
use rnet_kernel::rules::NfTables;
use rnet_kernel::{Filter, KernelError, LinkOp, Links, Netns, NetnsId, NewVeth, Sysctls};
use rnet_model::IfAddr;
use rnet_plan::{Place, Surfaces};
use rnet_plugin_protocol::drive::Pair;
use rnet_plugin_protocol::{Call, CniResult, Command, Environment, Error, Request};
use serde_json::{Value, json};

use crate::common::name;
use crate::{Kernel, configure};

/// Path the container's namespace is said to have.
pub(crate) const SANDBOX: &str = "/run/netns/c1";

/// In memory.
pub(crate) struct Fakes {
    pub(crate) net: FakeNet,
    pub(crate) sysctls: FakeSysctls,
    at: BTreeMap<Option<NetnsId>, FakeLinks>,
    filter: FakeFilter,
}

impl Surfaces for Fakes {
    fn links(&mut self, place: &Place) -> Result<&mut dyn Links, KernelError> {
        let (id, links) = match place {
            Place::Host => (None, self.net.host()),
            Place::Inside(ns) => (Some(ns.id()), self.net.inside(ns)),
        };
        Ok(self.at.entry(id).or_insert(links))
    }

    fn filter(&mut self) -> &mut dyn Filter {
        &mut self.filter
    }

    fn tables(&mut self) -> Result<&mut NfTables, KernelError> {
        Err(KernelError::os("open nf_tables", 95))
    }

    fn flows(&mut self) -> Result<&mut rnet_kernel::Conntrack, KernelError> {
        Err(KernelError::os("open conntrack", 95))
    }

    fn sysctls(&mut self, _: &Place) -> Result<&mut dyn Sysctls, KernelError> {
        Ok(&mut self.sysctls)
    }
}

/// A host and a container.
pub(crate) struct Bench<S> {
    pub(crate) surfaces: S,
    pub(crate) host: Option<Netns>,
    pub(crate) inside: Option<Netns>,
    pub(crate) container: String,
    pub(crate) ifname: &'static str,
}

impl Bench<Fakes> {
    pub(crate) fn fake<'a>(sysctls: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let surfaces = Fakes {
            net: FakeNet::new(),
            sysctls: FakeSysctls::new(sysctls),
            at: BTreeMap::new(),
            filter: FakeFilter::new(),
        };
        let inside = rnet_kernel::fake::netns(7).unwrap();
        Bench { surfaces, host: None, inside: Some(inside), container: "c1".into(), ifname: "eth0" }
    }
}

impl Bench<Kernel> {
    /// `None` when not root, and says so.
    pub(crate) fn real() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            #[allow(clippy::print_stdout)]
            {
                println!("skipped: not root");
            }
            return None;
        }
        let host = Netns::create().unwrap();
        let mut bench = Bench {
            surfaces: Kernel::new(host.clone()),
            host: Some(host),
            inside: Some(Netns::create().unwrap()),
            container: "c1".into(),
            ifname: "eth0",
        };
        bench.ops(&Place::Host, &[LinkOp::Up(name("lo"))]);
        Some(bench)
    }

    /// What a program says in the host's namespace.
    pub(crate) fn on_host(&self, program: &str, args: &[&str]) -> String {
        said(self.host.as_ref().unwrap(), program, args)
    }

    /// What a program says in the container's namespace.
    pub(crate) fn in_container(&self, program: &str, args: &[&str]) -> String {
        said(self.inside.as_ref().unwrap(), program, args)
    }
}

fn said(ns: &Netns, program: &str, args: &[&str]) -> String {
    let output = ns.run(|| std::process::Command::new(program).args(args).output().unwrap()).unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl<S: Surfaces> Bench<S> {
    pub(crate) fn place(&self) -> Place {
        Place::Inside(self.inside.clone().unwrap())
    }

    /// All of them have to succeed.
    pub(crate) fn ops(&mut self, place: &Place, ops: &[LinkOp]) {
        let faults = self.surfaces.links(place).unwrap().batch(ops).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
    }

    /// `eth0` of the container and `veth1` of the host, with these addresses inside.
    pub(crate) fn veth(&mut self, addresses: &[&str]) {
        let veth = NewVeth {
            netns: self.inside.clone(),
            ..NewVeth::new(name("veth1"), name("eth0"), "02:00:00:00:00:02".parse().unwrap())
        };
        self.ops(&Place::Host, &[LinkOp::NewVeth(veth)]);
        let eth0 = name("eth0");
        let mut ops = vec![LinkOp::Up(name("lo")), LinkOp::Quiet(eth0.clone()), LinkOp::Up(eth0.clone())];
        ops.extend(addresses.iter().map(|a| LinkOp::AddAddress(eth0.clone(), a.parse::<IfAddr>().unwrap())));
        let place = self.place();
        self.ops(&place, &ops);
    }

    /// What a plugin before would have said of [`Bench::veth`].
    pub(crate) fn previous(&self, addresses: &[&str]) -> Value {
        let ips: Vec<Value> = addresses.iter().map(|a| json!({"interface": 1, "address": a})).collect();
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "veth1", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": SANDBOX},
            ],
            "ips": ips,
        })
    }

    fn call<T>(
        &mut self,
        command: Command,
        conf: &Value,
        run: impl FnOnce(&Pair<'_>, &mut Call<'_>, &mut dyn Surfaces) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let request = Request::from_value(conf.clone())?;
        let env = Environment {
            command,
            container: self.container.clone(),
            netns: SANDBOX.to_owned(),
            ifname: Some(name(self.ifname)),
            args: Vec::new(),
            path: Vec::new(),
            netns_override: false,
        };
        let plugin = configure(&request.kind, &request)?.unwrap();
        let previous = request.previous()?;
        let mut call = Call { env: &env, request: &request, netns: self.inside.clone(), previous, leased: None };
        run(&Pair { plugin: plugin.as_ref(), ipam: None }, &mut call, &mut self.surfaces)
    }

    pub(crate) fn add(&mut self, conf: &Value) -> Result<CniResult, Error> {
        self.call(Command::Add, conf, |pair, call, surfaces| pair.add(call, surfaces))
    }

    pub(crate) fn del(&mut self, conf: &Value) -> Result<(), Error> {
        self.call(Command::Del, conf, |pair, call, surfaces| pair.del(call, surfaces))
    }

    /// The same after the container has ended.
    pub(crate) fn del_late(&mut self, conf: &Value) -> Result<(), Error> {
        let inside = self.inside.take();
        let done = self.del(conf);
        self.inside = inside;
        done
    }

    pub(crate) fn check(&mut self, conf: &Value) -> Result<(), Error> {
        self.call(Command::Check, conf, |pair, call, surfaces| pair.check(call, surfaces))
    }

    pub(crate) fn gc(&mut self, conf: &Value) -> Result<(), Error> {
        self.call(Command::Gc, conf, |pair, call, surfaces| pair.gc(call, surfaces))
    }

    pub(crate) fn status(&mut self, conf: &Value) -> Result<(), Error> {
        self.call(Command::Status, conf, |pair, call, surfaces| pair.status(call, surfaces))
    }
}

/// A listener on port 80 of a namespace. The port may be taken for as long as a program another test starts has not
/// closed what it inherited.
pub(crate) fn listen(ns: &Netns) -> std::net::TcpListener {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    ns.run(|| {
        loop {
            match std::net::TcpListener::bind("[::]:80") {
                Ok(listener) => return listener,
                Err(e) => assert!(std::time::Instant::now() < deadline, "{e}"),
            }
            std::thread::yield_now();
        }
    })
    .unwrap()
}

/// The value with these keys set.
pub(crate) fn with(mut value: Value, keys: Value) -> Value {
    let Value::Object(keys) = keys else { unreachable!("keys are an object") };
    value.as_object_mut().unwrap().extend(keys);
    value
}

/// Configurations and what their errors have to be: code and a part of the message.
pub(crate) fn refused(base: &Value, table: &[(Value, u32, &str)]) {
    for (keys, code, text) in table {
        let request = Request::from_value(with(base.clone(), keys.clone())).unwrap();
        let error = configure(&request.kind, &request).and_then(|p| p.unwrap().configured()).unwrap_err();
        assert_eq!(error.code, *code, "{keys}: {error}");
        assert!(error.to_string().contains(text), "{keys}: {error}");
    }
}
