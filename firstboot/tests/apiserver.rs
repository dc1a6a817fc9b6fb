//! The client against a real apiserver, where one is given.
//!
//! `FIRSTBOOT_TEST_KUBECONFIG` and `FIRSTBOOT_TEST_ENDPOINT` (`127.0.0.1:6443`) name it (and
//! `FIRSTBOOT_TEST_AUTHORITY` its CA): `cargo test -p firstboot --test apiserver -- --ignored`. In `cargo test` the machine
//! tests judge the client.

use std::path::Path;

use firstboot::kube::client::Client;
use firstboot::kube::{apply, documents};
use firstboot::system::files::Root;

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
apiVersion: firstboot.test/v1
kind: Light
metadata: { name: first, namespace: firstboot-test }
---
apiVersion: v1
kind: Namespace
metadata: { name: firstboot-test }
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

fn client() -> Client {
    let given = std::env::var("FIRSTBOOT_TEST_KUBECONFIG")
        .ok()
        .zip(std::env::var("FIRSTBOOT_TEST_ENDPOINT").ok());
    let Some((kubeconfig, endpoint)) = given else {
        panic!("FIRSTBOOT_TEST_KUBECONFIG and FIRSTBOOT_TEST_ENDPOINT name no apiserver");
    };
    let path = Path::new(&kubeconfig).canonicalize().unwrap();
    Client::from_kubeconfig(&Root::new("/"), path.to_str().unwrap(), &endpoint).unwrap()
}

#[test]
#[ignore = "needs an apiserver that FIRSTBOOT_TEST_* names; see the module doc"]
fn manifests_are_applied_and_a_second_time_changes_nothing() {
    let client = client();
    let mut objects = documents::parse("test", MANIFESTS).unwrap();
    // The namespace comes after what is in it only where the order of a file says so; here it is put right.
    objects.swap(1, 2);
    apply::apply(&client, &objects, |answer, wait| {
        eprintln!("{wait:?}: {answer}");
    })
    .unwrap();
    let path = "/api/v1/namespaces/firstboot-test/configmaps/settings";
    let first = client.get(path).unwrap().ok().unwrap();
    assert_eq!(first["data"]["a"], "1");
    apply::apply(&client, &objects, |_, _| {}).unwrap();
    let second = client.get(path).unwrap().ok().unwrap();
    assert_eq!(
        first["metadata"]["resourceVersion"],
        second["metadata"]["resourceVersion"]
    );
}

#[test]
#[ignore = "needs an apiserver that FIRSTBOOT_TEST_* names; see the module doc"]
fn a_watch_shows_what_is_there_and_ends_when_told() {
    let client = client();
    let found = client.watch(
        "/api/v1/namespaces",
        "fieldSelector=metadata.name%3Dkube-system",
        |object| object["metadata"]["name"].as_str().map(str::to_owned),
    );
    assert_eq!(found.unwrap().as_deref(), Some("kube-system"));
}

#[test]
#[ignore = "needs an apiserver that FIRSTBOOT_TEST_* names; see the module doc"]
fn a_missing_object_is_an_error_in_the_servers_words() {
    let client = client();
    let error = client
        .get("/api/v1/nodes/nobody")
        .unwrap()
        .ok()
        .unwrap_err()
        .to_string();
    assert_eq!(error, "404: nodes \"nobody\" not found");
}

#[test]
#[ignore = "needs an apiserver that FIRSTBOOT_TEST_* names; see the module doc"]
fn an_answer_to_a_stranger_still_shows_whose_server_it_is() {
    let given = std::env::var("FIRSTBOOT_TEST_AUTHORITY")
        .ok()
        .zip(std::env::var("FIRSTBOOT_TEST_ENDPOINT").ok());
    let Some((authority, endpoint)) = given else {
        panic!("FIRSTBOOT_TEST_AUTHORITY and FIRSTBOOT_TEST_ENDPOINT name no apiserver");
    };
    let limit = std::time::Duration::from_secs(10);
    let ours = Client::anonymous(&std::fs::read(authority).unwrap(), &endpoint, limit).unwrap();
    ours.get("/livez").unwrap();
    let other = include_bytes!("fixtures/authority.crt");
    Client::anonymous(other, &endpoint, limit)
        .unwrap()
        .get("/livez")
        .unwrap_err();
}
