//! A plugin with its delegate, command by command: who is asked in which order, and what happens when one of them fails.

use rnet_plan::{Failure, Plan, Surfaces, apply};

use crate::{Call, CniResult, Delegation, Error, Plugin, VALID_ATTACHMENTS, View, Work};

/// A plugin and the one its addresses come from.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The plugin.
    pub plugin: &'a dyn Plugin,
    /// Its delegate, if its configuration has an `ipam`.
    pub ipam: Option<&'a dyn Plugin>,
}

impl<'a> Pair<'a> {
    /// The delegate, if the plugin asks for one, with a configuration it can use.
    fn delegate(&self) -> Result<Option<&'a dyn Plugin>, Error> {
        match (self.plugin.delegation(), self.ipam) {
            (Delegation::Never, _) => Ok(None),
            (Delegation::Required, None) => Err(Error::config("IPAM is required and the configuration has none")
                .details("add \"ipam\": {\"type\": \"host-local\", ...}")),
            (_, Some(ipam)) => ipam.configured().map(|()| Some(ipam)),
            (_, None) => Ok(None),
        }
    }

    /// ADD. Whatever fails, nothing is left: not the interface, not the address.
    ///
    /// # Errors
    /// The first failure.
    pub fn add(&self, call: &mut Call<'_>, surfaces: &mut dyn Surfaces) -> Result<CniResult, Error> {
        self.plugin.configured()?;
        let ipam = self.delegate()?;
        if let Some(ipam) = ipam.filter(|ipam| ipam.needs_interface()) {
            return self.add_before_lease(ipam, call, surfaces);
        }
        if let Some(ipam) = ipam {
            call.leased = Some(add_one(ipam, call, surfaces)?);
        }
        let made = match &call.leased {
            Some(leased) if leased.ips.is_empty() => Err(no_address()),
            _ => add_one(self.plugin, call, surfaces),
        };
        if let (Err(_), Some(ipam)) = (&made, ipam) {
            // The first failure is what the caller has to hear; a reservation that stays is found by DEL and GC.
            let _ = del_one(ipam, call, surfaces);
        }
        made
    }

    /// ADD for a delegate that leases through the interface: interface, lease, addresses.
    fn add_before_lease(
        &self,
        ipam: &dyn Plugin,
        call: &mut Call<'_>,
        surfaces: &mut dyn Surfaces,
    ) -> Result<CniResult, Error> {
        call.leased = None;
        let bare = add_one(self.plugin, call, surfaces)?;
        let leased = add_one(ipam, call, surfaces);
        let made = leased.and_then(|leased| {
            if leased.ips.is_empty() {
                return Err(no_address());
            }
            call.leased = Some(leased);
            make(surfaces, |view| self.plugin.dress(call, bare.clone(), view))
        });
        if made.is_err() {
            // As above; the lease is given back through the interface.
            let _ = del_one(ipam, call, surfaces);
            let _ = del_one(self.plugin, call, surfaces);
        }
        made
    }

    /// DEL: both are asked whatever the other says. The address is freed last, when nothing uses it any more, unless it
    /// is given back through the interface.
    ///
    /// # Errors
    /// All failures.
    pub fn del(&self, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        let ipam = self.ipam.filter(|_| self.plugin.delegation() != Delegation::Never);
        let (first, last): (Option<&dyn Plugin>, _) = match ipam {
            Some(ipam) if ipam.needs_interface() => (Some(ipam), Some(self.plugin)),
            _ => (Some(self.plugin), ipam),
        };
        let both = [first, last].into_iter().flatten();
        all(both.filter_map(|plugin| del_one(plugin, call, surfaces).err()).collect())
    }

    /// CHECK.
    ///
    /// # Errors
    /// The first difference, or no `prevResult`.
    pub fn check(&self, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        self.plugin.configured()?;
        call.previous()?;
        self.plugin.check(call, &mut View::new(surfaces))?;
        match self.delegate()? {
            Some(ipam) => ipam.check(call, &mut View::new(surfaces)),
            None => Ok(()),
        }
    }

    /// GC: goes on after a failure.
    ///
    /// # Errors
    /// All failures.
    pub fn gc(&self, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        // Without the list everything would count as stale.
        let missing = || Error::config(format!("GC: required {VALID_ATTACHMENTS} missing"));
        let valid = call.request.valid.as_deref().ok_or_else(missing)?;
        let mut faults = Vec::new();
        let delegate = self.ipam.filter(|_| self.plugin.delegation() != Delegation::Never);
        for plugin in [Some(self.plugin), delegate].into_iter().flatten() {
            faults.extend(unmake(surfaces, |view| plugin.gc(call, valid, view)).err());
        }
        all(faults)
    }

    /// STATUS.
    ///
    /// # Errors
    /// Code 50 or 51.
    pub fn status(&self, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
        self.plugin.configured()?;
        self.plugin.status(call, &mut View::new(surfaces))?;
        match self.delegate()? {
            Some(ipam) => ipam.status(call, &mut View::new(surfaces)),
            None => Ok(()),
        }
    }
}

fn no_address() -> Error {
    Error::config("IPAM plugin returned missing IP config")
}

/// How often a plan is made again because somebody was faster: two calls that make the same bridge, or the table.
const TRIES: u32 = 4;
/// The same where nf_tables only were changed in between, by anybody: one of those that met gets on each time.
const LOOKS: u32 = 64;

fn add_one(plugin: &dyn Plugin, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<CniResult, Error> {
    make(surfaces, |view| plugin.add(call, view))
}

/// Plans and applies; again where what the plan was made for is no longer so, which the next plan takes into account, or
/// refuses in its own words.
fn make(surfaces: &mut dyn Surfaces, plan: impl Fn(&mut View<'_>) -> Result<Work, Error>) -> Result<CniResult, Error> {
    let mut tries = Tries::default();
    loop {
        let (plan, result) = match plan(&mut View::new(surfaces))? {
            Work::Done(result) => return Ok(result),
            Work::Planned(plan, result) => (plan, result),
        };
        match apply(&plan, surfaces) {
            Ok(()) => return Ok(result),
            Err(failure) if tries.again(&failure) => {}
            Err(failure) => return Err(error_of(failure)),
        }
    }
}

fn del_one(plugin: &dyn Plugin, call: &Call<'_>, surfaces: &mut dyn Surfaces) -> Result<(), Error> {
    unmake(surfaces, |view| plugin.del(call, view))
}

/// The same as [`make`] for what takes away.
fn unmake(surfaces: &mut dyn Surfaces, plan: impl Fn(&mut View<'_>) -> Result<Plan, Error>) -> Result<(), Error> {
    let mut tries = Tries::default();
    loop {
        let plan = plan(&mut View::new(surfaces))?;
        match apply(&plan, surfaces) {
            Err(failure) if tries.again(&failure) => {}
            done => return done.map_err(error_of),
        }
    }
}

/// Plans of one call so far that were overtaken.
#[derive(Default)]
struct Tries {
    overtaken: u32,
    outdated: u32,
}

impl Tries {
    fn again(&mut self, failure: &Failure) -> bool {
        let (count, most) = match failure.outdated() {
            true => (&mut self.outdated, LOOKS),
            false => (&mut self.overtaken, TRIES),
        };
        *count += 1;
        failure.overtaken() && failure.left.is_empty() && *count < most
    }
}

fn error_of(failure: Failure) -> Error {
    let left = failure.left.join("; ");
    let error = Error::from(failure.cause);
    if left.is_empty() { error } else { error.details(format!("could not be taken back: {left}")) }
}

/// One error out of many: the first code, all messages.
pub(crate) fn all(faults: Vec<Error>) -> Result<(), Error> {
    let mut faults = faults.into_iter();
    let Some(mut first) = faults.next() else { return Ok(()) };
    for next in faults {
        first.msg = format!("{}; {}", first.msg, next.msg);
    }
    Err(first)
}

#[cfg(test)]
mod tests;
