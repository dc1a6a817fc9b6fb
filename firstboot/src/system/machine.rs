//! What this machine says of itself: links, serial number, UUID, boot id.

use std::fmt;

use anyhow::Result;

use super::files::Root;

/// By what a document may name its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub links: Vec<Link>,
    /// As the firmware tells it, lower case; the first three groups may have their bytes swapped.
    pub uuid: Option<String>,
    pub serial: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    /// Lower case, with colons.
    pub mac: String,
}

impl Identity {
    /// Reads sysfs below `root`. What the machine does not tell is absent, not an error.
    pub fn read(root: &Root) -> Result<Self> {
        let mut links = Vec::new();
        for name in root.list("/sys/class/net")? {
            let base = format!("/sys/class/net/{name}");
            // Only links with hardware behind them: a bridge borrows the MAC of its port.
            let mac = word(root, &format!("{base}/address"));
            if let Some(mac) = mac.filter(|_| root.exists(format!("{base}/device"))) {
                links.push(Link { name, mac });
            }
        }
        Ok(Self {
            links,
            uuid: word(root, "/sys/class/dmi/id/product_uuid"),
            serial: text(root, "/sys/class/dmi/id/product_serial"),
        })
    }

    /// Is `uuid` this machine's, in either byte order?
    ///
    /// SMBIOS before 2.6 did not say how the first three fields are stored; firmware, hypervisors and stickers differ.
    pub fn has_uuid(&self, uuid: &str) -> bool {
        let wanted = uuid.to_lowercase();
        self.uuid
            .as_ref()
            .is_some_and(|own| *own == wanted || swap_uuid(own).as_deref() == Some(&wanted))
    }

    pub fn has_mac(&self, mac: &str) -> bool {
        let wanted = mac.to_lowercase().replace('-', ":");
        self.links.iter().any(|link| link.mac == wanted)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in &self.links {
            write!(f, "{} {}, ", link.name, link.mac)?;
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

fn swap_uuid(uuid: &str) -> Option<String> {
    let groups: Vec<&str> = uuid.split('-').collect();
    let [a, b, c, d, e] = groups.as_slice() else {
        return None;
    };
    let swap = |group: &str| -> Option<String> {
        (0..group.len())
            .step_by(2)
            .rev()
            .map(|at| group.get(at..at + 2))
            .collect::<Option<String>>()
    };
    Some(format!("{}-{}-{}-{d}-{e}", swap(a)?, swap(b)?, swap(c)?))
}

fn text(root: &Root, path: &str) -> Option<String> {
    let bytes = root.read(path).ok()??;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn word(root: &Root, path: &str) -> Option<String> {
    text(root, path).map(|text| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_matches_in_both_byte_orders_and_no_other() {
        let machine = Identity {
            uuid: Some("00112233-4455-6677-8899-aabbccddeeff".into()),
            ..Identity::default()
        };
        assert!(machine.has_uuid("00112233-4455-6677-8899-AABBCCDDEEFF"));
        assert!(machine.has_uuid("33221100-5544-7766-8899-aabbccddeeff"));
        assert!(!machine.has_uuid("33221100-5544-7766-8899-aabbccddeef0"));
        assert!(!Identity::default().has_uuid(""));
    }

    #[test]
    fn a_mac_matches_however_it_is_written() {
        let link = Link {
            name: "eth0".into(),
            mac: "52:54:00:00:07:10".into(),
        };
        let machine = Identity {
            links: vec![link],
            ..Identity::default()
        };
        assert!(machine.has_mac("52-54-00-00-07-10"));
        assert!(!machine.has_mac("52:54:00:00:07:11"));
    }
}
