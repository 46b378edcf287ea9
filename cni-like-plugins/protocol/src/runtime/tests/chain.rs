use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Bench, BuiltIn, Nothing, result};
use crate::runtime::{Attachment, Cache, Cached, Chain, Directories, Limits, NetworkList};
use crate::{AttachmentId, CniResult, Delegation, Error, Plugin, Request, Version};

/// A bench with a cache and plugins in process.
struct World {
    bench: Bench,
    cache: Cache,
    directories: Directories,
    built_in: Vec<BuiltIn>,
}

impl World {
    fn new() -> Self {
        let bench = Bench::new();
        let limits = Limits { time: Duration::from_secs(20), busy: Duration::from_millis(200), ..Limits::default() };
        World {
            cache: Cache::new(bench.path("results")),
            directories: bench.limited(limits),
            bench,
            built_in: Vec::new(),
        }
    }

    fn impatient(mut self) -> Self {
        let limits = Limits { time: Duration::from_millis(400), ..Limits::default() };
        self.directories = self.bench.limited(limits);
        self
    }

    fn built_in(mut self, kind: &str) -> Self {
        self.built_in.push(self.bench.built_in(kind));
        self
    }

    fn resolve(&self, kind: &str, _: &Request) -> Result<Box<dyn Plugin>, Error> {
        match self.built_in.iter().find(|plugin| plugin.kind == kind) {
            Some(plugin) => Ok(Box::new(plugin.clone())),
            None => self.directories.find(kind).map(|plugin| Box::new(plugin) as Box<dyn Plugin>),
        }
    }

    fn run<T>(&self, list: &NetworkList, f: impl FnOnce(&Chain<'_>) -> T) -> T {
        let resolve = |kind: &str, request: &Request| self.resolve(kind, request);
        f(&Chain { list, resolve: &resolve, cache: &self.cache, path: &self.directories.path() })
    }

    fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<CniResult, Error> {
        self.run(list, |chain| chain.add(attachment, &mut Nothing))
    }

    fn del(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), Error> {
        self.run(list, |chain| chain.del(attachment, &mut Nothing))
    }

    fn check(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), Error> {
        self.run(list, |chain| chain.check(attachment, &mut Nothing))
    }

    fn gc(&self, list: &NetworkList, valid: &[AttachmentId]) -> Result<(), Error> {
        self.run(list, |chain| chain.gc(valid, &mut Nothing))
    }

    fn status(&self, list: &NetworkList) -> Result<(), Error> {
        self.run(list, |chain| chain.status(&mut Nothing))
    }

    /// The calls since this was last asked.
    fn calls(&self) -> Vec<String> {
        let order = self.bench.order();
        self.bench.forget();
        order
    }

    fn cached(&self, attachment: &Attachment) -> Option<Cached> {
        self.cache.read("net", &attachment.id()).unwrap()
    }
}

fn list(version: Version, plugins: Value) -> NetworkList {
    with(version, plugins, json!({}))
}

fn with(version: Version, plugins: Value, more: Value) -> NetworkList {
    let mut list = json!({"cniVersion": version.as_str(), "name": "net", "plugins": plugins});
    list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    NetworkList::parse(list.to_string().as_bytes()).unwrap()
}

fn three(version: Version) -> NetworkList {
    list(version, json!([{"type": "a"}, {"type": "b"}, {"type": "c"}]))
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        container: container.to_owned(),
        netns_path: format!("/run/netns/{container}"),
        netns: None,
        ifname: "eth0".parse().unwrap(),
        args: vec![("IgnoreUnknown".to_owned(), "1".to_owned())],
        capability_args: Map::new(),
    }
}

/// Three executables that succeed.
fn makers(version: Version) -> World {
    let world = World::new();
    for kind in ["a", "b", "c"] {
        world.bench.maker(kind, &format!("if-{kind}"), version);
    }
    world
}

#[test]
fn r8_r10_add_hands_each_result_on_and_keeps_the_last() {
    for version in Version::ALL {
        let (world, list, a) = (makers(version), three(version), attachment("c1"));
        let last = result("if-c").to_json(version);
        let added = world.add(&list, &a).unwrap();
        assert_eq!(added.to_json(version), last);
        assert_eq!(world.calls(), ["ADD a", "ADD b", "ADD c"]);
        assert_eq!(world.bench.stdin("a", "ADD").get("prevResult"), None, "{version}");
        for (kind, before) in [("b", "if-a"), ("c", "if-b")] {
            assert_eq!(world.bench.stdin(kind, "ADD")["prevResult"], result(before).to_json(version), "{version}");
        }
        let cached = world.cached(&a).unwrap();
        assert_eq!((cached.result.unwrap(), cached.config, cached.netns), (last, list.bytes, a.netns_path));
    }
}

#[test]
fn r10_del_goes_in_reverse_with_the_last_result_for_all() {
    for version in Version::ALL {
        let (world, list, a) = (makers(version), three(version), attachment("c1"));
        world.add(&list, &a).unwrap();
        world.calls();
        world.del(&list, &a).unwrap();
        assert_eq!(world.calls(), ["DEL c", "DEL b", "DEL a"], "{version}");
        let told = (version >= Version::V0_4_0).then(|| result("if-c").to_json(version));
        for kind in ["a", "b", "c"] {
            assert_eq!(world.bench.stdin(kind, "DEL").get("prevResult"), told.as_ref(), "{version}");
        }
        assert_eq!(world.cached(&a), None);
        // DEL may be repeated, and then knows no result.
        world.del(&list, &a).unwrap();
        assert_eq!(world.calls().len(), 3);
        assert_eq!(world.bench.stdin("a", "DEL").get("prevResult"), None);
    }
}

#[test]
fn r10_r13_check_goes_forward_with_the_last_result_between_add_and_del() {
    for version in Version::ALL {
        let (world, list, a) = (makers(version), three(version), attachment("c1"));
        let before = world.check(&list, &a).unwrap_err();
        if version < Version::V0_4_0 {
            assert_eq!(before.code, Error::INCOMPATIBLE_VERSION);
            continue;
        }
        assert_eq!(before.code, Error::INVALID_NETWORK_CONFIG);
        world.add(&list, &a).unwrap();
        world.calls();
        world.check(&list, &a).unwrap();
        assert_eq!(world.calls(), ["CHECK a", "CHECK b", "CHECK c"]);
        for kind in ["a", "b", "c"] {
            assert_eq!(world.bench.stdin(kind, "CHECK")["prevResult"], result("if-c").to_json(version));
        }
        world.bench.noting("b", "echo '{\"code\": 100, \"msg\": \"gone\"}'; exit 1");
        let error = world.check(&list, &a).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (100, "CHECK by plugin \"b\": gone"));
        assert_eq!(world.calls(), ["CHECK a", "CHECK b"], "up to the first error");
        world.bench.noting("b", "");
        world.del(&list, &a).unwrap();
        assert_eq!(world.check(&list, &a).unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    }
}

#[test]
fn c4_c5_what_is_disabled_is_never_called_and_succeeds() {
    for version in Version::ALL {
        let world = makers(version);
        let flags = json!({"disableCheck": "true", "disableGC": true});
        let (list, a) = (with(version, json!([{"type": "a"}]), flags), attachment("c1"));
        world.check(&list, &a).unwrap();
        world.add(&list, &a).unwrap();
        world.calls();
        world.check(&list, &a).unwrap();
        world.gc(&list, &[]).unwrap();
        assert_eq!(world.calls(), [""; 0]);
        assert!(world.cached(&a).is_some());
    }
}

#[test]
fn r5_r9_after_a_failed_add_everything_begun_is_taken_back_in_reverse() {
    for version in Version::ALL {
        let (world, list, a) = (makers(version), three(version), attachment("c1"));
        let fails = "if [ $CNI_COMMAND = ADD ]; then echo '{\"code\": 101, \"msg\": \"no\"}'; exit 1; fi";
        world.bench.noting("b", fails);
        let error = world.add(&list, &a).unwrap_err();
        assert_eq!(error, Error::new(101, "ADD by plugin \"b\": no"));
        assert_eq!(world.calls(), ["ADD a", "ADD b", "DEL b", "DEL a"], "{version}");
        assert_eq!(world.cached(&a), None);
        // What cannot be taken back is told besides the first error.
        world.bench.noting("b", "echo '{\"code\": 102, \"msg\": \"not at all\"}'; exit 1");
        let error = world.add(&list, &a).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (102, "ADD by plugin \"b\": not at all"));
        assert_eq!(error.details, "could not be taken back: DEL by plugin \"b\": not at all");
        assert_eq!(world.calls(), ["ADD a", "ADD b", "DEL b", "DEL a"], "{version}");
    }
}

#[test]
fn r14_an_unknown_container_needs_no_clean_up() {
    let (world, list, a) = (makers(Version::NEWEST), three(Version::NEWEST), attachment("c1"));
    world.bench.noting("b", "echo '{\"code\": 3, \"msg\": \"no such container\"}'; exit 1");
    assert_eq!(world.add(&list, &a).unwrap_err().code, Error::UNKNOWN_CONTAINER);
    assert_eq!(world.calls(), ["ADD a", "ADD b", "DEL a"]);
    world.del(&list, &a).unwrap();
    assert_eq!(world.calls(), ["DEL c", "DEL b", "DEL a"]);
}

#[test]
fn r6_the_same_interface_is_not_added_twice() {
    let (world, list, mut a) = (makers(Version::NEWEST), three(Version::NEWEST), attachment("c1"));
    world.add(&list, &a).unwrap();
    world.calls();
    let other = json!({"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "a"}]}).to_string();
    let other = NetworkList::parse(other.as_bytes()).unwrap();
    for list in [&list, &other] {
        let error = world.add(list, &a).unwrap_err();
        assert_eq!(error.msg, "eth0 of container c1 is in network \"net\" already");
    }
    assert_eq!(world.calls(), [""; 0]);
    a.ifname = "eth1".parse().unwrap();
    world.add(&other, &a).unwrap();
}

#[test]
fn r7_del_and_check_use_the_configuration_and_arguments_of_add() {
    let world = makers(Version::NEWEST);
    let dump = world.bench.path("args").display().to_string();
    world.bench.noting("a", &format!("echo \"$CNI_ARGS\" >> {dump}; if [ $CNI_COMMAND = ADD ]; then echo '{{}}'; fi"));
    let plugin = |x: u32| json!([{"type": "a", "x": x, "capabilities": {"mac": true}}]);
    let mut a = attachment("c1");
    a.capability_args = serde_json::from_value(json!({"mac": "02:00:00:00:00:01"})).unwrap();
    world.add(&list(Version::NEWEST, plugin(1)), &a).unwrap();
    let changed = list(Version::V1_0_0, json!([{"type": "a", "x": 2}, {"type": "b"}]));
    world.calls();
    let later = Attachment { args: Vec::new(), capability_args: Map::new(), ..attachment("c1") };
    world.check(&changed, &later).unwrap();
    world.del(&changed, &later).unwrap();
    assert_eq!(world.calls(), ["CHECK a", "DEL a"]);
    for command in ["CHECK", "DEL"] {
        let stdin = world.bench.stdin("a", command);
        assert_eq!((&stdin["x"], &stdin["cniVersion"]), (&json!(1), &json!("1.1.0")));
        assert_eq!(stdin["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
    }
    assert_eq!(std::fs::read_to_string(dump).unwrap(), "IgnoreUnknown=1\n".repeat(3));
}

#[test]
fn r18_del_passes_over_what_cannot_be_read_and_check_does_not() {
    let (world, list, a) = (makers(Version::NEWEST), three(Version::NEWEST), attachment("c1"));
    world.add(&list, &a).unwrap();
    std::fs::write(world.bench.path("results/net-c1-eth0"), "{").unwrap();
    world.calls();
    assert_eq!(world.check(&list, &a).unwrap_err().code, Error::DECODING_FAILURE);
    assert_eq!(world.calls(), [""; 0]);
    world.del(&list, &a).unwrap();
    assert_eq!(world.calls(), ["DEL c", "DEL b", "DEL a"]);
    assert_eq!(world.bench.stdin("a", "DEL").get("prevResult"), None);
    assert!(!world.bench.path("results/net-c1-eth0").exists());
}

#[test]
fn a_container_of_another_runtime_is_taken_over() {
    let (world, a) = (makers(Version::V1_0_0), attachment("c1"));
    // {"cniVersion":"1.0.0","name":"net","plugins":[{"type":"b"}]}
    let config = "eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3sidHlwZSI6ImIifV19";
    let file = json!({"kind": "cniCacheV1", "containerId": "c1", "config": config, "ifName": "eth0",
        "networkName": "net", "netns": "/run/netns/c1", "result": result("there").to_json(Version::V1_0_0)});
    std::fs::create_dir(world.bench.path("results")).unwrap();
    std::fs::write(world.bench.path("results/net-c1-eth0"), file.to_string()).unwrap();
    world.check(&three(Version::NEWEST), &a).unwrap();
    world.del(&three(Version::NEWEST), &a).unwrap();
    assert_eq!(world.calls(), ["CHECK b", "DEL b"]);
    assert_eq!(world.bench.stdin("b", "DEL")["prevResult"]["interfaces"][0]["name"], "there");
}

#[test]
fn built_in_plugins_and_executables_share_a_list() {
    for version in Version::ALL {
        let world = World::new().built_in("ours").built_in("last");
        world.bench.noting(
            "their-ipam",
            &format!("if [ $CNI_COMMAND = ADD ]; then echo '{}'; fi", result("x").to_json(version)),
        );
        world.bench.maker("their", "if-their", version);
        let plugins = json!([{"type": "ours", "ipam": {"type": "their-ipam"}}, {"type": "their"}, {"type": "last"}]);
        let (list, a) = (list(version, plugins), attachment("c1"));
        world.add(&list, &a).unwrap();
        // The words of 0.2.0 have no interfaces to hand on.
        let old = version < Version::V0_3_0;
        let handed = if old { Vec::new() } else { vec!["if-their"] };
        let told = world.bench.stdin("their", "ADD")["prevResult"].clone();
        assert_eq!(told["interfaces"][0]["name"], if old { Value::Null } else { json!("ours") });
        assert!(told.to_string().contains("10.1.2.3/24"), "{version}");
        assert_eq!(world.bench.stdin("their-ipam", "ADD")["ipam"], json!({"type": "their-ipam"}), "the whole stdin");
        let calls = world.calls();
        assert_eq!(calls[..3], ["ADD their-ipam", "ADD ours", "ADD their"]);
        assert_eq!(calls[3], format!("ADD last{}", handed.iter().map(|h| format!(" after {h}")).collect::<String>()));
        world.del(&list, &a).unwrap();
        let calls: Vec<_> = world.calls().iter().map(|c| c.split(" after").next().unwrap().to_owned()).collect();
        assert_eq!(calls, ["DEL last", "DEL their", "DEL ours", "DEL their-ipam"], "{version}");
    }
}

#[test]
fn c10_a_missing_plugin_stops_add_before_anything_is_done() {
    let world = makers(Version::NEWEST).built_in("ours");
    for plugins in
        [json!([{"type": "a"}, {"type": "none"}]), json!([{"type": "a"}, {"type": "ours", "ipam": {"type": "none"}}])]
    {
        let error = world.add(&list(Version::NEWEST, plugins), &attachment("c1")).unwrap_err();
        assert!(error.msg.contains("failed to find plugin \"none\""), "{error}");
        assert_eq!(world.calls(), [""; 0]);
    }
}

#[test]
fn a_missing_executable_at_del_stops_nothing_and_the_address_is_freed() {
    for version in Version::ALL {
        let world = makers(version).built_in("ipam");
        let plugins = json!([{"type": "a"}, {"type": "b", "ipam": {"type": "ipam"}}, {"type": "c"}]);
        let (list, a) = (list(version, plugins), attachment("c1"));
        world.add(&list, &a).unwrap();
        world.calls();
        std::fs::rename(world.bench.bin().join("b"), world.bench.path("away")).unwrap();
        let error = world.del(&list, &a).unwrap_err();
        assert!(error.msg.starts_with("DEL by plugin \"b\": failed to find plugin \"b\""), "{error}");
        let calls = world.calls();
        assert_eq!((calls[0].as_str(), calls[2].as_str(), calls.len()), ("DEL c", "DEL a", 3), "{version}");
        assert!(calls[1].starts_with("DEL ipam"), "{version}");
        // All is still known for when it is back.
        std::fs::rename(world.bench.path("away"), world.bench.bin().join("b")).unwrap();
        world.del(&list, &a).unwrap();
        assert_eq!(world.calls(), ["DEL c", "DEL b", "DEL a"]);
        let told = world.bench.stdin("b", "DEL").get("prevResult").is_some();
        assert_eq!(told, version >= Version::V0_4_0);
        assert_eq!(world.cached(&a), None);
    }
}

#[test]
fn a_missing_delegate_at_del_does_not_spare_the_interface() {
    let mut world = makers(Version::NEWEST).built_in("ours").built_in("ipam");
    let (list, a) = (list(Version::NEWEST, json!([{"type": "ours", "ipam": {"type": "ipam"}}])), attachment("c1"));
    world.add(&list, &a).unwrap();
    world.calls();
    world.built_in.retain(|plugin| plugin.kind != "ipam");
    let error = world.del(&list, &a).unwrap_err();
    assert!(error.msg.contains("failed to find plugin \"ipam\""), "{error}");
    assert_eq!(world.calls(), ["DEL ours after ours"]);
}

#[test]
fn a_plugin_in_process_that_fails_has_its_delegate_asked_once() {
    let mut world = World::new().built_in("ours").built_in("ipam");
    let (list, a) = (list(Version::NEWEST, json!([{"type": "ours", "ipam": {"type": "ipam"}}])), attachment("c1"));
    world.built_in[0].fails = vec![("DEL", 100)];
    assert_eq!(world.del(&list, &a).unwrap_err().code, 100);
    assert_eq!(world.calls(), ["DEL ours", "DEL ipam"]);
}

#[test]
fn all_failures_of_del_are_told_and_the_call_can_be_repeated() {
    let (mut world, a) = (makers(Version::NEWEST).built_in("ours").built_in("ipam"), attachment("c1"));
    let list = list(Version::NEWEST, json!([{"type": "a"}, {"type": "ours"}, {"type": "b", "ipam": {"type": "ipam"}}]));
    world.add(&list, &a).unwrap();
    world.calls();
    world.built_in[0].fails = vec![("DEL", 100)];
    world.bench.noting("b", "kill -KILL $$");
    let error = world.del(&list, &a).unwrap_err();
    assert!(error.msg.contains("was ended by SIGKILL") && error.msg.contains("ours cannot DEL"), "{error}");
    assert_eq!(world.calls(), ["DEL b", "DEL ipam after if-b", "DEL ours after if-b", "DEL a"]);
    assert!(world.cached(&a).is_some());
    // One that will succeed later keeps the address until then.
    world.built_in[0].fails.clear();
    world.bench.noting("b", "echo '{\"code\": 11, \"msg\": \"later\"}'; exit 1");
    assert_eq!(world.del(&list, &a).unwrap_err().code, Error::TRY_AGAIN_LATER);
    assert_eq!(world.calls(), ["DEL b", "DEL ours after if-b", "DEL a"]);
    world.bench.noting("b", "");
    world.del(&list, &a).unwrap();
    assert_eq!(world.cached(&a), None);
}

#[test]
fn whatever_an_executable_does_in_add_everything_is_undone_and_the_address_freed() {
    for (body, said) in [
        ("sleep 1000", "gave no answer within 400ms"),
        ("kill -SEGV $$", "was ended by SIGSEGV"),
        ("cat /dev/zero", "wrote more than"),
        ("echo garbage", "is no JSON"),
        ("exit 1", "ended with exit code 1"),
    ] {
        let world = World::new().impatient().built_in("ours").built_in("ipam");
        // DEL fares no better.
        world.bench.noting("bad", body);
        let plugins = json!([{"type": "ours"}, {"type": "bad", "ipam": {"type": "ipam"}}]);
        let error = world.add(&list(Version::NEWEST, plugins), &attachment("c1")).unwrap_err();
        assert!(error.msg.starts_with("ADD by plugin \"bad\"") && error.msg.contains(said), "{error}");
        let mut expected = vec!["ADD ours", "ADD bad", "DEL bad", "DEL ipam after ours", "DEL ours after ours"];
        if body == "echo garbage" {
            // Nobody looks at what DEL says, and it has succeeded.
            expected.remove(3);
        }
        assert_eq!(world.calls(), expected, "{body}");
        assert_eq!(world.cached(&attachment("c1")), None);
    }
}

#[test]
fn what_cannot_be_kept_is_undone() {
    let (world, list, a) = (makers(Version::NEWEST), three(Version::NEWEST), attachment("c1"));
    std::fs::create_dir_all(world.bench.path("results/.net-c1-eth0")).unwrap();
    assert_eq!(world.add(&list, &a).unwrap_err().code, Error::IO_FAILURE);
    assert_eq!(world.calls(), ["ADD a", "ADD b", "ADD c", "DEL c", "DEL b", "DEL a"]);
    // Where that can be told beforehand nothing is begun.
    let long = Attachment { container: "c".repeat(300), ..attachment("c1") };
    assert_eq!(world.add(&list, &long).unwrap_err().code, Error::IO_FAILURE);
    let bad = Attachment { container: "../c".to_owned(), ..attachment("c1") };
    assert_eq!(world.add(&list, &bad).unwrap_err().code, Error::INVALID_ENVIRONMENT);
    assert_eq!(world.del(&list, &bad).unwrap_err().code, Error::INVALID_ENVIRONMENT);
    assert_eq!(world.calls(), [""; 0]);
}

#[test]
fn r19_gc_removes_what_is_stale_and_then_asks_the_plugins() {
    for version in Version::ALL {
        let world = makers(version);
        let list = list(version, json!([{"type": "a"}, {"type": "b"}]));
        for container in ["c1", "c2", "c3"] {
            world.add(&list, &attachment(container)).unwrap();
        }
        let other = json!({"cniVersion": "1.0.0", "name": "net-other", "plugins": [{"type": "c"}]}).to_string();
        let other = NetworkList::parse(other.as_bytes()).unwrap();
        world.bench.maker("c", "if-c", Version::V1_0_0);
        world.add(&other, &attachment("c9")).unwrap();
        world.calls();
        let valid = [attachment("c2").id()];
        world.gc(&list, &valid).unwrap();
        let mut expected = vec!["DEL b", "DEL a", "DEL b", "DEL a"];
        if version >= Version::V1_1_0 {
            expected.extend(["GC a", "GC b"]);
            let told = json!([{"containerID": "c2", "ifname": "eth0"}]);
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                assert_eq!(world.bench.stdin("b", "GC")[key], told);
            }
        }
        assert_eq!(world.calls(), expected, "{version}");
        let left: Vec<_> = world.cache.list().unwrap().into_iter().map(|c| c.container).collect();
        assert_eq!(left, ["c2", "c9"]);
    }
}

#[test]
fn r9_gc_goes_on_after_an_error_and_tells_all() {
    let world = makers(Version::NEWEST).built_in("ipam");
    let list = list(Version::NEWEST, json!([{"type": "a"}, {"type": "b", "ipam": {"type": "ipam"}}, {"type": "c"}]));
    world.add(&list, &attachment("c1")).unwrap();
    world.calls();
    world.bench.noting("a", "exit 1");
    std::fs::remove_file(world.bench.bin().join("b")).unwrap();
    let error = world.gc(&list, &[]).unwrap_err();
    for said in ["eth0 of container c1: DEL by plugin \"b\"", "GC by plugin \"a\"", "GC by plugin \"b\""] {
        assert!(error.msg.contains(said), "{said}: {error}");
    }
    let expected = ["DEL c", "DEL ipam after if-c", "DEL a", "GC a", "GC ipam", "GC c"];
    assert_eq!(world.calls(), expected);
}

#[test]
fn gc_does_not_enter_a_namespace_that_may_be_anothers() {
    let world = makers(Version::NEWEST);
    let dump = world.bench.path("netns").display().to_string();
    world.bench.noting(
        "a",
        &format!("echo \"$CNI_COMMAND $CNI_NETNS\" >> {dump}; if [ $CNI_COMMAND = ADD ]; then echo '{{}}'; fi"),
    );
    let list = list(Version::NEWEST, json!([{"type": "a"}]));
    for (container, netns) in
        [("c1", "/proc/1/ns/net"), ("c2", "/run/netns/x"), ("c3", "/run/netns/x"), ("c4", "/run/netns/y")]
    {
        world.add(&list, &Attachment { netns_path: netns.to_owned(), ..attachment(container) }).unwrap();
    }
    std::fs::remove_file(&dump).unwrap();
    world.gc(&list, &[attachment("c3").id()]).unwrap();
    let text = std::fs::read_to_string(&dump).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["DEL ", "DEL ", "DEL /run/netns/y", "GC "]);
}

#[test]
fn status_stops_at_the_first_that_cannot_serve() {
    for version in Version::ALL {
        let world = makers(version).built_in("ours");
        let list = list(version, json!([{"type": "a"}, {"type": "ours"}, {"type": "b"}]));
        let asked = version >= Version::V1_1_0;
        world.status(&list).unwrap();
        let all: &[&str] = if asked { &["STATUS a", "STATUS ours", "STATUS b"] } else { &[] };
        assert_eq!(world.calls(), all, "{version}");
        if !asked {
            continue;
        }
        world.bench.noting("a", "echo '{\"code\": 51, \"msg\": \"no daemon\"}'; exit 1");
        assert_eq!(world.status(&list).unwrap_err().code, Error::LIMITED_CONNECTIVITY);
        assert_eq!(world.calls(), ["STATUS a"]);
        std::fs::remove_file(world.bench.bin().join("a")).unwrap();
        assert_eq!(world.status(&list).unwrap_err().code, Error::NOT_AVAILABLE);
        assert_eq!(world.calls(), [""; 0]);
    }
}

#[test]
fn a_required_delegate_is_asked_for_in_every_command() {
    let mut world = makers(Version::NEWEST).built_in("ours").built_in("ipam");
    world.built_in[0].delegation = Delegation::Required;
    let (list, a) = (list(Version::NEWEST, json!([{"type": "ours", "ipam": {"type": "ipam"}}])), attachment("c1"));
    world.add(&list, &a).unwrap();
    world.check(&list, &a).unwrap();
    world.status(&list).unwrap();
    world.gc(&list, &[a.id()]).unwrap();
    world.del(&list, &a).unwrap();
    let calls: Vec<_> = world.calls().iter().map(|c| c.split(" after").next().unwrap().to_owned()).collect();
    let pairs =
        ["CHECK ours", "CHECK ipam", "STATUS ours", "STATUS ipam", "GC ours", "GC ipam", "DEL ours", "DEL ipam"];
    assert_eq!(calls[..2], ["ADD ipam", "ADD ours"]);
    assert_eq!(calls[2..], pairs);
}
