//! The table of promises, and the page it is written to.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};

use crate::measure::Finding;

/// How a promise is kept an eye on.
#[derive(Debug, Clone, Copy)]
enum Check {
    /// By this program.
    Bench,
    /// By a test.
    Test(&'static str),
    /// Not at all yet.
    NotYet,
}

struct Promise(&'static str, &'static str, &'static str, Check);

const SPEED: &[Promise] = &[
    Promise(
        "S1",
        "attach, time inside netd: into a ready namespace, and cold",
        "50 us and 1 ms (medians)",
        Check::Bench,
    ),
    Promise("S2", "`rnet attach` as a command", "3 ms, 20x faster than pipework's steps", Check::Bench),
    Promise(
        "S3",
        "CNI ADD and DEL as executables",
        "bridge with host-local 3x and 1x the reference, with masquerade 8x and 3x, with portmap and firewall 15x and 8x; through netd 2 ms each; flat to 500 containers",
        Check::Bench,
    ),
    Promise("S4", "set-up and tear-down as Podman asks for it", "10x netavark", Check::NotYet),
    Promise("S5", "`rnet run --rm` of a program that does nothing, with network", "40 ms, 6x docker", Check::Bench),
    Promise("S6", "start of a container with 500 published ports", "60 ms, 150x docker", Check::Bench),
    Promise("S7", "one port published beside 50,000", "5 ms, 1.5x of the first", Check::Bench),
    Promise("S8", "attach at 1,000 endpoints against the first", "1.5x", Check::Bench),
    Promise("S9", "network create", "5 ms", Check::Bench),
    Promise("S10", "300 attaches at once: ready and cold", "100 ms and 1,500/s", Check::Bench),
    Promise("S11", "detach: the answer, and the real cost of 1,000", "0.5 ms and 0.6 ms each", Check::Bench),
    Promise(
        "S12",
        "lab of 100 nodes and 200 links, of 1,000 and 1,000: network part",
        "0.3 s and 2.5 s",
        Check::NotYet,
    ),
    Promise("S13", "a connection through one of 50,000 published ports against one of one", "within 5 %", Check::Bench),
    Promise("S14", "throughput over our bridge against one made by hand", "98 %", Check::Bench),
    Promise("S15", "resident memory of netd: idle, at 1,000 endpoints", "10 MiB and 24 MiB", Check::Bench),
];

const RELIABILITY: &[Promise] = &[
    Promise(
        "R1",
        "`kill -9` at every fail point: no packet of others lost, nothing left, the repeated request succeeds",
        "attach, detach, network create",
        Check::Test("tests/netns/tests/crash.rs"),
    ),
    Promise(
        "R2",
        "restart of netd: packets lost on 100 flows; 1,000 endpoints reconciled",
        "0 and 250 ms",
        Check::Bench,
    ),
    Promise(
        "R3",
        "a bridge, table, route or link of ours is deleted by somebody",
        "repaired, what is not ours untouched",
        Check::Test("tests/netns/tests/crash.rs"),
    ),
    Promise(
        "R4",
        "persistent attachments after restarts of container and netd",
        "back with address, MAC and name",
        Check::Test("tests/netns/tests/sandbox.rs"),
    ),
    Promise(
        "R5",
        "duplicate addresses in random histories with crashes and clock jumps",
        "0",
        Check::Test("netd/ipam"),
    ),
    Promise(
        "R6",
        "200 attaches and detaches at once",
        "no error, no leak",
        Check::Test("tests/netns/tests/concurrency.rs"),
    ),
    Promise(
        "R7",
        "a failed command leaves nothing",
        "kernel equal before and after",
        Check::Test("tests/netns/tests/attach_errors.rs"),
    ),
    Promise(
        "R8",
        "disk full, read-only state, interrupted dumps",
        "a clear error or a resync",
        Check::Test("tests/netns/tests/broken.rs"),
    ),
];

const INTRODUCTION: &str = "\
# Promises

What rnet must show, in numbers. This page is written by `make bench`, which measures every line marked *bench* in
private namespaces of one machine, the others in the same run. Times are medians; ratios matter more than times, and a
promise that does not hold says so. `target/release/rnet-bench --only S8` measures one line again.
";

/// The page.
///
/// # Errors
/// When a promise that is to be measured was not.
pub(crate) fn table(findings: &[Finding]) -> anyhow::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let kernel = nix::sys::utsname::uname()?;
    let mut page =
        format!("{INTRODUCTION}\nMeasured on {cores} cores, Linux {}.\n", kernel.release().to_string_lossy());
    for (title, promises) in [("Speed", SPEED), ("Reliability", RELIABILITY)] {
        write!(page, "\n## {title}\n\n| # | what | promise | measured | others in the same run | by |\n")?;
        page.push_str("|---|---|---|---|---|---|\n");
        for Promise(id, what, promise, check) in promises {
            let (measured, peers, by) = match check {
                Check::Test(path) => ("tested".to_owned(), "", (*path).to_owned()),
                Check::NotYet => ("not yet".to_owned(), "", String::new()),
                Check::Bench => {
                    let found =
                        findings.iter().find(|f| f.id == *id).with_context(|| format!("{id} was not measured"))?;
                    let verdict = if found.met { "" } else { "**not met**: " };
                    (format!("{verdict}{}", found.measured), found.peers.as_str(), "bench".to_owned())
                }
            };
            writeln!(page, "| {id} | {what} | {promise} | {measured} | {peers} | {by} |")?;
        }
    }
    let known = |f: &&Finding| SPEED.iter().chain(RELIABILITY).any(|p| p.0 == f.id);
    ensure!(findings.iter().all(|f| known(&f)), "a finding belongs to no promise");
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_without_its_figure_is_an_error() {
        assert!(table(&[]).is_err());
    }

    #[test]
    fn the_tests_that_are_named_exist() {
        let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for Promise(id, .., check) in SPEED.iter().chain(RELIABILITY) {
            if let Check::Test(path) = check {
                assert!(repository.join(path).exists(), "{id}: no {path}");
            }
        }
    }

    #[test]
    fn what_is_not_met_says_so() -> anyhow::Result<()> {
        let measured = SPEED.iter().chain(RELIABILITY).filter(|p| matches!(p.3, Check::Bench));
        let findings: Vec<_> = measured
            .map(|p| Finding { id: p.0, measured: "5 us".into(), peers: String::new(), met: p.0 != "S8" })
            .collect();
        let page = table(&findings)?;
        assert_eq!(page.matches("**not met**").count(), 1);
        assert!(page.contains("| S8 | attach at 1,000 endpoints against the first | 1.5x | **not met**: 5 us |"));
        Ok(())
    }
}
