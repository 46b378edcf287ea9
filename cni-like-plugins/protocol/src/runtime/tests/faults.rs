//! Executables that misbehave.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::exec::add;
use super::{Bench, Nothing, environment, runs, wait_for};
use crate::runtime::{Directories, Limits};
use crate::{Call, Error, Plugin as _, Request, Version, View, Work};

fn quick(bench: &Bench) -> Directories {
    let limits = Limits { time: Duration::from_millis(400), busy: Duration::from_millis(20), ..Limits::default() };
    bench.limited(limits)
}

fn fails(bench: &Bench, body: &str) -> Error {
    bench.script("p", body);
    add(bench, &bench.directories(), "p", Version::NEWEST).unwrap_err()
}

/// Most memory this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn pids(bench: &Bench) -> Vec<String> {
    std::fs::read_to_string(bench.path("pids")).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn one_that_hangs_is_killed_with_all_it_started() {
    let bench = Bench::new();
    let file = bench.path("pids").display().to_string();
    for body in [
        format!("sleep 1000 & echo $! $$ > {file}; sleep 1000"),
        // Deaf to everything that can be ignored, and with its pipes closed.
        format!(
            "trap '' TERM INT HUP; exec <&- >&-; sleep 1000 & echo $! $$ > {file}; echo stuck >&2; exec 2>&-; wait"
        ),
    ] {
        bench.script("p", &body);
        let begin = Instant::now();
        let error = add(&bench, &quick(&bench), "p", Version::NEWEST).unwrap_err();
        assert!(begin.elapsed() >= Duration::from_millis(400));
        assert_eq!(error.code, Error::INTERNAL);
        assert!(error.msg.contains("gave no answer within 400ms and was killed"), "{error}");
        assert_eq!(error.details.contains("stderr: stuck"), body.contains("stuck"), "{error}");
        for pid in pids(&bench) {
            wait_for("killed", || !runs(&pid));
        }
    }
}

#[test]
fn one_that_crashes_is_named_with_its_signal_and_what_it_started_goes() {
    let bench = Bench::new();
    let file = bench.path("pids").display().to_string();
    let error =
        fails(&bench, &format!("sleep 1000 & echo $! > {file}; echo half; echo why >&2; kill -SEGV $$; sleep 1000"));
    assert_eq!(error.code, Error::INTERNAL);
    assert!(error.msg.contains("was ended by SIGSEGV"), "{error}");
    assert_eq!(error.details, "stdout: half; stderr: why");
    for pid in pids(&bench) {
        wait_for("killed", || !runs(&pid));
    }
}

#[test]
fn a_flood_on_stdout_is_cut() {
    let bench = Bench::new();
    let before = peak();
    let begin = Instant::now();
    let error = fails(&bench, "head -c 1073741824 /dev/zero");
    assert!(error.msg.contains("wrote more than 4194304 bytes and was killed"), "{error}");
    assert!(peak() - before < 64 << 10, "{} KiB, {before} before", peak());
    assert!(begin.elapsed() < Duration::from_secs(30));
    // One that never stops, however it is read.
    assert!(fails(&bench, "cat /dev/zero").msg.contains("was killed"));
}

#[test]
fn of_a_flood_on_stderr_the_end_is_kept() {
    let bench = Bench::new();
    let before = peak();
    let error = fails(&bench, "head -c 67108864 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 7");
    assert!(error.msg.contains("ended with exit code 7"), "{error}");
    assert!(error.details.ends_with("xthe end") && error.details.len() < 4096, "{}", error.details.len());
    assert!(peak() - before < 32 << 10, "{} KiB, {before} before", peak());
    bench.script("p", "head -c 1000000 /dev/zero >&2; echo '{}'");
    add(&bench, &bench.directories(), "p", Version::NEWEST).unwrap();
}

#[test]
fn garbage_is_no_answer() {
    let bench = Bench::new();
    for garbage in ["echo no json", "echo '[]'", "echo 1", "echo '{}{}'", "printf '\\377\\0'", "echo '{\"ips\": 1}'"] {
        assert_eq!(fails(&bench, garbage).code, Error::DECODING_FAILURE, "{garbage}");
    }
}

#[test]
fn r17_error_objects_are_handed_on_and_anything_else_is_shown() {
    let bench = Bench::new();
    for version in Version::ALL {
        let object = json!({"cniVersion": version.as_str(), "code": 11, "msg": "busy", "details": "lock"});
        bench.script("p", &format!("echo '{object}'; exit 1"));
        let error = add(&bench, &bench.directories(), "p", version).unwrap_err();
        assert_eq!(error, Error::new(Error::TRY_AGAIN_LATER, "busy").details("lock"));
    }
    let error = fails(&bench, "echo '{\"code\": 100, \"msg\": \"own\"}'; echo log >&2; exit 3");
    assert_eq!(error, Error::new(100, "own").details("stderr: log"));
    let error = fails(&bench, "echo '{\"msg\": \"no code\"}'; exit 1");
    assert_eq!(error, Error::internal("no code"));
    for (body, details) in [
        ("exit 1", ""),
        ("echo '{}'; exit 1", "stdout: {}"),
        ("echo panic; echo trace >&2; exit 1", "stdout: panic; stderr: trace"),
        ("echo '[1, \"x\"]'; exit 1", "stdout: [1, \"x\"]"),
    ] {
        let error = fails(&bench, body);
        assert_eq!((error.code, error.details.as_str()), (Error::INTERNAL, details), "{body}");
        assert!(error.msg.ends_with("ended with exit code 1 and without an error object"), "{error}");
    }
}

#[test]
fn neither_side_waits_for_the_other_with_large_input_and_output() {
    let bench = Bench::new();
    let whole = json!({"cniVersion": "1.1.0", "name": "net", "type": "p", "x": "y".repeat(8 << 20)});
    let request = Request::from_value(whole).unwrap();
    let env = environment(&bench);
    let call = Call { env: &env, request: &request, netns: None, previous: None, leased: None };
    for body in [
        // Writes all before it reads, on both pipes.
        "head -c 3000000 /dev/zero | tr '\\0' ' '; head -c 3000000 /dev/zero >&2; wc -c >&2; echo '{}'",
        // Never reads.
        "echo '{}'",
        "exec <&-; echo '{}'",
        // Reads all before it writes.
        "cat > /dev/null; head -c 3000000 /dev/zero | tr '\\0' ' '; echo '{}'",
    ] {
        bench.script("p", body);
        let added = bench.directories().find("p").unwrap().add(&call, &mut View::new(&mut Nothing));
        assert!(matches!(added, Ok(Work::Done(_))), "{body}: {added:?}");
    }
}

#[test]
fn a_process_left_behind_by_a_success_holds_nobody_up() {
    let bench = Bench::new();
    let file = bench.path("pids").display().to_string();
    bench.script("p", &format!("sleep 1000 & echo $! > {file}; echo '{{}}'"));
    let begin = Instant::now();
    let added = add(&bench, &bench.directories(), "p", Version::NEWEST);
    let left = pids(&bench);
    let running = runs(&left[0]);
    kill(Pid::from_raw(left[0].parse().unwrap()), Signal::SIGKILL).unwrap();
    added.unwrap();
    assert!(running, "what a plugin leaves running is its own affair");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn r17_an_executable_being_written_is_tried_again() {
    let bench = Bench::new();
    let file = bench.script("p", "echo '{}'");
    let open = || OpenOptions::new().append(true).open(&file).unwrap();
    // Somebody who closes it in time, and somebody who does not.
    let mut holder = Command::new("sleep").arg("0.2").stdout(Stdio::from(open())).spawn().unwrap();
    add(&bench, &bench.directories(), "p", Version::NEWEST).unwrap();
    holder.wait().unwrap();
    let held = open();
    let begin = Instant::now();
    let error = add(&bench, &quick(&bench), "p", Version::NEWEST).unwrap_err();
    assert!(error.msg.contains("cannot be started: Text file busy"), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(100), "five more tries, 20 ms apart");
    drop(held);
    add(&bench, &bench.directories(), "p", Version::NEWEST).unwrap();
}

#[test]
fn one_that_cannot_be_started_is_told() {
    let bench = Bench::new();
    let file = bench.script("p", "true");
    std::fs::write(&file, "#!/nonexistent/interpreter\n").unwrap();
    let error = add(&bench, &bench.directories(), "p", Version::NEWEST).unwrap_err();
    assert_eq!(error.code, Error::INTERNAL);
    assert!(error.msg.contains("bin/p: cannot be started: No such file"), "{error}");
}
