//! A store that cannot be read or written, a wrong configuration, clients that misbehave.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rnet_netns_harness::{Host, SOON, Start, path_text, run, run_in, wait_for};

/// Sends bytes to netd's socket: status and body of the answer.
fn send(host: &Host, bytes: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(host.root.join("run/netd.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // netd may answer and close before all is sent.
    let _ = stream.write_all(bytes);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    let status = said.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, said.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn request(host: &Host, method: &str, path: &str, body: &str) -> (u16, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: netd\r\nconnection: close\r\ncontent-length: {}", body.len());
    send(host, format!("{head}\r\n\r\n{body}").as_bytes())
}

#[test]
fn a_store_that_cannot_be_read_is_kept_and_named() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.rnet("attach br0 db 10.0.0.6/24").ok();
        host.stop();
        let store = host.root.join("lib/rnet.redb");
        let good = std::fs::read(&store).unwrap();
        let before = host.snapshot();
        let mut torn = good.clone();
        torn.truncate(good.len() / 3);
        for bad in [b"not a database at all".to_vec(), vec![0; good.len()], torn] {
            std::fs::write(&store, &bad).unwrap();
            let (code, said) = host.start_fails(&Start::default());
            assert_eq!(code, 4, "{said}");
            assert!(said.contains("error: ") && said.contains(path_text(&store)), "{said}");
            assert!(said.contains("hint: "), "{said}");
            assert!(std::fs::read(&store).unwrap() == bad, "the file was changed");
            before.same(&host.snapshot(), "after a start that failed");
            web.ping("10.0.0.6");
        }
        std::fs::write(&store, good).unwrap();
        host.start();
        before.same(&host.snapshot(), "after the store was put back");
    });
}

#[test]
fn an_empty_state_directory_is_not_needed() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.stop();
        std::fs::remove_file(host.root.join("lib/rnet.redb")).unwrap();
        host.start();
        // What the run log knows is still known.
        assert_eq!(host.rnet_json("attachments ls")[0]["status"]["state"], "ready");
        host.rnet("detach web").ok();
        // The bridge's record is gone with the store: nobody is attached to it any more.
        host.run("ip link del br0");
    });
}

/// Mounts a tmpfs of this size over netd's state.
fn small_disk(host: &Host, part: &str, options: &str) {
    let dir = host.root.join(part);
    std::fs::create_dir_all(&dir).unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(Some("small"), &dir, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options)).unwrap();
    let _ = none;
}

/// Fills what is left.
fn fill(dir: &std::path::Path) -> std::path::PathBuf {
    let path = dir.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = [1u8; 4096];
    while file.write_all(&block).is_ok() {}
    path
}

#[test]
fn a_full_disk_is_a_clear_error_and_no_half_state() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        small_disk(&host, "lib", "size=4m");
        small_disk(&host, "run", "size=1m");
        host.start();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.rnet("attach br0 db 10.0.0.6/24").ok();
        wait_for("the store to follow", SOON, || host.rnet("version").code == 0);
        let fillers = [fill(&host.root.join("lib")), fill(&host.root.join("run"))];
        let before = host.snapshot();
        let mut refused = 0;
        for n in 0..60 {
            host.container(&format!("c{n}"));
            let said = host.rnet(&format!("attach br0 c{n} 10.0.1.{}/16", n + 1));
            if said.code == 0 {
                // The last block of the log had room; the next one has none.
                continue;
            }
            refused += 1;
            assert_eq!(said.code, 5, "{}", said.err);
            assert!(said.err.contains("the disk is full") && said.err.contains("hint: "), "{}", said.err);
            if refused == 3 {
                break;
            }
        }
        assert_eq!(refused, 3, "the disk was never full");
        let network = host.rnet("network create blue --subnet 10.9.0.0/24");
        assert!(network.code == 5 && network.err.contains("the disk is full"), "{}", network.err);
        web.ping("10.0.0.6");
        for filler in fillers {
            std::fs::remove_file(filler).unwrap();
        }
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        host.rnet("network rm blue").ok();
        for endpoint in host.rnet_json("attachments ls").as_array().unwrap() {
            let name = endpoint["container"].as_str().unwrap();
            if name.starts_with('c') {
                host.rnet(&format!("detach {name}")).ok();
            }
        }
        let (before, now) = (before.but_forwarding(), || host.snapshot().but_forwarding());
        wait_for("all to be gone", SOON, || before.differences(&now()).is_empty());
    });
}

#[test]
fn what_a_full_disk_refused_is_written_when_there_is_room_again() {
    run(|world| {
        let host = world.host("h1");
        small_disk(&host, "lib", "size=4m");
        host.start();
        let (_web, _db) = (host.container("web"), host.container("db"));
        host.rnet("bridge create br0").ok();
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        (0..20).for_each(|n| drop(host.rnet(&format!("attach br0 db 10.0.1.{n}/16 -i lan{n}")).ok()));
        wait_for("the store to follow", SOON, || store_is_well(&host));
        let filler = fill(&host.root.join("lib"));
        // The store is written behind these answers, and cannot be.
        let degraded = (0..20).any(|n| {
            host.rnet(&format!("detach db lan{n}")).ok();
            !store_is_well(&host)
        });
        assert!(degraded, "the disk was never full");
        host.rnet("detach web").ok();
        // What is to outlive a reboot is not promised now.
        let before = host.rnet_json("attachments ls");
        host.rnet("attach br0 web 10.0.0.7/24").fails(5, &["the disk is full", "--no-persist"]);
        assert_eq!(host.rnet_json("attachments ls"), before);
        host.rnet("attach br0 web 10.0.0.7/24 --no-persist").ok();
        host.rnet("detach web").ok();
        std::fs::remove_file(filler).unwrap();
        wait_for("the store to follow", SOON, || store_is_well(&host));
        let wanted = host.rnet_json("attachments ls");
        host.stop();
        // A reboot: only what the store knows comes back.
        std::fs::remove_file(host.root.join("run/endpoints.log")).unwrap();
        host.start();
        let ready = |list: &serde_json::Value| {
            let ready = list.as_array().unwrap().iter().filter(|e| e["status"]["state"] == "ready");
            ready.map(|e| e["id"].to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        wait_for("the attachments to be back", SOON, || ready(&host.rnet_json("attachments ls")) == ready(&wanted));
        let now = host.rnet_json("attachments ls");
        assert_eq!(now.as_array().unwrap().len(), wanted.as_array().unwrap().len());
    });
}

fn store_is_well(host: &Host) -> bool {
    !host.rnet("version").ok().out.contains("degraded")
}

#[test]
fn without_descriptors_an_attach_fails_whole() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let (web, _db) = (host.container("web"), host.container("db"));
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        let before = host.snapshot();
        let pid = host.netd_pid();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        for more in 0..8 {
            // Lowering a limit takes no capability; the hard one stays.
            host.run(&format!("prlimit --pid {pid} --nofile={}:", open + more)).ok();
            let mut client = Command::new(host.rnet_program());
            client.args(["attach", "br0", "db", "10.0.0.6/24"]).env("RNET_ROOT", &host.root);
            let begun = std::time::Instant::now();
            let mut client =
                client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
            // Without a descriptor for the connection nobody answers until there is one.
            let mut status = None;
            while status.is_none() && begun.elapsed() < std::time::Duration::from_millis(300) {
                status = client.try_wait().unwrap();
            }
            host.run(&format!("prlimit --pid {pid} --nofile=1024:")).ok();
            let code = status.unwrap_or_else(|| client.wait().unwrap()).code();
            match code {
                Some(0) => host.rnet("detach db").ok(),
                Some(5) => host.rnet("version").ok(),
                other => panic!("with {more} more descriptors the attach ended with {other:?}"),
            };
            host.wait_until_like(&before, &format!("with {more} more descriptors"));
        }
        assert!(web.ip("-o address").contains("10.0.0.5/24"));
        host.rnet("attach br0 db 10.0.0.6/24").ok();
    });
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    run(|world| {
        let host = world.host("h1");
        small_disk(&host, "lib", "size=4m");
        host.start();
        host.container("web");
        host.rnet("attach br0 web 10.0.0.5/24").ok();
        host.stop();
        let before = host.snapshot();
        let none: Option<&str> = None;
        let remount = |flags| nix::mount::mount(none, &host.root.join("lib"), none, flags, none).unwrap();
        remount(nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY);
        let (code, said) = host.start_fails(&Start::default());
        assert_eq!(code, 8, "{said}");
        assert!(said.contains("lib") && said.contains("Read-only file system"), "{said}");
        before.same(&host.snapshot(), "after a start that failed");
        remount(nix::mount::MsFlags::MS_REMOUNT);
        host.start();
    });
}

#[test]
fn a_second_netd_is_refused_and_names_the_first() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let pid = host.netd_pid().to_string();
        let second = run_in(&host.netns, Command::new(host.netd_program()).arg("--root").arg(&host.root));
        second.fails(4, &["another netd", &pid, "hint: "]);
        host.rnet("version").ok();
    });
}

#[test]
fn networks_need_no_nft() {
    run(|world| {
        let host = world.host("h1");
        let (web, _db) = (host.container("web"), host.container("db"));
        host.forwarding_may_stay();
        let nft = host.run("which nft").ok().out.trim().to_owned();
        host.start_with(&Start { without: Some(nft), ..Start::default() });
        host.rnet("network create blue --subnet 10.9.0.0/24").ok();
        host.rnet("network connect blue web").ok();
        host.rnet("network connect blue db --ip 10.9.0.77").ok();
        web.ping("10.9.0.77");
        host.rnet("publish db 8080:80").ok();
        assert!(!host.rnet("version").ok().out.contains("degraded"));
    });
}

#[test]
fn mistakes_in_the_configuration_name_file_line_and_key() {
    run(|world| {
        let host = world.host("h1");
        host.config("rest_seconds = 5\nnonsense = 1\n");
        let file = path_text(&host.root.join("netd.toml")).to_owned();
        let (code, said) = host.start_fails(&Start::default());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(&file) && said.contains("line 2") && said.contains("`nonsense`"), "{said}");
        let (code, said) = host.start_fails(&Start { args: vec!["--check-config".into()], ..Start::default() });
        assert!(code == 2 && said.contains("`nonsense`"), "{said}");
        let absent = vec!["--config".into(), "/nonexistent/netd.toml".into()];
        let (code, said) = host.start_fails(&Start { args: absent, ..Start::default() });
        assert!(code == 2 && said.contains("/nonexistent/netd.toml"), "{said}");
        host.config("rest_seconds = 5\n");
        let (code, said) = host.start_fails(&Start { args: vec!["--check-config".into()], ..Start::default() });
        assert!(code == 0 && said.contains("right"), "{said}");
    });
}

#[test]
fn requests_that_are_not_right() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        host.container("web");
        let attach = r#"{"spec":{"hostif":"br0","container":"web","address":"10.0.0.5/24","options":{}}}"#;
        let cases = [
            ("POST", "/v1/attachments", "{", 400, "line 1 column"),
            ("POST", "/v1/attachments", "", 400, "not what POST /v1/attachments takes"),
            ("POST", "/v1/attachments", "[]", 400, "not what POST /v1/attachments takes"),
            ("POST", "/v1/attachments", r#"{"spec":{},"colour":1}"#, 400, "not what POST /v1/attachments takes"),
            ("POST", "/v1/networks", r#"{"name":"../x"}"#, 400, "../x"),
            ("GET", "/v1/nothing", "", 404, "/v1/nothing"),
            ("GET", "/", "", 404, "there is no"),
            ("PUT", "/v1/attachments", "", 405, "PUT"),
            ("DELETE", "/v1/networks/blue?colour=1", "", 400, "colour"),
            ("GET", "/v1/attachments/%00", "", 404, "attachment"),
            ("GET", "/v1/networks/..%2f..%2fetc", "", 404, "network"),
            ("GET", "/v1/networks/%ff", "", 400, "path"),
            ("DELETE", "/v1/bridges/..%2fx", "", 400, "../x"),
            ("DELETE", "/v1/sandboxes/%00", "", 400, "name"),
            ("DELETE", "/v1/links/x", "", 400, "x"),
        ];
        for (method, path, body, status, words) in cases {
            let (got, said) = request(&host, method, path, body);
            assert_eq!(got, status, "{method} {path} {body}: {said}");
            let error: serde_json::Value =
                serde_json::from_str(&said).unwrap_or_else(|e| panic!("{path}: {e}: {said}"));
            assert!(error["message"].as_str().unwrap().contains(words), "{method} {path}: {said}");
        }
        let unknown = attach.replace("\"options\":{}", "\"options\":{},\"colour\":1");
        assert!(request(&host, "POST", "/v1/attachments", &unknown).1.contains("colour"));
        host.before().same(&host.snapshot(), "after refused requests");
        assert_eq!(request(&host, "POST", "/v1/attachments", attach).0, 200);
        let deep = format!(r#"{{"spec":{}"#, "[".repeat(20_000));
        assert_eq!(request(&host, "POST", "/v1/attachments", &deep).0, 400);
        let long = "x".repeat(50_000);
        assert_eq!(request(&host, "POST", "/v1/attachments", &attach.replace("web", &long)).0, 400);
        assert_eq!(request(&host, "POST", "/v1/attachments", &attach.replace("web", "w\\u0000b")).0, 400);
        assert_eq!(send(&host, b"nonsense\r\n\r\n").0, 400);
        host.rnet("version").ok();
    });
}

#[test]
fn what_is_too_large_or_never_ends() {
    run(|world| {
        let host = world.host("h1");
        host.config("[api]\nbody_limit = 2048\nconnections = 16\n");
        host.start();
        let (status, said) = request(&host, "POST", "/v1/attachments", &"x".repeat(4096));
        assert_eq!(status, 413, "{said}");
        assert!(said.contains("2048"), "{said}");
        let head = format!("GET /v1/version HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(64 * 1024));
        assert!(matches!(send(&host, head.as_bytes()).0, 400 | 431));
        // Clients that say nothing take all but one connection; another one is served all the same.
        let idle: Vec<_> = (0..15).map(|_| UnixStream::connect(host.root.join("run/netd.sock")).unwrap()).collect();
        host.rnet("version").ok();
        drop(idle);
        host.rnet("version").ok();
    });
}

#[test]
fn clients_that_never_send_their_body_do_not_keep_others_out() {
    run(|world| {
        let host = world.host("h1");
        host.config("[api]\nconnections = 4\n");
        host.start();
        let stuck: Vec<_> = (0..4)
            .map(|_| {
                let mut client = UnixStream::connect(host.root.join("run/netd.sock")).unwrap();
                client.write_all(b"POST /v1/attachments HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{").unwrap();
                client.set_read_timeout(Some(2 * SOON)).unwrap();
                client
            })
            .collect();
        for mut client in stuck {
            let mut said = [0; 16];
            client.read_exact(&mut said).unwrap();
            assert_eq!(&said[..12], b"HTTP/1.1 408");
        }
        host.rnet("version").ok();
    });
}

#[test]
fn only_root_and_the_group_may_ask() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let socket = host.root.join("run/netd.sock");
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&socket), mode(&host.root.join("run"))), (0o660, 0o750));
        let version = || {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
            command.arg(world.programs_for_all().join("rnet")).arg("version").env("RNET_ROOT", &host.root);
            run_in(&host.netns, &mut command)
        };
        let open = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open(&host.root, 0o755);
        version().fails(8, &["not allowed", "hint: "]);
        // Whatever the modes of the files say, the peer is asked who it is.
        open(&host.root.join("run"), 0o755);
        open(&socket, 0o666);
        version().fails(8, &["user 65534", "group rnet"]);
    });
}
