//! What was there before, in the file the reference plugin keeps it in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rnet_kernel::{LinkOp, LinkState, Netns};
use rnet_model::IfName;
use rnet_plugin_protocol::{AttachmentId, Call, Error};
use serde::{Deserialize, Serialize};

use super::LinkWish;

/// The file. The first keys are the reference's; it passes over the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Backup {
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    tx_queue_len: Option<u32>,
    /// Paths below /proc/sys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) sysctl: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    network: String,
    /// Device and inode of the namespace, which a later container of the same name has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<(u64, u64)>,
}

impl Backup {
    /// What a link that is to be changed so has now, and what the sysctls were.
    pub(super) fn of(
        call: &Call<'_>,
        netns: &Netns,
        link: Option<(&LinkState, LinkWish)>,
        sysctl: BTreeMap<String, String>,
    ) -> Self {
        let id = netns.id();
        let backup =
            Backup { sysctl, network: call.request.name.clone(), netns: Some((id.dev, id.ino)), ..Backup::default() };
        let Some((link, wish)) = link else { return backup };
        Backup {
            mac: wish.mac.and(link.mac).map(|m| m.to_string()).unwrap_or_default(),
            promisc: wish.promisc.then_some(link.promisc),
            mtu: wish.mtu.map(|_| link.mtu),
            allmulti: wish.allmulti.map(|_| link.allmulti),
            tx_queue_len: wish.tx_queue_len.map(|_| link.tx_queue_len),
            ..backup
        }
    }

    /// `None` without a file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| Error::new(Error::IO_FAILURE, format!("tuning: cannot read {}: {e}", path.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("tuning: read {}", path.display()), &e)),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("keys are strings")
    }

    /// Whether it is of this namespace, as far as it says.
    pub(super) fn is_of(&self, netns: &Netns) -> bool {
        let id = netns.id();
        self.netns.is_none_or(|ns| ns == (id.dev, id.ino))
    }

    /// What was there before both.
    pub(super) fn over(self, later: Backup) -> Self {
        let mut sysctl = later.sysctl;
        sysctl.extend(self.sysctl);
        Backup {
            mac: if self.mac.is_empty() { later.mac } else { self.mac },
            promisc: self.promisc.or(later.promisc),
            mtu: self.mtu.or(later.mtu),
            allmulti: self.allmulti.or(later.allmulti),
            tx_queue_len: self.tx_queue_len.or(later.tx_queue_len),
            sysctl,
            ..self
        }
    }

    /// What puts the link back.
    pub(super) fn link_ops(&self, dev: &IfName) -> Vec<LinkOp> {
        let dev = || dev.clone();
        [
            self.mtu.filter(|n| *n != 0).map(|n| LinkOp::Mtu(dev(), n)),
            self.mac.parse().ok().map(|mac| LinkOp::Mac(dev(), mac)),
            self.promisc.map(|on| LinkOp::Promisc(dev(), on.into())),
            self.allmulti.map(|on| LinkOp::AllMulti(dev(), on.into())),
            self.tx_queue_len.map(|n| LinkOp::TxQueueLen(dev(), n)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Name of an attachment's file.
pub(super) fn file_name(id: &AttachmentId) -> String {
    format!("{}_{}.json", id.container, id.ifname)
}

/// The files of a network that are none of these attachments'. They are told apart by their whole names: both halves may
/// have the separator in them. Those the reference wrote do not say whose network they are of.
pub(super) fn stale(folder: &Path, network: &str, valid: &[AttachmentId]) -> Result<Vec<PathBuf>, Error> {
    let bad = |e: std::io::Error| Error::io(format!("tuning: read {}", folder.display()), &e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(bad(e)),
    };
    let kept: BTreeSet<String> = valid.iter().map(file_name).collect();
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(bad)?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let is_stale = name.is_some_and(|n| n.ends_with(".json") && n.contains('_') && !kept.contains(n));
        if is_stale && Backup::read(&path).ok().flatten().is_some_and(|b| b.network == network) {
            found.push(path);
        }
    }
    Ok(found)
}
