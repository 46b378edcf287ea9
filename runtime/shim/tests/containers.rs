//! Containers without a network, and without netd.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use common::{Bed, code, has_cgroup, runs, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NONE: [&str; 2] = ["--net", "none"];

#[test]
fn output_and_exit_codes() {
    let Some(bed) = Bed::new("output_and_exit_codes") else { return };
    let rm = ["--rm", "--net", "none"];
    let echo = bed.run_container(&rm, &["echo", "hello"]);
    assert_eq!((echo.code, echo.out.as_str(), echo.err.as_str()), (0, "hello\n", ""));
    let err = bed.run_container(&rm, &["sh", "-c", "echo oops >&2; exit 3"]);
    assert_eq!((err.code, err.out.as_str(), err.err.as_str()), (3, "", "oops\n"));
    fs::write(bed.rootfs().join("bin/plain"), "text").unwrap();
    for (command, expected) in [("/etc", 126), ("plain", 126), ("nothing-of-that-name", 127), ("/bin/none", 127)] {
        let ran = bed.run_container(&rm, &[command]);
        assert_eq!(ran.code, expected, "{command}: {}", ran.err);
        assert!(ran.err.starts_with("error: cannot run"), "{}", ran.err);
    }
    assert_eq!(bed.run(&["run", "--rm", "--net", "none", "--rootfs", "/nonexistent", "true"]).code, 125);
    assert_eq!(bed.run_container(&["--net", "container:nobody"], &["true"]).code, 125);
    bed.assert_clean();
}

#[test]
fn a_life_in_the_background() {
    let Some(bed) = Bed::new("a_life_in_the_background") else { return };
    let script = "echo begun; trap 'echo ending; exit 5' TERM; while :; do sleep 0.05; done";
    let id = bed.start_container(&[&NONE[..], &["--name", "job"]].concat(), &["sh", "-c", script]);
    assert_eq!(bed.status("job"), "running");
    assert!(has_cgroup(&id));
    assert_eq!(bed.run(&["rm", "job"]).code, 4, "a running container is not removed");
    assert_eq!(bed.run_container(&[&NONE[..], &["--name", "job"]].concat(), &["true"]).code, 125, "the name is taken");
    assert_eq!(bed.ok(&["exec", "job", "sh", "-c", "hostname; cat /etc/hostname"]), format!("{0}\n{0}\n", &id[..12]));
    assert_eq!(bed.run(&["exec", "job", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(bed.run(&["exec", "job", "/etc"]).code, 126);
    assert_eq!(bed.run(&["exec", "job", "none"]).code, 127);
    wait_for("the first line", || bed.ok(&["logs", &id[..6]]) == "begun\n");
    let follower = bed.rnet(&["logs", "-f", "job"]).stdout(Stdio::piped()).spawn().unwrap();
    bed.ok(&["stop", "job"]);
    let followed = follower.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "begun\nending\n");
    assert_eq!(bed.status("job"), "exited");
    assert!(!has_cgroup(&id));
    assert_eq!(bed.ok(&["wait", "job"]), "5\n");
    bed.ok(&["start", "job"]);
    assert_eq!(bed.status("job"), "running");
    let waiter = bed.rnet(&["wait", "job"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the trap", || bed.ok(&["logs", "--tail", "1", "job"]) == "begun\n");
    bed.ok(&["kill", "-s", "TERM", "job"]);
    assert_eq!(waiter.wait_with_output().unwrap().stdout, b"5\n");
    bed.ok(&["rm", "job"]);
    bed.assert_clean();
}

#[test]
fn signals_of_the_command_are_the_programs() {
    let Some(bed) = Bed::new("signals_of_the_command_are_the_programs") else { return };
    let words = bed.container(
        &[&NONE[..], &["--name", "s"]].concat(),
        &["sh", "-c", "trap 'exit 7' TERM; echo go; while :; do sleep 0.05; done"],
    );
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = bed.rnet(&words).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(code(child.wait().unwrap()), 7);
    let mut child = bed.rnet(&["start", "-a", "s"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    bed.ok(&["kill", "s"]);
    assert_eq!(code(child.wait().unwrap()), 137);
    // The command is killed: the container goes on.
    let mut child = bed.rnet(&["start", "-a", "s"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bed.status("s"), "running");
    bed.ok(&["rm", "-f", "s"]);
    bed.assert_clean();
}

#[test]
fn streams_carry_everything() {
    let Some(bed) = Bed::new("streams_carry_everything") else { return };
    let input = vec![b'x'; 3_000_000];
    let words = bed.container(&["-i", "--rm", "--net", "none"], &["cat"]);
    let cat = bed.run_with(&words.iter().map(String::as_str).collect::<Vec<_>>(), &input);
    assert_eq!((cat.code, cat.out.len()), (0, input.len()), "{}", cat.err);
    bed.start_container(&[&NONE[..], &["--name", "c"]].concat(), &["sleep", "1000"]);
    let cat = bed.run_with(&["exec", "-i", "c", "cat"], &input);
    assert_eq!((cat.code, cat.out.len()), (0, input.len()), "{}", cat.err);
    assert_eq!(bed.run_with(&["exec", "c", "cat"], b"not forwarded").out, "");
}

#[test]
fn what_was_asked_for_is_there() {
    let Some(bed) = Bed::new("what_was_asked_for_is_there") else { return };
    let data = bed.root().parent().unwrap().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content\n").unwrap();
    let volume = format!("{}:/mnt:ro", data.display());
    let options = [
        "--rm",
        "--net",
        "none",
        "-h",
        "web.example.org",
        "-e",
        "KEY=value",
        "-w",
        "/tmp",
        "-u",
        "web",
        "-v",
        &volume,
        "--cap-drop",
        "ALL",
    ];
    let script =
        "hostname; echo $KEY; pwd; id -u; id -G; cat /mnt/file; touch /mnt/new; echo $?; echo out > /dev/stdout";
    let ran = bed.run_container(&options, &["sh", "-c", script]);
    assert_eq!(ran.out, "web.example.org\nvalue\n/tmp\n33\n34 50\ncontent\n1\nout\n", "{}", ran.err);
    let caps = |options: &[&str]| {
        let ran = bed
            .run_container(&[&["--rm", "--net", "none"], options].concat(), &["grep", "CapEff", "/proc/self/status"]);
        u64::from_str_radix(ran.out.split_whitespace().last().unwrap(), 16).unwrap()
    };
    const NET_RAW: u64 = 1 << 13;
    assert_eq!(caps(&[]), 0xa804_25fb & !NET_RAW);
    assert_eq!(caps(&["--cap-add", "NET_RAW"]), 0xa804_25fb);
    assert_eq!(caps(&["--cap-drop", "all"]), 0);
}

#[test]
fn a_container_is_contained() {
    let Some(bed) = Bed::new("a_container_is_contained") else { return };
    bed.start_container(&[&NONE[..], &["--name", "c"]].concat(), &["sleep", "1000"]);
    let refused = [
        "mount -t tmpfs x /tmp",
        "unshare -n true",
        "unshare -m true",
        "cat /proc/kcore",
        "dmesg",
        "ip link add v type veth",
        "echo 1 > /proc/sys/kernel/panic",
        "mkdir /sys/fs/cgroup/pids/x",
        "hostname other",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
    ];
    for script in refused {
        let first = bed.run_container(&["--rm", "--net", "none"], &["sh", "-c", script]);
        assert_ne!(first.code, 0, "run: {script}: {}", first.out);
        let second = bed.run(&["exec", "c", "sh", "-c", script]);
        assert_ne!(second.code, 0, "exec: {script}: {}", second.out);
    }
    let status = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t\\n' ' '; readlink /proc/self/ns/net";
    let exec = bed.ok(&["exec", "c", "sh", "-c", status]);
    assert!(exec.starts_with("NoNewPrivs: 1 Seccomp: 2 "), "{exec}");
    assert_eq!(bed.ok(&["exec", "c", "cat", "/proc/sys/net/ipv4/ping_group_range"]), "0\t2147483647\n");
    assert_eq!(bed.ok(&["exec", "c", "cat", "/sys/class/net/lo/flags"]), "0x9\n", "lo is up");
}

#[test]
fn a_terminal() {
    let Some(bed) = Bed::new("a_terminal") else { return };
    bed.start_container(&[&NONE[..], &["--name", "c"]].concat(), &["sleep", "1000"]);
    let run = bed.container(&["-it", "--rm", "--net", "none"], &["sh"]);
    let exec = ["exec", "-it", "c", "sh"].map(str::to_owned).to_vec();
    for words in [run, exec] {
        let size = nix::pty::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = bed.rnet(&words).stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let mut master = File::from(pty.master.try_clone().unwrap());
        master.write_all(b"tty; stty size; echo end$((40+2)); exit 6\n").unwrap();
        let seen = read_until(pty.master.try_clone().unwrap(), "end42");
        assert!(seen.contains("/dev/pts/0") && seen.contains("33 77"), "{seen}");
        assert_eq!(code(child.wait().unwrap()), 6);
    }
    let words = bed.container(&["-it", "--rm", "--net", "none"], &["sh"]);
    let ran = bed.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((ran.code, ran.out.as_str()), (125, ""), "no terminal to hand over: {}", ran.err);
}

fn read_until(master: OwnedFd, end: &str) -> String {
    let mut master = File::from(master);
    let mut seen = Vec::new();
    let mut chunk = [0; 1024];
    while !String::from_utf8_lossy(&seen).contains(end) {
        let length = master.read(&mut chunk).unwrap();
        seen.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_killed_shim_is_recognised_and_cleaned_up_after() {
    let Some(bed) = Bed::new("a_killed_shim_is_recognised_and_cleaned_up_after") else { return };
    let id = bed.start_container(&[&NONE[..], &["--name", "c"]].concat(), &["sleep", "1000"]);
    let kill_shim = || {
        let (shim, init) = (bed.process(&id, "shim"), bed.process(&id, "init"));
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        wait_for("its end", || !runs(shim));
        assert!(runs(init));
        init
    };
    let init = kill_shim();
    assert_eq!(bed.status("c"), "dead");
    assert_eq!(bed.run(&["exec", "c", "true"]).code, 125);
    bed.ok(&["start", "c"]);
    assert!(!runs(init), "the orphan goes before its successor comes");
    assert_eq!(bed.status("c"), "running");
    let init = kill_shim();
    bed.ok(&["stop", "-t", "0", "c"]);
    assert!(!runs(init));
    assert_eq!(bed.status("c"), "exited");
    bed.ok(&["start", "c"]);
    let init = kill_shim();
    assert_eq!(bed.run(&["rm", "c"]).code, 4);
    bed.ok(&["rm", "-f", "c"]);
    assert!(!runs(init));
    assert!(!has_cgroup(&id));
    bed.assert_clean();
}

#[test]
fn a_shim_killed_while_it_makes_a_container_leaves_nothing() {
    let Some(bed) = Bed::new("a_shim_killed_while_it_makes_a_container_leaves_nothing") else { return };
    for delay in [1u16, 4, 8, 12, 16, 20, 25, 30] {
        let words = bed.container(&[&NONE[..], &["--name", "k"]].concat(), &["sleep", "1000"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = bed.rnet(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let shim = || fs::read_to_string(&children).unwrap_or_default().trim().parse::<i32>().ok();
        wait_for("the shim", || shim().is_some());
        // Not a wait for anything: to hit another moment each time.
        nix::poll::poll(&mut [], delay).unwrap();
        kill(Pid::from_raw(shim().unwrap()), Signal::SIGKILL).unwrap();
        let containers = bed.root().join("lib/containers");
        let id = fs::read_dir(&containers).unwrap().flatten().next().unwrap().file_name().into_string().unwrap();
        assert_ne!(code(child.wait().unwrap()), 0, "the command does not wait for ever");
        bed.ok(&["rm", "-f", "k"]);
        assert!(!has_cgroup(&id), "{delay} ms");
        bed.assert_clean();
    }
}

#[test]
fn the_directory_a_program_starts_in() {
    let Some(bed) = Bed::new("the_directory_a_program_starts_in") else { return };
    let rm = ["--rm", "--net", "none"];
    let made = bed.run_container(&[&rm[..], &["-w", "/not/there", "-u", "web"]].concat(), &["pwd"]);
    assert_eq!((made.code, made.out.as_str()), (0, "/not/there\n"), "{}", made.err);
    assert!(bed.rootfs().join("not/there").is_dir());
    let file = bed.run_container(&[&rm[..], &["-w", "/etc/passwd"]].concat(), &["pwd"]);
    assert_eq!(file.code, 126);
    assert!(file.err.contains("the directory /etc/passwd of the container: it is something else"), "{}", file.err);
    let volume = format!("{}:/data", bed.root().display());
    let covered = bed.run_container(&[&rm[..], &["-v", &volume, "-w", "/data/none"]].concat(), &["pwd"]);
    assert_eq!(covered.code, 125);
    assert!(covered.err.contains("hint: is /data/none a directory there?"), "{}", covered.err);
    assert!(!bed.root().join("none").exists());
    bed.start_container(&[&NONE[..], &["--name", "c", "-v", &volume]].concat(), &["sleep", "1000"]);
    assert_eq!(bed.ok(&["exec", "-w", "/data", "c", "pwd"]), "/data\n");
    for (dir, why) in [("/none", "there is none"), ("/etc/passwd", "it is something else")] {
        let absent = bed.run(&["exec", "-w", dir, "c", "true"]);
        assert_eq!(absent.code, 126, "{}", absent.err);
        let expected = format!("error: cannot start in the directory {dir} of the container: {why}\n");
        assert!(absent.err.starts_with(&expected), "{}", absent.err);
    }
}

#[test]
fn capabilities_that_are_not_there_to_give() {
    let Some(bed) = Bed::new("capabilities_that_are_not_there_to_give") else { return };
    let rm = ["--rm", "--net", "none", "--cap-add", "ALL"];
    let words = bed.container(&rm, &["true"]);
    let script = "exec setpriv --bounding-set -sys_boot,-sys_time \"$0\" \"$@\"";
    let lacking = bed.wrapped(&["sh", "-c", script], &words);
    assert_eq!(lacking.code, 125);
    assert!(lacking.err.contains("capabilities that rnet lacks: "), "{}", lacking.err);
    assert!(lacking.err.contains("SYS_BOOT, ") && lacking.err.contains("SYS_TIME"), "{}", lacking.err);
    let hint = lacking.err.lines().find_map(|l| l.strip_prefix("hint: leave them out: ")).unwrap();
    let fewer = bed.container(&[&rm[..], &hint.split(' ').collect::<Vec<_>>()].concat(), &["true"]);
    let ran = bed.wrapped(&["sh", "-c", script], &fewer);
    assert_eq!(ran.code, 0, "{}", ran.err);
    bed.assert_clean();
}

#[test]
fn the_third_interrupt_leaves() {
    let Some(bed) = Bed::new("the_third_interrupt_leaves") else { return };
    let words = bed.container(&[&NONE[..], &["--name", "deaf"]].concat(), &["sh", "-c", "echo go; exec sleep 1000"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = bed.rnet(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    // Signals that are not taken one by one are one; so they are repeated.
    wait_for("its leave", || !runs(pid.as_raw()) || kill(pid, Signal::SIGINT).is_err());
    let left = child.wait_with_output().unwrap();
    assert_eq!(code(left.status), 130);
    let remark = "remark: container deaf still runs; stop it with: rnet stop deaf\n";
    assert_eq!(String::from_utf8_lossy(&left.stderr), remark);
    assert_eq!(bed.status("deaf"), "running");
}

#[test]
fn words_for_programs() {
    let Some(bed) = Bed::new("words_for_programs") else { return };
    let ran = bed.run_container(&["-d", "--json", "--net", "none", "--name", "c"], &["sleep", "1000"]);
    let begun: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let id = begun["id"].as_str().unwrap();
    assert_eq!(begun, serde_json::json!({"id": id, "name": "c"}));
    let all: serde_json::Value = serde_json::from_str(&bed.ok(&["inspect", "c"])).unwrap();
    assert_eq!((all[0]["id"].as_str(), all[0]["keep"].as_str()), (Some(id), Some("until-removed")));
    for word in ["rnet:nosuch", "nosuch"] {
        let unknown = bed.run(&["wait", word]);
        assert_eq!(unknown.code, 3, "{}", unknown.err);
        assert!(unknown.err.starts_with("error: there is no container nosuch of rnet's own"), "{}", unknown.err);
    }
    let ran = bed.run_container(&["--net", "a", "--ip", "10.0.0.2", "--ip", "10.0.0.3"], &["true"]);
    assert_eq!(ran.code, 125);
    assert!(
        ran.err.starts_with("error: address \"10.0.0.3\": is a second IPv4 address, beside 10.0.0.2"),
        "{}",
        ran.err
    );
}
