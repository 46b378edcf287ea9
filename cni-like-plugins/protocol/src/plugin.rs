//! The one plugin trait, and what a call to a plugin carries.

use std::fmt;
use std::net::IpAddr;

use rnet_kernel::rules::NfTables;
use rnet_kernel::{KernelError, Links, Netns};
use rnet_model::IfName;
use rnet_plan::{Place, Plan, Surfaces};

use crate::{AttachmentId, CniResult, Environment, Error, Request, dress};

/// A network type or a step on top of one, with its configuration: what a list of plugins consists of. Plugins of
/// rnet and executables of others alike.
pub trait Plugin: fmt::Debug + Send + Sync {
    /// Whether the plugin asks the `ipam` of its configuration for addresses.
    fn delegation(&self) -> Delegation {
        Delegation::Never
    }

    /// Whether it gives addresses through the container's interface, which has to be there before. Then the plugin that
    /// delegates is asked to `add` without `leased`, and to `dress` what it made.
    fn needs_interface(&self) -> bool {
        false
    }

    /// Whether the configuration can be used. DEL and GC do without: what was made has to go, whatever has become of the
    /// configuration.
    ///
    /// # Errors
    /// Codes 2, 6 and 7 with what is wrong.
    fn configured(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes the interface, or adds to what the plugins before made. Without `leased` the interface has no addresses.
    ///
    /// # Errors
    /// By the codes of the CNI specification. Nothing is left behind.
    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error>;

    /// Gives the interface of `bare`, which `add` made without addresses, what was `leased` through it: addresses and
    /// routes inside, unless the plugin has more to do. `del` takes it back.
    ///
    /// # Errors
    /// As `add`. What it made may be left behind: `del` follows.
    fn dress(&self, call: &Call<'_>, bare: CniResult, _view: &mut View<'_>) -> Result<Work, Error> {
        dress::inside(call, bare)
    }

    /// Takes back what `add` made for this attachment, as far as it is still there. The namespace may be gone.
    ///
    /// # Errors
    /// When something is there that cannot be removed.
    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error>;

    /// Compares with the previous result.
    ///
    /// # Errors
    /// The first difference.
    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error>;

    /// Removes what belongs to the network and to none of the valid attachments.
    ///
    /// # Errors
    /// When something cannot be looked at.
    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], view: &mut View<'_>) -> Result<Plan, Error>;

    /// Whether an `add` could be served now.
    ///
    /// # Errors
    /// Code 50 or 51 with what is missing.
    fn status(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error>;
}

/// What a plugin does with the `ipam` of its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delegation {
    /// It is none of its business.
    Never,
    /// Addresses come from there, if it is given.
    Allowed,
    /// It has to be given.
    Required,
}

/// What `add` came to.
#[derive(Debug)]
pub enum Work {
    /// To be applied; the result holds once it is.
    Planned(Plan, CniResult),
    /// Has been done, because it cannot be planned: an address taken under a lock, an executable of others. Its undo is
    /// `del`.
    Done(CniResult),
}

/// One call: whose interface, in which network, after which plugins.
#[derive(Debug)]
pub struct Call<'a> {
    /// Container, interface, arguments.
    pub env: &'a Environment,
    /// The configuration.
    pub request: &'a Request,
    /// The container's namespace, open; `None` when it is gone or was not given.
    pub netns: Option<Netns>,
    /// What the plugins before made.
    pub previous: Option<CniResult>,
    /// What the delegate leased, for a plugin that asks for addresses.
    pub leased: Option<CniResult>,
}

impl Call<'_> {
    /// The container's interface.
    ///
    /// # Errors
    /// Code 4 for a command that has none.
    pub fn ifname(&self) -> Result<&IfName, Error> {
        let missing = || Error::new(Error::INVALID_ENVIRONMENT, "required env variables [CNI_IFNAME] missing");
        self.env.ifname.as_ref().ok_or_else(missing)
    }

    /// The container's namespace.
    ///
    /// # Errors
    /// Code 4 without one.
    pub fn netns(&self) -> Result<&Netns, Error> {
        let missing = || Error::new(Error::INVALID_ENVIRONMENT, "required env variables [CNI_NETNS] missing");
        self.netns.as_ref().ok_or_else(missing)
    }

    /// What was made before.
    ///
    /// # Errors
    /// Code 7 without a `prevResult`: the plugin has to stand behind another one.
    pub fn previous(&self) -> Result<&CniResult, Error> {
        self.previous.as_ref().ok_or_else(|| {
            Error::config(format!("{}: required prevResult missing", self.request.kind))
                .details("the plugin works on what another made: put it behind one in the list of plugins")
        })
    }

    /// Who the interface belongs to.
    pub fn id(&self) -> AttachmentId {
        AttachmentId {
            container: self.env.container.clone(),
            ifname: self.env.ifname.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// What a plugin may look at while it plans. It changes nothing.
pub struct View<'a> {
    surfaces: &'a mut dyn Surfaces,
}

impl<'a> View<'a> {
    /// Of these surfaces.
    pub fn new(surfaces: &'a mut dyn Surfaces) -> Self {
        View { surfaces }
    }

    /// Links, addresses and routes of a place. Only its readers are called.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn links(&mut self, place: &Place) -> Result<&mut dyn Links, KernelError> {
        self.surfaces.links(place)
    }

    /// The host's.
    ///
    /// # Errors
    /// As [`View::links`].
    pub fn host(&mut self) -> Result<&mut dyn Links, KernelError> {
        self.surfaces.links(&Place::Host)
    }

    /// Those of the container.
    ///
    /// # Errors
    /// As [`View::links`].
    pub fn inside(&mut self, netns: &Netns) -> Result<&mut dyn Links, KernelError> {
        self.surfaces.links(&Place::Inside(netns.clone()))
    }

    /// The host's nf_tables. Only its readers are called.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn tables(&mut self) -> Result<&mut NfTables, KernelError> {
        self.surfaces.tables()
    }

    /// A setting of a place; `None` when the kernel has no such one.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn sysctl(&mut self, place: &Place, key: &str) -> Result<Option<String>, KernelError> {
        self.surfaces.sysctls(place)?.get(key)
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

/// The gateway a route goes through: its own, or that of the address of its family.
pub fn gateway_of(result: &CniResult, gw: Option<IpAddr>, v6: bool) -> Option<IpAddr> {
    let of_family = |ip: &&crate::IpConfig| ip.address.is_ipv6() == v6;
    gw.or_else(|| result.ips.iter().filter(of_family).find_map(|ip| ip.gateway))
}
