//! Keeps the PKI between runs: uses what exists, creates what is missing, overwrites nothing.
//!
//! [`Pki::prepare`] enters this module for every certificate, because it decides for each whether
//! the kept one is still valid. It reads a `pki/` folder; the output folder writes the new state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use time::Date;

use super::document_key::{DocumentKey, Generations};
use super::encryption::EncryptionKey;
use super::folder::{
    DOCUMENT_KEY, DOCUMENTS_FILE, ENCRYPTION_KEY, ISSUED_FILE, Kept, KeyText, authority,
    document_key, encryption_key, generations, generations_file, is_new, read_issued,
    service_account,
};
use super::issue::{self, Authorities, Authority, Issued, SecretPem};
use super::rotation::{Clients, Rotation};
use super::{ADMIN, AUTHORITIES, LEAVES, SERVICE_ACCOUNT, Specification};
use crate::digest::hex;
use crate::plan::{ClusterPlan, HostPlan};

/// The operator's entry in [`ISSUED_FILE`]; not a valid host name.
pub(super) const OPERATOR: &str = "(operator)";

/// The whole PKI of one cluster.
#[derive(Debug)]
pub struct Pki {
    pub authorities: Authorities,
    pub operator: Issued,
    pub document_key: DocumentKey,
    pub generations: Generations,
    /// `None` for a cluster that began without encryption.
    pub encryption_key: Option<EncryptionKey>,
    pub rotation: Rotation,
    hosts: BTreeMap<String, BTreeMap<&'static str, Issued>>,
    kept: BTreeMap<String, BTreeMap<String, Kept>>,
}

impl Pki {
    /// Reads `dir`, creates what is missing, and issues a certificate for each row of [`LEAVES`]
    /// and each holder in `plan`. Writes nothing.
    pub fn prepare(dir: &Path, plan: &ClusterPlan, today: Date) -> Result<Self> {
        Self::prepare_for(dir, plan, Rotation::read(dir)?, today)
    }

    /// The same for another phase of the rotation than that of `dir`.
    pub fn prepare_for(
        dir: &Path,
        plan: &ClusterPlan,
        rotation: Rotation,
        today: Date,
    ) -> Result<Self> {
        super::names::check(plan)?;
        let stored = Rotation::read(dir)?;
        let [cluster, front_proxy, etcd] = AUTHORITIES.map(|row| authority(dir, &row, today));
        let authorities = Authorities {
            cluster: cluster?,
            front_proxy: front_proxy?,
            etcd: etcd?,
            clients: Clients::load(dir, &stored, &rotation, today)?,
            service_account: service_account(dir)?,
        };
        for row in &AUTHORITIES {
            let authority = authorities.get(row.issuer);
            let cure = "a new CA needs a new cluster";
            warn_of_end(row.file, authority, cure, plan.validity_days, today);
        }
        for (file, authority) in authorities.clients.pairs() {
            let cure = "`imagegen pki rotate` replaces it";
            warn_of_end(file, authority, cure, plan.validity_days, today);
        }
        let mut before = read_issued(dir)?;
        let mut pki = Pki {
            operator: Issued {
                certificate: String::new(),
                key: SecretPem::new(String::new()),
            },
            authorities,
            document_key: document_key(dir)?,
            generations: generations(dir)?,
            encryption_key: encryption_key(dir, is_new(dir)?)?,
            rotation,
            hosts: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        pki.operator = pki.leaf(&mut before, OPERATOR, ADMIN, &super::operator(plan), today)?;
        for host in &plan.hosts {
            let mut leaves = BTreeMap::new();
            for row in LEAVES.iter().filter(|row| row.holders.include(host.role)) {
                let specification = row.specify(plan, host);
                leaves.insert(
                    row.name,
                    pki.leaf(&mut before, &host.name, row.name, &specification, today)?,
                );
            }
            pki.hosts.insert(host.name.clone(), leaves);
        }
        Ok(pki)
    }

    /// The certificate of `host` for the row `name`.
    pub fn issued(&self, host: &HostPlan, name: &str) -> Result<&Issued> {
        self.hosts
            .get(&host.name)
            .and_then(|leaves| leaves.get(name))
            .with_context(|| format!("`{}` has no certificate `{name}`", host.name))
    }

    /// All certificates of one host by row name.
    pub fn of_host<'a>(
        &'a self,
        host: &HostPlan,
    ) -> impl Iterator<Item = (&'static str, &'a Issued)> {
        self.hosts
            .get(&host.name)
            .into_iter()
            .flatten()
            .map(|(name, issued)| (*name, issued))
    }

    /// The files of the `pki/` folder by relative path, all readable by their owner only.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let mut files = BTreeMap::new();
        let fixed = AUTHORITIES.iter();
        let fixed = fixed.map(|row| (row.file, self.authorities.get(row.issuer)));
        for (file, authority) in fixed.chain(self.authorities.clients.pairs()) {
            files.insert(
                format!("{file}.crt").into(),
                authority.certificate.clone().into_bytes(),
            );
            files.insert(
                format!("{file}.key").into(),
                authority.key.expose().as_bytes().to_vec(),
            );
        }
        if let Some((name, bytes)) = self.rotation.file()? {
            files.insert(name.into(), bytes);
        }
        let pair = &self.authorities.service_account;
        files.insert(
            format!("{SERVICE_ACCOUNT}.key").into(),
            pair.key.expose().as_bytes().to_vec(),
        );
        files.insert(
            format!("{SERVICE_ACCOUNT}.pub").into(),
            pair.public.clone().into_bytes(),
        );
        let key = &self.document_key;
        files.insert(
            format!("{DOCUMENT_KEY}.key").into(),
            key.private_pem().expose().as_bytes().to_vec(),
        );
        files.insert(
            format!("{DOCUMENT_KEY}.pub").into(),
            key.public_pem().into_bytes(),
        );
        if let Some(key) = &self.encryption_key {
            let text = format!("{}\n", key.expose());
            files.insert(ENCRYPTION_KEY.into(), text.into_bytes());
        }
        files.insert(DOCUMENTS_FILE.into(), generations_file(&self.generations)?);
        files.insert(
            ISSUED_FILE.into(),
            serde_json::to_vec_pretty(&self.kept).context("writing the issued certificates")?,
        );
        Ok(files)
    }

    fn leaf(
        &mut self,
        before: &mut BTreeMap<String, BTreeMap<String, Kept>>,
        host: &str,
        name: &str,
        specification: &Specification,
        today: Date,
    ) -> Result<Issued> {
        let authority = self.authorities.get(specification.issuer);
        let kept = before.get_mut(host).and_then(|leaves| leaves.remove(name));
        let kept = match kept {
            Some(kept)
                if kept.digest
                    == digest(specification, authority, &kept.certificate, &kept.key.0)?
                    && !is_due(&kept.certificate, specification, authority, today)? =>
            {
                kept
            }
            _ => {
                let issued = authority.sign(specification, today)?;
                Kept {
                    digest: digest(
                        specification,
                        authority,
                        &issued.certificate,
                        issued.key.expose(),
                    )?,
                    certificate: issued.certificate,
                    key: KeyText(issued.key.expose().to_owned()),
                }
            }
        };
        let issued = Issued {
            certificate: kept.certificate.clone(),
            key: SecretPem::new(kept.key.0.clone()),
        };
        self.kept
            .entry(host.to_owned())
            .or_default()
            .insert(name.to_owned(), kept);
        Ok(issued)
    }
}

/// Whether a certificate is past two thirds of its life, or has ended. One that ends with its CA
/// stays, because a new one would end on the same day.
fn is_due(
    certificate: &str,
    specification: &Specification,
    authority: &Authority,
    today: Date,
) -> Result<bool> {
    let end = issue::not_after(certificate)?;
    let days = specification.validity_days;
    let new_end = authority.end_of(days, today)?;
    Ok((end.date() - today).whole_days() * 3 <= i64::from(days) && new_end > end)
}

/// Warns when certificates end long before their validity does, because the CA ends.
fn warn_of_end(file: &str, authority: &Authority, cure: &str, validity_days: u32, today: Date) {
    let end = authority.not_after().date();
    if (end - today).whole_days() * 3 <= i64::from(validity_days) {
        log::warn!(
            "the CA `{file}` and its certificates end on {end}, though `certificates.validity` is \
             {validity_days} days; {cure}"
        );
    }
}

fn digest(
    specification: &Specification,
    authority: &Authority,
    certificate: &str,
    key: &str,
) -> Result<String> {
    let specification = serde_json::to_string(specification).context("writing a specification")?;
    let mut digest = Sha256::new();
    for part in [
        specification.as_str(),
        &authority.certificate,
        certificate,
        key,
    ] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    Ok(hex(&digest.finalize()))
}
