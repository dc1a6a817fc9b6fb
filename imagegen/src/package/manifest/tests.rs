//! Manifests as people write them, and what is refused.

use super::*;

fn read(files: &[(&str, &str)], minor: u64) -> Manifests {
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (format!("conf/net/{name}"), text.as_bytes().to_vec()))
        .collect();
    Manifests::read(&files, Some(&semver::Version::new(1, minor, 2)))
}

fn titles(found: &Manifests) -> Vec<String> {
    found.objects.iter().map(Object::title).collect()
}

const CRD: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
    metadata: {name: xs.example.org}\nspec: {group: example.org, names: {kind: X}}\n";

#[test]
fn definitions_come_before_what_uses_them() {
    let found = read(
        &[
            (
                "a.yaml",
                "apiVersion: example.org/v1\nkind: X\nmetadata: {name: x, namespace: ns}\n",
            ),
            (
                "b.yaml",
                "apiVersion: v1\nkind: List\nitems:\n\
                 - {apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: ns}}\n\
                 - {apiVersion: v1, kind: Namespace, metadata: {name: ns}}\n",
            ),
            ("c.yaml", CRD),
        ],
        20,
    );
    assert_eq!(found.errors, [""; 0]);
    assert_eq!(
        titles(&found),
        [
            "Namespace ns",
            "CustomResourceDefinition xs.example.org",
            "ConfigMap ns/c",
            "X ns/x"
        ]
    );
}

#[test]
fn lists_get_what_an_old_server_side_apply_demands() {
    let found = read(
        &[(
            "net.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: kube-system}\n\
             spec: {ports: [{port: 443}, {port: 53, protocol: UDP}]}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n\
             spec:\n  containers:\n  - name: a\n    ports: [{containerPort: 1}]\n    env:\n\
             \x20   - {name: L, value: one}\n    - {name: M, value: m}\n\
             \x20   - {name: L, value: two}\n",
        )],
        20,
    );
    let service = found.objects[0].node.value();
    assert_eq!(service["spec"]["ports"][0]["protocol"], "TCP");
    assert_eq!(service["spec"]["ports"][1]["protocol"], "UDP");
    let container = &found.objects[1].node.value()["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(
        container["env"],
        serde_json::json!([{"name": "M", "value": "m"}, {"name": "L", "value": "two"}])
    );
    assert_eq!(found.changes.len(), 1);
    assert!(
        found.changes[0].starts_with("conf/net/net.yaml:14:7: document 2, Pod p: variable `L`"),
        "{:?}",
        found.changes
    );
}

#[test]
fn hopeless_manifests_are_refused_with_their_place() {
    let meta = "metadata: {name: x}\n";
    let pod = |container: &str| {
        format!("apiVersion: v1\nkind: Pod\n{meta}spec: {{containers: [{container}]}}\n")
    };
    for (text, words) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: $NAME}\n".to_owned(),
            "net.yaml:3:18: document 1, Service $NAME: `metadata.name`: lower-case",
        ),
        (
            "kind: Pod\nmetadata: {name: x}\n".to_owned(),
            "net.yaml:1:1: document 1: no object",
        ),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), "`metadata.name`"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n  namespace: away\n".to_owned(),
            "net.yaml:5:14: document 1, ConfigMap away/x: nothing in the package makes",
        ),
        (
            format!("apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\n{meta}"),
            "no `policy/v1beta1` of PodDisruptionBudget (gone in 1.25)",
        ),
        (
            pod("{name: a, image: \"{{ .Values.image }}\"}"),
            "net.yaml:4:38: document 1, Pod x: container `a`: `{{ .Values.image }}` is no name",
        ),
        (pod("{name: a, image: \"${REGISTRY}/a:1\"}"), "placeholder"),
        (pod("{name: a, image: \"Example/A:1\"}"), "capital"),
        (
            pod("{name: n}"),
            "net.yaml:4:28: document 1, Pod x: `name` is `false` to Kubernetes",
        ),
        (
            pod("{name: a, env: [{name: A, value: 5}]}"),
            "`value` is `5` to Kubernetes",
        ),
        (
            pod("{name: a, args: [--x, yes]}"),
            "`args` is `true` to Kubernetes",
        ),
        (
            format!("apiVersion: v1\nkind: ConfigMap\n{meta}data: {{a: 0644}}\n"),
            "net.yaml:4:11: document 1, ConfigMap x: `a` is `420` to Kubernetes",
        ),
        (
            pod("{name: a, args: [\"--x={{ .Net }}\"]}"),
            "a template is left in `--x=",
        ),
    ] {
        let found = read(&[("net.yaml", &text)], 31);
        assert!(
            found.errors.len() == 1 && found.errors[0].contains(words),
            "{text}: {:?}",
            found.errors
        );
    }
}

#[test]
fn texts_of_other_programs_may_hold_templates() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n\
        data: {rule: \"{{ $labels.instance }}\"}\n";
    assert_eq!(read(&[("net.yaml", text)], 31).errors, [""; 0]);
}

#[test]
fn text_for_firstboot_means_the_same_to_its_reader() {
    let found = read(
        &[(
            "crd.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n\
            data: {a: '0644', b: \"=\", c: \"é\\u0007\\n\", d: 'yes'}\nmode: 0644\n\
            large: 1.5e300\n",
        )],
        20,
    );
    let parsed = yaml::parse::<Value>("x", &found.text()).expect("readable");
    assert_eq!(parsed.value, found.objects[0].node.value());
}

#[test]
fn manifest_of_the_default_package_is_valid() {
    let text = include_str!("../../../default-package/conf/net/kube-flannel.yaml");
    let image = "ghcr.io/flannel-io/flannel:v0.28.10";
    let text = text.replace("@FLANNEL_IMAGE@", image);
    let found = read(&[("kube-flannel.yaml", &text)], 37);
    assert_eq!((found.errors, found.warnings), (vec![], vec![]));
    assert_eq!(found.objects.len(), 6);
    assert!(found.images.iter().all(|used| used.image == image));
}
