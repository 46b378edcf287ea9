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

/// The same for tests that compare with what nft(8) says, which a machine may lack.
pub(crate) fn nft_or_skip() -> bool {
    let there = root_or_skip() && std::process::Command::new("nft").arg("--version").output().is_ok();
    if !there {
        #[allow(clippy::print_stdout)]
        {
            println!("skipped: needs root and nft(8), package nftables");
        }
    }
    there
}
