//! `vendor-data`: a cloud-config below that of the user.
//!
//! As cloud-init merges them: a key of the user hides the vendor's, mappings merge by their keys.

use super::{CloudConfig, payload};
use yaml::{Diagnostic, Diagnostics, Parsed, Severity, Spans};

impl CloudConfig {
    /// Reads vendor-data. What is no cloud-config is a notice: the vendor's scripts are not for a
    /// node, and its user cannot change them.
    pub fn parse_vendor_data(
        name: &str,
        bytes: &[u8],
    ) -> Result<(Parsed<CloudConfig>, Vec<Diagnostic>), Diagnostics> {
        let Err(found) = payload::cloud_config(name, bytes) else {
            return CloudConfig::parse(name, bytes);
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

/// The user's config completed by the vendor's, and the positions of its SSH keys.
pub(crate) fn below(
    mut user: Parsed<CloudConfig>,
    vendor: Parsed<CloudConfig>,
) -> (Parsed<CloudConfig>, Spans) {
    let enabled = user.spans.text("vendor_data.enabled");
    let (mine, theirs) = (&user.spans, &vendor.spans);
    if matches!(
        enabled,
        Some("false" | "False" | "no" | "No" | "off" | "Off")
    ) {
        let spans = user.spans.clone();
        return (user, spans);
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
        "user" => default_user,
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
    }
    if !given("ca_certs") && !given("ca-certs") {
        config.ca_certs = vendor_config.ca_certs;
    }
    let spans = if of_vendor {
        vendor.spans
    } else {
        user.spans.clone()
    };
    (user, spans)
}
