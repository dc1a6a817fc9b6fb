//! Keys that netplan accepts and that are not done here. They are refused by name, because they are
//! no typing errors.

use yaml::Diagnostics;

/// Of netplan 1.1.2, without those that a type of this module has where it stands.
const KEYS: &[&str] = &[
    // Kinds of devices.
    "modems",
    "nm-devices",
    "openvswitch",
    "wifis",
    // Of devices.
    "access-points",
    "auth",
    "delay-virtual-functions-rebind",
    "embedded-switch-mode",
    "networkmanager",
    "regulatory-domain",
    "virtual-function-count",
    "wakeonwlan",
    // Of WireGuard.
    "mark",
    "peers",
    // Of overrides.
    "use-gateway",
];

/// Says of each unknown key that netplan knows that it is not supported.
pub(super) fn name_keys(found: &mut Diagnostics) {
    for finding in &mut found.0 {
        let key = finding
            .message
            .strip_prefix("unknown key `")
            .and_then(|rest| rest.strip_suffix('`'));
        if let Some(key) = key.filter(|key| KEYS.contains(key)) {
            finding.message = format!("`{key}` is not supported");
            finding.help = Some("remove the key; firstboot uses systemd-networkd".to_owned());
        }
    }
}
