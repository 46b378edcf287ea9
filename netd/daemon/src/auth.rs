//! Who may talk to the daemon: the peer's credentials as the kernel attests them (`SO_PEERCRED`, unix(7)).

use nix::unistd::{Gid, Group, Uid, User};
use rnet_api::ApiError;
use rnet_model::Kind;
use tokio::net::unix::UCred;

/// How far a peer is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Root, or the user the daemon runs as.
    Owner,
    /// A member of the group: may use networks, and may not have netd run what it likes.
    Member,
}

/// The rule of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    own: Uid,
    group: String,
}

impl Guard {
    /// Root, the daemon's own user, and the members of a group.
    pub(crate) fn new(group: &str) -> Self {
        Guard { own: nix::unistd::geteuid(), group: group.to_owned() }
    }

    /// The group's id, if it exists.
    pub(crate) fn gid(&self) -> Option<Gid> {
        Group::from_name(&self.group).ok().flatten().map(|g| g.gid)
    }

    /// Whether a peer may ask. The groups are those of the user database, because the kernel attests only the first
    /// one of a peer.
    ///
    /// # Errors
    /// Says who asked and who may.
    pub(crate) fn admit(&self, peer: UCred) -> Result<(), ApiError> {
        let (uid, gid) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
        if uid.is_root() || uid == self.own || self.is_member(uid, gid) {
            return Ok(());
        }
        let text = format!("user {uid} may not use netd: only root and members of the group {} may", self.group);
        Err(ApiError::new(Kind::Denied, text)
            .hint(format!("as root: usermod -aG {} USER, then log in again", self.group)))
    }

    /// What a peer that was admitted may ask for.
    pub(crate) fn trust(&self, peer: UCred) -> Trust {
        let uid = Uid::from_raw(peer.uid());
        if uid.is_root() || uid == self.own { Trust::Owner } else { Trust::Member }
    }

    fn is_member(&self, uid: Uid, gid: Gid) -> bool {
        let Ok(Some(group)) = Group::from_name(&self.group) else { return false };
        let name = || User::from_uid(uid).ok().flatten().map(|u| u.name);
        gid == group.gid || name().is_some_and(|name| group.mem.contains(&name))
    }
}
