//! PKI, documents, seeds and `admin.conf`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use time::OffsetDateTime;

use super::{ADMIN_CONF, HOSTS, Input, Outcome, PKI, SEED, state};
use crate::digest::digest;
use crate::documents::{Document, Writer, admin_conf};
use crate::output::Folder;
use crate::output::manifest::{self, Manifest};
use crate::passphrases::Passphrases;
use crate::pki::folder::ENCRYPTION_KEY;
use crate::pki::issue;
use crate::pki::rotation::{ROTATION_FILE, Rotation, is_of_rotation};
use crate::pki::store::Pki;
use crate::plan::HostPlan;
use crate::secret_scan::SecretIndex;
use crate::seed;
use crate::state_keys::{PolicyKey, RecoveryKeys};

/// Writes all of them or none. A second call with the same input changes nothing.
pub fn userdata(input: &Input, folder: &Folder) -> Result<Outcome> {
    userdata_for(input, folder, Rotation::read(&folder.root().join(PKI))?)
}

/// The same for a phase of the rotation. Its expelled hosts get no document, and no other host's
/// document names them.
pub(super) fn userdata_for(
    input: &Input,
    folder: &Folder,
    mut rotation: Rotation,
) -> Result<Outcome> {
    let mut plan = input.plan_with_base()?;
    rotation.forget_removed(&plan);
    for name in rotation.expelled() {
        log::warn!("`{name}` is expelled and gets no document; remove it from the topology");
    }
    plan.hosts.retain(|host| !rotation.is_expelled(&host.name));
    let plan = &plan;
    let today = OffsetDateTime::now_utc().date();
    issue::check_clock(today)?;
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    let rotated = format!("{PKI}/{ROTATION_FILE}");
    ensure!(
        rotation.file()?.is_some() || !manifest.outputs.contains_key(&rotated),
        "`{}` is gone; it says which authorities the hosts trust: restore it",
        folder.root().join(rotated).display()
    );
    let mut pki = Pki::prepare_for(&folder.root().join(PKI), plan, rotation, today)?;
    let policy = state::policy(plan, folder, &manifest)?;
    let recovery = state::recovery(plan, folder, &manifest)?;
    let passphrases = state::passphrases(plan, folder, &manifest)?;
    let known = state::known(&manifest);
    let index = SecretIndex::new(plan, &pki)?.with_recovery(recovery.as_ref());
    let key = format!("{PKI}/{ENCRYPTION_KEY}");
    ensure!(
        pki.encryption_key.is_some() || !manifest.outputs.contains_key(&key),
        "`{}` is gone; without this key the Secrets of the cluster are lost: restore it",
        folder.root().join(key).display()
    );
    manifest
        .inputs
        .insert("topology".to_owned(), input.digest.clone());
    for path in [PKI, HOSTS, ADMIN_CONF] {
        manifest.remove_outputs(path);
    }
    manifest.outputs.extend(known);
    let mut record = |path: String, bytes: &[u8]| manifest.outputs.insert(path, digest(bytes));
    let mut change = folder.change()?;

    let mut generations = std::mem::take(&mut pki.generations);
    let writer = Writer::new(plan, &pki)?.with_recovery(recovery.as_ref());
    let mut hosts = change.tree(HOSTS, 0o755)?;
    for host in &plan.hosts {
        let document = writer.document(host)?;
        let signer = &pki.document_key;
        let document = signer.sign(document, &plan.name, &host.name, &mut generations)?;
        index.check(host, &document)?;
        // The signature is inside: only who can open the document learns what it is.
        let document = match &passphrases {
            Some(passphrases) => passphrases.encrypt(document, &host.name)?,
            None => document,
        };
        for (name, bytes, mode) in host_files(&document, host)? {
            hosts.add(&Path::new(&host.name).join(name), &bytes, mode)?;
            record(format!("{HOSTS}/{}/{name}", host.name), &bytes);
        }
    }
    pki.generations = generations;
    let mut tree = change.tree(PKI, 0o700)?;
    for (path, bytes) in pki.files()? {
        tree.add(&path, &bytes, 0o600)?;
        record(format!("{PKI}/{}", path.display()), &bytes);
    }
    let policy = policy.iter().flat_map(PolicyKey::files);
    let recovery = recovery.iter().flat_map(RecoveryKeys::files);
    let passphrases = passphrases.iter().flat_map(Passphrases::files);
    for (path, bytes) in policy.chain(recovery).chain(passphrases) {
        tree.add(&path, &bytes, 0o600)?;
        record(format!("{PKI}/{}", path.display()), &bytes);
    }
    // The PKI is first: a document must never exist without its CA and its number.
    let mut changed = change.add_tree(tree, is_of_rotation)?;
    changed |= change.add_tree(hosts, is_host_file)?;

    let admin = admin_conf(plan, &pki);
    record(ADMIN_CONF.to_owned(), admin.as_bytes());
    changed |= change.add_file(ADMIN_CONF, admin.as_bytes(), 0o600)?;
    // The manifest is last, after everything that it lists.
    changed |= change.add_file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(Outcome {
        folder: folder.root().to_owned(),
        hosts: plan.hosts.len(),
        changed,
    })
}

/// Name, contents and mode of the scanned document and of the seed disk of `host`.
fn host_files(document: &Document, host: &HostPlan) -> Result<Vec<(&'static str, Vec<u8>, u32)>> {
    let seed =
        seed::image(document).with_context(|| format!("creating the seed of `{}`", host.name))?;
    let mut files: Vec<_> = document
        .files()
        .into_iter()
        .map(|(name, bytes)| {
            (
                name,
                bytes.to_vec(),
                if name == "user-data" { 0o600 } else { 0o644 },
            )
        })
        .collect();
    files.push((SEED, seed, 0o600));
    Ok(files)
}

/// A file that is removed with its host. Anything else in `hosts/` belongs to the user and stays.
fn is_host_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    path.components().count() == 2
        && ["user-data", "meta-data", "network-config", SEED].contains(&name)
}
