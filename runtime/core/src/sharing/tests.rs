use super::*;
use crate::{Live, NetworkSettings, Phase};

/// A container in a store; `None` is one that has not been started.
fn make(store: &Store, name: &str, mode: &str, init: Option<ProcessId>) -> Container {
    let mut record = crate::store::tests::record(name, ContainerId::random().unwrap().as_str());
    record.spec.network = NetworkSettings::of(mode.parse().unwrap());
    let container = store.create(record).unwrap();
    set(&container, init);
    container
}

fn set(container: &Container, init: Option<ProcessId>) {
    container.begin_run().unwrap();
    let shim = ProcessId::this().unwrap();
    container.set_live(&Live { shim, phase: Phase::Running, init, started: None }).unwrap();
}

/// A process that runs, and one that has ended.
fn processes_of_both_kinds() -> (ProcessId, ProcessId) {
    let this = ProcessId::this().unwrap();
    (this, ProcessId { started: this.started + 1, ..this })
}

#[test]
fn a_namespace_is_left_to_those_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&rnet_api::Root::from_option(Some(dir.path().to_owned())));
    let (runs, ended) = processes_of_both_kinds();
    let a = make(&store, "a", "bridge", Some(runs));
    let b = make(&store, "b", "container:a", Some(runs));
    let c = make(&store, "c", "container:b", Some(runs));
    let name = |c: &Container| owner(&store, c).unwrap().map(|o| o.record.name.to_string());
    assert_eq!((name(&a), name(&b).as_deref(), name(&c).as_deref()), (None, Some("a"), Some("a")));
    join(&a, &b.record.id).unwrap();
    join(&a, &c.record.id).unwrap();
    set(&a, Some(ended));
    // netd does not run here: what is released is noted for later.
    assert_eq!(let_go(&store, &a, Addresses::Keep).unwrap(), Released::Kept);
    assert_eq!(others(&store, &a).unwrap().len(), 2);
    take_up(&a).unwrap();
    take_up(&a).unwrap();
    assert!(!a.lib(KEPT).exists());
    assert_eq!(let_go(&store, &a, Addresses::Keep).unwrap(), Released::Kept);
    set(&b, Some(ended));
    assert_eq!(leave(&store, &a, &b.record.id).unwrap(), Released::Now);
    // A shim that was killed does not say that it leaves.
    set(&c, Some(ended));
    assert_eq!(leave(&store, &a, &b.record.id).unwrap(), Released::Later);
    assert_eq!(leave(&store, &a, &c.record.id).unwrap(), Released::Now);
    assert_eq!(let_go(&store, &a, Addresses::Keep).unwrap(), Released::Later);
}

#[test]
fn nobody_joins_what_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&rnet_api::Root::from_option(Some(dir.path().to_owned())));
    let (runs, ended) = processes_of_both_kinds();
    let a = make(&store, "a", "bridge", Some(ended));
    let b = make(&store, "b", "container:a", Some(runs));
    assert_eq!(join(&a, &b.record.id).unwrap_err().kind, Kind::Conflict);
    set(&a, Some(runs));
    join(&a, &b.record.id).unwrap();
    set(&a, Some(ended));
    assert_eq!(let_go(&store, &a, Addresses::Forget).unwrap(), Released::Later);
    store.remove(&a).unwrap();
    assert_eq!(leave(&store, &a, &b.record.id).unwrap(), Released::Now);
}

#[test]
fn a_circle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&rnet_api::Root::from_option(Some(dir.path().to_owned())));
    let a = make(&store, "a", "container:b", None);
    make(&store, "b", "container:a", None);
    assert_eq!(owner(&store, &a).unwrap_err().kind, Kind::Invalid);
}
