//! The verdict on every top-level key of cloud-init: supported, not applied, ignored or refused. No
//! other module decides what is supported.
//!
//! The list is that of cloud-init 25.1's schema (`schema-cloud-config-v1.json`) and the few it
//! dropped that clients still send. A key in none of the tables is reported as unknown.

use super::{CloudConfig, User, UserEntry};

/// How a key is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Supported,
    /// Read and checked, but not applied: refused by firstboot if [`CloudConfig::not_applied`]
    /// finds that it asks for something.
    NotApplied,
    /// No effect, and none is needed, for the given reason.
    Ignored(&'static str),
    /// Not supported, and ignoring it would change the meaning of the document.
    Refused(&'static str),
}

const SUPPORTED: &[&str] = &[
    "allow_public_ssh_keys",
    "bootcmd",
    "create_hostname_file",
    "disable_root",
    "fqdn",
    "groups",
    "hostname",
    "manage_etc_hosts",
    "ntp",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_pwauth",
    "user",
    "users",
    "vendor_data",
    "write_files",
];

const NOT_APPLIED: &[&str] = &[
    "ca-certs", "ca_certs", "chpasswd", "mounts", "password", "timezone",
];

const IMMUTABLE: &str = "the root is immutable: software comes with the image";
const GROWS: &str = "the state partition grows automatically";
const COSMETIC: &str = "it has no effect on the workloads of a node";
const SSH_KEYS: &str = "host keys are generated once, on first boot";
const CLOUD_INIT: &str = "it configures cloud-init itself";

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
    ("final_message", COSMETIC),
    ("keyboard", COSMETIC),
    ("locale", COSMETIC),
    ("locale_configfile", COSMETIC),
    ("no_ssh_fingerprints", COSMETIC),
    ("authkey_hash", COSMETIC),
    ("output", "output goes to the journal"),
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
    ("merge_how", CLOUD_INIT),
    ("merge_type", CLOUD_INIT),
    ("migrate", CLOUD_INIT),
    ("reporting", CLOUD_INIT),
    ("system_info", CLOUD_INIT),
    ("version", CLOUD_INIT),
];

const REPOSITORIES: &str = "the root is immutable: build the software into the image";
const AGENT: &str = "the image holds no such agent: build it into the image";
const DISKS: &str = "the image defines the disk layout";
const TRUST: &str =
    "it would trust the network for SSH access; write the keys under `ssh_authorized_keys`";

const REFUSED: &[(&str, &str)] = &[
    ("apk_repos", REPOSITORIES),
    ("apt", REPOSITORIES),
    ("packages", REPOSITORIES),
    ("snap", REPOSITORIES),
    ("yum_repo_dir", REPOSITORIES),
    ("yum_repos", REPOSITORIES),
    ("zypper", REPOSITORIES),
    ("drivers", REPOSITORIES),
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
    ("wireguard", "write its configuration with `write_files`"),
    ("device_aliases", DISKS),
    ("disk_setup", DISKS),
    ("fs_setup", DISKS),
    (
        "mount_default_fields",
        "write the fields out in each row of `mounts`",
    ),
    ("swap", "Kubernetes requires swap to be off"),
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
    (
        "phone_home",
        "firstboot reports through its journal and status file",
    ),
    ("power_state", "a node is rebooted by its operator"),
    ("random_seed", "the kernel seeds itself"),
    ("ssh_import_id", TRUST),
    (
        "ssh_keys",
        "host keys are generated on first boot, not taken from a document",
    ),
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
    } else if NOT_APPLIED.contains(&key) {
        Some(Verdict::NotApplied)
    } else if key.starts_with("x-") {
        Some(Verdict::Ignored(
            "keys that begin with `x-` are the user's own",
        ))
    } else if let Some(reason) = listed(IGNORED) {
        Some(Verdict::Ignored(reason))
    } else {
        listed(REFUSED).map(Verdict::Refused)
    }
}

/// Every key that has a verdict, the supported ones first.
pub fn known() -> impl Iterator<Item = &'static str> {
    let others = IGNORED.iter().chain(REFUSED).map(|(key, _)| *key);
    SUPPORTED.iter().chain(NOT_APPLIED).copied().chain(others)
}

impl CloudConfig {
    /// What the document asks for and firstboot does not do.
    ///
    /// Depends on values: clients send `chpasswd: {expire: false}` and `ssh_pwauth: false` with
    /// documents that work without passwords.
    pub fn not_applied(&self) -> Vec<&'static str> {
        let users = self.users.iter().flatten();
        let has_password = |user: &User| {
            // root has no password to unlock.
            user.password.is_some() || !user.lock_passwd && user.name != "root"
        };
        let asked = [
            (
                "ca_certs",
                self.ca_certs.remove_defaults || !self.ca_certs.trusted.is_empty(),
            ),
            ("chpasswd", !self.passwords.users.is_empty()),
            ("mounts", !self.mounts.is_empty()),
            ("password", self.password.is_some()),
            ("ssh_pwauth: true", self.ssh_pwauth == Some(true)),
            ("timezone", self.timezone.is_some()),
            (
                "user.passwd",
                self.default_user
                    .as_ref()
                    .is_some_and(|user| user.password.is_some()),
            ),
            (
                "users[].passwd",
                users
                    .filter_map(|entry| match entry {
                        UserEntry::User(user) => Some(user),
                        UserEntry::Default => None,
                    })
                    .any(|user| has_password(user)),
            ),
        ];
        let asked = asked.into_iter().filter(|(_, asked)| *asked);
        asked.map(|(key, _)| key).collect()
    }
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
    fn not_applied(text: &str) -> Vec<&'static str> {
        let text = format!("#cloud-config\n{text}\n");
        let (parsed, _) = CloudConfig::parse("user-data", text.as_bytes()).expect(&text);
        parsed.value.not_applied()
    }

    #[test]
    fn values_decide_whether_a_key_is_applied() {
        for (text, expected) in [
            ("timezone: Europe/Berlin", "timezone"),
            ("password: hunter2", "password"),
            ("chpasswd: {list: 'root:hunter2'}", "chpasswd"),
            ("mounts: [[/dev/vdb, /data]]", "mounts"),
            ("ca_certs: {remove_defaults: true}", "ca_certs"),
            ("ssh_pwauth: true", "ssh_pwauth: true"),
            ("user: {plain_text_passwd: hunter2}", "user.passwd"),
            ("users: [{name: a, plain_text_passwd: b}]", "users[].passwd"),
            ("users: [{name: a, lock_passwd: false}]", "users[].passwd"),
        ] {
            assert_eq!(not_applied(text), [expected], "{text}");
            let key = text.split(':').next().expect("a key");
            let verdict = verdict(key).expect("a known key");
            let by_value = ["ssh_pwauth", "user", "users"].contains(&key);
            assert_eq!(verdict == Verdict::NotApplied, !by_value, "{key}");
        }
        for text in [
            "chpasswd: {expire: false}",
            "ssh_pwauth: false",
            "users: [default, {name: root, lock_passwd: false}]",
            "groups: [docker]",
            "user: root",
        ] {
            assert_eq!(not_applied(text), [""; 0], "{text}");
        }
    }
}
