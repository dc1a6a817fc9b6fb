//! A master that is ready accepts the clients of its document's authorities and no others.
//!
//! An apiserver reads the file of its flag again a while after it has changed. It publishes what it
//! accepts to other servers (controller manager, scheduler, metrics-server) in a ConfigMap, to which
//! apiservers only add: what the document no longer has must be removed there. An apiserver of an
//! older document adds it again, until its own host gets here.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use userdata::contract::CLIENT_AUTHORITIES;
use userdata::node_config::NodeConfig;

use super::node_address;
use crate::kube::accepted::{self, Name};
use crate::kube::client::Client;
use crate::kube::documents;
use crate::kubeadm::paths;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::wait::{Backoff, endpoint, until};

const PUBLISHED: &str =
    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
const CONFIG_MAP: &str = "kube-system/extension-apiserver-authentication";
const KEY: &str = "client-ca-file";
/// The flag for the authority of aggregated servers, whose clients every apiserver accepts too.
const FRONT_PROXY: &str = "--requestheader-client-ca-file=";

#[derive(Debug)]
pub struct AcceptedClients {
    root: Root,
    endpoint: String,
    is_apart: bool,
}

impl AcceptedClients {
    pub fn new(root: &Root, node: &NodeConfig) -> Result<Self> {
        let endpoint = endpoint(node_address(node)?, node.apiserver.port);
        Ok(Self::at(root, &endpoint, node.security.client_authority))
    }

    /// `is_apart`: clients have authorities of their own.
    pub fn at(root: &Root, endpoint: &str, is_apart: bool) -> Self {
        Self {
            root: root.clone(),
            endpoint: endpoint.to_owned(),
            is_apart,
        }
    }

    fn file(&self, path: &str) -> Result<Vec<u8>> {
        let bytes = self.root.read(path)?;
        bytes.with_context(|| format!("`{path}` is missing"))
    }

    /// The authorities of aggregated servers that the apiserver's manifest names.
    fn front_proxy(&self) -> Result<Vec<Name>> {
        let path = paths::manifest("kube-apiserver");
        let text = String::from_utf8_lossy(&self.file(&path)?).into_owned();
        let pods = documents::parse(&path, &text)?;
        let command = pods
            .first()
            .and_then(|pod| pod["spec"]["containers"][0]["command"].as_array());
        let flag = command
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find_map(|word| word.strip_prefix(FRONT_PROXY));
        match flag {
            Some(file) => accepted::subjects(&self.file(file)?),
            None => Ok(Vec::new()),
        }
    }

    /// Fails while the apiserver accepts others than the document says.
    fn check_apiserver(&self, clients: &[Name]) -> Result<()> {
        let authority = self.file(paths::CA_CERTIFICATE)?;
        let others = self.front_proxy()?;
        compare(
            &accepted::authorities(&authority, &self.endpoint)?,
            clients,
            &others,
        )
    }

    /// Removes from the published authorities those that are not of the document.
    fn publish(&self, bundle: &[u8]) -> Result<()> {
        let client = Client::from_kubeconfig(&self.root, paths::ADMIN_CONF, &self.endpoint)?;
        let answer = client.get(PUBLISHED)?;
        // The apiserver writes it at its start.
        ensure!(answer.status != 404, "ConfigMap {CONFIG_MAP} is missing");
        let found = answer.ok()?;
        let published = found["data"][KEY].as_str().unwrap_or_default();
        let own = accepted::certificates(bundle)?;
        let published = accepted::certificates(published.as_bytes())?;
        if published.iter().all(|one| own.contains(one)) {
            return Ok(());
        }
        let bundle = String::from_utf8_lossy(bundle);
        let change = json!({ "data": { KEY: bundle } });
        client.send("PATCH", PUBLISHED, &change)?.ok()?;
        log::info!("removed former client authorities from ConfigMap {CONFIG_MAP}");
        Ok(())
    }
}

/// `others` may be accepted and need not be.
fn compare(accepted: &[Name], clients: &[Name], others: &[Name]) -> Result<()> {
    let missing = clients.iter().find(|name| !accepted.contains(name));
    if let Some(name) = missing {
        anyhow::bail!("it does not accept clients of {} yet", accepted::text(name));
    }
    let known = |name: &Name| clients.contains(name) || others.contains(name);
    if let Some(name) = accepted.iter().find(|name| !known(name)) {
        anyhow::bail!("it still accepts clients of {}", accepted::text(name));
    }
    Ok(())
}

impl fmt::Display for AcceptedClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "wait until the apiserver accepts the clients of {CLIENT_AUTHORITIES} only"
        )
    }
}

impl Step for AcceptedClients {
    fn name(&self) -> &'static str {
        "accepted-clients"
    }

    /// With authorities of their own: never, because only the apiserver knows.
    fn is_done(&self) -> Result<bool> {
        Ok(!self.is_apart)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let bundle = self.file(CLIENT_AUTHORITIES)?;
        let clients = accepted::subjects(&bundle)?;
        let target = format!("apiserver {}", self.endpoint);
        until(&target, Backoff::fixed(), report, || {
            self.check_apiserver(&clients)
        });
        until(&target, Backoff::fixed(), report, || self.publish(&bundle));
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
    use super::*;

    #[test]
    fn former_authority_and_missing_one_are_named() {
        // Names in DER: CN=a, CN=b, CN=c.
        let [a, b, c] = *b"abc";
        let name = |letter: u8| {
            let mut name = vec![0x30, 12, 0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 3, 12, 1];
            name.push(letter);
            name
        };
        let [a, b, c] = [name(a), name(b), name(c)];
        let check = |accepted: &[&Name]| {
            let accepted: Vec<_> = accepted.iter().map(|name| (*name).clone()).collect();
            let found = compare(
                &accepted,
                std::slice::from_ref(&b),
                std::slice::from_ref(&c),
            );
            found.map_err(|error| error.to_string())
        };
        assert_eq!(check(&[&b]), Ok(()));
        assert_eq!(check(&[&c, &b]), Ok(()));
        let missing = check(&[&a, &c]).unwrap_err();
        assert_eq!(missing, "it does not accept clients of CN=b yet");
        let former = check(&[&a, &b, &c]).unwrap_err();
        assert_eq!(former, "it still accepts clients of CN=a");
    }

    #[test]
    fn step_is_for_clusters_with_an_authority_of_clients() {
        let dir = tempfile::tempdir().unwrap();
        let step = |is_apart| AcceptedClients::at(&Root::new(dir.path()), "127.0.0.1:1", is_apart);
        assert!(step(false).is_done().unwrap());
        assert!(!step(true).is_done().unwrap());
    }
}
