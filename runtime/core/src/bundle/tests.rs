use rnet_model::NetworkMode;
use serde_json::Value;

use super::*;
use crate::{ContainerSpec, Keep, NetworkSettings, Streams};

fn record() -> Record {
    Record {
        id: "00001111000011110000111100001111".parse().unwrap(),
        name: "web".parse().unwrap(),
        created: jiff::Timestamp::UNIX_EPOCH,
        spec: ContainerSpec {
            rootfs: "/rootfs".into(),
            command: vec!["httpd".into(), "-f".into()],
            env: vec!["PATH=/bin".parse().unwrap(), "A=1".parse().unwrap()],
            binds: vec!["/data:/srv:ro".parse().unwrap(), "/my/hosts:/etc/hosts".parse().unwrap()],
            workdir: "/srv".into(),
            user: None,
            cap_add: vec!["NET_ADMIN".parse().unwrap()],
            cap_drop: vec!["MKNOD".parse().unwrap()],
            hostname: None,
            network: NetworkSettings::of(NetworkMode::None),
            streams: Streams::Output,
            keep: Keep::UntilRemoved,
        },
    }
}

fn around() -> Surroundings {
    Surroundings {
        network: NetworkNamespace::File("/run/rnet/netns/x".into()),
        identity: Identity { uid: 0, gid: 0, groups: Vec::new() },
        hostname: "web".into(),
        linked: vec!["DB_NAME=/web/db".parse().unwrap(), "A=linked".parse().unwrap()],
        files: OwnFiles {
            hosts: "/l/hosts".into(),
            hostname: "/l/hostname".into(),
            resolv_conf: "/l/resolv.conf".into(),
        },
        cgroups: Cgroups::Own,
        sysctls: Sysctls::Set { ping_groups: "0 2147483647".into() },
    }
}

fn json(record: &Record, around: &Surroundings) -> Value {
    serde_json::to_value(spec(record, around).unwrap()).unwrap()
}

#[test]
fn defaults_are_safe() {
    let spec = json(&record(), &around());
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    let caps = spec["process"]["capabilities"]["bounding"].as_array().unwrap();
    let has = |name: &str| caps.iter().any(|c| c == name);
    assert!(has("CAP_NET_ADMIN") && has("CAP_CHOWN"), "{caps:?}");
    assert!(!has("CAP_MKNOD") && !has("CAP_NET_RAW") && !has("CAP_SYS_ADMIN"));
    assert_eq!(spec["linux"]["sysctl"]["net.ipv4.ping_group_range"], "0 2147483647");
    assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
    assert!(spec["linux"]["maskedPaths"].as_array().unwrap().iter().any(|p| p == "/proc/kcore"));
    assert!(spec["process"]["rlimits"].is_null());
    let kinds: Vec<&str> =
        spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["pid", "uts", "ipc", "mount", "cgroup", "network"]);
    assert_eq!(spec["linux"]["namespaces"][5]["path"], "/run/rnet/netns/x");
}

#[test]
fn environment_and_mounts() {
    let spec = json(&record(), &around());
    assert_eq!(spec["process"]["env"], serde_json::json!(["HOSTNAME=web", "DB_NAME=/web/db", "PATH=/bin", "A=1"]));
    let mounts = spec["mounts"].as_array().unwrap();
    let of = |path: &str| mounts.iter().filter(|m| m["destination"] == path).collect::<Vec<_>>();
    assert_eq!(of("/etc/hosts").len(), 1);
    assert_eq!(of("/etc/hosts")[0]["source"], "/my/hosts");
    assert_eq!(of("/etc/hostname")[0]["source"], "/l/hostname");
    assert!(of("/srv")[0]["options"].as_array().unwrap().iter().any(|o| o == "ro"));
    assert!(of("/sys")[0]["options"].as_array().unwrap().iter().any(|o| o == "ro"));
}

#[test]
fn an_executed_program_is_told_of_links_too() {
    let made_from = spec(&record(), &around()).unwrap();
    let run = ExecRun {
        id: record().id,
        command: vec!["sh".into()],
        env: vec!["B=2".parse().unwrap()],
        workdir: None,
        user: None,
        streams: Streams::Terminal,
        size: None,
    };
    let process = exec_process(&record(), &made_from, &around().identity, &run).unwrap();
    let env = process.env().clone().unwrap();
    assert_eq!(env, ["HOSTNAME=web", "TERM=xterm", "DB_NAME=/web/db", "PATH=/bin", "A=1", "B=2"]);
}

#[test]
fn others_have_no_capabilities_and_shared_namespaces_no_sysctls() {
    let around = Surroundings {
        network: NetworkNamespace::Host,
        identity: Identity { uid: 33, gid: 34, groups: vec![50] },
        cgroups: Cgroups::Shared,
        sysctls: Sysctls::Leave,
        ..around()
    };
    let spec = json(&record(), &around);
    assert_eq!(spec["process"]["capabilities"]["effective"], serde_json::json!([]));
    assert_eq!(spec["process"]["user"]["additionalGids"], serde_json::json!([50]));
    assert!(spec["linux"]["sysctl"].is_null() && spec["linux"]["resources"].is_null());
    assert!(spec["linux"]["namespaces"].as_array().unwrap().iter().all(|n| n["type"] != "network"));
    assert!(spec["mounts"].as_array().unwrap().iter().all(|m| m["destination"] != "/sys/fs/cgroup"));
}

#[test]
fn it_is_what_the_crate_reads_back() {
    let made = spec(&record(), &around()).unwrap();
    let text = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), made);
}

#[test]
fn groups_of_ping() {
    assert_eq!(ping_groups("         0          0 4294967295\n"), "0 2147483647");
    assert_eq!(ping_groups("0 1234 1\n"), "0 0");
    assert_eq!(ping_groups("1 100000 65536\n0 1000 10\n"), "0 9");
    assert_eq!(ping_groups(""), "0 0");
}
