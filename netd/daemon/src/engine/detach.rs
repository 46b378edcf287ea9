//! Detaching.

use rnet_api::{ApiError, DetachRequest, DetachWhich, Endpoint};
use rnet_model::{EndpointId, Kind};

use super::drive::Removal;
use super::state::Origin;
use super::{Engine, view};

impl Engine {
    /// `rnet detach`: cut off before the answer, deleted a little later together with others.
    pub(super) fn detach(&mut self, request: &DetachRequest) -> Result<Removal, ApiError> {
        let missing = || {
            ApiError::new(Kind::Missing, format!("nothing is attached to {}", request.container))
                .hint("list what is: rnet attachments")
        };
        let (engine, id) = self.attached_container(&request.container)?.ok_or_else(missing)?;
        let ours = self.of_container(engine, &id).into_iter().map(|r| (r.id, r.ifname.clone()));
        let all: Vec<_> = ours.chain(self.chains_of(engine, &id).map(|r| (r.id, r.ifname.clone()))).collect();
        let names = || all.iter().map(|(_, name)| name.to_string()).collect::<Vec<_>>().join(", ");
        let chosen: Vec<EndpointId> = match &request.which {
            DetachWhich::All => all.iter().map(|(id, _)| *id).collect(),
            DetachWhich::Only => match all[..] {
                [(id, _)] => vec![id],
                _ => {
                    return Err(ApiError::new(
                        Kind::Conflict,
                        format!("{} has several interfaces: {}", request.container, names()),
                    )
                    .hint("name one of them, or --all"));
                }
            },
            DetachWhich::Ifname(wanted) => match all.iter().find(|(_, name)| name == wanted) {
                Some((id, _)) => vec![*id],
                None => {
                    return Err(ApiError::new(
                        Kind::Missing,
                        format!("{} has no attached interface {wanted}", request.container),
                    )
                    .hint(format!("it has {}", names())));
                }
            },
        };
        let (chains, ours): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|id| self.chains.contains_key(id));
        let endpoints = ours.into_iter().map(|id| self.detach_one(id)).collect::<Result<_, _>>()?;
        Ok(Removal { endpoints, chains })
    }

    /// Detaches one endpoint and lets go of its addresses.
    pub(super) fn detach_one(&mut self, id: EndpointId) -> Result<Endpoint, ApiError> {
        let record = self.endpoints[&id].clone();
        if record.persistent {
            self.unpersist(id)?;
        }
        if let Err(error) = self.take_down(id) {
            if record.persistent {
                self.persist_again(&record);
            }
            return Err(error);
        }
        self.yield_gateway(&record);
        self.give_back(record.network, &record.addresses, &record.owner());
        if let Origin::Network(network) = record.origin {
            // Nothing is kept for who was disconnected.
            self.unreserve(network, &record.owner());
        }
        let mut event = view::event("detach", record.container.clone());
        event.attributes.insert("ifname".into(), record.ifname.to_string());
        event.attributes.insert("id".into(), id.to_string());
        self.emit(event);
        Ok(self.show(&record))
    }
}
