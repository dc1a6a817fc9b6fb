//! kubelet, controller manager and scheduler read their kubeconfigs once, when they start. When a
//! newer document changes one while they run, they restart; at a boot they have not started yet.
//!
//! kubelet copies its certificate from the kubeconfig to its own folder at its first start and
//! prefers the copy from then on. The copy goes when the document's certificate has another issuer:
//! apiservers may soon refuse the issuer of the copy. A certificate that kubelet renewed with the
//! same issuer stays.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use userdata::node_config::{NodeConfig, Role};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client_authority::annotate;
use crate::applied::digest;
use crate::kubeadm::paths::KUBELET_CONF;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::{Attributes, Root};
use crate::system::systemd;

/// Digests of the kubeconfigs with which the programs of this boot run.
const RECORD: &str = "/run/firstlight/credentials.json";
/// kubelet's copy, a link to a file with a date in its name.
const COPY: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
const KUBELET: &str = "kubelet.service";
/// Its change restarts a static pod.
const ANNOTATION: &str = "firstlight/kubeconfig";

/// Static pod and kubeconfig.
const PODS: [(&str, &str); 2] = [
    (
        "kube-controller-manager",
        "/etc/kubernetes/controller-manager.conf",
    ),
    ("kube-scheduler", "/etc/kubernetes/scheduler.conf"),
];

#[derive(Debug)]
pub struct Credentials {
    root: Root,
    pods: &'static [(&'static str, &'static str)],
}

type Digests = BTreeMap<String, String>;

impl Credentials {
    pub fn new(root: &Root, node: &NodeConfig) -> Self {
        let pods: &[_] = match node.role {
            Role::Node => &[],
            Role::Master0 | Role::Master => &PODS,
        };
        Self {
            root: root.clone(),
            pods,
        }
    }

    fn digests(&self) -> Result<Digests> {
        let mut digests = Digests::new();
        let pods = self.pods.iter().map(|(_, path)| *path);
        for path in pods.chain([KUBELET_CONF]) {
            if let Some(bytes) = self.root.read(path)? {
                digests.insert(path.to_owned(), digest([bytes.as_slice()]));
            }
        }
        Ok(digests)
    }

    /// `None` at the first run after a boot.
    fn record(&self) -> Result<Option<Digests>> {
        let bytes = self.root.read(RECORD)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Whether kubelet's copy has another issuer than the document's certificate.
    fn is_copy_stale(&self) -> Result<bool> {
        let (Some(copy), Some(config)) = (self.root.read(COPY)?, self.root.read(KUBELET_CONF)?)
        else {
            return Ok(false);
        };
        let Ok(config) = String::from_utf8(config) else {
            return Ok(false);
        };
        let config = yaml::parse_redacted::<Value>(KUBELET_CONF, &config)
            .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?
            .value;
        // A kubeconfig that names files is not the document's.
        let data = config["users"][0]["user"]["client-certificate-data"].as_str();
        let Some(data) = data else {
            return Ok(false);
        };
        let doing = || format!("reading the certificate of `{KUBELET_CONF}`");
        let own = BASE64_STANDARD.decode(data.trim()).with_context(doing)?;
        let own = issuer(&own).with_context(doing)?;
        // kubelet itself replaces a copy that it cannot read.
        Ok(issuer(&copy).is_ok_and(|copy| copy != own))
    }
}

/// Name and key id of the issuer of the first certificate in a PEM text.
fn issuer(pem: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let der = CertificateDer::from_pem_slice(pem)
        .map_err(|error| anyhow!("no certificate in PEM: {error}"))?;
    let (_, certificate) = X509Certificate::from_der(&der).context("parsing a certificate")?;
    let key = certificate.iter_extensions().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        id.key_identifier.as_ref().map(|id| id.0.to_vec())
    });
    Ok((certificate.issuer().as_raw().to_vec(), key))
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "restart programs whose kubeconfig has changed")
    }
}

impl Step for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(!self.is_copy_stale()? && self.record()? == Some(self.digests()?))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let (before, now) = (self.record()?, self.digests()?);
        let differs = |path: &str| match &before {
            Some(before) => before.get(path) != now.get(path),
            None => false,
        };
        for (pod, path) in self.pods {
            if let (true, Some(digest)) = (differs(path), now.get(*path)) {
                annotate(&self.root, pod, ANNOTATION, digest)?;
            }
        }
        let is_stale = self.is_copy_stale()?;
        if is_stale {
            self.root.remove(COPY)?;
        }
        if (is_stale || differs(KUBELET_CONF)) && systemd::is_active(KUBELET)? {
            systemd::restart(KUBELET)?;
        }
        let bytes = serde_json::to_vec(&now).context("writing the record")?;
        // Digests of secrets are for root only.
        self.root.write(RECORD, &bytes, Attributes::mode(0o600))?;
        Ok(())
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority(name: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Issuer::new(params, KeyPair::generate().unwrap())
    }

    /// A certificate and its key, as kubelet keeps them in one file.
    fn client(of: &Issuer<'static, KeyPair>) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.use_authority_key_identifier_extension = true;
        params.signed_by(&key, of).unwrap().pem() + &key.serialize_pem()
    }

    fn write(root: &Root, path: &str, text: &str) {
        let mode = Attributes::mode(0o600);
        root.write(path, text.as_bytes(), mode).unwrap();
    }

    fn kubeconfig(root: &Root, client: &str) {
        let data = BASE64_STANDARD.encode(client);
        let text = format!("users: [{{user: {{client-certificate-data: {data}}}}}]\n");
        write(root, KUBELET_CONF, &text);
    }

    #[test]
    fn copy_of_another_issuer_is_stale_and_a_renewed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let step = Credentials {
            root: root.clone(),
            pods: &[],
        };
        // The second has the same name, as after a new cluster with the same topology.
        let (old, same_name, new) = (authority("a"), authority("a"), authority("b"));
        let first = client(&old);
        assert!(!step.is_copy_stale().unwrap(), "before the first document");
        kubeconfig(&root, &first);
        assert!(!step.is_copy_stale().unwrap(), "before kubelet started");
        write(&root, COPY, &first);
        assert!(!step.is_copy_stale().unwrap());
        write(&root, COPY, &client(&old));
        assert!(!step.is_copy_stale().unwrap(), "renewed by kubelet");
        for other in [&same_name, &new] {
            kubeconfig(&root, &client(other));
            assert!(step.is_copy_stale().unwrap());
        }
        write(
            &root,
            KUBELET_CONF,
            "users: [{user: {client-certificate: /x.pem}}]\n",
        );
        assert!(!step.is_copy_stale().unwrap(), "not of the document");
        kubeconfig(&root, "torn");
        assert!(step.is_copy_stale().is_err());
    }

    #[test]
    fn boot_restarts_nothing_and_a_later_document_only_what_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let step = Credentials {
            root: root.clone(),
            pods: &PODS,
        };
        let manifest = "metadata: {}\n";
        for (pod, path) in PODS {
            write(&root, path, "first");
            write(&root, &crate::kubeadm::paths::manifest(pod), manifest);
        }
        let read = |pod: &str| {
            let bytes = root.read(crate::kubeadm::paths::manifest(pod)).unwrap();
            String::from_utf8(bytes.unwrap()).unwrap()
        };
        let mut report = Reporter::silent(&root);
        assert!(!step.is_done().unwrap());
        step.apply(&mut report).unwrap();
        assert!(step.is_done().unwrap());
        for (pod, _) in PODS {
            assert_eq!(read(pod), manifest);
        }
        let (changed, path) = PODS[0];
        write(&root, path, "second");
        assert!(!step.is_done().unwrap());
        step.apply(&mut report).unwrap();
        assert!(step.is_done().unwrap());
        assert!(read(changed).contains(ANNOTATION));
        assert_eq!(read(PODS[1].0), manifest);
        // An interrupted step writes the same again.
        let annotated = read(changed);
        root.remove(RECORD).unwrap();
        step.apply(&mut report).unwrap();
        assert_eq!(read(changed), annotated);
    }
}
