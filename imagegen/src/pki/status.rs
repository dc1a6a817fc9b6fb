//! What a `pki/` folder has: every certificate and key, its end and its holder.
//!
//! Only reads; unlike a run, it also shows what has ended.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use time::{Date, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::folder::{self, DOCUMENT_KEY, ENCRYPTION_KEY};
use super::issue::certificate_der;
use super::rotation::{CLIENTS, CLIENTS_NEXT, Phase, Rotation};
use super::store::OPERATOR;
use super::{AUTHORITIES, Holders, SERVICE_ACCOUNT};

/// One certificate, or one key that has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// A host's name, or who else has it.
    pub holder: String,
    pub name: String,
    pub kind: Kind,
    /// As `openssl x509 -subject` has it; empty for a key.
    pub subject: String,
    pub issuer: String,
    /// `2126-11-05`; keys do not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// Negative once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Authority,
    Certificate,
    Key,
}

impl Entry {
    fn of(holder: &str, name: &str, kind: Kind, pem: &str, today: Date) -> Result<Self> {
        let doing = || format!("reading the certificate `{name}` of {holder}");
        let der = certificate_der(pem).with_context(doing)?;
        let (_, x509) = X509Certificate::from_der(&der).with_context(doing)?;
        let end: OffsetDateTime = x509.validity().not_after.to_datetime();
        Ok(Self {
            holder: holder.to_owned(),
            name: name.to_owned(),
            kind,
            subject: x509.subject().to_string(),
            issuer: x509.issuer().to_string(),
            ends: Some(end.date().to_string()),
            days_left: Some((end.date() - today).whole_days()),
        })
    }

    fn key(holder: &str, name: &str) -> Self {
        Self {
            holder: holder.to_owned(),
            name: name.to_owned(),
            kind: Kind::Key,
            subject: String::new(),
            issuer: String::new(),
            ends: None,
            days_left: None,
        }
    }

    /// A certificate that ends today is not valid at the next boot.
    pub fn has_ended(&self) -> bool {
        self.days_left.is_some_and(|days| days <= 0)
    }
}

/// Everything in the folder `dir`: authorities and keys first, then the hosts by name.
pub fn read(dir: &Path, today: Date) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for row in &AUTHORITIES {
        let holder = match row.holders {
            Holders::Everyone => "every host; its key: masters",
            Holders::Masters => "masters, with its key",
        };
        if let Some(pem) = folder::read(dir, &format!("{}.crt", row.file))? {
            let authority = Entry::of(holder, row.file, Kind::Authority, &pem, today)?;
            entries.push(authority);
        }
    }
    let rotation = Rotation::read(dir)?;
    let after_first = rotation.phase() > Some(Phase::TrustBoth);
    let clients = [
        (
            CLIENTS,
            rotation.phase() == Some(Phase::TrustNew),
            after_first,
        ),
        (CLIENTS_NEXT, false, !after_first),
    ];
    for (file, has_gone, has_no_key) in clients {
        let holder = match (has_gone, has_no_key) {
            (true, _) => "this folder only",
            (_, true) => "every host; its key: this folder only",
            _ => "every host; its key: masters",
        };
        if let Some(pem) = folder::read(dir, &format!("{file}.crt"))? {
            entries.push(Entry::of(holder, file, Kind::Authority, &pem, today)?);
        }
    }
    let keys = [
        (SERVICE_ACCOUNT, "masters"),
        (DOCUMENT_KEY, "this folder only"),
    ];
    for (name, holder) in keys {
        if folder::read(dir, &format!("{name}.pub"))?.is_some() {
            entries.push(Entry::key(holder, name));
        }
    }
    if folder::read(dir, ENCRYPTION_KEY)?.is_some() {
        entries.push(Entry::key("masters", "encryption"));
    }
    for (host, leaves) in folder::read_issued(dir)? {
        let holder = match host.as_str() {
            OPERATOR => "admin.conf of this folder",
            host => host,
        };
        for (name, kept) in leaves {
            let entry = Entry::of(holder, &name, Kind::Certificate, &kept.certificate, today)?;
            entries.push(entry);
        }
    }
    ensure!(
        !entries.is_empty(),
        "`{}` has no certificates; write them with `imagegen userdata`",
        dir.display()
    );
    Ok(entries)
}

/// A table with one line for each entry, and what ends first.
pub fn text(entries: &[Entry]) -> String {
    let headings = ["HOLDER", "NAME", "ENDS", "DAYS LEFT", "SUBJECT"].map(str::to_owned);
    let lines: Vec<[String; 5]> = std::iter::once(headings)
        .chain(entries.iter().map(|entry| {
            let left = match entry.days_left {
                Some(_) if entry.has_ended() => "ENDED".to_owned(),
                Some(days) => days.to_string(),
                None => "-".to_owned(),
            };
            [
                entry.holder.clone(),
                entry.name.clone(),
                entry.ends.clone().unwrap_or_else(|| "never".to_owned()),
                left,
                entry.subject.clone(),
            ]
        }))
        .collect();
    let mut out = String::new();
    for line in &lines {
        let start = out.len();
        for (at, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[at].chars().count()).max();
            // Writing to a String cannot fail.
            let _ = write!(out, "{cell:<width$}   ", width = width.unwrap_or(0));
        }
        out.truncate(start + out[start..].trim_end().len());
        out.push('\n');
    }
    let first = entries.iter().filter(|entry| entry.days_left.is_some());
    if let Some(first) = first.min_by_key(|entry| entry.days_left) {
        let _ = writeln!(
            out,
            "first to end: `{}` of {}, on {}",
            first.name,
            first.holder,
            first.ends.as_deref().unwrap_or_default()
        );
    }
    out
}
