//! Container runtimes that use CNI, with every plugin a link to `rnet-cni`: containerd's `ctr` and Podman.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rnet_netns_harness::{Host, Output, SOON, World, built, path_text, run_in, run_or_skip, wait_for};
use serde_json::{Value, json};

/// A place of the machine that runtimes look at, with a layer of the test's own on top.
fn private(world: &World, place: &str) {
    let top = world.dir().join("layers").join(place.trim_start_matches('/'));
    std::fs::create_dir_all(&top).unwrap();
    let none: Option<&str> = None;
    mount(Some("layer"), &top, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let [upper, work] = ["upper", "work"].map(|name| top.join(name));
    for folder in [&upper, &work] {
        std::fs::create_dir(folder).unwrap();
    }
    let options = format!("lowerdir={place},upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("layer"), place, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
}

/// A machine for a runtime, as far as it can see: /opt/cni/bin has our plugins, and what it writes is gone afterwards.
fn machine(world: &World) -> (Host, PathBuf) {
    for place in ["/etc", "/opt", "/var/lib"] {
        private(world, place);
    }
    let none: Option<&str> = None;
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    std::fs::create_dir("/run/netns").unwrap();
    let host = world.host("node");
    world.plug(&host, "up0", &["192.0.2.1/24"]);
    let cni = Path::new("/opt/cni/bin");
    host.run(&format!("{} install --force --dir {}", built("rnet-cni").display(), cni.display())).ok();
    let _ = std::fs::remove_dir_all("/etc/cni/net.d");
    std::fs::create_dir_all("/etc/cni/net.d").unwrap();
    let rootfs = world.dir().join("rootfs");
    for folder in ["bin", "dev", "etc", "proc", "sys"] {
        std::fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    let busybox = host.run("which busybox").ok().out;
    std::fs::copy(busybox.trim(), rootfs.join("bin/busybox")).unwrap();
    std::fs::write(rootfs.join("etc/answer"), "it is me\n").unwrap();
    (host, rootfs)
}

/// What a list of plugins is called in /etc/cni/net.d.
fn network(list: &Value) {
    std::fs::write("/etc/cni/net.d/10-net1.conflist", list.to_string()).unwrap();
}

fn program(name: &str) -> bool {
    ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(name).exists())
}

fn lacks(names: &[(&str, &str)]) -> Option<String> {
    let (program, package) = names.iter().find(|(name, _)| !program(name))?;
    Some(format!("{program} (package {package})"))
}

/// Whether a web server of a container answers. busybox has a limit of time of its own, which ends in a segmentation
/// fault (1.35, static).
fn fetches(run: impl Fn(&str) -> Output, url: &str) -> bool {
    run(&format!("timeout 2 busybox wget -q -O - {url}/etc/answer")).out == "it is me\n"
}

struct Containerd<'a> {
    host: &'a Host,
    child: Child,
    dir: PathBuf,
}

impl<'a> Containerd<'a> {
    fn start(world: &World, host: &'a Host) -> Self {
        let dir = world.dir().join("containerd");
        std::fs::create_dir(&dir).unwrap();
        let at = dir.display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{at}/sock\"\n[ttrpc]\naddress = \"{at}/sock.ttrpc\"\n"
        );
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = inside(host, "containerd")
            .arg("-c")
            .arg(dir.join("config.toml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Containerd { host, child, dir };
        wait_for("containerd to answer", SOON * 2, || containerd.ctr("version").code == 0);
        containerd
    }

    fn address(&self) -> String {
        self.dir.join("sock").display().to_string()
    }

    fn ctr(&self, words: &str) -> Output {
        run_in(&self.host.netns, Command::new("ctr").args(["-a", &self.address()]).args(words.split(' ')))
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        for id in self.ctr("task ls -q").out.split_whitespace() {
            self.ctr(&format!("task rm -f {id}"));
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// A program in the host's namespace. Not by `ip netns exec`: it would hide the cgroups.
fn inside(host: &Host, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", host.netns_file.display())).args(["--", program]).stdin(Stdio::null());
    command
}

fn entries(folder: &str) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = all.map(|e| e.file_name().display().to_string()).collect();
    names.sort();
    names
}

/// Addresses that are reserved, and cached results.
fn kept(network: &str) -> Vec<String> {
    let mut all = entries(&format!("/var/lib/cni/networks/{network}"));
    all.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
    all.extend(entries("/var/lib/cni/results"));
    all
}

#[test]
fn ctr_of_containerd() {
    let needs = [("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc")];
    run_or_skip(
        || lacks(&needs),
        |world| {
            let (host, rootfs) = machine(world);
            network(&json!({"cniVersion": "1.0.0", "name": "net1", "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                    "ipam": {
                        "type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "firewall"},
            ]}));
            let peer = world.peer("out", &["192.0.2.2/24"]);
            let containerd = Containerd::start(world, &host);
            let said = containerd.ctr(&format!(
                "run --rm --cni --rootfs {} one /bin/busybox ping -c 1 -W 2 192.0.2.2",
                rootfs.display()
            ));
            assert!(said.ok().out.contains("1 packets received"));
            assert!(kept("net1").is_empty(), "{:?}", kept("net1"));

            let before = host.snapshot();
            let mut web = inside(&host, "ctr")
                .args(["-a", &containerd.address(), "run", "--rm", "--cni", "--rootfs", path_text(&rootfs), "web"])
                .args(["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait_for("a container to answer", SOON, || fetches(|w| host.run(w), "http://10.88.0.3"));
            assert!(fetches(|w| host.run(w), "http://[fd88::3]"));
            let url = "http://10.88.0.3";
            let said = containerd.ctr(&format!(
                "run --rm --cni --rootfs {} two /bin/busybox timeout 3 /bin/busybox wget -q -O - {url}/etc/answer",
                rootfs.display()
            ));
            assert_eq!(said.ok().out, "it is me\n");
            assert!(!peer.reaches("10.88.0.3"), "nothing leads there");
            containerd.ctr("task kill -s 9 web").ok();
            web.wait().unwrap();
            assert!(kept("net1").is_empty(), "{:?}", kept("net1"));
            host.wait_until_like(&before, "after the container was removed");
        },
    );
}

struct Podman<'a> {
    host: &'a Host,
    root: PathBuf,
}

impl<'a> Podman<'a> {
    fn new(world: &World, host: &'a Host, rootfs: &Path) -> Self {
        std::fs::create_dir_all("/etc/containers").unwrap();
        let config = "[containers]\nlog_driver = \"k8s-file\"\n\
                      [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/opt/cni/bin\"]\n\
                      network_config_dir = \"/etc/cni/net.d\"\n\
                      [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n";
        std::fs::write("/etc/containers/containers.conf", config).unwrap();
        let archive = world.dir().join("rootfs.tar");
        host.run(&format!("tar -C {} -cf {} .", rootfs.display(), archive.display())).ok();
        let podman = Podman { host, root: world.dir().join("podman") };
        podman.cli(&format!("import {} box", archive.display())).ok();
        podman
    }

    fn cli(&self, words: &str) -> Output {
        let mut command = Command::new("podman");
        command.arg("--root").arg(&self.root).args(["--runroot", "/run/podman", "--tmpdir", "/run/libpod"]);
        run_in(&self.host.netns, command.args(["--storage-driver", "vfs"]).args(words.split(' ')))
    }

    fn run(&self, words: &str) {
        // Limits that are raised need a capability that not every machine gives.
        let limits = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024";
        self.cli(&format!("run -d {limits} {words} box /bin/busybox httpd -f -p 80 -h /")).ok();
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        self.cli("rm -f -a -t 0");
    }
}

#[test]
fn podman_with_its_cni_backend() {
    let needs = [("podman", "podman"), ("conmon", "conmon"), ("runc", "runc")];
    run_or_skip(
        || lacks(&needs),
        |world| {
            let (host, rootfs) = machine(world);
            let peer = world.peer("out", &["192.0.2.2/24"]);
            let podman = Podman::new(world, &host, &rootfs);
            // The list is Podman's own: bridge, portmap, firewall, tuning.
            podman.cli("network create --subnet 10.90.0.0/24 blue").ok();
            let list = std::fs::read_to_string("/etc/cni/net.d/blue.conflist").unwrap();
            for plugin in ["bridge", "portmap", "firewall", "tuning"] {
                assert!(list.contains(&format!("\"{plugin}\"")), "{plugin} is not in {list}");
            }
            podman.run("--name base --network blue");
            let before = host.snapshot();
            podman.run("--name web --network blue -p 8080:80 -p 192.0.2.1:8081:80 --mac-address c2:11:22:00:00:07");
            let peer_fetches = |url: &str| fetches(|w| peer.run(w), url);
            wait_for("a published port to answer", SOON, || peer_fetches("http://192.0.2.1:8080"));
            assert!(peer_fetches("http://192.0.2.1:8081"));
            for url in ["http://192.0.2.1:8080", "http://127.0.0.1:8080", "http://10.90.0.3"] {
                assert!(fetches(|w| host.run(w), url), "{url}");
            }
            assert!(!fetches(|w| host.run(w), "http://127.0.0.1:8081"), "it is published on one address");
            // Hairpin, and one container to the other's published port.
            for name in ["web", "base"] {
                let said = podman.cli(&format!(
                    "exec {name} /bin/busybox timeout 3 /bin/busybox wget -q -O - http://192.0.2.1:8080/etc/answer"
                ));
                assert_eq!(said.ok().out, "it is me\n", "{name}");
            }
            let inside = podman.cli("exec web /bin/busybox ip link show eth0").ok().out;
            assert!(inside.contains("c2:11:22:00:00:07"), "{inside}");
            podman.cli("restart -t 0 web").ok();
            wait_for("a published port to answer again", SOON, || peer_fetches("http://192.0.2.1:8080"));
            podman.cli("rm -f -t 0 web").ok();
            assert!(!peer_fetches("http://192.0.2.1:8080"));
            host.wait_until_like(&before, "after the container was removed");
            podman.cli("rm -f -t 0 base").ok();
            assert!(kept("blue").is_empty(), "{:?}", kept("blue"));
            assert!(!host.run("nft list ruleset").ok().out.contains("10.90.0."), "rules are left");
        },
    );
}
