//! In-memory siblings of the real surfaces, for tests of what is built on them. They keep state, refuse what the
//! kernel refuses with the same errno, record what was done and fail on demand.

mod filter;
mod links;
mod sysctl;
mod world;

pub use filter::FakeFilter;
pub use links::{FakeLinks, FakeNet};
pub use sysctl::FakeSysctls;

use crate::{KernelError, Netns, NetnsId};

/// A namespace that exists by name only: it can be compared, shown and given to [`FakeNet::inside`], not entered.
///
/// # Errors
/// When /dev/null cannot be opened.
pub fn netns(ino: u64) -> Result<Netns, KernelError> {
    Netns::pretend(NetnsId { dev: 0, ino })
}
