//! Documents of real clients, a round trip of our own, and invalid documents with their messages.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::path::{Path, PathBuf};

use super::*;
use crate::cloud_config::File;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(folder)
}

/// A folder in the layout of a seed.
fn parse(folder: &Path) -> Result<(Document, Vec<Diagnostic>), Diagnostics> {
    let read = |file: &str| std::fs::read(folder.join(file)).ok();
    let name = folder
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    Document::parse(Seed {
        name,
        user_data: &read("user-data").unwrap_or_default(),
        meta_data: &read("meta-data").unwrap_or_default(),
        network_config: read("network-config").as_deref(),
    })
}

fn folders(of: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures(of))
        .expect("fixtures")
        .map(|entry| entry.expect("a fixture").path())
        .collect();
    folders.sort();
    folders
}

#[test]
fn documents_of_real_clients_are_parsed() {
    let mut all = String::new();
    for folder in folders("clients") {
        let (document, notices) = parse(&folder).unwrap_or_else(|errors| panic!("{errors}"));
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        all.push_str(&format!(
            "== {name}\n{document:#?}\n{:?}\n",
            document.names()
        ));
        for notice in notices {
            all.push_str(&format!("{}\n", notice.one_line()));
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn invalid_documents_report_expected_message() {
    let mut seen = 0;
    for folder in folders("bad") {
        let errors = parse(&folder)
            .expect_err(&folder.display().to_string())
            .to_string();
        let beside = folder.join("message");
        if std::env::var_os("FIRSTLIGHT_WRITE_MESSAGES").is_some() {
            std::fs::write(&beside, format!("{errors}\n")).expect("writing the message");
        }
        let expected = std::fs::read_to_string(&beside).expect("a message beside the document");
        assert_eq!(errors, expected.trim_end(), "{}", folder.display());
        assert!(
            !errors.contains("hunter2"),
            "{} shows a secret",
            folder.display()
        );
        seen += 1;
    }
    assert!(seen > 0);
}

pub(crate) fn node() -> NodeConfig {
    let text = "apiVersion: firstlight/v1
kind: Node
cluster: prod
role: master0
name: m0
addresses: [192.168.7.10/24]
masters: [{name: m0, address: 192.168.7.10}, {name: m1, address: 192.168.7.11}]
apiserver: {domain: apiserver.cluster.local, port: 6443, vip: 10.103.97.2}
network: {pods: [10.244.0.0/16], services: [10.96.0.0/12]}
hosts: [{address: 192.168.7.11, names: [m1]}]
labels: {disk: ssd, example.com/zone: 'no'}
taints: [dedicated=gpu:NoSchedule]
kubernetes: {kubelet: {nodeStatusUpdateFrequency: 1m0s}, apiserver_args: {v: '2'}}
";
    yaml::parse("node", text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .value
}

fn network() -> Network {
    let text =
        std::fs::read_to_string(fixtures("netplan/firstlight-static.yaml")).expect("the fixture");
    let text = text.replace("    - \"fd07::10/64\"\n", "");
    Network::parse("network", &text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0
        .expect("a network")
}

fn builder() -> DocumentBuilder {
    DocumentBuilder::new(node(), network())
        .domain("cluster.local")
        .matching(HostMatch {
            macs: vec!["52:54:00:00:07:10".parse().expect("MAC")],
            ..HostMatch::default()
        })
        .file(
            "/etc/kubernetes/pki/ca.key",
            0o600,
            "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        )
        .file(
            "/etc/awkward",
            0o644,
            " leading\n\ttab\n\ntrailing \nno newline",
        )
        .file("/etc/binary", 0o4755, vec![0, 159, 146, 150])
        .ssh_authorized_keys(["ssh-ed25519 AAAA operator@example"])
        .ntp(["192.168.7.1"])
}

#[test]
fn written_document_round_trips() {
    let texts = builder().build();
    assert_eq!(
        texts,
        builder().build(),
        "the same input gives the same bytes"
    );
    insta::assert_snapshot!(texts.user_data.expose());
    insta::assert_snapshot!(texts.meta_data);
    insta::assert_snapshot!(texts.network_config);
    let seed = Seed {
        name: "",
        user_data: texts.user_data.expose().as_bytes(),
        meta_data: texts.meta_data.as_bytes(),
        network_config: Some(texts.network_config.as_bytes()),
    };
    let (document, notices) = Document::parse(seed).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(document.node.as_ref(), Some(&node()));
    assert_eq!(document.network, Some(network()));
    assert_eq!(document.meta_data.instance_id.as_deref(), Some("prod-m0"));
    let names = Names {
        hostname: Some("m0".to_owned()),
        fqdn: Some("m0.cluster.local".to_owned()),
    };
    assert_eq!(document.names(), names);
    let (written, last) = (builder(), document.cloud_config.files.len() - 1);
    assert_eq!(document.cloud_config.files[last].path, contract::NODE_FILE);
    let read: Vec<&File> = document.cloud_config.files[..last].iter().collect();
    assert_eq!(read, written.files().collect::<Vec<_>>());
}

#[test]
fn debug_output_hides_secrets() {
    let shown = format!("{:?} {:?}", builder(), builder().build());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn host_match_requires_all_given_properties() {
    let mac = |text: &str| text.parse::<crate::network::MacAddress>().expect("MAC");
    let machine = Machine {
        macs: vec![mac("52:54:00:00:07:10"), mac("52:54:00:00:07:99")],
        uuid: Some("4C4C4544-0050-3710-8058-B4C04F4B3532\n".to_owned()),
        serial: Some("ABC 123\n".to_owned()),
    };
    let matching = |macs: &[&str], uuid: Option<&str>, serial: Option<&str>| {
        let macs = macs.iter().map(|text| mac(text)).collect();
        HostMatch {
            macs,
            uuid: uuid.map(str::to_owned),
            serial: serial.map(str::to_owned),
        }
        .matches(&machine)
    };
    assert!(!matching(&[], None, None), "nothing given");
    assert!(matching(
        &["52-54-00-00-07-10", "00:00:00:00:00:01"],
        None,
        None
    ));
    assert!(!matching(&["00:00:00:00:00:01"], None, None));
    assert!(matching(
        &[],
        Some("4c4c4544-0050-3710-8058-b4c04f4b3532"),
        Some("ABC 123")
    ));
    assert!(
        matching(&[], Some("44454c4c-5000-1037-8058-b4c04f4b3532"), None),
        "the other byte order"
    );
    assert!(
        !matching(&["52:54:00:00:07:10"], None, Some("XYZ")),
        "all that is given must fit"
    );
}

#[test]
fn host_names_follow_cloud_init_rules() {
    let cases = [
        ("fqdn: a.b.c", "", Some("a"), Some("a.b.c")),
        ("fqdn: a.b.c\nhostname: x", "", Some("x"), Some("a.b.c")),
        (
            "hostname: a.b",
            "local-hostname: z.y",
            Some("a"),
            Some("a.b"),
        ),
        ("hostname: a", "local-hostname: z.y", Some("a"), Some("a.y")),
        ("{}", "local-hostname: z.localdomain", Some("z"), None),
        (
            "{}",
            "{\"local-hostname\": \"10.0.0.1\"}",
            Some("ip-10-0-0-1"),
            None,
        ),
        ("{}", "", None, None),
    ];
    for (config, meta, hostname, fqdn) in cases {
        let user_data = format!("#cloud-config\n{config}\n");
        let seed = Seed {
            name: "",
            user_data: user_data.as_bytes(),
            meta_data: meta.as_bytes(),
            network_config: None,
        };
        let (document, _) = Document::parse(seed).unwrap_or_else(|errors| panic!("{errors}"));
        let names = Names {
            hostname: hostname.map(str::to_owned),
            fqdn: fqdn.map(str::to_owned),
        };
        assert_eq!(document.names(), names, "{config} {meta}");
    }
}

#[test]
fn values_of_firmware_without_a_serial_number_identify_nothing() {
    for value in [
        "To be filled by O.E.M.",
        " Default string ",
        "0",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
        "None",
        "",
    ] {
        assert!(is_placeholder(value), "{value}");
    }
    for value in [
        "SN-1",
        "F",
        "4c4c4544-0050-3710-8058-b4c04f4b3532",
        "CZ3000XX",
    ] {
        assert!(!is_placeholder(value), "{value}");
    }
}

/// As Multipass and MAAS do.
#[test]
fn vendor_data_names_the_login() {
    let users = |user_data: &str| {
        let seed = Seed {
            name: "seed",
            user_data: user_data.as_bytes(),
            meta_data: b"",
            network_config: None,
        };
        let vendor = b"#cloud-config\nssh_authorized_keys: [ssh-rsa A a]\nusers: [default]\n\
            system_info: {distro: ubuntu, default_user: {name: ubuntu, gecos: U}}\n";
        let (document, notices) = Document::parse_with_vendor_data(seed, vendor)
            .unwrap_or_else(|errors| panic!("{errors}"));
        let notices = notices.iter().map(Diagnostic::one_line);
        assert!(
            notices
                .into_iter()
                .any(|text| text.contains("`system_info.distro` is ignored"))
        );
        document.users()
    };
    let named = users("#cloud-config\n{}\n");
    assert_eq!(named[0].name, "ubuntu");
    assert_eq!(named[0].gecos.as_deref(), Some("U"));
    assert_eq!(named[0].sudo, ["ALL=(ALL) NOPASSWD:ALL"]);
    assert_eq!(named[0].ssh_authorized_keys, ["ssh-rsa A a"]);
    assert!(is_locked_key(&named[1].ssh_authorized_keys[0]));
    // The user's own choice.
    assert_eq!(users("#cloud-config\nuser: ops\n")[0].name, "ops");
    let document = CloudConfig::parse(
        "user-data",
        b"#cloud-config\nuser: {shell: /bin/sh}\nsystem_info: {default_user: {name: cloud}}\n",
    );
    let (document, _) = document.expect("a cloud-config");
    let user = document.value.default_user.expect("a default user");
    assert_eq!(
        (user.name.as_str(), user.shell.as_deref()),
        ("cloud", Some("/bin/sh"))
    );
}
