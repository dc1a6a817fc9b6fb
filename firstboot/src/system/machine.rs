//! The identity of this machine: links, serial number, UUID.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use userdata::document::{Machine, is_placeholder};

use super::files::Root;
use super::netlink;

/// The properties by which a document may name its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub links: Vec<Link>,
    /// From the firmware, lower case. What firmware has without a value is none.
    pub uuid: Option<String>,
    pub serial: Option<String>,
    /// SMBIOS `product_name`, which names some clouds.
    pub product: Option<String>,
    /// SMBIOS `chassis_asset_tag`, which names others.
    pub asset_tag: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    /// The address it has now, in lower case, with colons. The document may have set it.
    pub mac: String,
    /// The address of the hardware, where the kernel tells it.
    pub permanent: Option<String>,
}

impl Link {
    /// The address by which a document names the link.
    pub fn identity(&self) -> &str {
        self.permanent.as_ref().unwrap_or(&self.mac)
    }
}

impl Identity {
    /// Reads sysfs below `root`. A missing property is not an error.
    pub fn read(root: &Root) -> Result<Self> {
        let mut links = Vec::new();
        let permanent = if root.is_machine() {
            netlink::permanent_addresses().unwrap_or_else(|error| {
                log::warn!("reading the permanent MAC addresses: {error:#}");
                BTreeMap::new()
            })
        } else {
            BTreeMap::new()
        };
        for name in root.list("/sys/class/net")? {
            let base = format!("/sys/class/net/{name}");
            // Only links with hardware: a bridge has the MAC of its port.
            let mac = word(root, &format!("{base}/address"));
            if let Some(mac) = mac.filter(|_| root.exists(format!("{base}/device"))) {
                // A member of a bond has the address of the bond.
                let of_member = word(root, &format!("{base}/bonding_slave/perm_hwaddr"));
                let permanent = permanent.get(&name).cloned().or(of_member);
                links.push(Link {
                    name,
                    mac,
                    permanent,
                });
            }
        }
        let own = |value: &String| !is_placeholder(value);
        Ok(Self {
            links,
            uuid: word(root, "/sys/class/dmi/id/product_uuid").filter(own),
            serial: text(root, "/sys/class/dmi/id/product_serial").filter(own),
            product: text(root, "/sys/class/dmi/id/product_name"),
            asset_tag: text(root, "/sys/class/dmi/id/chassis_asset_tag"),
        })
    }

    /// For comparison with a document's `match`. Skips links whose address is no MAC (InfiniBand).
    pub fn for_match(&self) -> Machine {
        Machine {
            macs: self
                .links
                .iter()
                .filter_map(|link| link.identity().parse().ok())
                .collect(),
            uuid: self.uuid.clone(),
            serial: self.serial.clone(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in &self.links {
            write!(f, "{} {}, ", link.name, link.identity())?;
        }
        let unknown = "unknown".to_owned();
        write!(
            f,
            "serial {}, uuid {}",
            self.serial.as_ref().unwrap_or(&unknown),
            self.uuid.as_ref().unwrap_or(&unknown)
        )
    }
}

/// The kernel's id of this boot.
pub fn boot_id() -> Option<String> {
    word(&Root::new("/"), "/proc/sys/kernel/random/boot_id")
}

/// Random letters and digits, without those that look alike.
pub fn random_word(length: usize) -> Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0; length];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("reading `/dev/urandom`")?;
    let letters = bytes.iter().map(|byte| LETTERS[usize::from(byte % 32)]);
    Ok(letters.map(char::from).collect())
}

/// Is a process of this name running? Names are cut at 15 bytes by the kernel.
pub fn is_running(name: &str) -> Result<bool> {
    let root = Root::new("/");
    let wanted: String = name.chars().take(15).collect();
    Ok(root
        .list("/proc")?
        .iter()
        .filter(|entry| entry.bytes().all(|byte| byte.is_ascii_digit()))
        .any(|pid| text(&root, &format!("/proc/{pid}/comm")).as_deref() == Some(&wanted)))
}

fn text(root: &Root, path: &str) -> Option<String> {
    let bytes = root.read(path).ok()??;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn word(root: &Root, path: &str) -> Option<String> {
    text(root, path).map(|text| text.to_lowercase())
}
