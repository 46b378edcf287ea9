//! The machine's instance, without root: an ordinary user in user, network and mount namespaces of an own.

use std::process::Command;

use rnet_netns_harness::{path_text, run, run_in};

/// Plain `netd` and `rnet`: no root directory is named, so that state, socket, configuration, table and marks are the
/// ones of a machine.
const SCRIPT: &str = r#"
set -e
PATH="$1:/usr/sbin:/sbin:$PATH"
mount -t tmpfs run /run && mount -t tmpfs lib /var/lib && mkdir /run/netns
netd 2>/run/log & netd=$!
trap 'cat /run/log; kill $netd $web 2>/dev/null || :' EXIT
until rnet version >/dev/null 2>&1; do kill -0 $netd; done
unshare --net tail -f /dev/null & web=$!
until [ "$(readlink /proc/$web/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do kill -0 $web; done
ip link set lo up
before=$(ip -o link; ip -o address; nft list ruleset)
rnet bridge create br1 --addr 10.1.0.1/24
rnet attach br1 pid:$web 10.1.0.5/24@gw
ping -c 3 -i 0.2 10.1.0.5
rnet network create blue
rnet network connect blue pid:$web
nsenter --target $web --net ping -c 3 -i 0.2 172.17.0.1
nft list table inet rnet | grep -q 172.17.0.0/16
ip -o link show br1 | grep -q 'alias rnet:bridge'
rnet detach pid:$web --all
rnet network rm blue
rnet bridge rm br1
after=$(ip -o link; ip -o address; nft list ruleset)
[ "$before" = "$after" ] || { echo "left: $after"; exit 1; }
kill -TERM $netd
wait $netd
[ ! -e /run/rnet/netd.sock ]
echo all is well
"#;

#[test]
fn an_ordinary_user_has_a_netd_in_an_own_namespace() {
    run(|world| {
        let host = world.host("h1");
        let programs = world.programs_for_all();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--pdeathsig", "KILL", "--"]);
        command.args(["timeout", "60", "unshare", "-Urnm", "sh", "-c", SCRIPT, "sh", path_text(&programs)]);
        let said = run_in(&host.netns, &mut command);
        if said.err.contains("unshare failed: Operation not permitted") {
            println!("skipped: needs user namespaces for ordinary users");
            return;
        }
        assert!(said.out.contains("all is well"), "{}{}", said.out, said.err);
        said.ok();
    });
}

#[test]
fn without_root_it_says_what_it_needs() {
    run(|world| {
        let host = world.host("h1");
        let netd = world.programs_for_all().join("netd");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(netd);
        command.arg("--root").arg(world.dir().join("nowhere"));
        run_in(&host.netns, &mut command).fails(8, &["netd needs root", "hint: ", "unshare -Urnm"]);
    });
}
