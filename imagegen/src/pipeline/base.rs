//! What certificates take from the base of kubeadm's configuration, the package's
//! `conf/kubeadm.yaml`: the names in `apiServer.certSANs`.
//!
//! kubeadm uses the certificate that a document brings and adds no name to it, so that these names
//! must be in it from the start.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::package::Package;
use crate::plan::{AlternativeNames, ClusterPlan};
use crate::topology::names::WorkerNames;
use crate::topology::value;

const FILE: &str = "conf/kubeadm.yaml";

/// The part of a document that matters here. Unknown keys are kubeadm's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    kind: String,
    api_server: ApiServer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiServer {
    #[serde(rename = "certSANs")]
    cert_sans: Vec<String>,
}

/// Adds the names of the package to those of the topology.
pub(super) fn add_names(plan: &mut ClusterPlan, package: &Package) -> Result<()> {
    let bytes = package.file(FILE)?.unwrap_or_default();
    let text = std::str::from_utf8(&bytes)
        .with_context(|| format!("the package's `{FILE}` is not UTF-8 text"))?;
    let mut names = std::mem::take(&mut plan.apiserver_names);
    read(text, plan, &mut names)?;
    plan.apiserver_names = names;
    Ok(())
}

fn read(text: &str, plan: &ClusterPlan, names: &mut AlternativeNames) -> Result<()> {
    let workers = WorkerNames::new(&plan.name, &plan.hosts);
    for document in documents(text) {
        let parsed = yaml::parse::<Configuration>(FILE, &document)?;
        if parsed.value.kind != "ClusterConfiguration" {
            continue;
        }
        for (i, text) in parsed.value.api_server.cert_sans.iter().enumerate() {
            let name = text.to_lowercase();
            let checked =
                value::certificate_name(&name).and_then(|name| workers.check(&name).map(|()| name));
            match checked {
                Ok(name) => names.add(&name),
                Err(invalid) => {
                    let path = format!("apiServer.certSANs[{i}]");
                    let found = parsed.spans.error_at(&path, invalid.message, invalid.help);
                    bail!("the package's {}", found.one_line());
                }
            }
        }
    }
    Ok(())
}

/// The documents of `text`, each at its own line: the lines before it are empty.
fn documents(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut current = String::new();
    for (number, line) in text.lines().enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
        if marker {
            let blank = "\n".repeat(number);
            documents.push(std::mem::replace(&mut current, blank));
            // A document may begin in the line of its marker.
            current.push_str("   ");
            current.push_str(&line[3..]);
        } else {
            current.push_str(line);
        }
        current.push('\n');
    }
    documents.push(current);
    documents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::check;

    fn names(base: &str) -> Result<AlternativeNames> {
        let text = include_str!("../../tests/topologies/prod.yaml");
        let plan = check::read("cluster.yaml", text)?.plan;
        let mut names = AlternativeNames::default();
        read(base, &plan, &mut names)?;
        Ok(names)
    }

    #[test]
    fn only_the_cluster_configuration_has_names() -> Result<()> {
        let found = names(
            "kind: Other\napiServer: {certSANs: [a.example]}\n--- # next\nkind: \
             ClusterConfiguration\nmode: 0644\napiServer:\n  certSANs: [K8s.example, 203.0.113.10, \
             k8s.example]\n",
        )?;
        assert_eq!(found.dns, ["k8s.example"]);
        assert_eq!(found.ips, ["203.0.113.10".parse::<std::net::IpAddr>()?]);
        Ok(())
    }

    #[test]
    fn invalid_name_of_the_base_has_its_line() {
        let base = |name: &str| {
            format!("kind: A\n---\nkind: ClusterConfiguration\napiServer:\n  certSANs: [{name}]\n")
        };
        for (name, why) in [
            ("'a b'", "neither an IP address"),
            ("n0", "a name of the worker `n0`"),
        ] {
            let error = names(&base(name)).expect_err(name).to_string();
            assert!(
                error.starts_with("the package's conf/kubeadm.yaml:5:14: error: ")
                    && error.contains(why),
                "{error}"
            );
        }
    }
}
