//! Secrets planted in a document are refused in every encoding.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use imagegen::documents::{Document, Writer, admin_conf};
use imagegen::pki::issue::{NOT_BEFORE, SecretPem};
use imagegen::pki::store::Pki;
use imagegen::plan::ClusterPlan;
use imagegen::secret_scan::SecretIndex;
use imagegen::state_keys::RecoveryKeys;
use imagegen::topology::check;

use crate::work::PROD;

struct Cluster {
    plan: ClusterPlan,
    pki: Pki,
}

impl Cluster {
    fn new() -> Self {
        let plan = check::read("cluster.yaml", PROD)
            .expect("a good topology")
            .plan;
        let empty = tempfile::tempdir().expect("a folder");
        let pki = Pki::prepare(empty.path(), &plan, NOT_BEFORE).expect("a PKI");
        Self { plan, pki }
    }

    fn document(&self, host: usize) -> Document {
        Writer::new(&self.plan, &self.pki)
            .and_then(|w| w.document(&self.plan.hosts[host]))
            .expect("a document")
    }

    fn check(&self, host: usize, document: &Document) -> Result<(), String> {
        let ledger = SecretIndex::new(&self.plan, &self.pki).expect("a ledger");
        ledger
            .check(&self.plan.hosts[host], document)
            .map_err(|error| format!("{error:#}"))
    }

    fn key(&self, host: usize, name: &str) -> &SecretPem {
        &self
            .pki
            .issued(&self.plan.hosts[host], name)
            .expect("a certificate")
            .key
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compressing");
    encoder.finish().expect("compressing")
}

/// The encodings that a document may have for a text.
fn encodings(text: &str) -> Vec<(&'static str, String)> {
    let indented = text
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect::<String>();
    let wrapped = STANDARD
        .encode(text)
        .as_bytes()
        .chunks(60)
        .map(|c| format!("    {}\n", String::from_utf8_lossy(c)))
        .collect::<String>();
    vec![
        ("as it is", format!("- path: /x\n  content: |\n{indented}")),
        (
            "in quotes",
            format!(
                "- path: /x\n  content: \"{}\"\n",
                text.replace('\n', "\\n").replace('"', "\\\"")
            ),
        ),
        (
            "in base64",
            format!(
                "- path: /x\n  encoding: b64\n  content: {}\n",
                STANDARD.encode(text)
            ),
        ),
        (
            "in wrapped base64",
            format!("- path: /x\n  encoding: b64\n  content: |\n{wrapped}"),
        ),
        (
            "in gzip in base64",
            format!(
                "- path: /x\n  encoding: gz+b64\n  content: {}\n",
                STANDARD.encode(gzip(text.as_bytes()))
            ),
        ),
        (
            "twice in base64",
            format!(
                "- path: /x\n  encoding: b64\n  content: {}\n",
                STANDARD.encode(format!("client-key-data: {}\n", STANDARD.encode(text)))
            ),
        ),
    ]
}

#[test]
fn unchanged_documents_pass() {
    let cluster = Cluster::new();
    for host in 0..cluster.plan.hosts.len() {
        assert_eq!(cluster.check(host, &cluster.document(host)), Ok(()));
    }
}

#[test]
fn recovery_key_is_its_hosts_only() {
    let cluster = Cluster::new();
    let (plan, empty) = (&cluster.plan, tempfile::tempdir().expect("a folder"));
    let keys = RecoveryKeys::prepare(empty.path(), &plan.hosts, |_| false).expect("keys");
    let index = SecretIndex::new(plan, &cluster.pki).expect("an index");
    let index = index.with_recovery(Some(&keys));
    let check = |host: usize, of: usize| {
        let key = keys.of(&plan.hosts[of].name).expect("a key").expose();
        let with = |(how, text): (&'static str, String)| {
            let mut document = cluster.document(host);
            document.user_data.push_str(&text);
            (how, document)
        };
        encodings(key).into_iter().map(with).collect::<Vec<_>>()
    };
    for (how, document) in check(3, 3) {
        let checked = index.check(&plan.hosts[3], &document);
        assert!(checked.is_ok(), "{how}: {checked:?}");
    }
    for (how, document) in check(3, 0) {
        let error = index.check(&plan.hosts[3], &document).expect_err(how);
        let error = format!("{error:#}");
        assert!(
            error.contains("a recovery key that does not belong"),
            "{how}: {error}"
        );
    }
    // Without encrypted state no document has any.
    for (how, document) in check(3, 3) {
        let error = cluster.check(3, &document).expect_err(how);
        assert!(error.contains("a recovery key"), "{how}: {error}");
    }
}

#[test]
fn planted_secrets_are_refused_in_every_encoding() {
    let cluster = Cluster::new();
    let authorities = &cluster.pki.authorities;
    let foreign = Cluster::new();
    let encryption = cluster.pki.encryption_key.as_ref();
    let encryption = encryption.expect("the key of a new cluster");
    let der = |pem: &str| {
        pem.lines()
            .filter(|line| !line.starts_with("-----"))
            .collect::<String>()
    };
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "cluster CA",
            authorities.cluster.key.expose().into(),
            "the CA `kubernetes`",
        ),
        (
            "front proxy CA",
            authorities.front_proxy.key.expose().into(),
            "the CA `front-proxy-ca`",
        ),
        (
            "etcd CA",
            authorities.etcd.key.expose().into(),
            "the CA `etcd-ca`",
        ),
        (
            "service accounts",
            authorities.service_account.key.expose().into(),
            "the service accounts",
        ),
        (
            "etcd peer",
            cluster.key(0, "etcd-peer").expose().into(),
            "`etcd-peer` of `m0`",
        ),
        (
            "etcd client",
            cluster.key(0, "apiserver-etcd-client").expose().into(),
            "`apiserver-etcd-client` of `m0`",
        ),
        (
            "apiserver serving",
            cluster.key(0, "apiserver").expose().into(),
            "`apiserver` of `m0`",
        ),
        (
            "apiserver to kubelet",
            cluster.key(0, "apiserver-kubelet-client").expose().into(),
            "`apiserver-kubelet-client` of `m0`",
        ),
        (
            "admin of a master",
            cluster.key(0, "admin").expose().into(),
            "`admin` of `m0`",
        ),
        (
            "admin of the operator",
            admin_conf(&cluster.plan, &cluster.pki),
            "the operator",
        ),
        (
            "controller-manager",
            cluster.key(1, "controller-manager").expose().into(),
            "`controller-manager` of `m1`",
        ),
        (
            "scheduler",
            cluster.key(1, "scheduler").expose().into(),
            "`scheduler` of `m1`",
        ),
        (
            "another host's document",
            cluster.document(1).user_data,
            "encryption at rest",
        ),
        (
            "another host's certificate",
            cluster
                .pki
                .issued(&cluster.plan.hosts[1], "kubelet")
                .expect("it")
                .certificate
                .clone(),
            "a certificate that does not belong here, of `kubelet` of `m1`",
        ),
        (
            "a key in DER",
            format!("key: {}\n", der(authorities.cluster.key.expose())),
            "the CA `kubernetes`",
        ),
        (
            "a foreign key",
            foreign.pki.authorities.cluster.key.expose().into(),
            "an unknown owner",
        ),
        (
            "an encrypted key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .into(),
            "an encrypted private key",
        ),
        (
            "a token",
            "users:\n- name: x\n  user:\n    token: abcdef.0123456789abcdef\n".into(),
            "a token",
        ),
        (
            "a token in an option",
            "kubeadm join apiserver.cluster.local:6443 --token abcdef.0123456789abcdef\n".into(),
            "a bootstrap token",
        ),
        (
            "a token's Secret",
            "kind: Secret\ntype: bootstrap.kubernetes.io/token\nstringData:\n  token-secret: \
             0123456789abcdef\n"
                .into(),
            "a token",
        ),
        (
            "a service account's token",
            format!(
                "curl -H 'Authorization: Bearer {}.{}.c2lnbmF0dXJl' x\n",
                URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"x"}"#),
                URL_SAFE_NO_PAD.encode(r#"{"iss":"kubernetes/serviceaccount"}"#)
            ),
            "a bearer token",
        ),
        (
            "a password",
            "users:\n- name: x\n  plain_text_passwd: secret\n".into(),
            "a password",
        ),
        (
            "encryption at rest",
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n".into(),
            "encryption at rest",
        ),
        (
            "the key of Secrets alone",
            format!("x: {}\n", encryption.expose()),
            "the key of Secrets",
        ),
        (
            "registry credentials",
            "{\"auths\": {\"registry\": {\"auth\": \"dTpw\"}}}\n".into(),
            "registry credentials",
        ),
    ];
    let node = cluster.plan.hosts.len() - 1;
    for (what, text, message) in &cases {
        for (how, planted) in encodings(text) {
            let mut document = cluster.document(node);
            document.user_data.push_str(&planted);
            let refused = cluster
                .check(node, &document)
                .expect_err(&format!("{what} {how} was not found"));
            assert!(refused.contains(message), "{what} {how}: {refused}");
            assert!(
                !refused.contains("PRIVATE KEY-----"),
                "{what} {how}: the error shows the key"
            );
        }
    }
}

#[test]
fn secret_of_another_master_is_refused() {
    let cluster = Cluster::new();
    for name in ["apiserver", "etcd-peer", "admin", "kubelet"] {
        let mut document = cluster.document(1);
        document.meta_data.push_str(cluster.key(2, name).expose());
        let refused = cluster.check(1, &document).expect_err(name);
        assert!(refused.contains(&format!("`{name}` of `m2`")), "{refused}");
    }
}
