//! Attachments whose container was gone and runs again.

use rnet_api::ApiError;
use rnet_kernel::Netns;
use rnet_model::{ContainerRef, Engine as ContainerEngine};

use super::core::inode;
use super::state::{EndpointRecord, Origin, Phase};
use super::{Engine, view};
use crate::resolve::Target;

impl Engine {
    /// The containers that attachments wait for and that come back by themselves. Those of rnet are brought back when
    /// they start ([`Engine::connect_sandbox`]), and a process never is.
    pub(super) fn awaited(&self) -> Vec<ContainerRef> {
        let mut out: Vec<ContainerRef> = self.endpoints.values().filter(|r| waits(r)).filter_map(reference).collect();
        out.sort_by_key(ToString::to_string);
        out.dedup();
        out
    }

    /// Wires what waits for this container, as it was. What fails is kept with its error, and tried again when the
    /// container has another namespace.
    pub(super) fn revive(&mut self, target: &Target) -> Result<(), ApiError> {
        let here = inode(target.netns.id());
        let tried = |r: &EndpointRecord| matches!(r.phase, Phase::Failed { .. }) && r.netns == here;
        let waiting: Vec<EndpointRecord> = self
            .of_container(target.engine, &target.id)
            .into_iter()
            .filter(|r| waits(r) && !tried(r))
            .cloned()
            .collect();
        for mut record in waiting {
            record.source = target.source();
            self.revive_one(record, &target.netns);
        }
        self.kernel.leave();
        Ok(())
    }

    fn revive_one(&mut self, record: EndpointRecord, netns: &Netns) {
        let (container, ifname) = (record.container.clone(), record.ifname.clone());
        match self.rewire(record.clone(), netns) {
            Ok(()) => {
                let mut event = view::event("repair", container);
                event.attributes.insert("what".into(), format!("{ifname} is back"));
                self.emit(event);
            }
            Err(error) => {
                tracing::warn!(container, error = error.chain(), "cannot bring an attachment back");
                self.park(EndpointRecord { netns: inode(netns.id()), ..record }, Some(&error));
            }
        }
    }
}

fn waits(r: &EndpointRecord) -> bool {
    r.persistent && matches!(r.origin, Origin::Attach(_)) && matches!(r.phase, Phase::Pending | Phase::Failed { .. })
}

/// The container by what does not change: a namespace's file, an engine's id.
fn reference(r: &EndpointRecord) -> Option<ContainerRef> {
    match r.engine {
        ContainerEngine::Netns => Some(ContainerRef::NetnsPath(r.container_id.clone().into())),
        ContainerEngine::Docker => r.container_id.parse().ok().map(|id| ContainerRef::Of(r.engine, id)),
        _ => None,
    }
}
