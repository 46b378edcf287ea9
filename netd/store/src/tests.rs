#![allow(clippy::unwrap_used)]
//! Both stores alike, the log, and files in every state of disrepair.

use std::path::Path;

use rnet_model::Kind;
use serde_json::json;

use crate::{Fault, MemoryStore, RedbStore, RunLog, Store, Write};

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

/// What every store does.
fn conforms(store: &mut dyn Store) {
    assert!(store.list("").unwrap().is_empty());
    store.commit(&[put("a/1", "x"), put("a/2", "y"), put("b/1", "z")]).unwrap();
    store.commit(&[put("a/1", "new"), delete("a/2"), delete("a/none")]).unwrap();
    store.commit(&[put("c", "1"), delete("c"), delete("d"), put("d", "2")]).unwrap();
    store.commit(&[]).unwrap();
    let keys = |store: &mut dyn Store, prefix| store.list(prefix).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(keys(store, ""), ["a/1", "b/1", "d"]);
    assert_eq!(keys(store, "a/"), ["a/1"]);
    assert_eq!(store.list("a/").unwrap()["a/1"], b"new");
}

#[test]
fn stores_agree() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&mut MemoryStore::new());
    let path = dir.path().join("s.redb");
    let mut store = RedbStore::open(&path).unwrap();
    conforms(&mut store);
    drop(store);
    assert_eq!(RedbStore::open(&path).unwrap().list("").unwrap().len(), 3, "it is still there");
}

fn refusal(path: &Path) -> crate::StoreError {
    let before = std::fs::read(path).unwrap();
    let error = RedbStore::open(path).unwrap_err();
    assert_eq!(std::fs::read(path).unwrap(), before, "a file that is refused is not changed");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.hint().is_some());
    error
}

#[test]
fn damaged_files_are_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let mut store = RedbStore::open(&path).unwrap();
    store.commit(&[put("networks/1", &"value ".repeat(500))]).unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    for bad in [b"garbage".to_vec(), vec![0; 8192], good[..good.len() / 2].to_vec(), good[..100].to_vec()] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(refusal(&path).fault, Fault::Corrupt(_)));
    }
    // A flipped bit in a value, which redb itself would not see.
    let at = good.windows(6).position(|w| w == b"value ").unwrap();
    let mut flipped = good.clone();
    flipped[at] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    let error = RedbStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("networks/1"), "{error}");
    std::fs::write(&path, &good).unwrap();
    assert_eq!(RedbStore::open(&path).unwrap().list("").unwrap().len(), 1, "the good file is good");
}

#[test]
fn empty_and_half_made_files_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    std::fs::write(&path, "").unwrap();
    std::fs::write(path.with_extension("new"), "half").unwrap();
    RedbStore::open(&path).unwrap().commit(&[put("a", "b")]).unwrap();
    assert!(!path.with_extension("new").exists());
}

#[test]
fn a_second_process_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let _first = RedbStore::open(&path).unwrap();
    let error = RedbStore::open(&path).unwrap_err();
    assert!(matches!(error.fault, Fault::Locked), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn later_formats_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    drop(RedbStore::open(&path).unwrap());
    {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        transaction.open_table(meta).unwrap().insert("format", 9).unwrap();
        transaction.commit().unwrap();
    }
    let error = RedbStore::open(&path).unwrap_err();
    assert!(matches!(error.fault, Fault::Newer { found: 9, known: 1 }), "{error}");
}

#[test]
fn the_log_says_what_was_said_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.log");
    let (mut log, records) = RunLog::open(&path).unwrap();
    assert!(records.is_empty());
    log.put("a", &json!({"n": 1})).unwrap();
    log.put("b", &2).unwrap();
    log.put("a", &3).unwrap();
    log.remove("b").unwrap();
    log.remove("never").unwrap();
    // No close: a daemon that is killed has none either.
    let (_, records) = RunLog::open(&path).unwrap();
    assert_eq!(records.into_iter().collect::<Vec<_>>(), [("a".to_owned(), json!(3))]);
}

#[test]
fn a_line_cut_short_is_dropped_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.log");
    let (mut log, _) = RunLog::open(&path).unwrap();
    log.put("a", &1).unwrap();
    log.put("b", &2).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let second = whole.iter().rposition(|b| *b == b'{').unwrap();
    for end in second..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        let (mut log, records) = RunLog::open(&path).unwrap();
        assert_eq!(records.into_keys().collect::<Vec<_>>(), ["a"]);
        log.put("c", &3).unwrap();
        assert_eq!(RunLog::open(&path).unwrap().1.into_keys().collect::<Vec<_>>(), ["a", "c"]);
    }
}

#[test]
fn a_damaged_log_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.log");
    for (bad, says) in
        [("rubbish\n", "line 1"), ("{\"format\":1}\n{\"key\":\n", "line 2"), ("{\"format\":2}\n", "format 2")]
    {
        std::fs::write(&path, bad).unwrap();
        let error = RunLog::open(&path).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
    }
}

#[test]
fn the_log_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.log");
    let (mut log, _) = RunLog::open(&path).unwrap();
    log.put("stays", &"x").unwrap();
    for n in 0..20_000 {
        log.put("changes", &n).unwrap();
    }
    assert!(std::fs::metadata(&path).unwrap().len() < 200_000);
    let (_, records) = RunLog::open(&path).unwrap();
    assert_eq!(
        records.into_iter().collect::<Vec<_>>(),
        [("changes".into(), json!(19_999)), ("stays".into(), json!("x"))]
    );
}

#[test]
fn a_log_that_cannot_be_shortened_is_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.log");
    let (mut log, _) = RunLog::open(&path).unwrap();
    // No new file can take this name.
    let in_the_way = path.with_extension("new");
    std::fs::create_dir(&in_the_way).unwrap();
    for n in 0..10_000 {
        log.put("changes", &n).unwrap();
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    for n in 10_000..40_000 {
        log.put("changes", &n).unwrap();
    }
    assert!(std::fs::metadata(&path).unwrap().len() < 2_000_000);
    assert_eq!(RunLog::open(&path).unwrap().1["changes"], json!(39_999));
}
