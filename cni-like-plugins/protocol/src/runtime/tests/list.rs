use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::runtime::{Extra, NetworkList};
use crate::{AttachmentId, Error, Version};

use super::result;

fn parse(value: Value) -> Result<NetworkList, Error> {
    NetworkList::parse(value.to_string().as_bytes())
}

fn code(value: Value) -> u32 {
    parse(value).unwrap_err().code
}

fn with(key: &str, value: Value) -> Value {
    let mut list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "a"}]});
    list[key] = value;
    list
}

fn of_plugin(plugin: Value) -> Value {
    with("plugins", json!([plugin]))
}

#[test]
fn c1_names_are_checked() {
    for good in ["n", "0", "a_b.c-d"] {
        assert_eq!(parse(with("name", json!(good))).unwrap().name, good);
    }
    for bad in ["", "-a", "_a", ".a", "a/b", "a b", "ä", ".."] {
        assert_eq!(code(with("name", json!(bad))), Error::INVALID_NETWORK_CONFIG, "{bad:?}");
    }
    assert_eq!(code(with("name", Value::Null)), Error::INVALID_NETWORK_CONFIG);
    assert_eq!(code(with("name", json!(1))), Error::DECODING_FAILURE);
}

#[test]
fn c2_the_newest_version_that_is_known_is_chosen() {
    for (index, version) in Version::ALL.into_iter().enumerate() {
        let text = version.as_str();
        assert_eq!(parse(with("cniVersion", json!(text))).unwrap().version, version);
        let mut list = with("cniVersion", json!("0.1.0"));
        let older: Vec<&str> = Version::ALL[..index].iter().map(|v| v.as_str()).collect();
        list["cniVersions"] = json!([["9.0.0", text, "1.99.0"].as_slice(), older.as_slice()].concat());
        assert_eq!(parse(list).unwrap().version, version);
        let mut newer = with("cniVersion", json!("2.0.0"));
        newer["cniVersions"] = json!([text]);
        assert_eq!(parse(newer).unwrap().version, version);
    }
    assert_eq!(code(with("cniVersion", json!("2.0.0"))), Error::INCOMPATIBLE_VERSION);
    assert_eq!(code(with("cniVersion", json!("x"))), Error::INCOMPATIBLE_VERSION);
    assert_eq!(code(json!({"cniVersions": ["7.0.0"], "name": "n", "plugins": [{"type": "a"}]})), 1);
    assert_eq!(code(with("cniVersions", json!("1.0.0"))), Error::DECODING_FAILURE);
    assert_eq!(code(with("cniVersions", json!([1]))), Error::DECODING_FAILURE);
    assert_eq!(code(with("cniVersion", json!(1))), Error::DECODING_FAILURE);
}

#[test]
fn c3_a_list_without_version_is_of_0_1_0() {
    assert_eq!(parse(json!({"name": "n", "plugins": [{"type": "a"}]})).unwrap().version, Version::V0_1_0);
    assert_eq!(parse(with("cniVersion", json!(""))).unwrap().version, Version::V0_1_0);
    let list = json!({"name": "n", "cniVersions": [], "plugins": [{"type": "a"}]});
    assert_eq!(parse(list).unwrap().version, Version::V0_1_0);
}

#[test]
fn c7_booleans_may_be_strings() {
    for (value, read) in [
        (json!(true), true),
        (json!("true"), true),
        (json!("True"), true),
        (json!(false), false),
        (json!("false"), false),
        (Value::Null, false),
    ] {
        assert_eq!(parse(with("disableCheck", value.clone())).unwrap().disable_check, read, "{value}");
        assert_eq!(parse(with("disableGC", value.clone())).unwrap().disable_gc, read, "{value}");
    }
    for key in ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
        for bad in [json!("yes"), json!(1), json!([])] {
            assert_eq!(code(with(key, bad)), Error::DECODING_FAILURE);
        }
    }
}

#[test]
fn c8_there_is_a_plugin() {
    for none in [json!([]), Value::Null] {
        assert_eq!(code(with("plugins", none)), Error::INVALID_NETWORK_CONFIG);
    }
    assert_eq!(code(with("plugins", json!({}))), Error::DECODING_FAILURE);
    assert_eq!(code(of_plugin(json!("a"))), Error::DECODING_FAILURE);
}

#[test]
fn c9_unknown_keys_pass_through() {
    let list = parse(of_plugin(json!({"type": "a", "x": {"y": [1, null]}, "ipMasq": true}))).unwrap();
    let request = list.request(&list.plugins[0], &Extra::default()).unwrap();
    assert_eq!(
        request.whole,
        json!({"cniVersion": "1.1.0", "name": "net", "type": "a", "x": {"y": [1, null]}, "ipMasq": true})
    );
}

#[test]
fn c10_a_type_is_a_file_name() {
    for bad in ["", ".", "..", "a/b", "/bin/sh", "../x", "a\0"] {
        assert_eq!(code(of_plugin(json!({"type": bad}))), Error::INVALID_NETWORK_CONFIG, "{bad:?}");
    }
    assert_eq!(code(of_plugin(json!({}))), Error::INVALID_NETWORK_CONFIG);
    assert_eq!(code(of_plugin(json!({"type": 1}))), Error::DECODING_FAILURE);
}

#[test]
fn c11_reserved_keys_are_refused_and_those_of_the_specification_dropped() {
    for key in ["runtimeConfig", "args", "prevResult"] {
        let error = parse(of_plugin(json!({"type": "a", key: {}}))).unwrap_err();
        assert_eq!(error.code, Error::INVALID_NETWORK_CONFIG);
        assert!(error.msg.contains(key), "{error}");
        assert_eq!(code(json!({"name": "n", "type": "a", key: {}})), Error::INVALID_NETWORK_CONFIG);
    }
    let list = parse(of_plugin(json!({"type": "a", "cni.dev/valid-attachments": [], "cni.dev/x": 1}))).unwrap();
    assert_eq!(Value::Object(list.plugins[0].object.clone()), json!({"type": "a"}));
    // What a runtime has put into a configuration before it kept it.
    let kept = of_plugin(json!({"type": "a", "args": {"cni": {}}, "runtimeConfig": {}, "prevResult": {}}));
    let list = NetworkList::parse_cached(kept.to_string().as_bytes()).unwrap();
    assert_eq!(Value::Object(list.plugins[0].object.clone()), json!({"type": "a", "args": {"cni": {}}}));
}

#[test]
fn r11_r12_a_request_has_what_the_plugin_declared_and_no_more() {
    let supplied: Map<String, Value> =
        serde_json::from_value(json!({"mac": "02:00:00:00:00:01", "ips": [], "portMappings": [1]})).unwrap();
    let valid = [AttachmentId { container: "c".into(), ifname: "eth0".into() }];
    for version in Version::ALL {
        let mut list = with("cniVersion", json!(version.as_str()));
        list["plugins"] = json!([
            {"type": "a", "cniVersion": "0.2.0", "name": "other",
             "capabilities": {"mac": true, "ips": false, "bandwidth": true}},
            {"type": "b"},
        ]);
        let list = parse(list).unwrap();
        let previous = result("eth0");
        let extra = Extra { capability_args: Some(&supplied), previous: Some(&previous), valid: None };
        let a = list.request(&list.plugins[0], &extra).unwrap();
        assert_eq!(
            a.whole,
            json!({"cniVersion": version.as_str(), "name": "net", "type": "a",
                "runtimeConfig": {"mac": "02:00:00:00:00:01"}, "prevResult": previous.to_json(version)})
        );
        let b = list.request(&list.plugins[1], &Extra { valid: Some(&valid), ..extra }).unwrap();
        assert_eq!(b.whole.get("runtimeConfig"), None);
        let told = json!([{"containerID": "c", "ifname": "eth0"}]);
        assert_eq!(b.whole["cni.dev/valid-attachments"], told);
        assert_eq!(b.whole["cni.dev/attachments"], told);
        assert_eq!(b.valid.unwrap(), valid);
    }
    assert_eq!(code(of_plugin(json!({"type": "a", "capabilities": {"mac": "yes"}}))), Error::DECODING_FAILURE);
    assert_eq!(code(of_plugin(json!({"type": "a", "capabilities": ["mac"]}))), Error::DECODING_FAILURE);
}

#[test]
fn c6_plugins_of_the_folder_follow_those_of_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("net")).unwrap();
    write("net/20-c.conf", json!({"type": "c"}));
    write("net/10-b.conf", json!({"type": "b"}));
    write("net/30-d.json", json!({"type": "d"}));
    let kinds = |list: &NetworkList| list.plugins.iter().map(|p| p.kind.clone()).collect::<Vec<_>>();
    let mut list = with("loadOnlyInlinedPlugins", json!(false));
    write("net.conflist", list.clone());
    let loaded = NetworkList::load(dir.path(), "net").unwrap();
    assert_eq!(kinds(&loaded), ["a", "b", "c"]);
    // What is kept for DEL has them too.
    assert_eq!(kinds(&NetworkList::parse_cached(&loaded.bytes).unwrap()), ["a", "b", "c"]);
    list.as_object_mut().unwrap().remove("plugins");
    write("net.conflist", list.clone());
    assert_eq!(kinds(&NetworkList::load(dir.path(), "net").unwrap()), ["b", "c"]);
    list["loadOnlyInlinedPlugins"] = json!("true");
    write("net.conflist", list);
    assert_eq!(NetworkList::load(dir.path(), "net").unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    write("net.conflist", with("loadOnlyInlinedPlugins", json!(true)));
    assert_eq!(kinds(&NetworkList::load(dir.path(), "net").unwrap()), ["a"]);
    write("net.conflist", with("disableGC", json!(true)));
    write("net/10-b.conf", json!([]));
    let error = NetworkList::load(dir.path(), "net").unwrap_err();
    assert!(error.msg.contains("10-b.conf"), "{error}");
}

#[test]
fn c14_lists_come_before_single_plugins_and_the_first_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    let list = |kind: &str| json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": kind}]});
    let load = || NetworkList::load(dir.path(), "net").map(|list| list.plugins[0].kind.clone());
    assert_eq!(load().unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    assert_eq!(NetworkList::load(&dir.path().join("none"), "net").unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
    write("2.json", json!({"cniVersion": "0.4.0", "name": "net", "type": "json"}));
    assert_eq!(load().unwrap(), "json");
    write("1.conf", json!({"cniVersion": "0.3.1", "name": "net", "type": "conf", "x": 1}));
    let single = NetworkList::load(dir.path(), "net").unwrap();
    assert_eq!((single.version, single.plugins[0].kind.as_str()), (Version::V0_3_1, "conf"));
    assert_eq!(NetworkList::parse_cached(&single.bytes).unwrap().plugins, single.plugins);
    write("9.conflist", list("nine"));
    write("8.conflist", list("eight"));
    assert_eq!(load().unwrap(), "eight");
    write("0.conflist", json!({"name": "other", "plugins": []}));
    std::fs::write(dir.path().join("00.conflist"), "{").unwrap();
    std::fs::create_dir(dir.path().join("000.conflist")).unwrap();
    assert_eq!(load().unwrap(), "eight", "files of other networks do not count");
    let all = NetworkList::list(dir.path()).unwrap();
    let names: Vec<_> = all.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["0.conflist", "00.conflist", "8.conflist", "9.conflist", "1.conf", "2.json"]);
    assert_eq!(all.iter().filter(|(_, list)| list.is_err()).count(), 2);
    let missing = NetworkList::load(dir.path(), "nowhere").unwrap_err();
    assert!(missing.details.contains("00.conflist"), "{missing}");
}

#[test]
fn a_pipe_is_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.conflist");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    assert_eq!(NetworkList::load(dir.path(), "net").unwrap_err().code, Error::INVALID_NETWORK_CONFIG);
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "(true|1\\.0\\.0|net|a|[a-z./-]{0,4})".prop_map(Value::from),
    ];
    let key = "(name|cniVersion|cniVersions|plugins|type|capabilities|args|ipam|dns|disableGC|disableCheck|x)";
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = NetworkList::parse(&bytes);
        let _ = NetworkList::parse_cached(&bytes);
    }

    #[test]
    fn any_json_is_read_or_refused(mut value in anything()) {
        if let Some(object) = value.as_object_mut() {
            object.entry("name").or_insert(json!("net"));
        }
        let bytes = value.to_string();
        if let Ok(list) = NetworkList::parse(bytes.as_bytes()) {
            prop_assert!(!list.plugins.is_empty());
            // DEL can read what ADD kept.
            prop_assert_eq!(&NetworkList::parse_cached(&list.bytes).unwrap(), &list);
        }
        let _ = NetworkList::parse_cached(bytes.as_bytes());
    }
}
