//! The network words of `rnet run` with containers.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::fs;

use common::{Bed, wait_for};

/// A bed with netd and the network blue, 10.20.0.0/24.
fn bed(test: &str, options: &[&str]) -> Option<Bed> {
    let mut bed = Bed::new(test)?;
    bed.start_netd();
    bed.ok(&[&["network", "create", "blue", "--subnet", "10.20.0.0/24"], options].concat());
    Some(bed)
}

const SLEEP: [&str; 2] = ["sleep", "1000"];

fn cat(bed: &Bed, name: &str, path: &str) -> String {
    bed.ok(&["exec", name, "cat", path])
}

/// Whether a line of /etc/hosts gives an address these names.
fn has_line(hosts: &str, address: &str, names: &str) -> bool {
    hosts.lines().any(|line| line == format!("{address}\t{names}"))
}

#[test]
fn files_of_a_network_with_names() {
    let Some(bed) = bed("files_of_a_network_with_names", &["--domain", "blue.test"]) else { return };
    let words = [
        "--name=web",
        "-h",
        "www",
        "--domainname",
        "example.org",
        "--net",
        "blue",
        "--dns",
        "192.0.2.53",
        "--dns-option",
        "timeout:1",
        "--add-host",
        "db:192.0.2.1",
        "--add-host",
        "db:[fd00::9]",
        "--add-host",
        "host.internal:host-gateway",
    ];
    bed.start_container(&words, &SLEEP);
    let hosts = cat(&bed, "web", "/etc/hosts");
    let own = "10.20.0.2\twww.example.org www\n";
    for (address, names) in
        [("192.0.2.1", "db"), ("fd00::9", "db"), ("10.20.0.1", "host.internal"), ("10.20.0.2", "www.example.org www")]
    {
        assert!(has_line(&hosts, address, names), "{address} {names}: {hosts}");
    }
    assert!(hosts.find("\tdb\n") < hosts.find(own), "extra hosts come first: {hosts}");
    assert_eq!(cat(&bed, "web", "/etc/hostname"), "www\n");
    assert_eq!(cat(&bed, "web", "/proc/sys/kernel/domainname"), "example.org\n");
    assert_eq!(
        cat(&bed, "web", "/etc/resolv.conf"),
        "nameserver 127.0.0.11\nsearch blue.test\noptions ndots:0 timeout:1\n"
    );
    bed.ok(&["exec", "web", "sh", "-c", "echo nameserver 192.0.2.99 >/etc/resolv.conf; echo 1.2.3.4 x >>/etc/hosts"]);
    bed.ok(&["stop", "-t", "0", "web"]);
    bed.ok(&["start", "web"]);
    assert_eq!(cat(&bed, "web", "/etc/resolv.conf"), "nameserver 192.0.2.99\n", "what was changed inside stays");
    assert_eq!(cat(&bed, "web", "/etc/hosts"), hosts, "the hosts file is made anew");
    let shown = bed.inspect("web");
    assert_eq!(shown["network"]["dns"]["servers"][0], "192.0.2.53");
    assert_eq!(shown["network"]["extra_hosts"][2], "host.internal:host-gateway");
}

#[test]
fn files_without_names_of_netd() {
    let Some(bed) = bed("files_without_names_of_netd", &["--dns", "off"]) else { return };
    let dns = ["--dns", "192.0.2.53", "--dns-search", "x.test", "--dns-option", "ndots:3"];
    let run = |more: &[&str], path: &str| {
        let ran = bed.run_container(&[&["--rm"], more].concat(), &["cat", path]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    for mode in ["blue", "none", "host"] {
        let text = run(&[&["--net", mode][..], &dns].concat(), "/etc/resolv.conf");
        assert!(text.contains("nameserver 192.0.2.53\n") && !text.contains("127.0.0.11"), "{mode}: {text}");
        assert!(text.contains("search x.test\n") && text.contains("options ndots:3\n"), "{mode}: {text}");
        assert_eq!(text.matches("nameserver").count(), 1, "{mode}: {text}");
    }
    let hosts = run(&["--net", "host", "--add-host", "me:host-gateway"], "/etc/hosts");
    assert!(has_line(&hosts, "127.0.0.1", "me") && hosts.ends_with(&fs::read_to_string("/etc/hosts").unwrap()));
    bed.ok(&["network", "create", "inner", "--internal"]);
    let refused = bed.run_container(&["--net", "inner", "--add-host", "me:host-gateway"], &["true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.err.contains("network inner has no gateway"), "{}", refused.err);
    bed.assert_clean();
}

#[test]
fn one_network_with_options() {
    let Some(bed) = bed("one_network_with_options", &[]) else { return };
    bed.ok(&["network", "create", "green", "--subnet", "10.30.0.0/24"]);
    let blue = "name=blue,ip=10.20.0.7,alias=www,alias=front,mac-address=02:00:00:00:00:07,ifname=lan0";
    let words = ["--name", "web", "--net", blue, "--net", "name=green,gw-priority=10"];
    bed.start_container(&words, &SLEEP);
    let link = bed.ok(&["exec", "web", "ip", "-o", "address", "show", "lan0"]);
    assert!(link.contains("10.20.0.7/24"), "{link}");
    let mac = bed.ok(&["exec", "web", "cat", "/sys/class/net/lan0/address"]);
    assert_eq!(mac, "02:00:00:00:00:07\n");
    let route = bed.ok(&["exec", "web", "ip", "route", "get", "192.0.2.1"]);
    assert!(route.contains("via 10.30.0.1"), "the higher priority: {route}");
    for name in ["www", "front", "web", "www.blue"] {
        let asked = bed.run_container(&["--rm", "--net", "blue"], &["nslookup", name]);
        assert!(asked.out.contains("10.20.0.7"), "{name}: {asked:?}");
    }
    bed.start_container(&["--name", "other", "--net", "blue", "--network-alias", "second"], &SLEEP);
    let asked = bed.run_container(&["--rm", "--net", "blue"], &["ping", "-c", "1", "-W", "5", "second"]);
    assert!(asked.out.contains("PING second (10.20.0.") || asked.code == 0, "{asked:?}");
    let refused = bed.run_container(&["--net", "name=blue,color=red"], &["true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.err.contains("there is no option \"color\""), "{}", refused.err);
    let mixed = bed.run_container(&["--net", "host", "--net", "blue"], &["true"]);
    assert!(mixed.code == 125 && mixed.err.contains("--net host stands alone"), "{}", mixed.err);
}

#[test]
fn a_container_that_is_connected_later_asks_netd() {
    let Some(bed) = bed("a_container_that_is_connected_later_asks_netd", &[]) else { return };
    bed.start_container(&["--name", "late", "--net", "none"], &SLEEP);
    bed.start_container(&["--name", "web", "--net", "blue"], &SLEEP);
    assert!(!cat(&bed, "late", "/etc/resolv.conf").contains("127.0.0.11"));
    bed.ok(&["network", "connect", "blue", "late", "--ip", "10.20.0.33"]);
    assert!(cat(&bed, "late", "/etc/resolv.conf").starts_with("nameserver 127.0.0.11\n"));
    assert!(bed.ok(&["exec", "late", "nslookup", "web"]).contains("10.20.0.2"));
    let id = bed.inspect("late")["id"].as_str().unwrap()[..12].to_owned();
    assert!(has_line(&cat(&bed, "late", "/etc/hosts"), "10.20.0.33", &id));
    bed.ok(&["network", "disconnect", "blue", "late"]);
    assert!(!cat(&bed, "late", "/etc/hosts").contains("10.20.0.33"));
    assert!(!cat(&bed, "late", "/etc/resolv.conf").contains("127.0.0.11"));
}

#[test]
fn links_tell_and_follow() {
    let Some(bed) = bed("links_tell_and_follow", &[]) else { return };
    let db = ["--name", "db", "-h", "store", "--net", "blue", "--expose", "5432", "-e", "POSTGRES_DB=app"];
    bed.start_container(&[&db[..], &["-e", "HOME=/x"]].concat(), &SLEEP);
    let web = ["--name", "web", "--net", "blue", "--link", "db:my-db", "-e", "MY_DB_ENV_POSTGRES_DB=own"];
    bed.start_container(&web, &SLEEP);
    let env = bed.ok(&["exec", "web", "sh", "-c", "tr '\\0' '\\n' </proc/1/environ"]);
    for line in [
        "MY_DB_NAME=/web/my-db",
        "MY_DB_PORT=tcp://10.20.0.2:5432",
        "MY_DB_PORT_5432_TCP=tcp://10.20.0.2:5432",
        "MY_DB_PORT_5432_TCP_ADDR=10.20.0.2",
        "MY_DB_PORT_5432_TCP_PORT=5432",
        "MY_DB_PORT_5432_TCP_PROTO=tcp",
        "MY_DB_ENV_POSTGRES_DB=own",
    ] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    assert!(!env.contains("MY_DB_ENV_HOME") && !env.contains("_START"), "{env}");
    assert!(bed.ok(&["exec", "web", "env"]).contains("MY_DB_NAME=/web/my-db"), "those of exec are told too");
    let line = |address: &str| has_line(&cat(&bed, "web", "/etc/hosts"), address, "my-db store db");
    assert!(line("10.20.0.2"));
    // Another address: the old one is given to somebody else on purpose.
    bed.ok(&["exec", "web", "sh", "-c", "echo 10.9.9.9 mine >>/etc/hosts"]);
    bed.ok(&["network", "disconnect", "blue", "db"]);
    bed.ok(&["network", "connect", "blue", "db", "--ip", "10.20.0.77"]);
    assert!(line("10.20.0.77") && !line("10.20.0.2"), "{}", cat(&bed, "web", "/etc/hosts"));
    assert!(has_line(&cat(&bed, "db", "/etc/hosts"), "10.20.0.77", "store"), "{}", cat(&bed, "db", "/etc/hosts"));
    bed.ok(&["stop", "-t", "0", "db"]);
    let refused = bed.run_container(&["--net", "blue", "--link", "db"], &["true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.err.contains("cannot link to a container that does not run: db"), "{}", refused.err);
    bed.ok(&["start", "db"]);
    let now = bed.inspect("db")["endpoints"][0]["addresses"][0].as_str().unwrap().to_owned();
    let hosts = cat(&bed, "web", "/etc/hosts");
    assert!(has_line(&hosts, now.split('/').next().unwrap(), "my-db store db"), "{now}: {hosts}");
    assert_eq!(hosts.matches("my-db").count(), 1, "{hosts}");
    assert!(hosts.contains("10.9.9.9 mine"), "what the container added stays: {hosts}");
    let missing = bed.run_container(&["--net", "blue", "--link", "nothing"], &["true"]);
    assert!(missing.err.contains("cannot link to nothing: there is no container nothing"), "{}", missing.err);
    let apart = bed.run_container(&["--link", "db"], &["true"]);
    assert!(apart.err.contains("it is on none of the networks of"), "{}", apart.err);
    let mut names = bed.names();
    names.sort();
    assert_eq!(names, ["db", "web"]);
}

#[test]
fn a_link_follows_a_target_that_gets_another_address() {
    let Some(bed) = bed("a_link_follows_a_target_that_gets_another_address", &[]) else { return };
    bed.start_container(&["--name", "db", "--net", "blue"], &SLEEP);
    bed.start_container(&["--name", "web", "--net", "blue", "--link", "db"], &SLEEP);
    let id = bed.inspect("db")["id"].as_str().unwrap().to_owned();
    bed.ok(&["stop", "-t", "0", "db"]);
    // A container keeps its address; one that was asked for in its record wins over that.
    let path = bed.root().join("lib/containers").join(id).join("container.json");
    let mut record: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    record["spec"]["network"]["networks"][0]["options"] = serde_json::json!({ "ips": ["10.20.0.99"] });
    fs::write(&path, record.to_string()).unwrap();
    bed.ok(&["start", "db"]);
    let hosts = cat(&bed, "web", "/etc/hosts");
    assert!(hosts.contains("10.20.0.99\tdb ") && !hosts.contains("10.20.0.2\tdb"), "{hosts}");
}

#[test]
fn linked_ports_without_icc() {
    let Some(bed) = bed("linked_ports_without_icc", &["--icc", "off"]) else { return };
    let serve = ["httpd", "-f", "-p", "8080", "-h", "/etc"];
    bed.start_container(&["--name", "db", "--net", "blue", "--expose", "8080"], &serve);
    let get = ["wget", "-q", "-O", "-", "http://db:8080/group"];
    wait_for("an answer", || {
        bed.run_container(&["--rm", "--net", "blue", "--link", "db"], &get).out.contains("logs:x:50")
    });
}

#[test]
fn published_ports() {
    let Some(bed) = bed("published_ports", &[]) else { return };
    let serve = ["httpd", "-f", "-p", "80", "-h", "/etc"];
    let words = ["--name", "web", "--net", "blue", "-p", "8080:80", "-P", "--expose", "81-82/udp", "--expose", "80"];
    bed.start_container(&words, &serve);
    let get = || bed.on_host(&["busybox", "wget", "-q", "-O", "-", "http://10.20.0.1:8080/group"]);
    wait_for("an answer", || get().out.contains("logs:x:50"));
    let listed = bed.ok(&["ps"]);
    assert!(listed.contains("0.0.0.0:8080->80/tcp") && listed.contains("->81-82/udp"), "{listed}");
    let shown = bed.inspect("web");
    assert_eq!(shown["network"]["ports"][0], "8080:80/tcp");
    assert_eq!(shown["published"][0]["port"]["host_port"], 8080, "{shown}");
    let taken = bed.run_container(&["--name", "second", "--net", "blue", "-p", "9000:90", "-p", "8080:90"], &["true"]);
    assert_eq!(taken.code, 125, "{}", taken.err);
    assert!(taken.err.contains("web"), "it names the owner: {}", taken.err);
    assert_eq!(bed.names(), ["web"]);
    assert!(!bed.ok(&["port"]).contains("9000"));
    bed.ok(&["stop", "-t", "0", "web"]);
    assert!(!bed.ok(&["ps", "-a"]).contains("->"), "a container that has ended holds none");
    bed.ok(&["start", "web"]);
    wait_for("an answer after a restart", || get().out.contains("logs:x:50"));
    bed.ok(&["rm", "-f", "web"]);
    assert!(!bed.ok(&["port", "--json"]).contains("8080"));
    bed.assert_clean();
}

#[test]
fn ports_where_there_are_none_to_publish() {
    let Some(bed) = bed("ports_where_there_are_none_to_publish", &[]) else { return };
    let host = bed.run_container(&["--rm", "--net", "host", "-p", "80:80"], &["echo", "out"]);
    assert_eq!((host.code, host.out.as_str()), (0, "out\n"));
    assert!(host.err.starts_with("warning: -p and -P have no effect with --net host"), "{}", host.err);
    bed.start_container(&["--name", "web", "--net", "blue"], &SLEEP);
    for (mode, hint) in [("container:web", "for web"), ("none", "--net NETWORK -p")] {
        let refused = bed.run_container(&["--net", mode, "-p", "80:80"], &["true"]);
        assert_eq!(refused.code, 125);
        assert!(refused.err.contains("hint: publish") && refused.err.contains(hint), "{}", refused.err);
    }
    assert_eq!(bed.names(), ["web"]);
}

#[test]
fn those_that_joined_stay_over_a_restart() {
    let Some(bed) = bed("those_that_joined_stay_over_a_restart", &[]) else { return };
    let serve = ["httpd", "-f", "-p", "80", "-h", "/etc"];
    bed.start_container(&["--name", "a", "--net", "blue"], &SLEEP);
    bed.start_container(&["--name", "c", "--net", "container:a"], &serve);
    bed.start_container(&["--name", "d", "--net", "container:c"], &SLEEP);
    let namespace = |name: &str| bed.ok(&["exec", name, "readlink", "/proc/self/ns/net"]);
    let link = |name: &str| bed.ok(&["exec", name, "ip", "-o", "link", "show", "eth0"]);
    let (before, interface) = (namespace("c"), link("c"));
    assert_eq!(before, namespace("a"));
    bed.ok(&["stop", "-t", "0", "a"]);
    assert_eq!(link("c"), interface, "while the owner is stopped, too");
    bed.ok(&["start", "a"]);
    for name in ["a", "c", "d"] {
        assert_eq!((namespace(name), link(name)), (before.clone(), interface.clone()), "{name}");
    }
    assert!(has_line(&cat(&bed, "c", "/etc/hosts"), "10.20.0.2", &bed.inspect("a")["id"].as_str().unwrap()[..12]));
    let reached = bed.run(&["exec", "c", "wget", "-q", "-O", "-", "http://10.20.0.2/group"]);
    assert!(reached.out.contains("logs:x:50"), "{reached:?}");
    // The last one that goes takes the namespace with it.
    bed.ok(&["stop", "-t", "0", "a"]);
    bed.ok(&["stop", "-t", "0", "c"]);
    assert_eq!(link("d"), interface);
    bed.ok(&["rm", "-f", "d"]);
    assert_eq!(bed.ok(&["attachments", "--json"]).trim(), "[]");
    let held = || bed.ok(&["network", "allocations"]);
    assert!(held().lines().any(|l| l.contains("10.20.0.2") && l.contains("reserved")), "{}", held());
    bed.ok(&["start", "a", "c"]);
    assert_eq!(namespace("a"), namespace("c"));
    assert_ne!(namespace("a"), before);
    bed.ok(&["rm", "-f", "a", "c"]);
    bed.assert_clean();
    assert_eq!(bed.ok(&["attachments", "--json"]).trim(), "[]");
}

#[test]
fn ports_of_a_namespace_stay_with_those_in_it() {
    let Some(bed) = bed("ports_of_a_namespace_stay_with_those_in_it", &[]) else { return };
    let serve = ["httpd", "-f", "-p", "80", "-h", "/etc"];
    bed.start_container(&["--name", "a", "--net", "blue", "-p", "8080:80"], &SLEEP);
    bed.start_container(&["--name", "c", "--net", "container:a"], &serve);
    let get = || bed.on_host(&["busybox", "wget", "-q", "-O", "-", "http://10.20.0.1:8080/group"]);
    wait_for("an answer", || get().out.contains("logs:x:50"));
    bed.ok(&["stop", "-t", "0", "a"]);
    assert!(get().out.contains("logs:x:50"), "while the owner is stopped, too");
    bed.ok(&["start", "a"]);
    assert!(get().out.contains("logs:x:50"));
    bed.ok(&["stop", "-t", "0", "c", "a"]);
    assert!(!bed.ok(&["port"]).contains("8080"));
}

#[test]
fn a_namespace_whose_owner_was_removed_has_no_interfaces() {
    let Some(bed) = bed("a_namespace_whose_owner_was_removed_has_no_interfaces", &[]) else { return };
    bed.start_container(&["--name", "a", "--net", "blue"], &SLEEP);
    bed.start_container(&["--name", "c", "--net", "container:a"], &SLEEP);
    bed.ok(&["rm", "-f", "a"]);
    let links = || bed.ok(&["exec", "c", "ip", "-o", "link"]);
    wait_for("the interface's end", || !links().contains("eth0"));
    assert!(links().contains("lo"));
    let refused = bed.run(&["start", "c"]);
    assert_eq!(refused.code, 0, "it runs: {}", refused.err);
    bed.ok(&["stop", "-t", "0", "c"]);
    assert_eq!(bed.run(&["start", "c"]).code, 3);
    bed.ok(&["rm", "c"]);
    bed.assert_clean();
}

#[test]
fn a_killed_shim_of_an_owner_or_of_a_joiner() {
    let Some(bed) = bed("a_killed_shim_of_an_owner_or_of_a_joiner", &[]) else { return };
    let owner = bed.start_container(&["--name", "a", "--net", "blue"], &SLEEP);
    let joiner = bed.start_container(&["--name", "c", "--net", "container:a"], &SLEEP);
    let namespace = |name: &str| bed.ok(&["exec", name, "readlink", "/proc/self/ns/net"]);
    let before = namespace("c");
    let kill = |id: &str| {
        let pid = nix::unistd::Pid::from_raw(bed.process(id, "shim"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    kill(&owner);
    wait_for("its death", || bed.status("a") == "dead");
    bed.ok(&["start", "a"]);
    assert_eq!((namespace("a"), namespace("c")), (before.clone(), before));
    bed.ok(&["stop", "-t", "0", "a"]);
    kill(&joiner);
    wait_for("its death", || bed.status("c") == "dead");
    bed.ok(&["rm", "-f", "c"]);
    assert_eq!(bed.ok(&["attachments", "--json"]).trim(), "[]", "the last one has gone");
    bed.ok(&["rm", "a"]);
    bed.assert_clean();
}

#[test]
fn without_netd_those_that_joined_stay_too() {
    let Some(bed) = Bed::new("without_netd_those_that_joined_stay_too") else { return };
    bed.start_container(&["--name", "a", "--net", "none"], &SLEEP);
    bed.start_container(&["--name", "c", "--net", "container:a"], &SLEEP);
    let namespace = |name: &str| bed.ok(&["exec", name, "readlink", "/proc/self/ns/net"]);
    let before = namespace("c");
    bed.ok(&["stop", "-t", "0", "a"]);
    bed.ok(&["start", "a"]);
    assert_eq!((namespace("a"), namespace("c")), (before.clone(), before));
}

#[test]
fn containers_of_the_version_before_start() {
    let Some(bed) = bed("containers_of_the_version_before_start", &[]) else { return };
    let id = "00001111000011110000111100001111";
    let lib = bed.root().join("lib");
    fs::create_dir_all(lib.join("containers").join(id)).unwrap();
    fs::create_dir_all(lib.join("names")).unwrap();
    std::os::unix::fs::symlink(id, lib.join("names/old")).unwrap();
    let record = serde_json::json!({
        "id": id, "name": "old", "created": "2020-01-01T00:00:00Z",
        "spec": {
            "rootfs": bed.rootfs(), "command": SLEEP, "env": [], "binds": [], "workdir": "/", "user": null,
            "cap_add": [], "cap_drop": [], "hostname": null,
            "network": { "mode": "blue", "ips": ["10.20.0.44"], "mac": "02:00:00:00:00:44" },
            "streams": "output", "keep": "until-removed",
        },
    });
    fs::write(lib.join("containers").join(id).join("container.json"), record.to_string()).unwrap();
    bed.ok(&["start", "old"]);
    let address = bed.ok(&["exec", "old", "ip", "-o", "address", "show", "eth0"]);
    assert!(address.contains("10.20.0.44/24"), "{address}");
    assert!(has_line(&cat(&bed, "old", "/etc/hosts"), "10.20.0.44", "000011110000"));
}
