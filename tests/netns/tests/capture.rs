//! `rnet capture`: the packets of a container, as tcpdump reads them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rnet_api::CaptureQuery;
use rnet_netns_harness::{Container, Host, SOON, path_text, run, wait_for};
use serde_json::Value;

fn web_and_db(host: &Host) -> Container {
    host.forwarding_may_stay();
    host.start();
    host.rnet("network create blue --subnet 10.9.0.0/24").ok();
    let web = host.container("web");
    host.rnet("network connect blue web").ok();
    host.container("db");
    host.rnet("network connect blue db").ok();
    web.ip("link set lo up");
    web.ping("10.9.0.3");
    web
}

/// `rnet` that runs on.
fn begin(host: &Host, words: &[&str], out: Stdio) -> Child {
    let netns = format!("--net={}", host.netns_file.display());
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "nsenter", &netns, "--"])
        .arg(host.rnet_program())
        .args(words)
        .env("RNET_ROOT", &host.root)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv and nsenter are installed")
}

fn running(host: &Host, count: &str) {
    let wanted = format!("rnet_captures {count}\n");
    wait_for("the captures to be so many", SOON, || host.client().metrics().is_ok_and(|m| m.contains(&wanted)));
}

fn tcpdump(file: &Path) -> String {
    let said = Command::new("tcpdump").args(["-nr", path_text(file)]).output().expect("tcpdump is installed");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("tcpdump writes text")
}

/// Blocks of a pcapng file: type and body.
fn blocks(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut all) = (0, Vec::new());
    while at < bytes.len() {
        let length = word(at + 4) as usize;
        assert_eq!(word(at + length - 4) as usize, length, "a block ends with its length");
        all.push((word(at), bytes[at + 8..at + length - 4].to_vec()));
        at += length;
    }
    all
}

fn has(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn a_file_that_others_can_read() {
    run(|world| {
        let host = world.host("h1");
        let web = web_and_db(&host);
        let file = host.root.join("web.pcapng");
        let mut rnet = begin(&host, &["capture", "web", "-w", path_text(&file), "--duration", "30"], Stdio::null());
        running(&host, "1");
        web.run("ping -q -c 5 -i 0.01 10.9.0.3").ok();
        web.run("ping -q -c 2 -i 0.01 127.0.0.1").ok();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(rnet.id()).unwrap());
        // Not before the packets went the way to the file.
        wait_for("the packets", SOON, || tcpdump(&file).matches("ICMP echo").count() >= 14);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        assert!(rnet.wait().unwrap().success());
        let said = tcpdump(&file);
        assert_eq!(said.matches("10.9.0.2 > 10.9.0.3: ICMP echo request").count(), 5, "{said}");
        assert_eq!(said.matches("10.9.0.3 > 10.9.0.2: ICMP echo reply").count(), 5, "{said}");
        assert_eq!(said.matches("127.0.0.1 > 127.0.0.1: ICMP echo request").count(), 2, "lo is seen once: {said}");
        let blocks = blocks(&std::fs::read(&file).unwrap());
        let of = |kind: u32| blocks.iter().filter(move |b| b.0 == kind).map(|b| b.1.as_slice()).collect::<Vec<_>>();
        assert_eq!(of(0x0a0d_0d0a).len(), 1);
        let described = of(1);
        for name in ["eth0 of netns:web", "lo of netns:web"] {
            assert!(described.iter().any(|b| has(b, name)), "no {name}");
        }
        assert_eq!(of(5).len(), described.len(), "each interface has its statistics at the end");
        assert_eq!(blocks.last().map(|b| b.0), Some(5));
        running(&host, "0");
        assert!(!host.run("nsenter --net=/run/netns/web ip -d link").out.contains("promiscuity 1"));
    });
}

#[test]
fn lines_and_objects_with_counts_and_cut_packets() {
    run(|world| {
        let host = world.host("h1");
        let web = web_and_db(&host);
        let flow = web.flow("10.9.0.3");
        let lines = host.rnet("capture web:eth0 --count 6").ok();
        assert_eq!(lines.out.lines().count(), 6, "{}", lines.out);
        assert!(lines.out.contains(" eth0 out icmp 10.9.0.2 > 10.9.0.3 echo request, 98 bytes"), "{}", lines.out);
        assert!(lines.out.contains(" eth0 in  icmp 10.9.0.3 > 10.9.0.2 echo reply, 98 bytes"), "{}", lines.out);
        assert_eq!(lines.err, "6 packets captured, 0 lost\n");
        let objects = host.rnet("capture netns:web:eth0 --count 2 --json").ok().out;
        for line in objects.lines() {
            let seen: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&seen["interface"], &seen["length"]), (&"eth0".into(), &98.into()), "{seen}");
        }
        let file = host.root.join("cut.pcapng");
        host.rnet(&format!("capture web:eth0 -w {} --snaplen 40 -c 2", file.display())).ok();
        let packets: Vec<_> = blocks(&std::fs::read(&file).unwrap()).into_iter().filter(|b| b.0 == 6).collect();
        let number = |body: &[u8], at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
        for (_, body) in &packets {
            assert_eq!((number(body, 12), number(body, 16)), (40, 98), "kept, and as long as it was");
        }
        assert_eq!(packets.len(), 2);
        let begun = host.rnet("capture db:lo --duration 0.3").ok();
        assert!(begun.took.as_millis() >= 300 && begun.err == "0 packets captured, 0 lost\n", "{}", begun.err);
        flow.stop();
    });
}

#[test]
fn refusals() {
    run(|world| {
        let host = world.host("h1");
        web_and_db(&host);
        host.rnet("capture nobody").fails(3, &["nobody"]);
        host.rnet("capture web:eth7").fails(3, &["eth7"]);
        host.rnet("capture web:").fails(2, &[]);
        host.rnet("capture web -w /nonexistent/x").fails(2, &["/nonexistent/x"]);
        let long =
            CaptureQuery { container: "web".into(), ifname: None, snaplen: Some(13), duration_ms: None, count: None };
        assert!(host.client().capture(&long).unwrap_err().message.contains("snaplen 13"));
        // Nobody reads a capture of the host's own network by this.
        host.rnet(&format!("capture pid:{}", host.netd_pid())).fails(2, &["no network of its own"]);
        let terminal = ["-qec", &format!("{} capture web -w -", host.rnet_program().display()), "/dev/null"];
        let netns = format!("--net={}", host.netns_file.display());
        let said = Command::new("nsenter")
            .args([&netns, "--", "script"])
            .args(terminal)
            .env("RNET_ROOT", &host.root)
            .stdin(Stdio::null())
            .output()
            .expect("script is installed");
        assert!(String::from_utf8_lossy(&said.stdout).contains("standard output is a terminal"), "{said:?}");
        let many: Vec<_> =
            (0..16).map(|_| host.client().capture(&CaptureQuery { snaplen: None, ..long.clone() })).collect();
        assert!(many.iter().all(Result::is_ok));
        host.rnet("capture web").fails(5, &["16 captures"]);
        drop(many);
        running(&host, "0");
    });
}

#[test]
fn it_ends_with_the_container_and_with_the_interface() {
    run(|world| {
        let host = world.host("h1");
        web_and_db(&host);
        let ended = |mut child: Child| {
            wait_for("the capture to end", SOON, || child.try_wait().unwrap().is_some());
            assert!(child.wait().unwrap().success());
        };
        let one = begin(&host, &["capture", "db:eth0"], Stdio::null());
        running(&host, "1");
        host.rnet("network disconnect blue db").ok();
        ended(one);
        let gone = host.container("gone");
        host.rnet("network connect blue gone").ok();
        let all = begin(&host, &["capture", "gone"], Stdio::null());
        running(&host, "1");
        host.end_container(gone);
        ended(all);
        running(&host, "0");
    });
}

#[test]
fn a_slow_reader_costs_packets_not_memory() {
    run(|world| {
        let host = world.host("h1");
        let web = web_and_db(&host);
        let query = CaptureQuery {
            container: "web".into(),
            ifname: Some("eth0".parse().unwrap()),
            snaplen: None,
            duration_ms: None,
            count: None,
        };
        let resident = || {
            let text = std::fs::read_to_string(format!("/proc/{}/status", host.netd_pid())).unwrap();
            let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let (id, packets) = host.client().capture(&query).unwrap();
        let before = resident();
        // 40 MB both ways: more than sockets, pieces and the kernel's buffer hold.
        web.run("ping -q -f -c 2000 -s 20000 10.9.0.3").ok();
        assert!(resident() < before + 16 * 1024, "{before} kB, now {} kB", resident());
        host.client().end_capture(&id).unwrap();
        let bytes = packets.collect::<Result<Vec<_>, _>>().unwrap().concat();
        let blocks = blocks(&bytes);
        let (_, statistics) = blocks.iter().find(|b| b.0 == 5).expect("statistics");
        let drops = option(&statistics[12..], 7).map(|v| u64::from_ne_bytes(v.try_into().unwrap()));
        assert!(drops.is_some_and(|drops| drops > 0), "{drops:?}");
    });
}

fn option(mut options: &[u8], code: u16) -> Option<Vec<u8>> {
    while options.len() >= 4 {
        let number = |at: usize| u16::from_ne_bytes(options[at..at + 2].try_into().unwrap());
        let length = usize::from(number(2));
        if number(0) == code {
            return Some(options[4..4 + length].to_vec());
        }
        options = &options[4 + length.next_multiple_of(4)..];
    }
    None
}
