//! The CNI plugin `dhcp` with real servers: dnsmasq, and udhcpd where a lease has to be shorter than dnsmasq gives.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rnet_kernel::Netns;
use rnet_netns_harness::{Output, Peer, SOON, World, built, run, run_in, run_or_skip, wait_for};
use serde_json::{Value, json};

/// A keeper looks every ten seconds whether there is something to keep.
const A_LOOK: Duration = Duration::from_secs(20);

/// A server that ends with the test.
struct Server {
    child: Child,
    leases: PathBuf,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(dir: &Path, netns: &Netns, command: &mut Command) -> Self {
        let log = dir.join("log");
        let out = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = netns.run(|| command.spawn()).unwrap().unwrap();
        Server { child, leases: dir.join("leases"), log }
    }

    /// dnsmasq, which gives at least two minutes.
    fn dnsmasq(world: &World, name: &str, netns: &Netns, range: &str) -> Self {
        let dir = world.dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("dnsmasq");
        command.args(["--no-daemon", "--port=0", "--conf-file=/dev/null", "--interface=eth0", "--pid-file="]);
        command.args([
            "--user=root",
            "--dhcp-authoritative",
            "--no-ping",
            "--log-dhcp",
            "--dhcp-option=15,example.org",
        ]);
        command.arg(format!("--dhcp-range={range},120s")).arg(format!("--dhcp-leasefile={}/leases", dir.display()));
        let server = Server::start(&dir, netns, &mut command);
        wait_for("dnsmasq to begin", SOON, || {
            server.said("sockets bound exclusively") || server.said("DHCP, IP range")
        });
        server
    }

    /// udhcpd with leases of so many seconds.
    fn udhcpd(world: &World, name: &str, netns: &Netns, seconds: u32) -> Self {
        let dir = world.dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let folder = dir.display();
        let conf = format!(
            "start 10.7.0.10\nend 10.7.0.50\ninterface eth0\nmin_lease 1\nlease_file {folder}/leases\n\
             pidfile {folder}/pid\noption subnet 255.255.255.0\noption router 10.7.0.1\noption lease {seconds}\n"
        );
        std::fs::write(dir.join("conf"), conf).unwrap();
        std::fs::write(dir.join("leases"), "").unwrap();
        let mut command = Command::new("busybox");
        command.args(["udhcpd", "-f", "-I", "10.7.0.1"]).arg(dir.join("conf"));
        let server = Server::start(&dir, netns, &mut command);
        wait_for("udhcpd to begin", SOON, || server.said("started"));
        server
    }

    fn said(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    /// Lines of dnsmasq's lease file: expiry, hardware address, address, name, client.
    fn leases(&self) -> Vec<String> {
        std::fs::read_to_string(&self.leases).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// A container on the LAN, and how the plugin is called for it.
struct Container<'a> {
    world: &'a World,
    name: String,
    station: Peer,
}

impl<'a> Container<'a> {
    fn new(world: &'a World, name: &str) -> Self {
        Container { world, name: name.to_owned(), station: world.peer(name, &[]) }
    }

    fn netns(&self) -> PathBuf {
        self.world.dir().join(format!("{}.peer", self.name))
    }

    fn file(&self) -> PathBuf {
        self.world.dir().join(format!("data/net/{}@eth0.json", self.name))
    }

    fn record(&self) -> Value {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn address(&self) -> String {
        self.record()["lease"]["terms"]["address"].as_str().unwrap_or_default().to_owned()
    }

    fn since(&self) -> u64 {
        self.record()["lease"]["since"].as_u64().unwrap_or_default()
    }

    fn keeper(&self) -> u64 {
        self.record()["keeper"]["pid"].as_u64().unwrap_or_default()
    }

    fn caller(&self) -> Caller {
        Caller {
            dir: self.world.dir().to_owned(),
            within: Netns::current().unwrap(),
            plugin: plugins(self.world).join("dhcp"),
            container: self.name.clone(),
            netns: self.netns(),
            ifname: "eth0",
        }
    }

    fn config(&self) -> Value {
        let data = self.world.dir().join("data");
        json!({"cniVersion": "1.1.0", "name": "net", "type": "macvlan", "ipam":
            {"type": "dhcp", "dataDir": data, "timeout": 20, "provide": [{"option": "host-name", "value": self.name}]}})
    }

    fn call(&self, command: &str, more: &Value) -> Output {
        let mut config = self.config();
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        self.caller().call(command, &config)
    }

    /// ADD, and the address on the interface as a main plugin would put it there.
    #[track_caller]
    fn add(&self) -> Value {
        let result = self.call("ADD", &json!({})).json();
        let address = result["ips"][0]["address"].as_str().unwrap();
        self.ip(&format!("address replace {address} dev eth0"));
        let gateway = result["ips"][0]["gateway"].as_str().unwrap();
        self.ip(&format!("route replace default via {gateway}"));
        result
    }

    #[track_caller]
    fn del(&self) {
        self.call("DEL", &json!({})).ok();
    }

    #[track_caller]
    fn ip(&self, words: &str) -> String {
        self.station.run(&format!("ip {words}")).ok().out
    }

    fn has(&self, address: &str) -> bool {
        !address.is_empty() && self.ip("-4 address show dev eth0").contains(address)
    }

    /// Ends the keeper by its number, as somebody may.
    #[track_caller]
    fn end_keeper(&self) {
        let pid = self.keeper();
        assert!(pid > 1 && is_alive(pid));
        run_in(&self.station.netns, Command::new("kill").args(["-KILL", &pid.to_string()])).ok();
        wait_for("the keeper to end", SOON, || !is_alive(pid));
    }

    /// Another keeper, for a lease that is older than it is.
    #[track_caller]
    fn keeper_with_times(&self, renew: u32, rebind: u32) {
        self.end_keeper();
        let mut record = self.record();
        record["lease"]["terms"]["times"]["renew"] = renew.into();
        record["lease"]["terms"]["times"]["rebind"] = rebind.into();
        record["keeper"] = Value::Null;
        std::fs::write(self.file(), record.to_string()).unwrap();
        let mut command = Command::new(built("rnet-cni"));
        // It goes on by itself, and ends when its file is gone.
        command.arg("dhcp-keeper").arg(self.file()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::spawn(move || child.wait());
    }
}

fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A folder with `dhcp`.
fn plugins(world: &World) -> PathBuf {
    let dir = world.dir().join("plugins");
    if !dir.exists() {
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(built("rnet-cni"), dir.join("dhcp")).unwrap();
    }
    dir
}

/// A plugin and the interface it is called for.
struct Caller {
    /// Of the test: configurations are written there.
    dir: PathBuf,
    /// The namespace of the plugin.
    within: Netns,
    plugin: PathBuf,
    container: String,
    netns: PathBuf,
    ifname: &'static str,
}

impl Caller {
    fn call(&self, command: &str, config: &Value) -> Output {
        let stdin = self.dir.join(format!("{}.{command}.conf", self.container));
        std::fs::write(&stdin, config.to_string()).unwrap();
        let mut run = Command::new("sh");
        run.args(["-c", &format!("exec '{}' <'{}'", self.plugin.display(), stdin.display())]);
        run.env("CNI_COMMAND", command).env("CNI_CONTAINERID", &self.container).env("CNI_NETNS", &self.netns);
        run.env("CNI_IFNAME", self.ifname).env("CNI_PATH", self.dir.join("plugins"));
        run_in(&self.within, &mut run)
    }
}

fn server_station(world: &World) -> Peer {
    world.peer("srv", &["10.7.0.1/24"])
}

const RANGE: &str = "10.7.0.10,10.7.0.50,255.255.255.0";

#[test]
fn a_lease_is_given_used_and_given_back() {
    run(|world| {
        let station = server_station(world);
        let server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let web = Container::new(world, "web");
        let result = web.add();
        let address = web.address();
        assert!(address.starts_with("10.7.0.") && address.ends_with("/24"), "{address}");
        assert_eq!(result["ips"][0]["gateway"], "10.7.0.1");
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.7.0.1"}]));
        assert_eq!(result["dns"]["domain"], "example.org");
        assert!(web.station.reaches("10.7.0.1"));
        // Client: type 0, then web/net/eth0.
        let leases = server.leases();
        assert!(leases.len() == 1 && leases[0].contains(" web 00:77:65:62:2f:6e:65:74:2f:65:74:68:30"), "{leases:?}");

        // The same again is the same lease and the same keeper.
        let keeper = web.keeper();
        assert_eq!(web.call("ADD", &json!({})).json(), result);
        assert_eq!(web.keeper(), keeper);
        let check = json!({"prevResult": result});
        web.call("CHECK", &check).ok();
        let other = json!({"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.9/24"}]}});
        assert!(web.call("CHECK", &other).out.contains("has the address"));
        web.end_keeper();
        assert!(web.call("CHECK", &check).out.contains("nobody renews the lease"));

        web.del();
        wait_for("the lease to be given back", SOON, || server.leases().is_empty());
        assert!(!web.file().exists());
        web.del();
        assert!(web.call("CHECK", &check).out.contains("has no lease"));
    });
}

#[test]
fn a_lease_is_renewed_by_its_server_and_by_any() {
    run(|world| {
        let station = server_station(world);
        let server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let web = Container::new(world, "web");
        web.add();
        let expiry = || server.leases()[0].split(' ').next().unwrap().parse::<u64>().unwrap();
        for (renew, rebind) in [(1, 100), (1, 1)] {
            let (address, before, expires) = (web.address(), web.since(), expiry());
            web.keeper_with_times(renew, rebind);
            wait_for("the lease to be renewed", SOON, || web.since() > before);
            wait_for("the server to know", SOON, || expiry() > expires);
            assert_eq!(web.address(), address);
            assert!(web.has(&address) && is_alive(web.keeper()));
        }
        assert_eq!(server.leases().len(), 1);
        web.del();
    });
}

#[test]
fn an_address_the_server_takes_back_is_replaced() {
    run(|world| {
        let station = server_station(world);
        let server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let web = Container::new(world, "web");
        web.add();
        let old = web.address();
        drop(server);
        let _ = std::fs::remove_file(world.dir().join("dnsmasq/leases"));
        let server = Server::dnsmasq(world, "other", &station.netns, "10.7.0.100,10.7.0.110,255.255.255.0");
        web.keeper_with_times(1, 100);
        wait_for("another address", SOON, || web.address().starts_with("10.7.0.1") && web.address() != old);
        let new = web.address();
        wait_for("the interface to have it", SOON, || web.has(&new) && !web.has(&old));
        assert!(server.said("DHCPNAK"));
        assert!(web.ip("route").contains("default via 10.7.0.1"));
        web.del();
        wait_for("the lease to be given back", SOON, || server.leases().is_empty());
    });
}

#[test]
fn a_lease_that_ends_takes_the_address_along() {
    run(|world| {
        let station = server_station(world);
        let server = Server::udhcpd(world, "udhcpd", &station.netns, 4);
        let web = Container::new(world, "web");
        web.add();
        let (address, first) = (web.address(), web.since());
        wait_for("the lease to be renewed", SOON, || web.since() > first);
        drop(server);
        wait_for("the lease to end", SOON, || !web.has(&address));
        wait_for("the file to say so", SOON, || web.record()["lease"].is_null());
        assert_eq!(web.ip("-4 route"), "");
        let check = json!({"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": address}]}});
        assert!(web.call("CHECK", &check).out.contains("is lost"));
        let _server = Server::udhcpd(world, "udhcpd", &station.netns, 60);
        wait_for("a new lease", A_LOOK, || web.has(&web.address()));
        assert!(web.ip("-4 route").contains("default via 10.7.0.1"));
        web.del();
    });
}

#[test]
fn the_same_address_after_the_keeper_and_the_interface_were_gone() {
    run(|world| {
        let station = server_station(world);
        let server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let web = Container::new(world, "web");
        web.add();
        let address = web.address();
        web.end_keeper();
        web.ip("link set eth0 address 02:00:00:00:00:77");
        let asked = |text: &str| std::fs::read_to_string(&server.log).unwrap().matches(text).count();
        let discovers = asked("DHCPDISCOVER");
        web.add();
        assert_eq!(web.address(), address);
        assert_eq!(asked("DHCPDISCOVER"), discovers, "the address is asked for by itself");
        assert!(is_alive(web.keeper()));

        // A server that knows nothing of it refuses, and ADD takes another.
        web.end_keeper();
        drop(server);
        let server = Server::dnsmasq(world, "other", &station.netns, "10.7.0.100,10.7.0.110,255.255.255.0");
        web.add();
        assert_ne!(web.address(), address);
        assert!(server.said("DHCPNAK"));
        web.del();
    });
}

#[test]
fn many_at_once_from_two_servers() {
    run(|world| {
        let first = server_station(world);
        let second = world.peer("srv2", &["10.7.0.2/24"]);
        let one = Server::dnsmasq(world, "one", &first.netns, RANGE);
        let other = Server::dnsmasq(world, "other", &second.netns, "10.7.0.60,10.7.0.99,255.255.255.0");
        let names: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
        let containers: Vec<_> = names.iter().map(|n| Container::new(world, n)).collect();
        std::thread::scope(|scope| {
            for (caller, config) in containers.iter().map(|c| (c.caller(), c.config())) {
                scope.spawn(move || caller.call("ADD", &config).ok());
            }
        });
        let mut addresses: Vec<String> = containers.iter().map(Container::address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), containers.len());
        wait_for("one lease for each", SOON, || one.leases().len() + other.leases().len() == containers.len());
        // GC ends all but one, though nobody called DEL.
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c3", "ifname": "eth0"}]});
        let keepers: Vec<u64> = containers.iter().map(Container::keeper).collect();
        containers[0].call("GC", &valid).ok();
        let kept: Vec<bool> = keepers.iter().map(|k| is_alive(*k)).collect();
        assert_eq!(kept, [false, false, false, true, false, false, false, false]);
        wait_for("seven leases to be given back", SOON, || one.leases().len() + other.leases().len() == 1);
        containers[3].del();
        assert!(!is_alive(keepers[3]));
        wait_for("all to be given back", SOON, || one.leases().len() + other.leases().len() == 0);
    });
}

#[test]
fn a_keeper_ends_with_what_it_keeps() {
    run(|world| {
        let station = server_station(world);
        let _server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let (web, db) = (Container::new(world, "web"), Container::new(world, "db"));
        web.add();
        db.add();
        let keepers = [web.keeper(), db.keeper()];
        assert!(keepers.iter().all(|k| is_alive(*k)));
        web.ip("link delete eth0");
        Netns::unbind(&db.netns()).unwrap();
        wait_for("the keepers to end", A_LOOK, || keepers.iter().all(|k| !is_alive(*k)));
        web.del();
        db.del();
        assert!(!web.file().exists() && !db.file().exists());
    });
}

#[test]
fn no_server_is_said() {
    run(|world| {
        let web = Container::new(world, "web");
        let config = json!({"ipam": {"type": "dhcp", "dataDir": world.dir().join("data"), "timeout": 1}});
        let error: Value = serde_json::from_str(&web.call("ADD", &config).out).unwrap();
        assert_eq!(
            (error["code"].as_u64(), error["msg"].as_str()),
            (Some(11), Some("dhcp: no lease for eth0: no DHCP server answered"))
        );
        assert!(!web.file().exists());
        web.ip("link delete eth0");
        assert!(web.call("ADD", &config).out.contains("interface eth0 not found"));
        web.del();
    });
}

#[test]
fn the_references_macvlan_asks_ours() {
    const MACVLAN: &str = "/usr/lib/cni/macvlan";
    let lacks = || (!Path::new(MACVLAN).exists()).then(|| "containernetworking-plugins".to_owned());
    run_or_skip(lacks, |world| {
        let station = server_station(world);
        let server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let host = world.peer("host", &[]);
        let inside = Netns::create().unwrap();
        let path = world.dir().join("inside");
        inside.bind(&path).unwrap();
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "eth0",
            "ipam": {"type": "dhcp", "dataDir": world.dir().join("data")}});
        plugins(world);
        let caller = Caller {
            dir: world.dir().to_owned(),
            within: host.netns.clone(),
            plugin: MACVLAN.into(),
            container: "web".into(),
            netns: path.clone(),
            ifname: "net1",
        };
        let call = |command| caller.call(command, &config);
        let result = call("ADD").json();
        let address = result["ips"][0]["address"].as_str().unwrap();
        let shown = run_in(&inside, Command::new("ip").args(["address", "show", "dev", "net1"])).ok();
        assert!(shown.out.contains(address), "{}", shown.out);
        assert_eq!(run_in(&inside, Command::new("ping").args(["-c", "1", "-W", "5", "10.7.0.1"])).ok().code, 0);
        call("DEL").ok();
        wait_for("the lease to be given back", SOON, || server.leases().is_empty());
        call("DEL").ok();
        Netns::unbind(&path).unwrap();
    });
}

#[test]
fn our_bridge_is_dressed_with_the_lease() {
    run(|world| {
        let station = server_station(world);
        let server = Server::dnsmasq(world, "dnsmasq", &station.netns, RANGE);
        let host = world.peer("host", &[]);
        let on_host = |words: &str| host.run(&format!("ip {words}")).ok().out;
        on_host("link add br0 address 02:00:00:00:00:01 type bridge forward_delay 0");
        on_host("link set br0 up");
        on_host("link set eth0 master br0");
        let inside = Netns::create().unwrap();
        let path = world.dir().join("inside");
        inside.bind(&path).unwrap();
        let plugin = plugins(world).join("bridge");
        std::os::unix::fs::symlink(built("rnet-cni"), &plugin).unwrap();
        let (dir, within) = (world.dir().to_owned(), host.netns.clone());
        let caller = Caller { dir, within, plugin, container: "web".into(), netns: path.clone(), ifname: "net1" };
        let data = world.dir().join("data");
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0",
            "ipam": {"type": "dhcp", "dataDir": data, "timeout": 20}});
        let result = caller.call("ADD", &config).json();
        assert_eq!((&result["ips"][0]["interface"], &result["dns"]["domain"]), (&json!(2), &json!("example.org")));
        let show = |words: &str| run_in(&inside, Command::new("ip").args(words.split(' '))).ok().out;
        assert!(show("address show dev net1").contains(result["ips"][0]["address"].as_str().unwrap()));
        assert!(show("route").contains("default via 10.7.0.1 dev net1"));
        assert_eq!(run_in(&inside, Command::new("ping").args(["-c", "1", "-W", "5", "10.7.0.1"])).ok().code, 0);
        config["prevResult"] = result;
        caller.call("CHECK", &config).ok();
        caller.call("DEL", &config).ok();
        wait_for("the lease to be given back", SOON, || server.leases().is_empty());
        assert_eq!(on_host("link show type veth").matches("veth").count(), 0, "no port but the NIC is left");
        caller.call("DEL", &config).ok();

        // No server: neither an interface nor anything to keep.
        drop(server);
        config["ipam"]["timeout"] = 1.into();
        assert!(caller.call("ADD", &config).out.contains("no DHCP server answered"));
        assert!(!show("link").contains("net1"));
        assert_eq!(std::fs::read_dir(data.join("net")).unwrap().count(), 0);
        Netns::unbind(&path).unwrap();
    });
}
