//! The kernel as a plugin of one process uses it: opened where and when it is first asked for.

use rnet_kernel::rules::NfTables;
use rnet_kernel::{
    Conntrack, Filter, FilterChange, FilterState, KernelError, Links, Netns, NetnsId, ProcSys, Route, Sysctls,
};
use rnet_plan::{Place, Surfaces};

/// Route netlink and settings of the host and of the container that was last asked for.
#[derive(Debug)]
pub struct Kernel {
    host: Netns,
    route: Option<Route>,
    inside: Option<(NetnsId, Route)>,
    sysctls: Option<(NetnsId, ProcSys)>,
    filter: NoFilter,
    tables: Option<NfTables>,
    flows: Option<Conntrack>,
}

impl Kernel {
    /// `host` is the namespace that counts as the host's.
    pub fn new(host: Netns) -> Self {
        Kernel { host, route: None, inside: None, sysctls: None, filter: NoFilter, tables: None, flows: None }
    }
}

impl Surfaces for Kernel {
    fn links(&mut self, place: &Place) -> Result<&mut dyn Links, KernelError> {
        match place {
            Place::Host => {
                if self.route.is_none() {
                    self.route = Some(Route::open(&self.host)?);
                }
                Ok(self.route.as_mut().expect("just opened"))
            }
            Place::Inside(netns) => {
                if self.inside.as_ref().is_none_or(|(id, _)| *id != netns.id()) {
                    self.inside = Some((netns.id(), Route::open(netns)?));
                }
                Ok(&mut self.inside.as_mut().expect("just opened").1)
            }
        }
    }

    fn filter(&mut self) -> &mut dyn Filter {
        &mut self.filter
    }

    fn tables(&mut self) -> Result<&mut NfTables, KernelError> {
        if self.tables.is_none() {
            self.tables = Some(NfTables::open(&self.host)?);
        }
        Ok(self.tables.as_mut().expect("just opened"))
    }

    fn flows(&mut self) -> Result<&mut Conntrack, KernelError> {
        if self.flows.is_none() {
            self.flows = Some(Conntrack::open(&self.host)?);
        }
        Ok(self.flows.as_mut().expect("just opened"))
    }

    fn sysctls(&mut self, place: &Place) -> Result<&mut dyn Sysctls, KernelError> {
        let netns = match place {
            Place::Host => &self.host,
            Place::Inside(netns) => netns,
        };
        if self.sysctls.as_ref().is_none_or(|(id, _)| *id != netns.id()) {
            self.sysctls = Some((netns.id(), ProcSys::new(netns)));
        }
        Ok(&mut self.sysctls.as_mut().expect("just made").1)
    }
}

/// netd's own table is netd's alone.
#[derive(Debug)]
struct NoFilter;

impl NoFilter {
    fn refuse<T>() -> Result<T, KernelError> {
        Err(KernelError::text("change table inet rnet", "it belongs to netd"))
    }
}

impl Filter for NoFilter {
    fn ensure_base(&mut self) -> Result<bool, KernelError> {
        NoFilter::refuse()
    }
    fn state(&mut self) -> Result<FilterState, KernelError> {
        NoFilter::refuse()
    }
    fn settle(&mut self, _: &FilterState) -> Result<bool, KernelError> {
        NoFilter::refuse()
    }
    fn touched(&mut self) -> Result<bool, KernelError> {
        NoFilter::refuse()
    }
    fn change(&mut self, _: &[FilterChange], _: &[FilterChange]) -> Result<(), KernelError> {
        NoFilter::refuse()
    }
    fn remove_base(&mut self) -> Result<(), KernelError> {
        NoFilter::refuse()
    }
}
