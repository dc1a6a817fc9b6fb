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

/// Names each unknown key that netplan knows. Other unknown keys stay unnamed: they may be secrets
/// in a wrong place.
pub(super) fn name_keys(text: &str, found: &mut Diagnostics) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for finding in &mut found.0 {
        if !finding.message.starts_with("unknown key") {
            continue;
        }
        let line = text.lines().nth(finding.line.saturating_sub(1));
        let rest: String = line
            .unwrap_or_default()
            .chars()
            .skip(finding.column.saturating_sub(1))
            .collect();
        let rest = rest.trim_start_matches(['"', '\'']);
        let named = |key: &&&str| {
            let after = rest.strip_prefix(**key);
            after.is_some_and(|after| after.starts_with(['"', '\'', ':', ' ', '\t']))
        };
        if let Some(key) = KEYS.iter().find(named) {
            finding.message = format!("`{key}` is not supported");
            finding.help = Some("remove the key; firstboot uses systemd-networkd".to_owned());
        }
    }
}
