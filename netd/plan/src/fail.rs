//! Fail points: places where a test makes the daemon die, to prove that nothing is left behind after the next start.

use std::sync::OnceLock;

/// The environment variable that names the point to die at.
pub const ENV: &str = "RNET_FAIL_POINT";

/// Passes a fail point. If `RNET_FAIL_POINT` names it, the process ends as by `kill -9`: no destructor, no flush.
pub fn point(name: &str) {
    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    if let Some(armed) = ARMED.get_or_init(|| std::env::var(ENV).ok())
        && (armed == name)
    {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Passes `point.done`, the fail point after the action of `point`.
pub(crate) fn done(name: &str) {
    static DONE: OnceLock<Option<String>> = OnceLock::new();
    let armed =
        DONE.get_or_init(|| std::env::var(ENV).ok().and_then(|armed| armed.strip_suffix(".done").map(str::to_owned)));
    if armed.as_deref() == Some(name) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
