//! `#cloud-config`, completely decoded and checked before firstboot applies any of it.
//!
//! Merging of several parts, templates and fetching are not supported. The semantics are those of
//! cloud-init 25.1; comments give the reason for each difference.

mod files;
mod flex;
mod keys;
mod payload;
mod raw;
mod users;
mod vendor;

#[cfg(test)]
mod tests;

pub use files::{File, Owner};
pub use flex::Command;
pub use keys::{Verdict, known as known_keys, verdict};
pub use payload::unpacked;
pub(crate) use vendor::below;

pub use users::{Group, Password, Passwords, User, UserEntry};

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

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ntp {
    pub enabled: bool,
    /// Servers and pools: one list to timesyncd. Empty means none, not the distribution's pools.
    pub servers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaCerts {
    pub remove_defaults: bool,
    /// PEM, one or more certificates in each.
    pub trusted: Vec<String>,
}

/// A row of `mounts`, with cloud-init's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub device: String,
    pub dir: String,
    pub kind: String,
    pub options: String,
    pub freq: String,
    pub pass: String,
}

impl CloudConfig {
    /// Reads user-data as a source delivered it; gzip is undone. `name` is what findings call it.
    /// Notices are known keys that are not acted on. No finding shows a line of the text: it holds
    /// keys.
    pub fn parse(
        name: &str,
        user_data: &[u8],
    ) -> Result<(Parsed<CloudConfig>, Vec<Diagnostic>), Diagnostics> {
        let text = payload::cloud_config(name, user_data)?;
        let (raw, mut found) = yaml::parse_leniently::<raw::Top>(name, &text, true);
        let Some(Parsed { value, spans }) = raw else {
            return Err(found);
        };
        judge_keys(&spans, &mut found);
        let value = checked(value, &spans, &mut found);
        found.sort();
        Ok((Parsed { value, spans }, found.into_result()?))
    }
}

fn judge_keys(spans: &Spans, found: &mut Diagnostics) {
    for key in spans.keys("") {
        match verdict(key) {
            Some(Verdict::Supported | Verdict::NotApplied) => {}
            // Its name says nothing to a reader who did not choose it, and may be a secret.
            Some(Verdict::Ignored(why)) if key.starts_with("x-") => {
                found.push(spans.warning_at_key(key, format!("a key is ignored: {why}"), None));
            }
            Some(Verdict::Ignored(why)) => {
                found.push(spans.warning_at_key(key, format!("`{key}` is ignored: {why}"), None));
            }
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
    if raw.timezone.as_deref().is_some_and(|zone| !is_zone(zone)) {
        let help = "a name of the zone database, such as `Europe/Berlin`".to_owned();
        found.push_unless_known(spans.error_at("timezone", "not a time zone", Some(help)));
    }
    let default_user =
        raw.user.and_then(
            |entry| match users::entry(named_default(entry), "user", spans, found) {
                Some(UserEntry::User(mut user)) => {
                    users::default_sudo(&mut user, spans);
                    Some(*user)
                }
                _ => None,
            },
        );
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
        password: raw.password.map(Secret::into_exposed).map(|password| {
            if users::is_hash(&password) {
                Password::Hash(password.into())
            } else {
                Password::Text(password.into())
            }
        }),
        passwords: raw
            .chpasswd
            .map(|raw| users::passwords(raw, spans, found))
            .unwrap_or_default(),
        files: files::decode(raw.write_files, spans, found),
        bootcmd: raw.bootcmd,
        runcmd: raw.runcmd,
        ntp: raw.ntp.map(|raw| ntp(raw, spans, found)),
        ca_certs: raw
            .ca_certs
            .map(|raw| ca_certs(raw, spans, found))
            .unwrap_or_default(),
        mounts: mounts(raw.mounts, spans, found),
        hostname: raw.hostname,
        fqdn: raw.fqdn,
        timezone: raw.timezone,
    }
}

/// `user: {shell: ..}` changes the default user without naming it.
fn named_default(entry: raw::UserEntry) -> raw::UserEntry {
    match entry {
        raw::UserEntry::Full(mut user) => {
            user.name.get_or_insert_with(|| "default".to_owned());
            raw::UserEntry::Full(user)
        }
        named => named,
    }
}

fn is_zone(zone: &str) -> bool {
    let parts_ok = zone
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    parts_ok
        && zone
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'/'))
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

fn ntp(raw: raw::Ntp, spans: &Spans, found: &mut Diagnostics) -> Ntp {
    for (given, key) in [
        (!raw.peers.0.is_empty(), "peers"),
        (!raw.allow.0.is_empty(), "allow"),
        (raw.config.is_some(), "config"),
    ] {
        if given {
            let message =
                format!("`ntp.{key}` is not supported: the clock is kept by systemd-timesyncd");
            found.push(spans.error_at_key(
                &format!("ntp.{key}"),
                message,
                Some("use `servers`".to_owned()),
            ));
        }
    }
    if !matches!(
        raw.ntp_client.as_deref(),
        None | Some("auto" | "systemd-timesyncd")
    ) {
        let message = "`ntp.ntp_client` is ignored: the clock is kept by systemd-timesyncd";
        found.push(spans.warning_at_key("ntp.ntp_client", message, None));
    }
    let mut servers = Vec::new();
    for (key, list) in [("servers", raw.servers.0), ("pools", raw.pools.0)] {
        for (i, server) in list.into_iter().enumerate() {
            let address = server.parse::<std::net::IpAddr>().is_ok();
            if let Some(invalid) = value::dns_name(&server.to_ascii_lowercase())
                .err()
                .filter(|_| !address)
            {
                found.push_unless_known(spans.error_at(
                    &format!("ntp.{key}[{i}]"),
                    invalid.message,
                    invalid.help,
                ));
            }
            servers.push(server);
        }
    }
    Ntp {
        enabled: raw.enabled.unwrap_or(true),
        servers,
    }
}

fn ca_certs(raw: raw::CaCerts, spans: &Spans, found: &mut Diagnostics) -> CaCerts {
    let key = if spans.get("ca-certs").is_some() {
        "ca-certs"
    } else {
        "ca_certs"
    };
    for (i, pem) in raw.trusted.0.iter().enumerate() {
        let complete = pem.contains("-----BEGIN CERTIFICATE-----")
            && pem.contains("-----END CERTIFICATE-----");
        if !complete || pem.contains("PRIVATE KEY") {
            found.push_unless_known(spans.error_at(
                &format!("{key}.trusted[{i}]"),
                "not a certificate in PEM",
                None,
            ));
        }
    }
    CaCerts {
        remove_defaults: raw.remove_defaults,
        trusted: raw.trusted.0,
    }
}

fn mounts(raw: Vec<Vec<Scalar>>, spans: &Spans, found: &mut Diagnostics) -> Vec<Mount> {
    let mut rows = Vec::new();
    for (i, row) in raw.into_iter().enumerate() {
        let at = format!("mounts[{i}]");
        if row
            .iter()
            .any(|field| field.text.contains([' ', '\t', '\n']))
            || row.len() > 6
        {
            found.push_unless_known(spans.error_at(
                &at,
                "a row has up to six fields without blanks",
                None,
            ));
            continue;
        }
        let mut fields = row.into_iter().map(|field| field.text);
        let (Some(device), Some(dir)) = (fields.next(), fields.next()) else {
            found.push_unless_known(spans.error_at(&at, "a row needs a device and a folder", None));
            continue;
        };
        if dir == "none" || dir == "swap" {
            found.push_unless_known(spans.error_at(
                &at,
                "swap is not supported: Kubernetes wants it off",
                None,
            ));
            continue;
        }
        let mut field = |default: &str| {
            fields
                .next()
                .filter(|text| !text.is_empty())
                .unwrap_or(default.to_owned())
        };
        rows.push(Mount {
            kind: field("auto"),
            options: field("defaults,nofail"),
            freq: field("0"),
            pass: field("2"),
            device,
            dir,
        });
    }
    rows
}
