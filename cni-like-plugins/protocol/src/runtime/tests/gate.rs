use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::wait_for;
use crate::Error;
use crate::runtime::Gate;

const AT_ONCE: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);

#[test]
fn r3_a_container_has_one_operation_at_a_time_and_others_go_on() {
    let gate = Gate::default();
    let first = gate.container("a", AT_ONCE).unwrap();
    assert_eq!(gate.container("a", AT_ONCE).unwrap_err().code, Error::TRY_AGAIN_LATER);
    let other = gate.container("b", AT_ONCE).unwrap();
    drop(first);
    gate.container("a", AT_ONCE).unwrap();
    drop(other);
}

#[test]
fn r4_gc_waits_for_what_runs_and_holds_what_comes() {
    let gate = Gate::default();
    let running = gate.container("a", AT_ONCE).unwrap();
    assert_eq!(gate.collection(AT_ONCE).unwrap_err().code, Error::TRY_AGAIN_LATER);
    let (inside, leave) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _collecting = gate.collection(LONG).unwrap();
            inside.store(true, Ordering::SeqCst);
            wait_for("told to leave", || leave.load(Ordering::SeqCst));
        });
        // As soon as it waits nobody new is let in, although only a container runs.
        wait_for("GC waits", || gate.container("b", AT_ONCE).is_err());
        assert!(!inside.load(Ordering::SeqCst));
        drop(running);
        wait_for("GC runs", || inside.load(Ordering::SeqCst));
        assert!(gate.container("b", AT_ONCE).is_err());
        assert!(gate.collection(AT_ONCE).is_err());
        let waits = scope.spawn(|| gate.container("b", LONG).map(drop));
        leave.store(true, Ordering::SeqCst);
        waits.join().unwrap().unwrap();
    });
    gate.container("a", AT_ONCE).unwrap();
    gate.collection(AT_ONCE).unwrap();
}

#[test]
fn a_gc_that_gave_up_holds_nobody() {
    let gate = Gate::default();
    let running = gate.container("a", AT_ONCE).unwrap();
    gate.collection(Duration::from_millis(1)).unwrap_err();
    gate.container("b", AT_ONCE).unwrap();
    drop(running);
    gate.collection(AT_ONCE).unwrap();
}
