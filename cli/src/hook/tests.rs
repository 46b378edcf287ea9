use std::cell::RefCell;

use super::*;

/// Records the calls; fails the `fail`-th connect or attach.
#[derive(Default)]
struct FakeNetd {
    calls: RefCell<Vec<String>>,
    fail: Option<usize>,
    undo_fails: bool,
}

impl FakeNetd {
    fn call(&self, text: String) -> Result<(), ApiError> {
        self.calls.borrow_mut().push(text);
        match self.fail {
            Some(n) if self.calls.borrow().len() == n => Err(ApiError::new(Kind::Conflict, "address in use")),
            _ => Ok(()),
        }
    }
}

impl Netd for FakeNetd {
    fn connect(&self, network: &NetworkName, request: &NetworkConnect) -> Result<(), ApiError> {
        assert_eq!(request.identity.as_ref().map(|i| i.engine), Some(Engine::Oci));
        self.call(format!("connect {network}"))
    }
    fn attach(&self, request: &AttachRequest) -> Result<(), ApiError> {
        assert_eq!(request.identity.as_ref().map(|i| i.id.as_str()), Some("c1"));
        self.call(format!("attach {} {}", request.spec.hostif, request.spec.address))
    }
    fn publish(&self, request: &PublishRequest) -> Result<(), ApiError> {
        self.call(format!("publish {} {}", request.container, crate::output::list(&request.ports)))
    }
    fn detach_all(&self, id: &ContainerName) -> Result<(), ApiError> {
        self.calls.borrow_mut().push(format!("detach {id}"));
        Ok(())
    }
    fn undo(&self, id: &ContainerName) -> Result<(), ApiError> {
        self.calls.borrow_mut().push(format!("undo {id}"));
        if self.undo_fails { Err(ApiError::new(Kind::Unavailable, "netd is not running")) } else { Ok(()) }
    }
}

/// A process in another network namespace: the child of `unshare -n`, or none when that is not allowed here.
struct Other(std::process::Child);

impl Other {
    fn new() -> Option<Self> {
        use std::io::Read;
        let mut child = std::process::Command::new("unshare")
            .args(["-Urn", "sh", "-c", "echo ready; exec sleep 60"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .ok()?;
        let mut ready = [0; 6];
        let arrived = child.stdout.as_mut().and_then(|out| out.read_exact(&mut ready).ok());
        let other = Other(child);
        if arrived.is_none() {
            eprintln!("skipped: no user and network namespaces here");
        }
        arrived.map(|()| other)
    }

    fn state(&self, annotations: &str) -> State {
        state(self.0.id(), annotations)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state(pid: u32, annotations: &str) -> State {
    State::parse(format!(r#"{{"id":"c1","pid":{pid},"annotations":{annotations}}}"#).as_bytes()).unwrap()
}

const BOTH: &str = r#"{"rnet.network":"blue","rnet.attach":"br0 10.0.0.2/24"}"#;

#[test]
fn a_container_without_annotations_needs_no_netd() {
    let netd = FakeNetd::default();
    create_runtime(&state(1, r#"{"io.podman":"x"}"#), &netd).unwrap();
    create_runtime(&State::parse(br#"{"id":"c+1"}"#).unwrap(), &netd).unwrap();
    assert!(netd.calls.borrow().is_empty());
}

#[test]
fn the_second_failing_undoes_the_first() {
    let Some(other) = Other::new() else { return };
    let netd = FakeNetd::default();
    create_runtime(&other.state(BOTH), &netd).unwrap();
    assert_eq!(*netd.calls.borrow(), ["connect blue", "attach br0 10.0.0.2/24"]);

    let netd = FakeNetd { fail: Some(2), ..FakeNetd::default() };
    let error = create_runtime(&other.state(BOTH), &netd).unwrap_err();
    assert_eq!((error.kind, error.hint), (Kind::Conflict, None));
    assert_eq!(*netd.calls.borrow(), ["connect blue", "attach br0 10.0.0.2/24", "undo c1"]);

    let netd = FakeNetd { fail: Some(1), undo_fails: true, ..FakeNetd::default() };
    let error = create_runtime(&other.state(BOTH), &netd).unwrap_err();
    assert_eq!(error.message, "address in use");
    assert!(error.hint.unwrap().contains("rnet detach oci:c1 --all"));
}

#[test]
fn what_cannot_be_right_is_refused_before_netd_is_asked() {
    let netd = FakeNetd::default();
    let own = std::process::id();
    let refused = |state: &State| create_runtime(state, &netd).unwrap_err();
    assert!(refused(&state(own, BOTH)).message.contains("no network namespace of its own"));
    assert!(refused(&state(0, BOTH)).message.contains("has no process id"));
    assert_eq!(refused(&state(i32::MAX.unsigned_abs(), BOTH)).kind, Kind::Missing);
    assert_eq!(refused(&state(own, r#"{"rnet.ports":"80:80"}"#)).kind, Kind::Invalid);
    let bad_id = State::parse(br#"{"id":"a/b","pid":1,"annotations":{"rnet.network":"blue"}}"#).unwrap();
    assert_eq!(refused(&bad_id).kind, Kind::Invalid);
    assert!(netd.calls.borrow().is_empty());
}

#[test]
fn poststop_detaches_all_and_forgives() {
    let netd = FakeNetd::default();
    poststop(&state(0, BOTH), &netd).unwrap();
    poststop(&State::parse(br#"{"id":"a/b"}"#).unwrap(), &netd).unwrap();
    assert_eq!(*netd.calls.borrow(), ["detach c1"]);
}
