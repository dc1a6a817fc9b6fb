//! `#cloud-config`, completely decoded and checked before firstboot applies any of it.
//!
//! The semantics are those of cloud-init 25.1; comments give the reason for each difference. Nothing
//! is fetched.

mod archive;
mod files;
mod flex;
mod keys;
mod late;
mod merge;
mod passwords;
mod payload;
mod raw;
mod system;
mod template;
mod users;
mod vendor;

#[cfg(test)]
mod tests;

pub use files::{File, Owner};
pub use flex::Command;
pub use keys::{Verdict, known as known_keys, verdict};
pub use payload::unpacked;
pub(crate) use vendor::below;

pub use late::{POST, PhoneHome, PowerState};
pub use passwords::{Password, Passwords};
pub use system::{CaCerts, HostKey, Locale, Mount, Ntp};
pub use template::Variables;
pub use users::{Group, User, UserEntry};

use crate::secret::Secret;
use crate::value;
use yaml::{self, Diagnostic, Diagnostics, Parsed, Scalar, Spans};

/// A cloud-config. `None` and empty mean that the key is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudConfig {
    pub hostname: Option<String>,
    pub fqdn: Option<String>,
    pub prefer_fqdn_over_hostname: bool,
    pub preserve_hostname: bool,
    pub create_hostname_file: bool,
    pub etc_hosts: EtcHosts,
    /// `None`: the default user only. An empty list: no user.
    pub users: Option<Vec<UserEntry>>,
    /// Changes to the default user.
    pub default_user: Option<User>,
    pub groups: Vec<Group>,
    /// For the default user, and for root unless `disable_root` is false.
    pub ssh_authorized_keys: Vec<String>,
    /// Whether sshd accepts passwords; `None` leaves it as it is.
    pub ssh_pwauth: Option<bool>,
    pub disable_root: Option<bool>,
    /// Whether the keys of the meta-data are used; `None` is yes.
    pub allow_public_ssh_keys: Option<bool>,
    /// For the default user.
    pub password: Option<Password>,
    pub passwords: Passwords,
    pub files: Vec<File>,
    /// At every boot, early.
    pub bootcmd: Vec<Command>,
    /// Once, late.
    pub runcmd: Vec<Command>,
    pub ntp: Option<Ntp>,
    pub timezone: Option<String>,
    pub ca_certs: CaCerts,
    pub mounts: Vec<Mount>,
    pub locale: Option<Locale>,
    /// `ssh_keys`; empty: the host makes its own.
    pub host_keys: Vec<HostKey>,
    /// Shown at the end of every boot, with `$UPTIME` and other variables.
    pub final_message: Option<String>,
    pub phone_home: Option<PhoneHome>,
    pub power_state: Option<PowerState>,
    /// User-data that is a script, or parts of it: once, with `runcmd`.
    pub scripts: Vec<Secret<String>>,
    /// What no immutable root can do, each with place and reason.
    pub impossible: Vec<String>,
}

/// `manage_etc_hosts`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EtcHosts {
    #[default]
    Unset,
    /// `false`: the file is left as it is.
    Off,
    /// Base lines and the own name, at every boot.
    Template,
    /// Only the line of the own name.
    Localhost,
}

impl CloudConfig {
    /// Reads user-data as a source delivered it. `name` is what findings call it. Notices are known
    /// keys that are not acted on. No finding shows a line of the text: it holds keys.
    pub fn parse(
        name: &str,
        user_data: &[u8],
    ) -> Result<(Parsed<CloudConfig>, Vec<Diagnostic>), Diagnostics> {
        Self::parse_with(name, user_data, &Variables::default())
    }

    /// As [`Self::parse`], with what a template can name.
    pub fn parse_with(
        name: &str,
        user_data: &[u8],
        variables: &Variables,
    ) -> Result<(Parsed<CloudConfig>, Vec<Diagnostic>), Diagnostics> {
        let parts = payload::parts(name, user_data, variables)?;
        let mut found = Diagnostics(parts.notices);
        let mut configs = Vec::new();
        for part in parts.configs {
            match read(&part.name, &part.text) {
                Ok((config, notices)) => {
                    found.extend(notices);
                    configs.push((config, part.merge));
                }
                Err(errors) => found.extend(errors),
            }
        }
        if found.has_errors() {
            return Err(found);
        }
        let mut config = merge::all(name, configs, &mut found)?;
        let scripts = parts.scripts.into_iter().map(Secret::new);
        config.value.scripts = scripts.collect();
        Ok((config, found.into_result()?))
    }
}

/// Reads one cloud-config.
fn read(name: &str, text: &str) -> Result<(Parsed<CloudConfig>, Vec<Diagnostic>), Diagnostics> {
    let (raw, mut found) = yaml::parse_leniently::<raw::Top>(name, text, true);
    let Some(Parsed { value, spans }) = raw else {
        return Err(found);
    };
    let impossible = judge_keys(&spans, &mut found);
    let mut value = checked(value, &spans, &mut found);
    value.impossible = impossible;
    found.sort();
    Ok((Parsed { value, spans }, found.into_result()?))
}

/// Returns what is impossible here: the caller knows whether that is an error.
fn judge_keys(spans: &Spans, found: &mut Diagnostics) -> Vec<String> {
    let mut impossible = Vec::new();
    for key in spans.keys("") {
        match verdict(key) {
            Some(Verdict::Supported) => {}
            // An empty list or mapping asks for nothing.
            Some(Verdict::Impossible(_)) if asks_for_nothing(spans, key) => {}
            Some(Verdict::Impossible(why)) => {
                let message = format!("`{key}` is not done: {why}");
                impossible.push(spans.warning_at_key(key, message, None).one_line());
            }
            // Its name says nothing to a reader who did not choose it, and may be a secret.
            Some(Verdict::Ignored(why)) if key.starts_with("x-") => {
                found.push(spans.warning_at_key(key, format!("a key is ignored: {why}"), None));
            }
            Some(Verdict::Ignored(why)) => {
                found.push(spans.warning_at_key(key, format!("`{key}` is ignored: {why}"), None));
            }
            Some(Verdict::Refused(_)) if asks_for_nothing(spans, key) => {}
            Some(Verdict::Refused(why)) => {
                let message = format!("`{key}` is not supported: {why}");
                found.push(spans.error_at_key(key, message, Some("remove the key".to_owned())));
            }
            None => {
                let nearest = yaml::nearest(key, known_keys());
                let help = "keys of your own begin with `x-`";
                found.push(spans.unknown_key(key, nearest, help));
            }
        }
    }
    impossible
}

fn asks_for_nothing(spans: &Spans, key: &str) -> bool {
    let no_item = spans.get(&format!("{key}[0]")).is_none() && spans.keys(key).next().is_none();
    spans.is_null(key) || no_item && spans.text(key).is_none_or(|text| text == "false")
}

fn checked(raw: raw::Top, spans: &Spans, found: &mut Diagnostics) -> CloudConfig {
    for (key, name) in [("hostname", &raw.hostname), ("fqdn", &raw.fqdn)] {
        if let Some(invalid) = name
            .as_deref()
            .and_then(|name| value::dns_name(&name.to_ascii_lowercase()).err())
        {
            found.push_unless_known(spans.error_at(key, invalid.message, invalid.help));
        }
    }
    system::check_zone(raw.timezone.as_deref(), spans, found);
    system::swap(raw.swap, spans, found);
    let default_user = users::default_user(raw.user, raw.system_info, spans, found);
    let users = raw.users.map(|entries| {
        let entries = entries.into_iter().enumerate();
        entries
            .filter_map(|(i, entry)| users::entry(entry, &format!("users[{i}]"), spans, found))
            .collect()
    });
    CloudConfig {
        prefer_fqdn_over_hostname: raw.prefer_fqdn_over_hostname.unwrap_or(false),
        preserve_hostname: raw.preserve_hostname.unwrap_or(false),
        create_hostname_file: raw.create_hostname_file.unwrap_or(true),
        etc_hosts: etc_hosts(raw.manage_etc_hosts.as_ref(), spans, found),
        users,
        default_user,
        groups: users::groups(raw.groups, spans, found),
        ssh_authorized_keys: users::keys(
            raw.ssh_authorized_keys,
            "ssh_authorized_keys",
            spans,
            found,
        ),
        ssh_pwauth: ssh_pwauth(raw.ssh_pwauth.as_ref(), spans, found),
        disable_root: raw.disable_root,
        allow_public_ssh_keys: raw.allow_public_ssh_keys,
        password: passwords::of_default_user(raw.password),
        passwords: raw
            .chpasswd
            .map(|raw| passwords::passwords(raw, spans, found))
            .unwrap_or_default(),
        files: files::decode(raw.write_files, spans, found),
        bootcmd: raw.bootcmd,
        runcmd: raw.runcmd,
        ntp: raw.ntp.map(|raw| system::ntp(raw, spans, found)),
        ca_certs: raw
            .ca_certs
            .map(|raw| system::ca_certs(raw, spans, found))
            .unwrap_or_default(),
        mounts: system::mounts(raw.mounts, raw.mount_default_fields, spans, found),
        locale: system::locale(raw.locale, raw.locale_configfile, spans, found),
        host_keys: system::host_keys(raw.ssh_keys, spans, found),
        final_message: raw.final_message.filter(|text| !text.trim().is_empty()),
        phone_home: raw
            .phone_home
            .and_then(|raw| late::phone_home(raw, spans, found)),
        power_state: raw
            .power_state
            .and_then(|raw| late::power_state(raw, spans, found)),
        scripts: Vec::new(),
        impossible: Vec::new(),
        hostname: raw.hostname,
        fqdn: raw.fqdn,
        timezone: raw.timezone,
    }
}

fn etc_hosts(value: Option<&Scalar>, spans: &Spans, found: &mut Diagnostics) -> EtcHosts {
    let Some(value) = value else {
        return EtcHosts::Unset;
    };
    match (value.text.as_str(), value.as_bool()) {
        (_, Some(true)) | ("template", _) => EtcHosts::Template,
        (_, Some(false)) => EtcHosts::Off,
        ("localhost", _) => EtcHosts::Localhost,
        _ => {
            found.push_unless_known(spans.error_at(
                "manage_etc_hosts",
                "expected `true`, `false` or `localhost`",
                None,
            ));
            EtcHosts::Unset
        }
    }
}

fn ssh_pwauth(value: Option<&Scalar>, spans: &Spans, found: &mut Diagnostics) -> Option<bool> {
    let value = value?;
    if value.as_bool().is_none() && value.text != "unchanged" {
        found.push_unless_known(spans.error_at(
            "ssh_pwauth",
            "expected `true`, `false` or `unchanged`",
            None,
        ));
    }
    value.as_bool()
}
