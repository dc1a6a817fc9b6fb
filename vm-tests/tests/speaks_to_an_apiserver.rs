//! firstboot's Kubernetes client against the kube-apiserver of the package: manifests, watches,
//! errors, a foreign server certificate, and the join lock.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstboot::kube::client::Client;
use firstboot::kube::{apply, documents, lease};
use firstboot::report::Reporter;
use firstboot::step::Step;
use firstboot::step::cluster::accepted_clients::AcceptedClients;
use firstboot::system::files::{Attributes, Root};
use serde_json::json;
use userdata::contract::CLIENT_AUTHORITIES;
use vm_tests::control_plane::{ADMIN, ENDPOINT, with_apiserver};
use vm_tests::host::run_dir::RunDir;

/// Each object comes after those that it needs.
const MANIFESTS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: lights.firstboot.test }
spec:
  group: firstboot.test
  scope: Namespaced
  names: { plural: lights, singular: light, kind: Light }
  versions:
  - name: v1
    served: true
    storage: true
    schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
---
apiVersion: v1
kind: Namespace
metadata: { name: firstboot-test }
---
apiVersion: firstboot.test/v1
kind: Light
metadata: { name: first, namespace: firstboot-test }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: firstboot-test }
data: { a: "1" }
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: d, namespace: firstboot-test }
spec:
  selector: { matchLabels: { app: d } }
  template:
    metadata: { labels: { app: d } }
    spec: { containers: [{ name: d, image: "nowhere/d:1" }] }
"#;

/// A description and the function that checks it.
type Check = (&'static str, fn(&Root) -> Result<()>);

/// One server for all checks, because its start takes seconds.
#[test]
fn firstboot_client_works_with_a_real_apiserver() -> Result<()> {
    let run_dir = RunDir::new("speaks_to_an_apiserver")?;
    with_apiserver(&run_dir, |root, _| {
        let checks: [Check; 7] = [
            (
                "manifests are applied, and applying them again changes nothing",
                manifests,
            ),
            (
                "a watch relock_has_one_holder an existing object and ends",
                watch,
            ),
            (
                "a missing object is an error with the server's message",
                missing,
            ),
            (
                "an anonymous client detects a foreign server",
                foreign_server,
            ),
            ("the join lock has one holder", lock_has_one_holder),
            (
                "a holder that does not renew the Lease loses it",
                silent_holder,
            ),
            (
                "a former authority of clients is waited for and no longer published",
                former_authority,
            ),
        ];
        for (name, check) in checks {
            check(root).context(name)?;
        }
        Ok(())
    })?;
    run_dir.passed();
    Ok(())
}

fn client(root: &Root) -> Result<Client> {
    Client::from_kubeconfig(root, ADMIN, ENDPOINT)
}

fn manifests(root: &Root) -> Result<()> {
    let client = client(root)?;
    let objects = documents::parse("test", MANIFESTS)?;
    apply::apply(&client, &objects, |_, _| {})?;
    let path = "/api/v1/namespaces/firstboot-test/configmaps/settings";
    let first = client.get(path)?.ok()?;
    ensure!(first["data"]["a"] == "1", "{first}");
    apply::apply(&client, &objects, |_, _| {})?;
    let second = client.get(path)?.ok()?;
    let version = |object: &serde_json::Value| object["metadata"]["resourceVersion"].clone();
    ensure!(
        version(&first) == version(&second),
        "{first} became {second}"
    );
    Ok(())
}

fn watch(root: &Root) -> Result<()> {
    let query = "fieldSelector=metadata.name%3Dkube-system";
    let found = client(root)?.watch("/api/v1/namespaces", query, |object| {
        object["metadata"]["name"].as_str().map(str::to_owned)
    })?;
    ensure!(found.as_deref() == Some("kube-system"), "{found:?}");
    Ok(())
}

fn missing(root: &Root) -> Result<()> {
    let answer = client(root)?.get("/api/v1/nodes/nobody")?.ok();
    let error = answer.err().context("the node exists")?.to_string();
    ensure!(error == "404: nodes \"nobody\" not found", "{error}");
    Ok(())
}

fn foreign_server(root: &Root) -> Result<()> {
    let limit = Duration::from_secs(30);
    let read = |path: &str| root.read(path)?.with_context(|| format!("no `{path}`"));
    let ours = read("/etc/kubernetes/pki/ca.crt")?;
    Client::anonymous(&ours, ENDPOINT, limit)?.get("/livez")?;
    let other = read("/etc/kubernetes/pki/front-proxy-ca.crt")?;
    let answer = Client::anonymous(&other, ENDPOINT, limit)?.get("/livez");
    ensure!(
        answer.is_err(),
        "a certificate of another authority was accepted"
    );
    Ok(())
}

fn hold(root: &Root, name: &str) -> Result<lease::Held> {
    let mut report = Reporter::silent(root);
    lease::hold(name, &mut report, |_| client(root))
}

fn lock_has_one_holder(root: &Root) -> Result<()> {
    let first = hold(root, "m1")?;
    let (send, receive) = channel();
    let second = {
        let root = root.clone();
        std::thread::spawn(move || send.send(hold(&root, "m2")))
    };
    let early = receive.recv_timeout(Duration::from_secs(5));
    ensure!(matches!(early, Err(RecvTimeoutError::Timeout)), "{early:?}");
    drop(first);
    let held = receive.recv_timeout(Duration::from_secs(30));
    drop(held.context("m2 never got the lock")??);
    drop(second.join());
    Ok(())
}

fn silent_holder(root: &Root) -> Result<()> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/firstlight-join";
    let client = client(root)?;
    let mut object = client.get(path)?.ok()?;
    object["spec"]["holderIdentity"] = json!("m9");
    object["spec"]["leaseDurationSeconds"] = json!(4);
    client.send("PUT", path, &object)?.ok()?;
    let start = Instant::now();
    let held = hold(root, "m1")?;
    ensure!(
        start.elapsed() >= Duration::from_secs(4),
        "the lock was taken before the Lease had expired"
    );
    let holder = client.get(path)?.ok()?["spec"]["holderIdentity"].clone();
    ensure!(holder == "m1", "{holder}");
    drop(held);
    let holder = client.get(path)?.ok()?["spec"]["holderIdentity"].clone();
    ensure!(holder.as_str().unwrap_or_default().is_empty(), "{holder}");
    Ok(())
}

/// Here `ca.crt` is the file of the apiserver's flag.
fn former_authority(root: &Root) -> Result<()> {
    const FLAG: &str = "/etc/kubernetes/pki/ca.crt";
    let mode = Attributes::mode(0o644);
    let read = |path: &str| root.read(path)?.with_context(|| format!("no `{path}`"));
    let present = read(FLAG)?;
    let former = read("/etc/kubernetes/pki/etcd/ca.crt")?;
    let both = [present.clone(), former].concat();
    let flag = "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt";
    let pod = json!({ "spec": { "containers": [{ "command": ["kube-apiserver", flag] }] } });
    let pod = documents::to_text(&[pod]);
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    root.write(manifest, pod.as_bytes(), mode)?;
    let (send, receive) = channel();
    let apply = || {
        let (root, send) = (root.clone(), send.clone());
        std::thread::spawn(move || {
            let step = AcceptedClients::at(&root, ENDPOINT, true);
            send.send(step.apply(&mut Reporter::silent(&root)))
        });
    };
    let published = || -> Result<String> {
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let object = client(root)?.get(path)?.ok()?;
        let text = object["data"]["client-ca-file"].as_str();
        Ok(text.unwrap_or_default().to_owned())
    };
    let certificates = |text: &str| text.matches("BEGIN CERTIFICATE").count();

    // The document has two, the apiserver one.
    root.write(CLIENT_AUTHORITIES, &both, mode)?;
    apply();
    let early = receive.recv_timeout(Duration::from_secs(3));
    ensure!(matches!(early, Err(RecvTimeoutError::Timeout)), "{early:?}");
    root.write(FLAG, &both, mode)?;
    let limit = Duration::from_secs(100);
    receive
        .recv_timeout(limit)
        .context("it never accepts both")??;
    let end = Instant::now() + limit;
    while certificates(&published()?) < 2 {
        ensure!(Instant::now() < end, "both are never published");
        std::thread::sleep(Duration::from_millis(200));
    }

    // The document has one, the apiserver two.
    root.write(CLIENT_AUTHORITIES, &present, mode)?;
    apply();
    let early = receive.recv_timeout(Duration::from_secs(3));
    ensure!(matches!(early, Err(RecvTimeoutError::Timeout)), "{early:?}");
    root.write(FLAG, &present, mode)?;
    let begun = Instant::now();
    let done = receive.recv_timeout(limit);
    done.context("it still accepts the former one")??;
    println!("the apiserver took {:?} to read its file", begun.elapsed());
    // The apiserver does not add it again.
    for _ in 0..10 {
        let text = published()?;
        ensure!(text.as_bytes() == present, "published are {text}");
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
