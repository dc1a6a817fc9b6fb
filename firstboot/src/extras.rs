//! The steps of keys that any cloud-config may have and that no role needs.

use anyhow::Result;

use crate::host::Host;
use crate::plan::{Steps, boxed};
use crate::step::boot_scripts::BootScripts;
use crate::step::ca_certs::CaCerts;
use crate::step::final_message::FinalMessage;
use crate::step::locale::Locale;
use crate::step::mounts::Mounts;
use crate::step::phone_home::PhoneHome;
use crate::step::power_state::PowerState;
use crate::step::timezone::Timezone;
use crate::step::unit::Unit;
use crate::system::files::Root;

/// kubeadm writes it before it starts kubelet.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// Makes these steps; each list only has those that the document asks for.
#[derive(Debug)]
pub(crate) struct Extras<'a> {
    pub(crate) host: &'a Host,
    pub(crate) root: &'a Root,
}

impl Extras<'_> {
    /// Refuses what cannot be done, before the first change.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(timezone) = self.timezone() {
            timezone.check()?;
        }
        Ok(())
    }

    pub(crate) fn before_files(&self) -> Steps {
        let mut steps = Steps::new();
        steps.extend(self.timezone().map(boxed));
        if let Some(locale) = &self.host.locale {
            if Locale::is_known(self.root, &locale.name) {
                steps.push(boxed(Locale {
                    root: self.root.clone(),
                    locale: locale.clone(),
                    instance: self.instance(),
                }));
            } else {
                log::warn!(
                    "locale: the image has no locale `{}`; it keeps C.UTF-8",
                    locale.name
                );
            }
        }
        steps
    }

    pub(crate) fn after_files(&self) -> Steps {
        let mut steps = Steps::new();
        let authorities = &self.host.ca_certs;
        if authorities.remove_defaults || !authorities.trusted.is_empty() {
            steps.push(boxed(CaCerts {
                root: self.root.clone(),
                wanted: authorities.clone(),
                instance: self.instance(),
            }));
        }
        if !self.host.mounts.is_empty() {
            steps.push(boxed(self.mounts()));
        }
        steps
    }

    /// Before the commands that run once.
    pub(crate) fn scripts(&self) -> Steps {
        let scripts = BootScripts {
            root: self.root.clone(),
            scripts: self.host.scripts.clone(),
            instance: self.instance(),
        };
        if scripts.is_needed(&self.host.files) {
            vec![boxed(scripts)]
        } else {
            Steps::new()
        }
    }

    /// After the role.
    pub(crate) fn last(&self) -> Steps {
        let mut steps = Steps::new();
        // A command of the document ran kubeadm, as those of Cluster API do. kubelet is never enabled.
        if self.host.node.is_none() && self.root.exists(KUBELET_CONFIG) {
            steps.push(boxed(Unit {
                name: "kubelet",
                unit: "kubelet.service",
            }));
        }
        if let Some(wanted) = &self.host.phone_home {
            steps.push(boxed(PhoneHome {
                root: self.root.clone(),
                wanted: wanted.clone(),
                instance: self.instance(),
                hostname: self.host.hostname.clone(),
                fqdn: self.host.fqdn.clone(),
            }));
        }
        if let Some(text) = &self.host.final_message {
            steps.push(boxed(FinalMessage {
                text: text.clone(),
                source: self.host.origin.clone(),
            }));
        }
        if let Some(wanted) = &self.host.power_state {
            steps.push(boxed(PowerState {
                root: self.root.clone(),
                wanted: wanted.clone(),
                instance: self.instance(),
            }));
        }
        steps
    }

    fn timezone(&self) -> Option<Timezone> {
        let zone = self.host.timezone.clone()?;
        Some(Timezone {
            root: self.root.clone(),
            zone,
            instance: self.instance(),
        })
    }

    fn mounts(&self) -> Mounts {
        Mounts {
            root: self.root.clone(),
            mounts: self.host.mounts.clone(),
            instance: self.instance(),
        }
    }

    fn instance(&self) -> String {
        self.host.instance.clone()
    }
}
