//! `make demo`: the two hosts of the README, as root and as an ordinary user.

use std::path::{Path, PathBuf};
use std::process::Command;

use rnet_netns_harness::{Output, World, run, run_in};

/// The demonstration with its topology and the programs where everybody may read them.
fn demo(world: &World) -> PathBuf {
    let programs = world.programs_for_all();
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies/two-hosts-br0");
    for name in ["demo.sh", "two-hosts-br0.clab.yml"] {
        std::fs::copy(lab.join(name), programs.join(name)).unwrap();
    }
    programs
}

/// The words that show each step was reached: container to container, what is refused, and nothing left.
fn tells_the_story(said: &Output) {
    let out = format!("{}{}", said.out, said.err);
    for words in [
        "3 packets transmitted, 3 packets received, 0% packet loss",
        "hello from web",
        "they talk at layer 2",
        "error: address 192.168.115.10 is in use on br0, by ",
        "(unchanged)",
        "nothing left",
        "# no interface is left",
    ] {
        assert!(out.contains(words), "no {words:?} in\n{out}");
    }
}

#[test]
fn two_hosts_as_root() {
    run(|world| {
        let host = world.host("h1");
        let programs = demo(world);
        let said = run_in(&host.netns, Command::new(programs.join("demo.sh")).env("BIN", &programs));
        tells_the_story(&said);
        said.ok();
    });
}

#[test]
fn two_hosts_as_an_ordinary_user() {
    run(|world| {
        let host = world.host("h1");
        let programs = demo(world);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--pdeathsig", "KILL", "--"]);
        let said = run_in(&host.netns, command.arg(programs.join("demo.sh")).env("BIN", &programs));
        if said.err.contains("lets users make user namespaces") {
            println!("skipped: needs user namespaces for ordinary users");
            return;
        }
        tells_the_story(&said);
        said.ok();
    });
}
