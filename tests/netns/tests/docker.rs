//! Containers of a real Docker, in a namespace of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rnet_netns_harness::{Host, Output, SOON, Start, World, path_text, run_in, run_or_skip, wait_for};
use serde_json::json;

const DOCKERD: [&str; 2] = ["/usr/sbin/dockerd", "/usr/bin/dockerd"];
const START_LIMIT: Duration = Duration::from_secs(60);

fn dockerd() -> Option<&'static str> {
    DOCKERD.into_iter().find(|p| std::path::Path::new(p).exists())
}

fn lacks() -> Option<String> {
    dockerd().is_none().then(|| "dockerd (package docker.io)".to_owned())
}

struct Docker<'a> {
    host: &'a Host,
    child: Child,
    dir: PathBuf,
}

impl<'a> Docker<'a> {
    fn start(world: &World, host: &'a Host) -> Self {
        let dir = world.dir().join("docker");
        std::fs::create_dir(&dir).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        // Not `ip netns exec`: it would hide the cgroups.
        let child = Command::new("nsenter")
            .arg(format!("--net={}", host.netns_file.display()))
            .arg("--")
            .arg(dockerd().unwrap())
            .args(["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"])
            .args(["--data-root", path_text(&dir.join("data")), "--exec-root", path_text(&dir.join("exec"))])
            .args(["--pidfile", path_text(&dir.join("pid")), "-H", &format!("unix://{}/sock", dir.display())])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Docker { host, child, dir };
        wait_for("dockerd to answer", START_LIMIT, || docker.cli(&["version"]).code == 0);
        let rootfs = docker.dir.join("rootfs/bin");
        std::fs::create_dir_all(&rootfs).unwrap();
        let busybox = host.run("which busybox").ok().out;
        std::fs::copy(busybox.trim(), rootfs.join("busybox")).unwrap();
        let archive = docker.dir.join("rootfs.tar");
        host.run(&format!("tar -C {} -cf {} .", docker.dir.join("rootfs").display(), archive.display())).ok();
        docker.cli(&["import", path_text(&archive), "busybox"]).ok();
        docker
    }

    fn socket(&self) -> String {
        format!("unix://{}/sock", self.dir.display())
    }

    fn cli(&self, words: &[&str]) -> Output {
        run_in(&self.host.netns, Command::new("docker").arg("-H").arg(self.socket()).args(words))
    }

    fn run(&self, name: &str) -> String {
        let command = ["busybox", "/bin/busybox", "sleep", "600"];
        let words = [&["run", "-d", "--network", "none", "--name", name][..], &command].concat();
        self.cli(&words).ok().out.trim().to_owned()
    }

    fn inside(&self, name: &str, words: &str) -> String {
        let words: Vec<&str> = ["exec", name, "/bin/busybox"].into_iter().chain(words.split(' ')).collect();
        self.cli(&words).ok().out
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let all = self.cli(&["ps", "-aq"]).out;
        for id in all.split_whitespace() {
            let _ = self.cli(&["rm", "-f", id]);
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn containers_of_docker_by_prefix_name_and_id() {
    run_or_skip(lacks, |world| {
        let host = world.host("h1");
        let docker = Docker::start(world, &host);
        host.config("[docker]\n");
        host.start_with(&Start { env: vec![("DOCKER_HOST", docker.socket())], ..Start::default() });
        let before = host.snapshot();
        let (web, db) = (docker.run("web"), docker.run("db"));
        let reply = host.rnet_json("attach br0 docker:web 192.168.115.10/24");
        assert_eq!(reply["endpoint"]["container_id"], json!(web));
        host.rnet("attach br0 db 192.168.115.11/24").ok();
        assert!(docker.inside("web", "ping -c 1 -W 2 192.168.115.11").contains("1 packets received"));
        let by_id = format!("attach br0 {} 192.168.115.10/24", &web[..12]);
        assert_eq!(host.rnet_json(&by_id)["outcome"], "unchanged");

        host.rnet("attach br0 docker:ghost 192.168.115.12/24").fails(3, &["docker:ghost", "hint: "]);
        docker.cli(&["create", "--network", "none", "--name", "cold", "busybox", "/bin/busybox", "true"]).ok();
        host.rnet("attach br0 cold 192.168.115.12/24").fails(3, &["cold", "does not run", "docker start cold"]);
        docker
            .cli(&["run", "-d", "--network", "host", "--name", "open", "busybox", "/bin/busybox", "sleep", "600"])
            .ok();
        host.rnet("attach br0 docker:open 192.168.115.12/24").fails(2, &["docker:open", "host"]);
        host.container("db");
        host.rnet("attach br0 db 192.168.115.12/24").fails(4, &["docker:db", "netns:db", "prefix"]);

        // netd finds the same container again after a restart of itself.
        let inside = docker.inside("web", "ip address");
        host.crash();
        host.start_with(&Start { env: vec![("DOCKER_HOST", docker.socket())], ..Start::default() });
        assert_eq!(docker.inside("web", "ip address"), inside);
        assert_eq!(host.rnet_json("attachments ls")[0]["status"]["state"], "ready");

        // A restart of the container brings the same interface back, without anybody asking.
        let web_now =
            || host.rnet_json("attachments ls").as_array().unwrap().iter().find(|e| e["container"] == "web").cloned();
        let generation = web_now().unwrap()["generation"].as_u64().unwrap();
        docker.cli(&["restart", "-t", "0", "web"]).ok();
        wait_for("the attachment to be back", SOON, || {
            let now = web_now().unwrap();
            now["status"]["state"] == "ready" && now["generation"].as_u64().unwrap() > generation
        });
        assert_eq!(web_now().unwrap()["mac"], reply["endpoint"]["mac"]);
        assert!(docker.inside("web", "ip address").contains("192.168.115.10/24"));

        docker.cli(&["rm", "-f", "web", "open"]).ok();
        host.rnet("detach docker:web").ok();
        host.rnet(&format!("detach {}", &db[..12])).ok();
        host.rnet("bridge rm br0").ok();
        host.wait_until_like(&before, "after all were detached");
    });
}
