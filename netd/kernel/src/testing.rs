//! What the tests of this crate share.

/// Whether kernel tests can run; says so when not.
pub(crate) fn root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        #[allow(clippy::print_stdout)]
        {
            println!("skipped: not root");
        }
    }
    root
}
