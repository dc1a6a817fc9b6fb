//! `vendor-data`: a cloud-config below that of the user.
//!
//! As cloud-init merges them: a key of the user hides the vendor's, mappings merge by their keys.

use super::{CloudConfig, Variables, merge, payload};
use yaml::{Diagnostic, Diagnostics, Parsed, Severity, Spans};

impl CloudConfig {
    /// Reads vendor-data. What is no cloud-config is a notice: the vendor's scripts are not for a
    /// node, and its user cannot change them.
    pub fn parse_vendor_data(
        name: &str,
        bytes: &[u8],
        variables: &Variables,
    ) -> Result<(Parsed<CloudConfig>, Vec<Diagnostic>), Diagnostics> {
        let found = match payload::parts(name, bytes, variables) {
            Ok(parts) => {
                let (mut config, mut notices) = CloudConfig::parse_with(name, bytes, variables)?;
                config.value.scripts.clear();
                if !parts.scripts.is_empty() {
                    let script = "vendor-data is a script (`#!`); it is not read";
                    notices.push(Diagnostic::new(Severity::Warning, name, script));
                }
                return Ok((config, notices));
            }
            Err(found) => found,
        };
        let (nothing, _) = CloudConfig::parse(name, b"")?;
        let mut notices = found.0;
        for notice in &mut notices {
            notice.severity = Severity::Warning;
            notice.message.push_str("; it is not read");
        }
        Ok((nothing, notices))
    }
}

/// The user's config completed by the vendor's, and the positions of its SSH keys. `name` is what
/// findings call a config that is merged by the vendor's own rules.
pub(crate) fn below(
    name: &str,
    mut user: Parsed<CloudConfig>,
    vendor: Parsed<CloudConfig>,
) -> Result<(Parsed<CloudConfig>, Spans), Diagnostics> {
    let enabled = user.spans.text("vendor_data.enabled");
    let (mine, theirs) = (&user.spans, &vendor.spans);
    if matches!(
        enabled,
        Some("false" | "False" | "no" | "No" | "off" | "Off")
    ) {
        let spans = user.spans.clone();
        return Ok((user, spans));
    }
    if let Some(merged) = merge::with_vendor(name, &user, &vendor) {
        let merged = merged?;
        let spans = merged.spans.clone();
        return Ok((merged, spans));
    }
    let given = |path: &str| mine.get(path).is_some();
    let takes = |path: &str| theirs.get(path).is_some() && !given(path);
    let of_vendor = takes("ssh_authorized_keys");
    let (config, vendor_config) = (&mut user.value, vendor.value);
    macro_rules! take {
        ($($key:literal => $field:ident),* $(,)?) => {
            $(if takes($key) {
                config.$field = vendor_config.$field;
            })*
        };
    }
    // Mappings of both.
    if given("ntp")
        && let (Some(ntp), Some(other)) = (&mut config.ntp, &vendor_config.ntp)
    {
        if !given("ntp.servers") && !given("ntp.pools") {
            ntp.servers.clone_from(&other.servers);
        }
        if takes("ntp.enabled") {
            ntp.enabled = other.enabled;
        }
    }
    if given("chpasswd") {
        if takes("chpasswd.expire") {
            config.passwords.expire = vendor_config.passwords.expire;
        }
        if !given("chpasswd.users") && !given("chpasswd.list") {
            let others = vendor_config.passwords.users.clone();
            config.passwords.users.extend(others);
        }
    }
    take! {
        "hostname" => hostname,
        "fqdn" => fqdn,
        "prefer_fqdn_over_hostname" => prefer_fqdn_over_hostname,
        "preserve_hostname" => preserve_hostname,
        "create_hostname_file" => create_hostname_file,
        "manage_etc_hosts" => etc_hosts,
        "users" => users,
        "groups" => groups,
        "ssh_authorized_keys" => ssh_authorized_keys,
        "ssh_pwauth" => ssh_pwauth,
        "disable_root" => disable_root,
        "allow_public_ssh_keys" => allow_public_ssh_keys,
        "password" => password,
        "chpasswd" => passwords,
        "write_files" => files,
        "bootcmd" => bootcmd,
        "runcmd" => runcmd,
        "ntp" => ntp,
        "timezone" => timezone,
        "mounts" => mounts,
        "locale" => locale,
        "ssh_keys" => host_keys,
        "final_message" => final_message,
        "phone_home" => phone_home,
        "power_state" => power_state,
    }
    let names_user = ["user", "system_info.default_user"];
    if !names_user.iter().any(|path| given(path)) {
        config.default_user = vendor_config.default_user;
    }
    if !given("ca_certs") && !given("ca-certs") {
        config.ca_certs = vendor_config.ca_certs;
    }
    config.impossible.extend(vendor_config.impossible);
    let spans = if of_vendor {
        vendor.spans
    } else {
        user.spans.clone()
    };
    Ok((user, spans))
}
