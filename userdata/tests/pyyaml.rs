//! What we write, read by PyYAML: the YAML 1.1 reader under cloud-init. Skipped, visibly, where
//! Python has no `yaml` module; `CI` in the environment makes that a failure.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const READ: &str = "import sys, json, yaml\nprint(json.dumps(yaml.safe_load(sys.stdin.read())))";

/// A Python that has PyYAML: the first on PATH, or Debian's own, for which `python3-yaml` is.
fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        Command::new(python)
            .args(["-c", "import yaml"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// `None`: there is no PyYAML here.
fn pyyaml(text: &str) -> Option<Value> {
    let Some(python) = python() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "no python3 with the module `yaml`; apt-get install python3-yaml"
        );
        eprintln!("skipped: no python3 with the module `yaml`; apt-get install python3-yaml");
        return None;
    };
    let mut child = Command::new(python)
        .args(["-X", "utf8", "-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting python3");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("writing to python3");
    let output = child.wait_with_output().expect("reading from python3");
    assert!(output.status.success(), "PyYAML refuses:\n{text}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// Every text of up to three of these pieces: all that means something to some reader, side by
/// side.
fn texts() -> Vec<String> {
    let pieces = [
        "no",
        "Yes",
        "y",
        "null",
        "~",
        "1:30",
        "0755",
        "0o17",
        "1_000",
        "1e3",
        "<<",
        "=",
        "2026-01-01",
        "52:54:00:12:34:56",
        "a",
        "Ω",
        "🦀",
        ":",
        ": ",
        " #",
        "#",
        "- ",
        "? ",
        "!",
        "&",
        "*",
        "%",
        "@",
        "`",
        "{",
        "}",
        "[",
        "]",
        ",",
        "|",
        ">",
        "'",
        "\"",
        "\\",
        " ",
        "\t",
        "\n",
        "\n\n",
        "\r",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{feff}",
        "\u{1}",
        "\u{7f}",
        "---",
        "...",
        "-",
        ".inf",
        "x: y",
    ];
    let mut texts = vec![String::new()];
    for a in pieces {
        texts.push(a.to_owned());
        for b in pieces {
            texts.push(format!("{a}{b}"));
            for c in ["a", " ", "\n", ": ", "\t", "#"] {
                texts.push(format!("{a}{b}{c}"));
                texts.push(format!("{a}{c}{b}"));
            }
        }
    }
    texts.sort();
    texts.dedup();
    texts
}

#[test]
fn pyyaml_reads_written_yaml() {
    let texts = texts();
    assert!(texts.len() > 10_000);
    let keyed: serde_json::Map<String, Value> = texts
        .iter()
        .step_by(7)
        .map(|t| (t.clone(), json!([{"v": t}])))
        .collect();
    let value = json!({
        "list": texts,
        "nested": [[texts.iter().step_by(5).collect::<Vec<_>>()]],
        "keyed": keyed,
        "numbers": [0, -1, u64::MAX, i64::MIN, 1.5, 1e20, -2.5e-7, 0.1],
        "others": [null, true, false, {}, []],
    });
    let text = yaml::to_string(&value);
    if let Some(read) = pyyaml(&text) {
        let pairs = value["list"]
            .as_array()
            .into_iter()
            .flatten()
            .zip(read["list"].as_array().into_iter().flatten());
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs);
        }
        assert_eq!(read, value);
    }
    let ours = yaml::parse::<Value>("t", &text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .value;
    assert_eq!(ours, value);
}
