//! Errors of the reader for invalid texts, and round trips of the writer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Doc {
    name: String,
    #[serde(default)]
    flag: Option<bool>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    hosts: Vec<Host>,
    #[serde(default)]
    extra: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Host {
    name: String,
    address: std::net::IpAddr,
    #[serde(default)]
    mac: Option<String>,
}

fn errors(text: &str) -> String {
    parse::<Doc>("cluster.yaml", text)
        .expect_err(text)
        .to_string()
}

#[test]
fn unknown_and_duplicate_keys_are_reported_in_one_run() {
    insta::assert_snapshot!(errors(
        "nam: x\nname: a\nflag: on\nflag: off\nhosts:\n- name: h0\n  adress: 10.0.0.1\n  address: 10.0.0.1\n- {name: h1, address: 10.0.0.2, mca: \"x\"}\n  # end\nwhatever: [1, 2]\n"
    ));
}

#[test]
fn wrong_values_are_reported_in_one_run() {
    insta::assert_snapshot!(errors(
        "name: [a]\nflag: maybe\nport: 70000\nhosts:\n- name: h0\n  address: 10.0.0.256\n- {name: h1, address: ::1}\n- name: h2\n- {address: 10.0.0.2}\nextra:\n  a: no\n  b: 0644\n"
    ));
}

#[test]
fn syntax_error_has_a_position() {
    insta::assert_snapshot!(errors("name: \"a\nflag: true\n"));
    insta::assert_snapshot!(errors("name: a\nhosts: [1, 2\nflag: true\n"));
    insta::assert_snapshot!(errors("name: a\n---\nname: b\n"));
}

#[test]
fn redacted_findings_hide_the_source_line() {
    let shown = parse_redacted::<Doc>("user-data", "name: a\nport: hunter2\nhosts: [hunter2]\n")
        .expect_err("bad");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    insta::assert_snapshot!(shown);
}

#[test]
fn target_type_determines_scalar_meaning() {
    let text =
        "name: 0123\nflag: yes\nhosts:\n- {name: no, address: 10.0.0.1, mac: 52:54:00:12:34:56}\n";
    let doc = parse::<Doc>("t", text).expect("valid").value;
    assert_eq!(doc.name, "0123");
    assert_eq!(doc.flag, Some(true));
    assert_eq!(doc.hosts[0].name, "no");
    assert_eq!(doc.hosts[0].mac.as_deref(), Some("52:54:00:12:34:56"));
}

#[test]
fn empty_and_truncated_blocks_match_other_readers() {
    let read = |text: &str| parse::<serde_json::Value>("t", text).expect(text).value;
    assert_eq!(read("a: |\n"), serde_json::json!({"a": ""}));
    assert_eq!(
        read("a: |\nb: >-\nc: 1\n"),
        serde_json::json!({"a": "", "b": "", "c": 1})
    );
    assert_eq!(
        read("a: |+\n\nb: 1\n"),
        serde_json::json!({"a": "\n", "b": 1})
    );
    assert_eq!(read("a: |\n  x"), serde_json::json!({"a": "x"}));
}

#[test]
fn null_value_is_an_empty_list_or_the_default() {
    let doc = parse::<Doc>("t", "name: a\nhosts:\nflag: ~\nextra:\n")
        .expect("valid")
        .value;
    assert!(doc.hosts.is_empty() && doc.flag.is_none() && doc.extra.is_empty());
}

#[test]
fn spans_are_correct_in_nested_collections() {
    let text = "# ä comment\nname: ünï\nhosts:\r\n- name: h0\n  address: 10.0.0.1\n- {name: 'h1', address: 10.0.0.2}\nextra:\n  a/b.c: {d: [x, yy]}\n";
    let doc = parse::<Doc>("t", text).expect("valid");
    let cases = [
        ("name", 2, 7, "ünï"),
        ("hosts[0].address", 5, 12, "10.0.0.1"),
        ("hosts[1].name", 6, 10, "'h1'"),
        ("hosts[1].address", 6, 25, "10.0.0.2"),
        ("extra[\"a/b.c\"].d[1]", 8, 18, "yy"),
    ];
    for (path, line, column, value) in cases {
        let span = doc
            .spans
            .get(path)
            .unwrap_or_else(|| panic!("{path} has no span"));
        assert_eq!(text.get(span.value.bytes.clone()), Some(value), "{path}");
        assert_eq!(
            (span.value.line, span.value.column),
            (line, column),
            "{path}"
        );
    }
    assert!(doc.spans.get("hosts[2]").is_none());
    let key = doc
        .spans
        .get("hosts[0].address")
        .and_then(|span| span.key)
        .expect("key");
    assert_eq!(&text[key.bytes], "address");
}

#[test]
fn aliases_are_expanded_up_to_a_limit() {
    let text = "name: &n abc\nextra:\n  base: &b {x: 1, y: 2}\n  use: {<<: *b, y: 3}\n  n: *n\n";
    let doc = parse::<Doc>("t", text).expect("valid").value;
    assert_eq!(
        serde_json::Value::from(doc.extra)["use"],
        serde_json::json!({"y": 3, "x": 1})
    );

    let mut bomb = "name: a\nextra:\n  l0: &l0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..9 {
        let uses = vec![format!("*l{}", i - 1); 10].join(",");
        bomb.push_str(&format!("  l{i}: &l{i} [{uses}]\n"));
    }
    assert!(
        errors(&bomb).contains("expands to more than"),
        "{}",
        errors(&bomb)
    );
    let deep = format!("name: a\nextra: {}{}\n", "[".repeat(100), "]".repeat(100));
    assert!(errors(&deep).contains("nested deeper"), "{}", errors(&deep));
    assert!(
        errors("name: &a [*a]\n").contains("alias"),
        "{}",
        errors("name: &a [*a]\n")
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Texts {
    list: Vec<String>,
    map: BTreeMap<String, String>,
    nested: BTreeMap<String, Vec<BTreeMap<String, String>>>,
}

fn texts(strings: &[String]) -> Texts {
    let map: BTreeMap<String, String> = strings.iter().map(|s| (s.clone(), s.clone())).collect();
    Texts {
        list: strings.to_vec(),
        nested: BTreeMap::from([(
            "n".to_owned(),
            vec![map.clone(), BTreeMap::new(), map.clone()],
        )]),
        map,
    }
}

fn reads_back(strings: &[String]) {
    let value = texts(strings);
    let text = to_string(&value);
    let foreign: Texts =
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(foreign, value, "serde_yaml reads otherwise:\n{text}");
    let ours = parse::<Texts>("t", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(ours.value, value, "we read otherwise:\n{text}");
}

pub(super) const AWKWARD: &[&str] = &[
    "no",
    "Yes",
    "off",
    "y",
    "null",
    "~",
    "",
    " ",
    "1:30",
    "0755",
    "08",
    "0o17",
    "1_000",
    "1e3",
    ".5",
    "<<",
    "=",
    "2026-01-01",
    "2026-01-01 10:00:00",
    "52:54:00:12:34:56",
    "10.0.0.1",
    "a: b",
    "a #b",
    "- a",
    "? a",
    "!x",
    "&x",
    "*x",
    "%x",
    "@x",
    "`x",
    "{x",
    "[x",
    "x ",
    " x",
    "a\nb",
    "a\nb\n",
    "a\n\n",
    "\na",
    "\n",
    " a\nb\n",
    "a\n b\n\n\n",
    "a\n \nb",
    "a\n\t\nb",
    "\ta\nb",
    "a\tb",
    "a\r\nb",
    "é",
    "\u{85}",
    "\u{2028}",
    "\u{feff}x",
    "\u{7f}",
    "\u{1}",
    "🦀",
    "'",
    "\"",
    "\\",
    "a\\n",
    "---",
    "...",
    "a\n---\nb\n",
    "a\n...\n",
    "#c",
    "#c\nd\n",
    "true\n",
    "-",
    "-1",
    "+1",
    "0x1F",
    ".inf",
    "a\n#c\n",
    "x:\n",
    "key: value\n",
    "trailing \nspace\n",
    "trailing\nspace ",
];

#[test]
fn ambiguous_strings_round_trip() {
    let strings: Vec<String> = AWKWARD.iter().map(|s| (*s).to_owned()).collect();
    reads_back(&strings);
    for string in strings {
        reads_back(&[string]);
    }
    reads_back(&["k".repeat(1500)]);
}

#[test]
fn numbers_are_written_for_yaml_1_1_readers() {
    assert_eq!(
        to_string(&[1e20, 1.5e-7, 0.5, 3.0]),
        "- 1.0e+20\n- 1.5e-7\n- 0.5\n- 3.0\n"
    );
    assert_eq!(to_string(&[Some(-3), None]), "- -3\n- null\n");
}

#[test]
fn writer_output_is_deterministic() {
    let strings = [
        "plain text",
        "no",
        "-----BEGIN X-----\nabc\n-----END X-----\n",
    ]
    .map(str::to_owned);
    insta::assert_snapshot!(to_string(&texts(&strings)));
}

proptest::proptest! {
    #[test]
    fn arbitrary_strings_round_trip(strings in proptest::collection::vec("(\\PC|[\n\t :#-]|\\w){0,12}", 0..4)) {
        reads_back(&strings);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "([ \n:,\\[\\]{}&*!|>'\"%#?-]|[a-z0]){0,40}") {
        let _ = parse::<serde_json::Value>("t", &text);
    }

    /// Two parsers that share no code: what both take, both read alike.
    #[test]
    fn reader_agrees_with_serde_yaml_or_rejects(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..16)
    ) {
        // A last line of nothing but blanks, which nothing ends, is no line to some and one to
        // others.
        let mut text = pieces.concat();
        text.truncate(text.trim_end_matches([' ', '\t']).len());
        let theirs = serde_yaml::from_str::<serde_json::Value>(&text);
        let ours = parse::<serde_json::Value>("t", &text);
        if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
            proptest::prop_assert_eq!(ours.value, theirs, "{}", text);
        }
    }
}

// Without `?`: libyaml takes `[?1]` for a key, which YAML 1.2 does not.
const PIECES: &[&str] = &[
    "a", "b", "a: ", "b: ", "c:\n", "- ", "\n", "\n", "\n  ", "\n    ", " ", "[", "]", "{", "}",
    ", ", "'x'", "\"y\\n\"", " #c\n", "|\n", "|-\n", ">\n", "|2\n", "1", "-3", "1.5", "true",
    "null", "~", ":", "é", "\t", "'it''s'",
];

/// Found by the fuzz target `network_config`.
#[test]
fn caret_before_multibyte_character_prints() {
    let errors = parse::<serde_json::Value>("f", "%\u{722}\n\n").unwrap_err();
    assert!(errors.to_string().contains("f:1:2"), "{errors}");
}
