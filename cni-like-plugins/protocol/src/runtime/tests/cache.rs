use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::result;
use crate::runtime::{Cache, Cached, NetworkList};
use crate::{AttachmentId, Error, Version};

fn id(container: &str, ifname: &str) -> AttachmentId {
    AttachmentId { container: container.to_owned(), ifname: ifname.to_owned() }
}

fn cached(network: &str, container: &str) -> Cached {
    Cached {
        network: network.to_owned(),
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        netns: "/run/netns/x".to_owned(),
        config: b"{\"name\":\"net\"}".to_vec(),
        args: vec![("K".to_owned(), "V".to_owned())],
        capability_args: serde_json::from_value(json!({"portMappings": [{"hostPort": 80}]})).unwrap(),
        result: Some(result("eth0").to_json(Version::NEWEST)),
    }
}

/// As CNI's library of 1.3.0 writes it: the order of its struct, bytes as base64, absent fields left out.
const OF_LIBRARY: &str = r#"{"kind":"cniCacheV1","containerId":"c1","config":"eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3sidHlwZSI6ImJyaWRnZSJ9XX0=","ifName":"eth0","networkName":"net","netns":"/run/netns/c1","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAME","p"]],"capabilityArgs":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]},"result":{"cniVersion":"1.0.0","dns":{},"interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],"ips":[{"address":"10.1.2.3/24","interface":0}]}}"#;

#[test]
fn r18_a_file_of_the_library_is_read_and_written_back_the_same() {
    let read = Cached::parse(OF_LIBRARY.as_bytes()).unwrap();
    assert_eq!((read.network.as_str(), read.id()), ("net", id("c1", "eth0")));
    let list = NetworkList::parse_cached(&read.config).unwrap();
    assert_eq!((list.version, list.plugins[0].kind.as_str()), (Version::V1_0_0, "bridge"));
    assert_eq!(read.args[1], ("K8S_POD_NAME".to_owned(), "p".to_owned()));
    assert_eq!(read.capability_args["portMappings"][0]["hostPort"], 8080);
    assert_eq!(read.result(Version::V0_3_0).unwrap().unwrap().interfaces[0].sandbox, "/run/netns/c1");
    let again: Value = serde_json::from_slice(&read.to_bytes()).unwrap();
    assert_eq!(again, serde_json::from_str::<Value>(OF_LIBRARY).unwrap());
    // No bytes are null in Go, and what is empty is left out.
    let bare = json!({"kind": "cniCacheV1", "containerId": "c", "config": null, "ifName": "e", "networkName": "n"});
    let bare = Cached::parse(bare.to_string().as_bytes()).unwrap();
    assert_eq!((bare.config.len(), bare.result.clone()), (0, None));
    let text = String::from_utf8(bare.to_bytes()).unwrap();
    assert!(!text.contains("netns") && !text.contains("Args") && !text.contains("result"), "{text}");
}

#[test]
fn r18_files_are_where_the_library_looks_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cni/results");
    let cache = Cache::new(&folder);
    assert_eq!(cache.read("net", &id("c1", "eth0")).unwrap(), None);
    assert_eq!(cache.list().unwrap(), []);
    for version in Version::ALL {
        let one = Cached { result: Some(result("eth0").to_json(version)), ..cached("net", "c1") };
        cache.write(&one).unwrap();
        assert_eq!(cache.read("net", &id("c1", "eth0")).unwrap().unwrap(), one);
        assert_eq!(one.result(version).unwrap().unwrap().ips, result("eth0").ips);
    }
    let mode = |path: &std::path::Path| path.metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode(&folder), mode(&folder.join("net-c1-eth0"))), (0o700, 0o600));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing but the file");
    cache.remove("net", &id("c1", "eth0")).unwrap();
    cache.remove("net", &id("c1", "eth0")).unwrap();
    assert_eq!(cache.read("net", &id("c1", "eth0")).unwrap(), None);
}

#[test]
fn what_a_crash_left_is_neither_listed_nor_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    std::fs::write(dir.path().join(".net-c1-eth0"), cached("net", "c1").to_bytes()).unwrap();
    std::fs::set_permissions(dir.path().join(".net-c1-eth0"), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(cache.list().unwrap(), []);
    cache.write(&cached("net", "c1")).unwrap();
    assert_eq!(cache.list().unwrap().len(), 1);
    assert_eq!(dir.path().join("net-c1-eth0").metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn attachments_are_found_by_network_and_by_interface() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    for (network, container) in [("net", "c1"), ("net", "c2"), ("net-b", "c1"), ("network", "c3")] {
        cache.write(&cached(network, container)).unwrap();
    }
    std::fs::write(dir.path().join("net-c9-eth0"), "garbage").unwrap();
    let containers = |found: Vec<Cached>| found.into_iter().map(|c| c.container).collect::<Vec<_>>();
    assert_eq!(containers(cache.of_network("net").unwrap()), ["c1", "c2"]);
    assert_eq!(containers(cache.list().unwrap()), ["c1", "c1", "c2", "c3"]);
    let networks: Vec<_> = cache.of_interface(&id("c1", "eth0")).unwrap().into_iter().map(|c| c.network).collect();
    assert_eq!(networks, ["net-b", "net"].map(str::to_owned));
    assert_eq!(cache.of_interface(&id("1", "eth0")).unwrap(), []);
}

#[test]
fn names_with_dashes_do_not_take_each_others_files() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    cache.write(&cached("a-b", "c")).unwrap();
    assert_eq!(cache.read("a", &id("b-c", "eth0")).unwrap(), None);
    assert_eq!(cache.write(&cached("a", "b-c")).unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    cache.remove("a", &id("b-c", "eth0")).unwrap();
    assert!(cache.read("a-b", &id("c", "eth0")).unwrap().is_some());
}

#[test]
fn names_lead_nowhere_else_and_garbage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    for (network, container, ifname) in [
        ("../x", "c", "eth0"),
        ("n", "../c", "eth0"),
        ("n", "c", "../eth0"),
        ("", "c", "eth0"),
        ("n", "", "eth0"),
        ("n", "c", ""),
    ] {
        let error = cache.read(network, &id(container, ifname)).unwrap_err();
        assert_eq!(error.code, Error::INVALID_ENVIRONMENT, "{network} {container} {ifname}");
    }
    for garbage in ["", "{", "[]", "{\"kind\":\"other\"}", "{\"kind\":\"cniCacheV1\",\"config\":\"*\"}"] {
        std::fs::write(dir.path().join("n-c-eth0"), garbage).unwrap();
        let error = cache.read("n", &id("c", "eth0")).unwrap_err();
        assert_eq!(error.code, Error::DECODING_FAILURE, "{garbage}");
        assert!(error.msg.contains("n-c-eth0"), "{error}");
    }
    cache.remove("n", &id("c", "eth0")).unwrap();
    assert_eq!(cache.read("n", &id("c", "eth0")).unwrap(), None);
}

#[test]
fn a_bare_result_of_an_older_library_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for version in Version::ALL {
        let bare = result("eth0").to_json(version).to_string();
        std::fs::write(dir.path().join("n-c-eth0"), bare).unwrap();
        let read = Cache::new(dir.path()).read("n", &id("c", "eth0")).unwrap().unwrap();
        assert_eq!(read.result(version).unwrap().unwrap().ips, result("eth0").ips);
        assert!(read.config.is_empty());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = Cached::parse(&bytes);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(at in 0..OF_LIBRARY.len(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = OF_LIBRARY.as_bytes().to_vec();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(read) = Cached::parse(&bytes) {
            let _ = NetworkList::parse_cached(&read.config);
            let _ = read.result(Version::NEWEST);
            prop_assert_eq!(Cached::parse(&read.to_bytes()).unwrap(), read);
        }
    }

    #[test]
    fn what_is_written_is_read(config in prop::collection::vec(any::<u8>(), 0..64), key in ".*", value in ".*") {
        let one = Cached { config, args: vec![(key, value)], ..cached("net", "c1") };
        prop_assert_eq!(Cached::parse(&one.to_bytes()).unwrap(), one);
    }
}
