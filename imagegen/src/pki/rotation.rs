//! The change of the authority that signs client certificates, in phases.
//!
//! A cluster begins with one authority, kubeadm's `ca`, for servers and clients. The first rotation
//! gives clients an authority of their own; `ca` goes on signing servers. Later rotations replace
//! the authority of clients. No phase changes what clients trust, so that no pod, no etcd and no
//! client of an apiserver needs a restart because of it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use time::Date;

use super::folder;
use super::issue::Authority;
use crate::plan::ClusterPlan;

/// The authority of clients, below `pki/`, without extension.
pub const CLIENTS: &str = "clients-ca";

/// Its successor during a rotation.
pub const CLIENTS_NEXT: &str = "clients-ca-next";

/// The phase of the rotation, and the expelled hosts.
pub const ROTATION_FILE: &str = "rotation.json";

/// What the documents of a phase bring. Each phase needs that every host has the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Every host accepts clients of the old and of the new authority.
    TrustBoth,
    /// The new authority has signed the clients of all hosts that are not expelled.
    IssueNew,
    /// Hosts accept clients of the new authority only.
    TrustNew,
}

impl Phase {
    pub fn number(self) -> u8 {
        match self {
            Self::TrustBoth => 1,
            Self::IssueNew => 2,
            Self::TrustNew => 3,
        }
    }

    /// What the documents of this phase change on a host.
    pub fn title(self) -> &'static str {
        match self {
            Self::TrustBoth => "hosts accept clients of the old and of the new authority",
            Self::IssueNew => "clients get certificates of the new authority",
            Self::TrustNew => "hosts accept clients of the new authority only",
        }
    }

    fn following(self) -> Option<Self> {
        match self {
            Self::TrustBoth => Some(Self::IssueNew),
            Self::IssueNew => Some(Self::TrustNew),
            Self::TrustNew => None,
        }
    }
}

/// The contents of [`ROTATION_FILE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How many rotations are complete. With 0, `ca` signs clients too.
    #[serde(default)]
    complete: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    /// Hosts of the topology that get no document.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    expelled: BTreeSet<String>,
}

impl Rotation {
    /// The state of the folder `dir`; the default without a file.
    pub fn read(dir: &Path) -> Result<Self> {
        let Some(text) = folder::read(dir, ROTATION_FILE)? else {
            for file in [CLIENTS, CLIENTS_NEXT] {
                ensure!(
                    folder::read(dir, &format!("{file}.crt"))?.is_none(),
                    "`{}` has `{file}.crt` but no `{ROTATION_FILE}`, which says what hosts trust: \
                     restore it",
                    dir.display()
                );
            }
            return Ok(Self::default());
        };
        serde_json::from_str(&text).with_context(|| {
            let path = dir.join(ROTATION_FILE);
            format!(
                "reading `{}` (it says what hosts trust: restore it)",
                path.display()
            )
        })
    }

    /// Name and bytes of the file; `None` for a cluster that never rotated.
    pub fn file(&self) -> Result<Option<(&'static str, Vec<u8>)>> {
        if *self == Self::default() {
            return Ok(None);
        }
        let bytes = serde_json::to_vec_pretty(self).context("writing the phase of the rotation")?;
        Ok(Some((ROTATION_FILE, bytes)))
    }

    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// One line; `None` without a rotation and expelled hosts.
    pub fn summary(&self) -> Option<String> {
        let expelled: Vec<_> = self.expelled().collect();
        let expelled = match expelled.is_empty() {
            true => String::new(),
            false => format!("expelled: {}", expelled.join(", ")),
        };
        let Some(phase) = self.phase else {
            return (!expelled.is_empty()).then_some(expelled);
        };
        let phase = format!("rotation: phase {} of 3, {}", phase.number(), phase.title());
        Some(match expelled.is_empty() {
            true => phase,
            false => format!("{phase}; {expelled}"),
        })
    }

    pub fn expelled(&self) -> impl Iterator<Item = &str> {
        self.expelled.iter().map(String::as_str)
    }

    pub fn is_expelled(&self, host: &str) -> bool {
        self.expelled.contains(host)
    }

    /// The first phase, or the same one with more hosts expelled.
    pub fn begin(mut self, expel: &[String]) -> Result<Self> {
        match self.phase {
            None => self.phase = Some(Phase::TrustBoth),
            Some(Phase::TrustBoth) => {}
            Some(phase) => {
                let late = expel.iter().find(|host| !self.is_expelled(host));
                if let Some(host) = late {
                    bail!(
                        "`{host}` may have a certificate of the new authority already, because the \
                         rotation is in phase {}; finish this rotation, then begin another",
                        phase.number()
                    );
                }
            }
        }
        self.expelled.extend(expel.iter().cloned());
        Ok(self)
    }

    /// The next phase; after the last one the rotation is complete. `None` without a rotation.
    pub fn next(mut self) -> Option<Self> {
        self.phase = self.phase?.following();
        if self.phase.is_none() {
            self.complete += 1;
        }
        Some(self)
    }

    /// A host that the topology no longer lists is not expelled any more: a machine that later gets
    /// its name is another one.
    pub fn forget_removed(&mut self, plan: &ClusterPlan) {
        self.expelled
            .retain(|name| plan.hosts.iter().any(|host| host.name == *name));
    }
}

/// Which authorities sign clients, and which of them hosts accept.
#[derive(Debug)]
pub enum Clients {
    /// The cluster's own authority does both.
    Shared,
    Apart(Box<Authority>),
    Changing {
        phase: Phase,
        /// `None` for the cluster's own.
        from: Option<Box<Authority>>,
        to: Box<Authority>,
    },
}

impl Clients {
    /// What `dir`, which is in the state `before`, has for the state `after`. A rotation that begins
    /// gets a new authority.
    pub(super) fn load(
        dir: &Path,
        before: &Rotation,
        after: &Rotation,
        today: Date,
    ) -> Result<Self> {
        let load = |file: &str| {
            let pair = folder::authority_pair(dir, file, today)?;
            pair.map(Box::new).with_context(|| {
                format!(
                    "`{}` has no `{file}.crt` and `{file}.key`, with which this cluster signs \
                     clients: restore both",
                    dir.display()
                )
            })
        };
        let present = || match before.complete {
            0 => Ok(None),
            _ => load(CLIENTS).map(Some),
        };
        match (before.phase, after.phase) {
            (None, None) => Ok(present()?.map_or(Self::Shared, Self::Apart)),
            (None, Some(phase)) => Ok(Self::Changing {
                phase,
                from: present()?,
                to: Box::new(Authority::named(&common_name(before.complete + 1), today)?),
            }),
            (Some(_), Some(phase)) => Ok(Self::Changing {
                phase,
                from: present()?,
                to: load(CLIENTS_NEXT)?,
            }),
            (Some(_), None) => load(CLIENTS_NEXT).map(Self::Apart),
        }
    }

    /// The authority that signs clients, if it is not the cluster's own.
    pub(super) fn signer(&self) -> Option<&Authority> {
        match self {
            Self::Shared => None,
            Self::Apart(one) => Some(one),
            Self::Changing {
                phase: Phase::TrustBoth,
                from,
                ..
            } => from.as_deref(),
            Self::Changing { to, .. } => Some(to),
        }
    }

    /// The authorities whose clients hosts accept, the new one last; `cluster` is the cluster's own.
    pub(super) fn trusted<'a>(&'a self, cluster: &'a Authority) -> Vec<&'a Authority> {
        match self {
            Self::Shared => vec![cluster],
            Self::Apart(one) => vec![one],
            Self::Changing {
                phase: Phase::TrustNew,
                to,
                ..
            } => vec![to],
            Self::Changing { from, to, .. } => vec![from.as_deref().unwrap_or(cluster), to],
        }
    }

    /// File name, without extension, and authority of each pair that `pki/` keeps.
    pub(super) fn pairs(&self) -> Vec<(&'static str, &Authority)> {
        match self {
            Self::Shared => Vec::new(),
            Self::Apart(one) => vec![(CLIENTS, &**one)],
            Self::Changing { from, to, .. } => from
                .iter()
                .map(|one| (CLIENTS, &**one))
                .chain([(CLIENTS_NEXT, &**to)])
                .collect(),
        }
    }
}

/// Each rotation's authority has a name of its own: a certificate's issuer then tells which one it is.
fn common_name(number: u32) -> String {
    format!("kubernetes-clients-{number}")
}

/// Whether a file of `pki/` belongs to a rotation: it goes when the next state does not have it.
pub fn is_of_rotation(path: &Path) -> bool {
    let files = [CLIENTS, CLIENTS_NEXT].map(|file| [format!("{file}.crt"), format!("{file}.key")]);
    path == Path::new(ROTATION_FILE) || files.iter().flatten().any(|file| path == Path::new(file))
}
