//! `ntp`, `timezone`, `locale`, `ca_certs`, `mounts`, `swap` and `ssh_keys`.

use std::collections::BTreeMap;

use super::raw;
use crate::secret::Secret;
use crate::value;
use yaml::{Diagnostics, Scalar, Spans};

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

/// `locale`, and the file that is to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locale {
    pub name: String,
    pub file: Option<String>,
}

/// An SSH host key, or its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// `rsa`, `ecdsa` or `ed25519`.
    pub kind: String,
    /// `private`, `public` or `certificate`.
    pub part: String,
    pub text: Secret<String>,
}

pub(super) fn check_zone(zone: Option<&str>, spans: &Spans, found: &mut Diagnostics) {
    if zone.is_some_and(|zone| !is_zone(zone)) {
        let help = "a name of the zone database, such as `Europe/Berlin`".to_owned();
        found.push_unless_known(spans.error_at("timezone", "not a time zone", Some(help)));
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

/// `false` leaves the locale as it is.
pub(super) fn locale(
    name: Option<Scalar>,
    file: Option<String>,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Option<Locale> {
    let name = name.filter(|name| name.as_bool() != Some(false))?.text;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_-.@".contains(&b);
    if name.is_empty() || !name.bytes().all(good) {
        let help = "write a name such as `C.UTF-8`".to_owned();
        found.push_unless_known(spans.error_at("locale", "not a locale", Some(help)));
    }
    if file
        .as_ref()
        .is_some_and(|file| !file.starts_with('/') || file.contains(".."))
    {
        let message = "expected an absolute path";
        found.push_unless_known(spans.error_at("locale_configfile", message, None));
    }
    Some(Locale { name, file })
}

pub(super) fn ntp(raw: raw::Ntp, spans: &Spans, found: &mut Diagnostics) -> Ntp {
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

pub(super) fn ca_certs(raw: raw::CaCerts, spans: &Spans, found: &mut Diagnostics) -> CaCerts {
    let key = if spans.get("ca-certs").is_some() {
        "ca-certs"
    } else {
        "ca_certs"
    };
    for (i, pem) in raw.trusted.0.iter().enumerate() {
        let begins = pem.matches("-----BEGIN CERTIFICATE-----").count();
        let ends = pem.matches("-----END CERTIFICATE-----").count();
        if begins == 0 || begins != ends || pem.contains("PRIVATE KEY") {
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

pub(super) fn swap(raw: Option<raw::Swap>, spans: &Spans, found: &mut Diagnostics) {
    let Some(raw::Swap {
        size: Some(size), ..
    }) = raw
    else {
        return;
    };
    if !size.text.trim_start_matches('0').is_empty() {
        let message = "a swap file is not supported: Kubernetes requires swap to be off";
        let help = Some("write `size: 0`, or remove the key".to_owned());
        found.push_unless_known(spans.error_at("swap.size", message, help));
    }
}

pub(super) fn mounts(
    raw: Vec<Vec<Option<Scalar>>>,
    defaults: Vec<Option<Scalar>>,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Vec<Mount> {
    const FIELDS: [&str; 6] = ["", "", "auto", "defaults,nofail", "0", "2"];
    let given = |i: usize| defaults.get(i).cloned().flatten().map(|field| field.text);
    let defaults: Vec<String> = (0..FIELDS.len())
        .map(|i| given(i).unwrap_or(FIELDS[i].to_owned()))
        .collect();
    let mut rows: Vec<Mount> = Vec::new();
    for (i, row) in raw.into_iter().enumerate() {
        let at = format!("mounts[{i}]");
        let texts = row.iter().flatten().map(|field| field.text.as_str());
        if texts.clone().any(|text| text.contains([' ', '\t', '\n'])) || row.len() > FIELDS.len() {
            let message = "a row has up to six fields without blanks";
            found.push_unless_known(spans.error_at(&at, message, None));
            continue;
        }
        let fields = row.into_iter().map(|field| field.map(|field| field.text));
        let mut fields: Vec<Option<String>> = fields.collect();
        fields.resize(FIELDS.len(), None);
        let mut field = |i: usize| fields[i].take().filter(|text| !text.is_empty());
        let Some(device) = field(0) else {
            found.push_unless_known(spans.error_at(&at, "a row needs a device", None));
            continue;
        };
        let device = device_path(device);
        let Some(dir) = field(1).or(Some(defaults[1].clone()).filter(|dir| !dir.is_empty())) else {
            // As cloud-init: a row without a folder takes the device out of the rows before it.
            rows.retain(|row| row.device != device);
            continue;
        };
        let kind = field(2).unwrap_or(defaults[2].clone());
        if dir == "none" || dir == "swap" || kind == "swap" {
            let message = "swap is not supported: Kubernetes requires it to be off";
            found.push_unless_known(spans.error_at(
                &at,
                message,
                Some("remove the row".to_owned()),
            ));
            continue;
        }
        if !dir.starts_with('/') || dir.split('/').any(|part| part == "..") {
            let message = "the second field is not an absolute path";
            found.push_unless_known(spans.error_at(&at, message, None));
            continue;
        }
        rows.push(Mount {
            kind,
            options: field(3).unwrap_or(defaults[3].clone()),
            freq: field(4).unwrap_or(defaults[4].clone()),
            pass: field(5).unwrap_or(defaults[5].clone()),
            device,
            dir,
        });
    }
    rows
}

/// cloud-init's short names of disks: `vdb` is `/dev/vdb`.
fn device_path(device: String) -> String {
    let rest = device.strip_prefix('x').unwrap_or(&device);
    let disk = rest.len() >= 3
        && rest.starts_with(['s', 'h', 'v'])
        && rest[1..].starts_with('d')
        && rest.as_bytes()[2].is_ascii_lowercase()
        && rest[3..].bytes().all(|b| b.is_ascii_digit());
    let cd = device
        .strip_prefix("sr")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if disk || cd {
        format!("/dev/{device}")
    } else {
        device
    }
}

pub(super) fn host_keys(
    raw: BTreeMap<String, Secret<String>>,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Vec<HostKey> {
    let mut keys = Vec::new();
    for (name, text) in raw {
        let at = format!("ssh_keys.{name}");
        let split = name.split_once('_').filter(|(kind, part)| {
            ["rsa", "ecdsa", "ed25519"].contains(kind)
                && ["private", "public", "certificate"].contains(part)
        });
        let Some((kind, part)) = split else {
            let help = "known are `rsa_private`, `rsa_public`, `rsa_certificate`, and the same of \
                        `ecdsa` and `ed25519`";
            let message = format!("`{name}` is no host key");
            found.push_unless_known(spans.error_at_key(&at, message, Some(help.to_owned())));
            continue;
        };
        let private = text.expose().contains("PRIVATE KEY-----");
        if private != (part == "private") || text.expose().trim().is_empty() {
            let message = format!("not the {part} part of an SSH host key");
            found.push_unless_known(spans.error_at(&at, message, None));
        }
        keys.push(HostKey {
            kind: kind.to_owned(),
            part: part.to_owned(),
            text,
        });
    }
    keys
}
