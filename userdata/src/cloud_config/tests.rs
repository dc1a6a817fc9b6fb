//! What clients send is read; what is wrong is named with its place and without its value.

use std::io::Write;

use super::*;

mod parts;

fn read(text: &str) -> CloudConfig {
    match CloudConfig::parse("user-data", text.as_bytes()) {
        Ok((parsed, _)) => parsed.value,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn errors(text: &[u8]) -> String {
    CloudConfig::parse("user-data", text)
        .expect_err(&String::from_utf8_lossy(text))
        .to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).expect("packing");
    packer.finish().expect("packing")
}

#[test]
fn all_file_encodings_decode_to_same_bytes() {
    use base64::Engine;
    let b64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let (plain, packed) = (b64(b"hello\n"), b64(&gzip(b"hello\n")));
    let spellings = [
        "content: \"hello\\n\"".to_owned(),
        "{content: \"hello\\n\", encoding: text/plain}".to_owned(),
        format!("{{content: {plain}, encoding: b64}}"),
        format!("{{content: {plain}, encoding: BASE64}}"),
        format!(
            "{{content: \"{}\\n{}\\n\", encoding: b64}}",
            &plain[..4],
            &plain[4..]
        ),
        format!("{{content: !!binary {plain}}}"),
        format!("{{content: {packed}, encoding: gz+b64}}"),
        format!("{{content: {packed}, encoding: gzip+base64}}"),
        format!("{{content: !!binary {packed}, encoding: gzip}}"),
    ];
    for spelling in spellings {
        let fields = spelling.trim_matches(['{', '}']);
        let files = read(&format!(
            "#cloud-config\nwrite_files:\n- {{path: /a, {fields}}}\n"
        ))
        .files;
        assert_eq!(files[0].content.expose(), b"hello\n", "{spelling}");
    }
}

#[test]
fn file_mode_is_read_as_octal() {
    let cases = [
        ("'0600'", 0o600),
        ("0644", 0o644),
        ("\"755\"", 0o755),
        ("0o750", 0o750),
        ("'04755'", 0o4755),
    ];
    for (text, mode) in cases {
        let files = read(&format!(
            "#cloud-config\nwrite_files: [{{path: /a, permissions: {text}}}]\n"
        ))
        .files;
        assert_eq!(files[0].mode, mode, "{text}");
    }
    for text in ["644", "'0689'", "rw-r--r--", "'100644'", "-1", "''"] {
        let text = format!("#cloud-config\nwrite_files: [{{path: /a, permissions: {text}}}]\n");
        assert!(
            errors(text.as_bytes()).contains("user-data:2:39: error"),
            "{}",
            errors(text.as_bytes())
        );
    }
}

#[test]
fn invalid_files_are_reported_in_one_run() {
    insta::assert_snapshot!(errors(
        b"#cloud-config
write_files:
- {path: /ok, content: fine}
- path: /etc/key
  encoding: b64
  content: c2VjcmV0*A==
- path: ../escape
  permissions: 644
  owner: 'a:b:c'
- path: /x
  encoding: base46
  content: hunter2
- path: /y
  source: {uri: 'http://x/'}
- pth: /z
"
    ));
}

#[test]
fn keys_are_classified_by_support() {
    insta::assert_snapshot!(errors(
        b"#cloud-config
hostnam: a
package_upgrade: true
apt: {sources: {}}
growpart: {mode: auto}
users:
- name: a
  ssh-authorised-keys: []
  ssh_import_id: [gh:x]
disk_setup: {}
x-mine: 1
run-cmd: [a]
whatever: 1
"
    ));
    let (_, notices) = CloudConfig::parse(
        "user-data",
        b"#cloud-config\npackage_update: true\nx-a: {b: 1}\n",
    )
    .expect("only ignored keys");
    insta::assert_snapshot!(Diagnostics(notices));
}

#[test]
fn non_cloud_config_user_data_is_rejected() {
    let cases: &[&[u8]] = &[
        b"## template: jinja\n#cloud-config\n{{ no_such_value }}\n",
        b"## template: jinja\n#include\nhttp://x/\n",
        b"#include\nhttp://x/\n",
        b"#include-once\nhttp://x/\n",
        b"#cloud-config-archive\n- a\n- {type: text/cloud-config, content: 'hostnam: a'}\n",
        b"#cloud-config-archive\na: b\n",
        b"#cloud-boothook\n",
        b"#part-handler\n",
        b"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n",
        b"{\"ignition\": {\"version\": \"3.4.0\"}}",
        b"hostname: a\n",
        b"# cloud-config\nhostname: a\n",
        b"#cloud-config\n- a\n",
        b"\xff\xfe\x00",
        b"\x1f\x8b\x08broken",
    ];
    let all: Vec<String> = cases.iter().map(|case| errors(case)).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn compressed_and_empty_user_data_are_parsed() {
    let (parsed, _) =
        CloudConfig::parse("user-data", &gzip(b"#cloud-config\nhostname: h\n")).expect("gzip");
    assert_eq!(parsed.value.hostname.as_deref(), Some("h"));
    for nothing in [&b""[..], b"\n", b"#cloud-config\n", b"#cloud-config\n{}\n"] {
        let (parsed, notices) = CloudConfig::parse("user-data", nothing).expect("empty");
        assert_eq!(
            parsed.value,
            CloudConfig {
                create_hostname_file: true,
                ..CloudConfig::default()
            }
        );
        assert!(notices.is_empty());
    }
}

#[test]
fn decompression_bomb_is_rejected() {
    let bomb = gzip(&vec![b'#'; 40 << 20]);
    assert!(
        errors(&bomb).contains("unpacks to more than"),
        "{}",
        errors(&bomb)
    );
}

#[test]
fn users_are_parsed_in_all_client_shapes() {
    let config = read(
        "#cloud-config
users:
- default
- carol
- {name: alice, uid: \"501\", groups: 'sudo, adm', sudo: 'ALL=(ALL) NOPASSWD:ALL', lock_passwd: no, ssh-authorized-keys: [ssh-ed25519 AAAA a]}
- {name: bob, uid: 502, groups: [adm], sudo: false, plain_text_passwd: pw, ssh_authorized_keys: 'ssh-rsa BBBB b'}
user: {shell: /bin/sh}
groups: [docker, admin: [alice, bob]]
ssh_pwauth: unchanged
manage_etc_hosts: localhost
chpasswd: {expire: False, list: \"root:$6$salt$hash\\nalice:plain\\n\"}
password: 0123
disable_root: False
",
    );
    insta::assert_debug_snapshot!(config);
    let Some(UserEntry::User(bob)) = config.users.as_ref().and_then(|users| users.get(3)) else {
        panic!("bob")
    };
    assert_eq!(bob.password, Some(Password::Text("pw".to_owned().into())));
    assert_eq!(
        config.password,
        Some(Password::Text("0123".to_owned().into()))
    );
}

#[test]
fn wrong_values_of_other_keys_are_reported() {
    insta::assert_snapshot!(errors(
        b"#cloud-config
hostname: under_score
timezone: ../../etc/passwd
manage_etc_hosts: sometimes
ssh_pwauth: maybe
ssh_authorized_keys: [not-a-key]
ca_certs: {trusted: [hunter2]}
mounts: [[a], [swap, none], [a, b, c, d, e, f, g]]
ntp: {servers: [1.2.3.4, 'bad host'], peers: [x]}
runcmd: {a: b}
chpasswd: {users: [{name: a, type: RANDOM}, {name: b}], list: ['c:R', 'nocolon']}
users: [{groups: [a]}, {name: 'a b'}, {name: a, uid: x}, {name: a, expiredate: 2038-1-19}]
"
    ));
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_under_known_keys_never_panics(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..14)
    ) {
        let text = format!("#cloud-config\n{}", pieces.concat());
        if let Err(errors) = CloudConfig::parse("user-data", text.as_bytes()) {
            // Saying what is wrong must not fail either, wherever the caret falls.
            proptest::prop_assert!(errors.has_errors() && !errors.to_string().is_empty());
        }
        let _ = crate::network::Network::parse("network-config", &pieces.concat());
    }
}

const PIECES: &[&str] = &[
    "users:",
    "write_files:",
    "chpasswd:",
    "ntp:",
    "runcmd:",
    "mounts:",
    "groups:",
    "ca_certs:",
    "ethernets:",
    "version: 2\n",
    " name: ä\n",
    " path: /x\n",
    " content: ",
    "!!binary ",
    "- ",
    "\n- ",
    "\n  ",
    "\n",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "permissions: 0644",
    "encoding: b64",
    "aGk=",
    "'x'",
    "true",
    "1",
    "~",
    "é🦀",
    "\t",
    "\r\n",
];
