//! For the tests of this crate.

use rnet_kernel::rules::NfTables;
use rnet_kernel::{Conntrack, Filter, KernelError, Links, Sysctls};
use rnet_plan::{Place, Surfaces};

/// A kernel nobody asks.
pub(crate) struct Nothing;

impl Surfaces for Nothing {
    fn links(&mut self, _: &Place) -> Result<&mut dyn Links, KernelError> {
        Err(KernelError::text("links", "none"))
    }
    fn filter(&mut self) -> &mut dyn Filter {
        unreachable!("no plan here has rules of netd")
    }
    fn tables(&mut self) -> Result<&mut NfTables, KernelError> {
        Err(KernelError::text("tables", "none"))
    }
    fn flows(&mut self) -> Result<&mut Conntrack, KernelError> {
        Err(KernelError::text("flows", "none"))
    }
    fn sysctls(&mut self, _: &Place) -> Result<&mut dyn Sysctls, KernelError> {
        Err(KernelError::text("sysctls", "none"))
    }
}
