//! User-data of several parts, templates, and vendor-data with its own rules.

use super::*;

const MIME: &str = "Content-Type: multipart/mixed; boundary=\"BOUND\"\r
MIME-Version: 1.0\r
\r
--BOUND\r
Content-Type: text/cloud-config; charset=\"us-ascii\"\r
Content-Disposition: attachment; filename=\"first.cfg\"\r
\r
#cloud-config\r
hostname: a\r
ntp: {enabled: true, servers: [192.0.2.1]}\r
\r
--BOUND\r
Content-Type: text/x-shellscript\r
Content-Transfer-Encoding: base64\r
\r
IyEvYmluL3NoCmVjaG8gaGkK\r
--BOUND\r
Content-Type: text/cloud-config\r
MERGE\r
#cloud-config\r
ntp: {servers: [192.0.2.2]}\r
--BOUND\r
Content-Type: text/cloud-boothook-like\r
\r
what\r
--BOUND--\r
";

#[test]
fn parts_of_a_mime_archive_are_merged() {
    for (header, enabled, servers) in [
        // A later part replaces whole keys.
        ("", true, vec!["192.0.2.2"]),
        (
            "Merge-Type: dict(recurse_list)+list(append)\r\n",
            true,
            vec!["192.0.2.1", "192.0.2.2"],
        ),
        ("X-Merge-Type: dict()+list()\r\n", true, vec!["192.0.2.1"]),
    ] {
        let text = MIME.replace("MERGE\r\n", &format!("{header}\r\n"));
        let (parsed, notices) =
            CloudConfig::parse("user-data", text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let config = parsed.value;
        assert_eq!(config.hostname.as_deref(), Some("a"));
        let ntp = config.ntp.expect("ntp");
        assert_eq!(
            (ntp.enabled, ntp.servers),
            (
                enabled,
                servers.iter().map(|one| (*one).to_owned()).collect()
            )
        );
        let scripts: Vec<_> = config
            .scripts
            .iter()
            .map(|one| one.expose().as_str())
            .collect();
        assert_eq!(scripts, ["#!/bin/sh\necho hi\n"]);
        let notices = Diagnostics(notices).to_string();
        assert!(
            notices
                .contains("user-data/part-004: warning: a part of type `text/cloud-boothook-like`"),
            "{notices}"
        );
    }
    let wrong = MIME
        .replace("MERGE\r\n", "\r\n")
        .replace("servers: [192.0.2.2]", "server: x");
    assert!(
        errors(wrong.as_bytes()).contains("user-data/part-003:2:7: error: unknown key"),
        "{}",
        errors(wrong.as_bytes())
    );
    let wrong = MIME.replace("MERGE\r\n", "Merge-Type: set()\r\n\r\n");
    assert!(errors(wrong.as_bytes()).contains("`set` is no kind"));
}

#[test]
fn archives_scripts_and_templates_are_unpacked() {
    let config = read("#!/bin/sh\necho hi\n");
    assert_eq!(config.scripts.len(), 1);
    let config = read(
        "#cloud-config-archive
- \"#cloud-config\\nhostname: a\\npackages: [x]\"
- type: text/x-shellscript
  content: |
    #!/bin/bash
    true
- type: text/cloud-config
  merge_type: dict(replace)+list(append)
  content: |
    runcmd: [b]
",
    );
    assert_eq!(config.hostname.as_deref(), Some("a"));
    assert_eq!(config.scripts.len(), 1);
    assert_eq!(config.runcmd, [Command::Shell("b".to_owned())]);
    assert!(
        config.impossible[0].starts_with("user-data/part-001:3:1"),
        "{:?}",
        config.impossible
    );
    let meta = serde_json::json!({"local-hostname": "n0"});
    let template =
        b"## template: jinja\n#cloud-config\nhostname: '{{ ds.meta_data.local_hostname }}'\n";
    let (parsed, _) =
        CloudConfig::parse_with("user-data", template, &Variables::new(&meta)).expect("a template");
    assert_eq!(parsed.value.hostname.as_deref(), Some("n0"));
}

#[test]
fn vendor_data_merges_by_its_own_rules() {
    let merged = |vendor: &str| {
        let user = CloudConfig::parse("user-data", b"#cloud-config\nhostname: a\nruncmd: [mine]\n");
        let vendor = format!("#cloud-config\n{vendor}runcmd: [theirs]\ntimezone: UTC\n");
        let vendor = CloudConfig::parse("vendor-data", vendor.as_bytes());
        let (config, _) = below("merged", user.expect("user").0, vendor.expect("vendor").0)
            .unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.value.timezone.as_deref(), Some("UTC"));
        config.value.runcmd.len()
    };
    assert_eq!(merged(""), 1);
    assert_eq!(merged("merge_how: dict(recurse_list)+list(append)\n"), 2);
    assert_eq!(
        merged(
            "merge_type: [{name: dict, settings: [recurse_list]}, {name: list, settings: [prepend]}]\n"
        ),
        2
    );
}
