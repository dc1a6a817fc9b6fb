//! A control plane that runs already begins to use the authorities of clients of its document.
//!
//! kubeadm gives the apiserver and the controller manager `ca.crt` as the authority of clients. The
//! first document with an authority of their own changes these flags once, and the two static pods
//! restart; later documents only change the files behind the flags, which both read again.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use userdata::contract::{CLIENT_AUTHORITIES, CLIENT_SIGNER_CERTIFICATE};
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role};

use super::kubeadm_config::KubeadmConfig;
use crate::kube::documents;
use crate::kubeadm::paths;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::{Attributes, Root};
use crate::system::{command, systemd};
use crate::wait::{Backoff, until};

/// kubeadm's configuration of such a control plane.
const CONFIG: &str = "/var/lib/firstlight/kubeadm-clients.yaml";

#[derive(Debug)]
pub struct ClientAuthority {
    root: Root,
    /// `None`: `ca` is the authority of clients.
    config: Option<String>,
}

impl ClientAuthority {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let config = match node.security.client_authority {
            false => None,
            true => {
                let as_first = NodeConfig {
                    role: Role::Master0,
                    ..node.clone()
                };
                Some(KubeadmConfig::new(root, &as_first, image)?.into_text())
            }
        };
        Ok(Self {
            root: root.clone(),
            config,
        })
    }

    /// Static pod and flag of each that must have one. A package may bring its own authority for
    /// what the controller manager signs.
    fn flags(config: &str) -> Vec<(&'static str, String)> {
        let apiserver = format!("--client-ca-file={CLIENT_AUTHORITIES}");
        let mut flags = vec![("kube-apiserver", apiserver)];
        if config.contains(CLIENT_SIGNER_CERTIFICATE) {
            let signer =
                format!("--cluster-signing-kubelet-client-cert-file={CLIENT_SIGNER_CERTIFICATE}");
            flags.push(("kube-controller-manager", signer));
        }
        flags
    }

    /// Whether the manifest of `pod`, if there is one, has `flag`. A torn file has not.
    fn has_flag(&self, pod: &str, flag: &str) -> Result<bool> {
        let path = paths::manifest(pod);
        let Some(bytes) = self.root.read(&path)? else {
            return Ok(true);
        };
        let text = String::from_utf8_lossy(&bytes);
        let documents = documents::parse(&path, &text).unwrap_or_default();
        let command = documents
            .first()
            .and_then(|pod| pod["spec"]["containers"][0]["command"].as_array());
        Ok(command.is_some_and(|command| command.iter().any(|one| one == flag)))
    }

    /// Fails until a process of the name `pod` has `flag`.
    fn check_process(&self, pod: &str, flag: &str) -> Result<()> {
        for entry in self.root.list("/proc")? {
            if entry.bytes().any(|byte| !byte.is_ascii_digit()) {
                continue;
            }
            // A process may end meanwhile.
            let Ok(Some(line)) = self.root.read(format!("/proc/{entry}/cmdline")) else {
                continue;
            };
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            if program.ends_with(pod.as_bytes()) && words.any(|word| word == flag.as_bytes()) {
                return Ok(());
            }
        }
        ensure!(false, "kubelet has not restarted it yet");
        Ok(())
    }
}

impl fmt::Display for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "let apiserver and controller manager use the authorities in {CLIENT_AUTHORITIES}"
        )
    }
}

impl Step for ClientAuthority {
    fn name(&self) -> &'static str {
        "client-authority"
    }

    fn is_done(&self) -> Result<bool> {
        let Some(config) = &self.config else {
            return Ok(true);
        };
        for (pod, flag) in Self::flags(config) {
            if !self.has_flag(pod, &flag)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let config = self.config.as_ref().context("no authority of clients")?;
        self.root
            .write(CONFIG, config.as_bytes(), Attributes::mode(0o600))?;
        let argument = format!("--config={CONFIG}");
        command::run(
            "kubeadm",
            &["init", "phase", "control-plane", "all", &argument],
        )?;
        self.root.sync(paths::MANIFESTS)?;
        // At a boot kubelet starts later, with these manifests.
        if !systemd::is_active("kubelet.service")? {
            return Ok(());
        }
        // A host that is ready must not accept the clients of before any longer.
        for (pod, flag) in Self::flags(config) {
            let target = format!("{pod} with {flag}");
            until(&target, Backoff::fixed(), report, || {
                self.check_process(pod, &flag)
            });
        }
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// Sets an annotation of a static pod's manifest. kubelet restarts the pod if it differs.
pub(super) fn annotate(root: &Root, pod: &str, name: &str, value: &str) -> Result<()> {
    let path = paths::manifest(pod);
    let Some(bytes) = root.read(&path)? else {
        return Ok(());
    };
    let text = String::from_utf8(bytes).with_context(|| format!("reading `{path}`"))?;
    let mut documents = documents::parse(&path, &text)?;
    let metadata = documents
        .first_mut()
        .and_then(|pod| pod["metadata"].as_object_mut())
        .with_context(|| format!("`{path}` has no `metadata`"))?;
    let annotations = metadata
        .entry("annotations")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    annotations
        .as_object_mut()
        .with_context(|| format!("`annotations` in `{path}` is not a mapping"))?
        .insert(name.to_owned(), value.into());
    let text = documents::to_text(&documents);
    root.write(&path, text.as_bytes(), Attributes::mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: null\nspec:\n  \
                            containers:\n  - command:\n    - kube-apiserver\n    - FLAG\n";

    fn step(root: &Root, config: Option<&str>) -> ClientAuthority {
        ClientAuthority {
            root: root.clone(),
            config: config.map(str::to_owned),
        }
    }

    fn write(root: &Root, pod: &str, flag: &str) {
        let text = MANIFEST.replace("FLAG", flag);
        let mode = Attributes::mode(0o600);
        root.write(paths::manifest(pod), text.as_bytes(), mode)
            .unwrap();
    }

    #[test]
    fn done_once_both_static_pods_have_their_flags() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let signs = step(&root, Some(CLIENT_SIGNER_CERTIFICATE));
        assert!(signs.is_done().unwrap(), "before the control plane");
        write(
            &root,
            "kube-apiserver",
            "--client-ca-file=/etc/kubernetes/pki/ca.crt",
        );
        assert!(!signs.is_done().unwrap());
        assert!(step(&root, None).is_done().unwrap(), "an old document");
        write(
            &root,
            "kube-apiserver",
            "--client-ca-file=/etc/kubernetes/pki/clients-ca.crt",
        );
        assert!(signs.is_done().unwrap());
        write(&root, "kube-controller-manager", "--x=y");
        assert!(!signs.is_done().unwrap());
        assert!(
            step(&root, Some("its own authority")).is_done().unwrap(),
            "the package signs"
        );
        let mode = Attributes::mode(0o600);
        root.write(paths::manifest("kube-apiserver"), b"", mode)
            .unwrap();
        assert!(!signs.is_done().unwrap(), "after a power cut");
    }

    #[test]
    fn annotation_changes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        annotate(&root, "kube-scheduler", "a", "1").unwrap();
        assert!(!root.exists(paths::manifest("kube-scheduler")));
        write(&root, "kube-scheduler", "--x=\"0\"");
        let read = || {
            let text = root.read(paths::manifest("kube-scheduler")).unwrap();
            let text = String::from_utf8(text.unwrap()).unwrap();
            documents::parse("x", &text).unwrap().remove(0)
        };
        let mut before = read();
        annotate(&root, "kube-scheduler", "a", "2").unwrap();
        before["metadata"]["annotations"] = serde_json::json!({ "a": "2" });
        assert_eq!(read(), before);
    }
}
