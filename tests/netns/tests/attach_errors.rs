//! Every refusal of `rnet attach`: its exit code, its words, and a kernel that is as before.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rnet_netns_harness::{SOON, Start, run, wait_for};

const INVALID: i32 = 2;
const MISSING: i32 = 3;
const CONFLICT: i32 = 4;
const UNSUPPORTED: i32 = 6;
const UNAVAILABLE: i32 = 7;

/// Words of an attach, exit code, and what the error must say.
type Case<'a> = (&'a str, i32, &'a [&'a str]);

#[test]
fn what_is_wrong_with_the_words() {
    let cases: [Case<'_>; 18] = [
        ("br0 web 192.168.115.10", INVALID, &["192.168.115.10", "hint: ", "192.168.115.10/24"]),
        ("br0 web 192.168.115.0/24", INVALID, &["192.168.115.0/24", "network"]),
        ("br0 web 192.168.115.255/24", INVALID, &["192.168.115.255/24", "broadcast"]),
        ("br0 web 10.0.0.5/33", INVALID, &["10.0.0.5/33"]),
        ("br0 web 10.0.0.5/24@10.0.0.5", INVALID, &["10.0.0.5", "gateway"]),
        ("br0 web 10.0.0.5/24@fd00::1", INVALID, &["10.0.0.5/24", "fd00::1"]),
        ("br0 web 10.0.0.5/24@10.0.0.255", INVALID, &["10.0.0.255", "broadcast"]),
        ("br0 web 10.0.0.5/24,10.0.0.5/16", INVALID, &["10.0.0.5", "twice"]),
        ("br0 web 224.0.0.5/24", INVALID, &["224.0.0.5"]),
        ("a-name-of-16-byt web none", INVALID, &["a-name-of-16-byt", "15"]),
        ("br/0 web none", INVALID, &["br/0"]),
        ("br0 web none -i a-name-of-16-byt", INVALID, &["a-name-of-16-byt"]),
        ("br0 web none --mtu 10", INVALID, &["10"]),
        ("br0 web none ff:ff:ff:ff:ff:ff", INVALID, &["ff:ff:ff:ff:ff:ff"]),
        ("br0 web none --vlan 4095", INVALID, &["4095"]),
        ("br0 web none -i all", INVALID, &["\"all\"", "reserved"]),
        ("br0 web none -l default", INVALID, &["\"default\"", "reserved"]),
        ("br0 web none --route foo", INVALID, &["foo", "hint: write it as 192.168.115.0/24"]),
    ];
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        for (words, code, said) in cases {
            host.rnet(&format!("attach {words}")).fails(code, said);
        }
        host.rnet_words(&["attach", "br0", "web", "none", "-i", "my eth"]).fails(INVALID, &["my eth"]);
        host.before().same(&host.snapshot(), "after refused words");
        assert_eq!(host.rnet_json("attachments ls"), serde_json::json!([]));
    });
}

#[test]
fn what_is_not_there_or_taken() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "nic0", &["192.168.7.2/24"]);
        host.start();
        let (web, _db) = (host.container("web"), host.container("db"));
        web.ip("link add eth0 type bridge");
        host.rnet("attach br0 db 10.0.0.9/24@10.0.0.1").ok();
        host.rnet("bridge create br1 --addr 10.1.0.1/24").ok();
        let own = host.process();
        let netd = format!("br0 pid:{} none", host.netd_pid());
        std::fs::write("/run/netns/text", "no namespace").unwrap();
        let before = host.snapshot();
        let cases: [Case<'_>; 17] = [
            ("br0 ghost none", MISSING, &["ghost", "hint: "]),
            ("br0 netns:ghost none", MISSING, &["ghost"]),
            ("br0 pid:4194300 none", MISSING, &["4194300"]),
            ("br0 docker:web none", UNAVAILABLE, &["docker"]),
            ("br0 podman:web none", UNSUPPORTED, &["podman", "pid:N"]),
            ("br0 netns:/etc/passwd none", INVALID, &["/etc/passwd", "not a network namespace"]),
            ("br0 netns:text none", INVALID, &["text", "not a network namespace"]),
            (&netd, INVALID, &["host"]),
            ("br0 web none -i eth0", CONFLICT, &["web", "eth0", "-i"]),
            ("br0 web none -l nic0", CONFLICT, &["nic0", "-l"]),
            ("eth7 web none", MISSING, &["eth7", "rnet bridge create"]),
            ("br0 web 10.0.0.9/24", CONFLICT, &["10.0.0.9", "netns:db"]),
            ("br1 web 10.1.0.1/24", CONFLICT, &["10.1.0.1", "br1"]),
            ("br0 web auto", INVALID, &["auto", "br0", "rnet network ls"]),
            ("br0 db 10.0.0.7/24@10.0.0.1 --metric 0", CONFLICT, &["db", "metric 0", "--metric"]),
            ("br0 db 10.0.0.7/24 -i eth0", CONFLICT, &["eth0", "db", "10.0.0.9/24", "--replace"]),
            ("br0 web 10.0.0.7/24@gw", INVALID, &["10.0.0.7/24@10.0.0.1"]),
        ];
        for (words, code, said) in cases {
            host.rnet(&format!("attach {words}")).fails(code, said);
        }
        before.same(&host.snapshot(), "after refused attaches");
        assert_eq!(host.rnet_json("attachments ls").as_array().unwrap().len(), 1);
        std::fs::remove_file("/run/netns/text").unwrap();
        own.end();
    });
}

#[test]
fn what_this_kernel_or_version_cannot_do() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "nic0", &["192.168.7.2/24"]);
        let lacking = match host.run("ip link add brvf type bridge vlan_filtering 1").code {
            0 => {
                host.ip("link del brvf");
                "not in this version"
            }
            _ => "CONFIG_BRIDGE_VLAN_FILTERING",
        };
        host.start();
        host.container("web");
        let vlan = ["br0", "VLAN", lacking];
        let cases: [Case<'_>; 7] = [
            ("nic0 web none", UNSUPPORTED, &["nic0", "rnet bridge create br0 --uplink nic0"]),
            ("lo web none", UNSUPPORTED, &["lo", "loopback", "hint: nothing can be attached to lo"]),
            ("mac:02:00:00:00:00:01 web none", UNSUPPORTED, &["02:00:00:00:00:01"]),
            ("dummy web none", UNSUPPORTED, &["dummy"]),
            ("br0 web dhcp", UNSUPPORTED, &["dhcp"]),
            ("br0 web none --vlan 10", UNSUPPORTED, &vlan),
            ("br0 web none --trunk 10,20-30", UNSUPPORTED, &vlan),
        ];
        for (words, code, said) in cases {
            host.rnet(&format!("attach {words}")).fails(code, said);
        }
        host.before().same(&host.snapshot(), "after refused attaches");
    });
}

#[test]
fn two_engines_know_the_name() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        let client = host.client();
        client
            .create_sandbox(&rnet_api::SandboxRequest {
                container_id: "4f4f4f4f".parse().unwrap(),
                container_name: "web".parse().unwrap(),
                networks: Vec::new(),
            })
            .unwrap();
        let before = host.snapshot();
        host.rnet("attach br0 web 10.0.0.5/24").fails(CONFLICT, &["web", "rnet:web", "netns:web", "prefix"]);
        before.same(&host.snapshot(), "after an ambiguous name");
        host.rnet("attach br0 rnet:web 10.0.0.5/24").ok();
        host.rnet("attach br0 netns:web 10.0.0.6/24").ok();
        host.rnet("detach web").fails(CONFLICT, &["rnet:4f4f4f4f", "netns:/run/netns/web"]);
    });
}

#[test]
fn a_step_that_fails_takes_all_back() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let web = host.container("web");
        web.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1").ok();
        // lo keeps the 127.0.0.1 that the kernel gave it when it went up.
        let inside = || web.ip("-o address").replace("127.0.0.1", "") + &web.ip("route show table all");
        web.ip("link set lo up");
        web.ip("link set lo down");
        let before = inside();
        let cases = [
            "br0 web 10.0.0.5/24,fd00::5/64",
            "br0 web 10.0.0.5/24 --route 10.8.0.0/16@10.0.0.1 --route 10.8.0.0/16@10.0.0.2",
            "br0 web 10.0.0.5/24 --route 10.8.0.0/16@fd00::1",
        ];
        for words in cases {
            let failed = host.rnet(&format!("attach {words}"));
            assert!(failed.code != 0 && failed.err.contains("error: "), "{words}: {}", failed.out);
            host.wait_until_like(&host.before(), &format!("after {words}"));
            assert_eq!(inside(), before, "{words}");
            assert!(!web.ip("-o link").contains("eth0"), "{words}");
            assert_eq!(host.rnet_json("attachments ls"), serde_json::json!([]));
            assert_eq!(host.rnet_json("bridge ls"), serde_json::json!([]));
        }
        host.rnet("attach br0 web 10.0.0.5/24").ok();
    });
}

#[test]
fn a_full_bridge_is_refused_before_anything_is_done() {
    run(|world| {
        let host = world.host("h1");
        host.ip("link add br0 type bridge");
        let mut batch = String::new();
        for n in 0..1023 {
            // A bridge is a cheap port: it has no second end. A bridge in a bridge is refused, so veths it is, whose
            // other ends stay unused.
            batch.push_str(&format!("link add p{n} master br0 type veth peer name q{n}\n"));
        }
        let file = world.dir().join("batch");
        std::fs::write(&file, batch).unwrap();
        host.ip(&format!("-batch {}", file.display()));
        host.start();
        let web = host.container("web");
        let before = host.snapshot();
        host.rnet("attach br0 web 10.0.0.5/24").fails(CONFLICT, &["br0", "full", "1023"]);
        before.same(&host.snapshot(), "after an attach to a full bridge");
        assert!(!web.ip("-o link").contains("eth0"));
        host.ip("link set p7 nomaster");
        wait_for("a port to be free", SOON, || host.rnet("attach br0 web 10.0.0.5/24").code == 0);
        host.rnet("attach br0 web 10.0.0.6/24").fails(CONFLICT, &["full"]);
        host.rnet("detach web").ok();
        wait_for("the port to be free", SOON, || host.run("ip link set p7 master br0").code == 0);
    });
}

#[test]
fn netd_is_not_running() {
    run(|world| {
        let host = world.host("h1");
        let start = format!("netd --root {}", host.root.display());
        host.rnet("attach br0 web 10.0.0.5/24").fails(UNAVAILABLE, &["netd is not running", &start]);
        host.start();
        host.crash();
        host.rnet("attach br0 web 10.0.0.5/24").fails(UNAVAILABLE, &["netd is not running", &start]);
    });
}

#[test]
fn a_container_that_dies_in_the_middle_leaves_nothing() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["192.168.115.2/24"]);
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        let before = host.snapshot();
        for n in 10..18 {
            let process = host.process();
            // The probe of the LAN takes some hundred milliseconds: the process ends during it, or earlier, or later.
            let words = format!("attach br0 pid:{} 192.168.115.{n}/24", process.pid());
            let mut attach = std::process::Command::new(host.rnet_program())
                .args(words.split(' '))
                .env("RNET_ROOT", &host.root)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            if n % 2 == 0 {
                host.rnet("attachments").ok();
            }
            process.end();
            attach.wait().unwrap();
        }
        wait_for("all to be forgotten", SOON, || host.rnet_json("attachments ls") == serde_json::json!([]));
        host.wait_until_like(&before, "after containers that died");
    });
}

#[test]
fn docker_is_not_asked_when_another_engine_is_meant() {
    run(|world| {
        let host = world.host("h1");
        let hung = host.root.join("docker.sock");
        // Somebody listens and never answers.
        let _listener = std::os::unix::net::UnixListener::bind(&hung).unwrap();
        host.config(&format!("[docker]\nhost = \"unix://{}\"\ntimeout_ms = 200\n", hung.display()));
        host.start_with(&Start::default());
        host.container("web");
        host.rnet("attach br0 netns:web 10.0.0.5/24").ok();
        host.rnet("attach br0 docker:web 10.0.0.6/24").fails(UNAVAILABLE, &["docker", "200ms"]);
        host.rnet("attach br0 web 10.0.0.7/24").ok();
    });
}

/// A socket that answers every connection with these bytes, again and again if they never end.
fn strange_docker(path: std::path::PathBuf, answer: &'static [u8], endless: bool) {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                use std::io::{Read as _, Write as _};
                let _ = stream.read(&mut [0; 1024]);
                while stream.write_all(answer).is_ok() && endless {}
            });
        }
    });
}

#[test]
fn what_docker_answers_may_be_anything() {
    run(|world| {
        let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice();
        let cases: [(&str, &'static [u8], bool); 6] = [
            ("nothing", b"", false),
            ("garbage", b"\x00\xff\xfenonsense\r\n\r\n", false),
            ("head", b"HTTP/1.1 200 OK\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", true),
            ("body", b"HTTP/1.1 200 OK\r\n\r\n[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", true),
            ("chunks", endless, false),
            ("json", b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"Id\":7,\"Name\":1}", false),
        ];
        let host = world.host("h1");
        for (what, answer, again) in cases {
            let socket = host.root.join(format!("{what}.sock"));
            strange_docker(socket.clone(), answer, again);
            host.config(&format!("[docker]\nhost = \"unix://{}\"\ntimeout_ms = 300\n", socket.display()));
            host.start();
            let open = || std::fs::read_dir(format!("/proc/{}/fd", host.netd_pid())).unwrap().count();
            host.rnet("version").ok();
            let before = open();
            for _ in 0..3 {
                host.rnet("attach br0 docker:web 10.0.0.6/24").fails(UNAVAILABLE, &["docker"]);
            }
            rnet_netns_harness::wait_for(what, rnet_netns_harness::SOON, || open() <= before);
            host.stop();
        }
    });
}

#[test]
fn a_container_that_ends_while_the_lan_is_asked_is_not_attached() {
    run(|world| {
        let host = world.host("h1");
        world.plug(&host, "eth0", &["192.168.115.2/24"]);
        host.start();
        host.rnet("bridge create br0 --uplink eth0").ok();
        let web = host.container("web");
        let before = host.snapshot();
        let mut attach = Command::new(host.rnet_program());
        attach.arg("--root").arg(&host.root).args(["attach", "br0", "web", "192.168.115.10/24"]);
        let begun = Instant::now();
        let attach = attach.stderr(Stdio::piped()).spawn().unwrap();
        // The question to the LAN takes 300 ms. In the midst of it the name goes, as that of a container does.
        wait_for("the middle of the question", SOON, || begun.elapsed() > Duration::from_millis(120));
        host.end_container(web);
        let said = attach.wait_with_output().unwrap();
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(said.status.code() == Some(3) && text.contains("web has ended meanwhile"), "{text}");
        assert_eq!(host.rnet_json("attachments ls"), serde_json::json!([]));
        host.wait_until_like(&before, "after the refused attach");
        host.rnet("bridge rm br0").ok();
    });
}

#[test]
fn words_that_mean_another_command() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        host.rnet("network create blue --internal").ok();
        host.rnet("bridge create br0").ok();
        host.rnet("attach blue web auto").fails(MISSING, &["hint: blue is a network: rnet network connect blue web"]);
        host.rnet("attach web br0 10.0.0.5/24").fails(MISSING, &["hint: br0 is a bridge", "rnet attach br0 web"]);
        let two = ["10.9.0.7", "10.9.0.8", "IPv4"];
        host.rnet("network connect blue web --ip 10.9.0.7 --ip 10.9.0.8").fails(INVALID, &two);
        let request = rnet_api::NetworkConnect {
            container: "web".parse().unwrap(),
            identity: None,
            options: rnet_model::EndpointOptions {
                ips: vec!["10.9.0.7".parse().unwrap(), "10.9.0.8".parse().unwrap()],
                ..Default::default()
            },
        };
        let refused = host.client().connect_network("blue", &request).unwrap_err();
        assert_eq!(i32::from(refused.kind.exit_code()), INVALID, "{refused}");
        host.rnet("attach br0 web 10.0.0.5/24 --mtu 9000").fails(INVALID, &["9000", "br0", "1500"]);
        host.rnet("lab destroy --name nolab").fails(MISSING, &["nolab", "hint: "]);
    });
}
