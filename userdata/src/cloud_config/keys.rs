//! The verdict on every top-level key of cloud-init. No other module decides what is supported.
//!
//! The list is that of cloud-init 25.1's schema (`schema-cloud-config-v1.json`) and the few it
//! dropped that clients still send. A key in none of the tables is reported as unknown.

/// How a key is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Supported,
    /// No effect, and none is needed, for the given reason.
    Ignored(&'static str),
    /// Asks for what an immutable root cannot do, for the given reason. The topology chooses
    /// between a loud notice and a refusal.
    Impossible(&'static str),
    /// Not supported, and ignoring it would change the meaning of the document.
    Refused(&'static str),
}

const SUPPORTED: &[&str] = &[
    "allow_public_ssh_keys",
    "bootcmd",
    "ca-certs",
    "ca_certs",
    "chpasswd",
    "create_hostname_file",
    "disable_root",
    "final_message",
    "fqdn",
    "groups",
    "hostname",
    "locale",
    "locale_configfile",
    "manage_etc_hosts",
    "merge_how",
    "merge_type",
    "mount_default_fields",
    "mounts",
    "ntp",
    "password",
    "phone_home",
    "power_state",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_keys",
    "ssh_pwauth",
    "swap",
    "system_info",
    "timezone",
    "user",
    "users",
    "vendor_data",
    "write_files",
];

const IMMUTABLE: &str = "the root is immutable: software comes with the image";
const GROWS: &str = "the state partition grows automatically";
const COSMETIC: &str = "it has no effect on the workloads of a node";
const SSH_KEYS: &str = "host keys are generated once, on first boot";
pub(super) const CLOUD_INIT: &str = "it configures cloud-init itself";

const IGNORED: &[(&str, &str)] = &[
    ("apt_reboot_if_required", IMMUTABLE),
    ("apt_update", IMMUTABLE),
    ("apt_upgrade", IMMUTABLE),
    ("package_reboot_if_required", IMMUTABLE),
    ("package_update", IMMUTABLE),
    ("package_upgrade", IMMUTABLE),
    ("updates", IMMUTABLE),
    ("growpart", GROWS),
    ("resize_rootfs", GROWS),
    ("byobu_by_default", COSMETIC),
    ("keyboard", COSMETIC),
    ("no_ssh_fingerprints", COSMETIC),
    ("authkey_hash", COSMETIC),
    ("output", "output goes to the journal"),
    ("random_seed", "the kernel seeds itself"),
    (
        "manage_resolv_conf",
        "resolvers come from the network configuration",
    ),
    (
        "resolv_conf",
        "resolvers come from the network configuration",
    ),
    ("ssh_deletekeys", SSH_KEYS),
    ("ssh_fp_console_blacklist", SSH_KEYS),
    ("ssh_genkeytypes", SSH_KEYS),
    ("ssh_key_console_blacklist", SSH_KEYS),
    ("ssh_publish_hostkeys", SSH_KEYS),
    ("ssh_quiet_keygen", SSH_KEYS),
    ("ssh", SSH_KEYS),
    ("apt_pipelining", IMMUTABLE),
    ("grub-dpkg", IMMUTABLE),
    ("grub_dpkg", IMMUTABLE),
    ("cloud_config_modules", CLOUD_INIT),
    ("cloud_final_modules", CLOUD_INIT),
    ("cloud_init_modules", CLOUD_INIT),
    ("datasource", CLOUD_INIT),
    ("datasource_list", CLOUD_INIT),
    ("launch-index", CLOUD_INIT),
    ("migrate", CLOUD_INIT),
    ("reporting", CLOUD_INIT),
    ("version", CLOUD_INIT),
];

const SOFTWARE: &str = "the root is immutable: build the software into the image";
const AGENT: &str = "the image holds no such agent: build it into the image";

const IMPOSSIBLE: &[(&str, &str)] = &[
    ("apk_repos", SOFTWARE),
    ("apt", SOFTWARE),
    ("packages", SOFTWARE),
    ("snap", SOFTWARE),
    ("yum_repo_dir", SOFTWARE),
    ("yum_repos", SOFTWARE),
    ("zypper", SOFTWARE),
    ("drivers", SOFTWARE),
    ("ansible", AGENT),
    ("chef", AGENT),
    ("fan", AGENT),
    ("landscape", AGENT),
    ("lxd", AGENT),
    ("mcollective", AGENT),
    ("puppet", AGENT),
    ("rh_subscription", AGENT),
    ("rsyslog", AGENT),
    ("salt_minion", AGENT),
    ("spacewalk", AGENT),
    ("ubuntu_advantage", AGENT),
    ("ubuntu_pro", AGENT),
];

const DISKS: &str = "the image defines the disk layout";
const TRUST: &str =
    "it would trust the network for SSH access; write the keys under `ssh_authorized_keys`";

const REFUSED: &[(&str, &str)] = &[
    ("wireguard", "write its configuration with `write_files`"),
    ("device_aliases", DISKS),
    ("disk_setup", DISKS),
    ("fs_setup", DISKS),
    (
        "autoinstall",
        "it is for installers; this image needs no installation",
    ),
    (
        "disable_ec2_metadata",
        "write a firewall rule with `runcmd` instead",
    ),
    (
        "disable_root_opts",
        "write the options in front of the key instead",
    ),
    ("ssh_import_id", TRUST),
];

/// `None`: not a key of cloud-init at all. `x-` is the user's own.
pub fn verdict(key: &str) -> Option<Verdict> {
    let listed = |table: &[(&str, &'static str)]| {
        table
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, reason)| *reason)
    };
    if SUPPORTED.contains(&key) {
        Some(Verdict::Supported)
    } else if key.starts_with("x-") {
        Some(Verdict::Ignored(
            "keys that begin with `x-` are the user's own",
        ))
    } else if let Some(reason) = listed(IGNORED) {
        Some(Verdict::Ignored(reason))
    } else if let Some(reason) = listed(IMPOSSIBLE) {
        Some(Verdict::Impossible(reason))
    } else {
        listed(REFUSED).map(Verdict::Refused)
    }
}

/// Every key that has a verdict, the supported ones first.
pub fn known() -> impl Iterator<Item = &'static str> {
    let others = IGNORED.iter().chain(IMPOSSIBLE).chain(REFUSED);
    SUPPORTED.iter().copied().chain(others.map(|(key, _)| *key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed from the schema of Debian 13's cloud-init, 25.1.4.
    const SCHEMA: &str = include_str!("../../tests/fixtures/cloud-init-25.1-keys.txt");

    #[test]
    fn every_cloud_init_key_has_a_verdict() {
        let missing: Vec<&str> = SCHEMA
            .lines()
            .filter(|key| verdict(key).is_none())
            .collect();
        assert!(missing.is_empty(), "no verdict for {missing:?}");
        assert!(SCHEMA.lines().count() > 90);
    }

    #[test]
    fn every_key_has_one_verdict() {
        let mut all: Vec<&str> = known().collect();
        all.sort_unstable();
        let twice: Vec<_> = all.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
