//! lvscare as a static pod: the file from which kubelet runs it.
//!
//! Its program is the host's own `/usr/bin/lvscare`, static and verified with the root; its image
//! is the pause image, which every package holds, as an empty root to mount it in. So nothing is
//! pulled, and pod and first boot run the same bytes.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use userdata::contract::LVSCARE_POD;
use userdata::image_info::ImageInfo;
use userdata::node_config::NodeConfig;

use super::ipvs;
use crate::kube::documents;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::{Attributes, Root};

const PATH: &str = "/etc/kubernetes/manifests/lvscare.yaml";
const PROGRAM: &str = "/usr/bin/lvscare";
/// lvscare's own default, in milliseconds.
const INTERVAL_MS: usize = 500;
/// All nodes together ask an apiserver no more often than this in a second, for as long as each
/// still asks once in `LONGEST_INTERVAL_MS`. That is an eighth of a core, at 1.3 ms of it for each
/// (`cargo bench -p vm-tests --bench readyz`). A dead process is seen at once at any interval, by
/// the held connection's end; a host that vanished is seen by the next question.
const QUESTIONS: usize = 100;
const LONGEST_INTERVAL_MS: usize = 5000;

#[derive(Debug)]
pub struct Lvscare {
    root: Root,
    text: String,
}

impl Lvscare {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let template = root
            .read(LVSCARE_POD)?
            .with_context(|| format!("`{LVSCARE_POD}` is missing: this is not a node image"))?;
        let template =
            String::from_utf8(template).with_context(|| format!("reading `{LVSCARE_POD}`"))?;
        Ok(Self {
            root: root.clone(),
            text: documents::to_text(&[pod(&template, node, image)?]),
        })
    }
}

/// Sets the image and the command in the image's pod.
fn pod(template: &str, node: &NodeConfig, image: &ImageInfo) -> Result<Value> {
    let mut command = vec![PROGRAM.to_owned(), "care".to_owned()];
    command.extend(ipvs::servers(node)?);
    command.extend(interval(node));
    let documents = documents::parse(LVSCARE_POD, template)?;
    let [mut pod] = <[Value; 1]>::try_from(documents)
        .map_err(|found| anyhow!("`{LVSCARE_POD}` has {} documents, not one", found.len()))?;
    let container = pod
        .pointer_mut("/spec/containers/0")
        .and_then(Value::as_object_mut)
        .with_context(|| format!("`{LVSCARE_POD}` has no container"))?;
    container.insert("image".to_owned(), json!(image.pause_image));
    container.insert("command".to_owned(), json!(command));
    Ok(pod)
}

/// lvscare's flag for it, where its own default would be too much for the apiservers of so large a
/// cluster.
fn interval(node: &NodeConfig) -> Option<String> {
    // A host has an entry for each of its addresses, with its short name last.
    let others = node.hosts.iter().filter_map(|entry| entry.names.last());
    let hosts: BTreeSet<_> = others.chain([&node.name]).collect();
    let workers = hosts.len().saturating_sub(node.masters.len());
    let interval = (workers * 1000 / QUESTIONS).min(LONGEST_INTERVAL_MS);
    (interval > INTERVAL_MS).then(|| format!("--interval={interval}ms"))
}

impl fmt::Display for Lvscare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "install the lvscare static pod")
    }
}

impl Step for Lvscare {
    fn name(&self) -> &'static str {
        "lvscare"
    }

    fn is_done(&self) -> Result<bool> {
        self.root
            .holds(PATH, self.text.as_bytes(), Attributes::mode(0o600))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.root
            .write(PATH, self.text.as_bytes(), Attributes::mode(0o600))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use userdata::node_config::HostsEntry;

    use super::*;

    #[test]
    fn pod_has_the_pause_image_and_every_real_server() {
        let text = include_str!("../../../tests/fixtures/node.yaml");
        let node: NodeConfig = yaml::parse("node.yaml", text).unwrap().value;
        let image = include_bytes!("../../../tests/fixtures/root/usr/share/firstlight/image.json");
        let image: ImageInfo = serde_json::from_slice(image).unwrap();
        let template = include_str!("../../../../lvscare/deploy/pod.yaml");
        let pod = pod(template, &node, &image).unwrap();
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Never");
        // Without it the upstream pause image's user has no effective capability.
        assert_eq!(container["securityContext"]["runAsUser"], 0);
        assert_eq!(container["image"], image.pause_image.as_str());
        // A mounted file stays the old one when another replaces it, and lvscare would use the old
        // certificate of its node.
        let volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
        let files = volumes.filter(|volume| volume["hostPath"]["type"] == "File");
        let files: Vec<_> = files.map(|file| &file["hostPath"]["path"]).collect();
        assert_eq!(files, [PROGRAM]);
        assert_eq!(
            container["command"],
            json!([
                "/usr/bin/lvscare",
                "care",
                "--vs=10.103.97.2:6443",
                "--rs=192.168.7.10:6443,192.168.7.11:6443",
                "--ca=/etc/kubernetes/pki/ca.crt"
            ])
        );
    }

    #[test]
    fn many_nodes_ask_less_often_each() {
        let text = include_str!("../../../tests/fixtures/node.yaml");
        let mut node: NodeConfig = yaml::parse("node.yaml", text).unwrap().value;
        let mut with = |workers: usize| {
            let names = (0..workers).map(|n| format!("n{n}"));
            let names = names.chain(node.masters.iter().map(|master| master.name.clone()));
            let entry = |name: String| HostsEntry {
                address: [192, 168, 7, 1].into(),
                names: vec![format!("{name}.prod.internal"), name],
            };
            // Two addresses each.
            node.hosts = names
                .flat_map(|name| [entry(name.clone()), entry(name)])
                .collect();
            interval(&node)
        };
        assert_eq!(with(50), None);
        assert_eq!(with(75).as_deref(), Some("--interval=750ms"));
        assert_eq!(with(9999).as_deref(), Some("--interval=5000ms"));
    }
}
