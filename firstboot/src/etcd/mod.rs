//! etcd: a client ([`client`]), whether this host may join ([`membership`]), and when its learner
//! may vote ([`learner`]).

pub mod client;
pub mod learner;
pub mod membership;

use std::fs;

use anyhow::{Context, Result};

use crate::kubeadm::paths::{ETCD_BACKUP, ETCD_DATA};
use crate::system::files::Root;

pub const CLIENT_PORT: u16 = 2379;
pub const PEER_PORT: u16 = 2380;

/// Moves etcd's data to [`ETCD_BACKUP`], replacing an earlier backup.
pub fn back_up_data(root: &Root, reason: &str) -> Result<()> {
    log::warn!("moving `{ETCD_DATA}` to `{ETCD_BACKUP}`: {reason}");
    root.remove_tree(ETCD_BACKUP)?;
    let (from, to) = (root.join(ETCD_DATA), root.join(ETCD_BACKUP));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
    }
    fs::rename(&from, &to)
        .with_context(|| format!("moving `{}` to `{}`", from.display(), to.display()))
}
