//! `rnet lab`: a small topology, again, changed, failed, destroyed.

use rnet_netns_harness::{World, path_text, run};

const LAB: &str = "
name: small
topology:
  defaults: {kind: linux}
  nodes:
    segment: {kind: bridge, x-rnet: {addresses: [192.168.115.1/24]}}
    one: {exec: ['ip route add default via 192.168.115.1']}
    two: {sysctls: {net.ipv4.ip_forward: 1}}
  links:
    - endpoints: ['segment:p1', 'one:eth0']
      ipv4: ['', 192.168.115.11/24]
    - endpoints: ['segment:p2', 'two:eth0']
      ipv4: ['', 192.168.115.12/24]
    - endpoints: ['one:eth1', 'two:eth1']
      ipv4: [10.1.0.1/30, 10.1.0.2/30]
      ipv6: [fd01::1/64, fd01::2/64]
";

fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path_text(&path).to_owned()
}

#[test]
fn deployed_inspected_and_destroyed() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let lab = file(world, "small.clab.yml", LAB);
        let made = host.rnet_json(&format!("lab deploy -t {lab}"));
        assert_eq!(made["outcome"], "created");
        let exec = |node: &str, words: &str| host.rnet(&format!("lab exec --name small {node} {words}"));
        exec("one", "ping -c 1 -W 2 192.168.115.12").ok();
        exec("one", "ping -c 1 -W 2 10.1.0.2").ok();
        exec("two", "ping -c 1 -W 2 fd01::1").ok();
        exec("one", "ping -c 1 -W 2 192.168.115.1").ok();
        assert!(exec("one", "ip route").ok().out.contains("default via 192.168.115.1"));
        assert_eq!(exec("two", "cat /proc/sys/net/ipv4/ip_forward").ok().out.trim(), "1");
        assert_eq!(exec("two", "false").code, 1);
        assert!(host.rnet("lab inspect --name small").ok().out.contains("192.168.115.12"));

        let before = host.snapshot();
        assert_eq!(host.rnet_json(&format!("lab deploy -t {lab}"))["outcome"], "unchanged");
        before.same(&host.snapshot(), "after the same lab again");
        host.crash();
        host.start();
        before.same(&host.snapshot(), "after a restart of netd");
        exec("one", "ping -c 1 -W 2 10.1.0.2").ok();
        assert_eq!(host.rnet_json(&format!("lab deploy -t {lab}"))["outcome"], "unchanged");

        host.rnet(&format!("lab destroy -t {lab}")).ok();
        host.wait_until_like(&host.before(), "after the lab was destroyed");
        host.rnet("lab exec --name small one true").fails(3, &["small"]);
    });
}

#[test]
fn a_changed_lab_changes_only_what_differs() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let lab = file(world, "small.clab.yml", LAB);
        host.rnet(&format!("lab deploy -t {lab}")).ok();
        let three = LAB.replace(
            "  links:",
            "    three:\n  links:\n    - endpoints: ['three:eth0', 'one:eth2']\n      ipv4: [10.3.0.1/30, 10.3.0.2/30]",
        );
        file(world, "small.clab.yml", &three);
        let index = |node: &str| host.rnet(&format!("lab exec --name small {node} ip -o link show eth1")).ok().out;
        let before = index("one");
        assert_eq!(host.rnet_json(&format!("lab deploy -t {lab}"))["outcome"], "changed");
        assert_eq!(index("one"), before);
        host.rnet("lab exec --name small three ping -c 1 -W 2 10.3.0.2").ok();
        file(world, "small.clab.yml", LAB);
        assert_eq!(host.rnet_json(&format!("lab deploy -t {lab}"))["outcome"], "changed");
        host.rnet("lab exec --name small three true").fails(3, &["three"]);
        host.rnet("lab destroy --all").ok();
        host.wait_until_like(&host.before(), "after all labs were destroyed");
    });
}

#[test]
fn a_lab_that_cannot_be_deployed_leaves_nothing() {
    run(|world| {
        let host = world.host("h1");
        // In the way of the lab's bridge.
        host.ip("link add segment type bridge");
        host.start();
        let lab = file(world, "small.clab.yml", LAB);
        host.rnet(&format!("lab deploy -t {lab}")).fails(4, &["small", "segment"]);
        host.wait_until_like(&host.before(), "after a lab whose bridge is taken");
        // A setting comes after nodes and links: all of them are undone.
        let wrong = LAB.replace("net.ipv4.ip_forward: 1", "net.ipv4.no_such_key: 1").replace("segment", "seg");
        let lab = file(world, "wrong.clab.yml", &wrong);
        host.rnet(&format!("lab deploy -t {lab}")).fails(6, &["two", "net.ipv4.no_such_key"]);
        host.wait_until_like(&host.before(), "after a lab with a setting that is not there");
        assert_eq!(host.rnet_json("lab inspect"), serde_json::json!([]));
    });
}

/// The file on the page about labs, on a busybox.
#[test]
fn the_lab_of_the_page_runs_containers_beside_namespaces() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let page = include_str!("../../../docs/labs.md");
        let (_, rest) = page.split_once("```yaml\n").unwrap();
        let lab = file(world, "page.clab.yml", rest.split_once("```").unwrap().0);
        let bin = world.dir().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(host.run("which busybox").ok().out.trim(), bin.join("busybox")).unwrap();
        ["sleep", "cat"].iter().for_each(|name| std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap());

        host.rnet(&format!("lab deploy -t {lab}")).ok();
        let exec = |node: &str, words: &str| host.rnet(&format!("lab exec --name small {node} {words}"));
        exec("two", "ping -c 1 -W 2 10.1.0.1").ok();
        assert!(exec("one", "cat /etc/hostname").ok().out.starts_with("one"));
        assert!(exec("two", "ip route").ok().out.contains("default via 10.1.0.1"));
        assert_eq!(host.rnet_json(&format!("lab deploy -t {lab}"))["outcome"], "unchanged");
        host.rnet("stop -t 0 lab-small-one").ok();
        assert_eq!(host.rnet_json(&format!("lab deploy -t {lab}"))["outcome"], "changed");
        exec("two", "ping -c 1 -W 2 10.1.0.1").ok();
        host.rnet(&format!("lab destroy -t {lab}")).ok();
        host.wait_until_like(&host.before(), "after the lab was destroyed");
        assert_eq!(host.rnet("ps -a -q").ok().out, "");
    });
}
