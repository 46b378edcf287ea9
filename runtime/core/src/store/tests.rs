use std::io::Read as _;

use super::*;
use crate::process::ProcessId;
use crate::{ContainerSpec, NetworkSettings, Phase, Streams};

pub(crate) fn record(name: &str, id: &str) -> Record {
    Record {
        id: id.parse().unwrap(),
        name: name.parse().unwrap(),
        created: jiff::Timestamp::UNIX_EPOCH,
        spec: ContainerSpec {
            rootfs: "/rootfs".into(),
            command: vec!["sh".into()],
            env: Vec::new(),
            binds: Vec::new(),
            workdir: "/".into(),
            user: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            hostname: None,
            network: NetworkSettings::of(rnet_model::NetworkMode::None),
            streams: Streams::Output,
            keep: Keep::WhileRunning,
        },
    }
}

const ONE: &str = "00001111000011110000111100001111";
const TWO: &str = "00002222000011110000111100001111";

fn store(dir: &tempfile::TempDir) -> Store {
    Store::new(&Root::from_option(Some(dir.path().to_owned())))
}

fn find(store: &Store, word: &str) -> Result<String, Kind> {
    store.find(&word.parse().unwrap()).map(|c| c.record.id.to_string()).map_err(|e| e.kind)
}

#[test]
fn names_ids_and_prefixes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    assert_eq!(find(&store, "web"), Err(Kind::Missing));
    assert!(store.all().unwrap().containers.is_empty());
    store.create(record("web", ONE)).unwrap();
    let db = store.create(record("db", TWO)).unwrap();
    for (word, expected) in [
        ("web", Ok(ONE)),
        (ONE, Ok(ONE)),
        ("00001", Ok(ONE)),
        ("00002222", Ok(TWO)),
        ("0000", Err(Kind::Conflict)),
        ("000", Err(Kind::Missing)),
        ("we", Err(Kind::Missing)),
    ] {
        assert_eq!(find(&store, word), expected.map(str::to_owned), "{word}");
    }
    assert_eq!(store.create(record("web", TWO)).unwrap_err().kind, Kind::Conflict);
    store.remove(&db).unwrap();
    store.remove(&db).unwrap();
    assert_eq!(find(&store, "db"), Err(Kind::Missing));
    assert_eq!(db.lock().unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_crash_does_not_hold_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let web = store.create(record("web", ONE)).unwrap();
    fs::remove_dir_all(web.lib("")).unwrap();
    store.create(record("web", TWO)).unwrap();
    assert_eq!(find(&store, "web"), Ok(TWO.to_owned()));
}

#[test]
fn one_bad_record_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let web = store.create(record("web", ONE)).unwrap();
    store.create(record("db", TWO)).unwrap();
    fs::write(web.lib(RECORD), "{").unwrap();
    let listing = store.all().unwrap();
    assert_eq!((listing.containers.len(), listing.problems.len()), (1, 1));
}

#[test]
fn a_life() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let c = store.create(record("web", ONE)).unwrap();
    assert_eq!(c.status().unwrap(), Status::Created);
    c.begin_run().unwrap();
    let mut live = Live { shim: ProcessId::this().unwrap(), phase: Phase::Starting, init: None, started: None };
    c.set_live(&live).unwrap();
    assert_eq!(c.status().unwrap(), Status::Created);
    live.phase = Phase::Running;
    c.set_live(&live).unwrap();
    assert_eq!(c.status().unwrap(), Status::Running);
    let mut exit = c.exit_file().unwrap().unwrap();
    let ended = Ended { code: 7, started: None, finished: jiff::Timestamp::UNIX_EPOCH, error: None };
    c.set_ended(&ended).unwrap();
    live.shim.started += 1;
    c.set_live(&live).unwrap();
    assert_eq!(c.status().unwrap(), Status::Dead);
    c.clear_run().unwrap();
    assert_eq!(c.status().unwrap(), Status::Exited);
    store.remove(&c).unwrap();
    let mut code = String::new();
    exit.read_to_string(&mut code).unwrap();
    assert_eq!(code, "7");
}
