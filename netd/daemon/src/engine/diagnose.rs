//! What the engine knows, for those who look for what is wrong outside of its thread.

use rnet_api::{ApiError, Endpoint, Network, Publication, Root, Version};
use rnet_kernel::Netns;
use rnet_model::{ContainerRef, Engine as ContainerEngine};

use super::{Engine, Handle};

/// A copy of everything that is wanted, at one moment.
#[derive(Debug)]
pub(crate) struct Known {
    /// Directories of the instance.
    pub(crate) root: Root,
    /// The host's namespace.
    pub(crate) host: Netns,
    /// All networks.
    pub(crate) networks: Vec<Network>,
    /// All interfaces, with the namespaces of those whose container runs.
    pub(crate) endpoints: Vec<(Endpoint, Option<Netns>)>,
    /// All published ports.
    pub(crate) publications: Vec<Publication>,
    /// Health.
    pub(crate) version: Version,
}

impl Engine {
    fn known(&self) -> Known {
        let ours = self.endpoints.values().map(|r| (self.show(r), self.reopen(r)));
        let chains = self.chains.values().map(|r| (self.show_chain(r), r.reopen()));
        Known {
            root: self.root.clone(),
            host: self.host.clone(),
            networks: self.networks(),
            endpoints: ours.chain(chains).collect(),
            publications: self.publications(),
            version: self.version(),
        }
    }
}

impl Handle {
    /// Everything that is wanted.
    pub(crate) async fn known(&self) -> Result<Known, ApiError> {
        self.call(|e| Ok(e.known())).await
    }

    /// Engine and full id of a container that has interfaces, whether it runs or not.
    pub(crate) async fn attached(
        &self,
        reference: ContainerRef,
    ) -> Result<Option<(ContainerEngine, String)>, ApiError> {
        self.call(move |e| e.attached_container(&reference)).await
    }
}
