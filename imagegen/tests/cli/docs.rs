//! `docs/topology.md` is generated from the schema, and every example is a valid topology.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

/// Updates the reference instead of comparing it.
const UPDATE: &str = "FIRSTLIGHT_UPDATE_DOCS";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn topology_reference_matches_the_schema() {
    let output = Command::cargo_bin("imagegen")
        .unwrap()
        .arg("schema")
        .output();
    let schema: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let mut text = String::from(
        "# Topology\n\n\
         `cluster.yaml` describes one cluster and its hosts. `imagegen validate` reports every mistake in one run, with file, line,\n\
         column and cure; unknown and duplicate keys are errors. This page is made from `imagegen schema`: run\n\
         `FIRSTLIGHT_UPDATE_DOCS=1 cargo test -p imagegen topology_reference` after a change. Examples are in `examples/`.\n",
    );
    section(&mut text, &schema, "Top level", &schema);
    for (key, part) in schema["properties"].as_object().unwrap() {
        let part = resolve(&schema, part.get("items").unwrap_or(part));
        if part["properties"].is_object() {
            section(&mut text, &schema, &format!("`{key}`"), part);
        }
    }
    let path = repository().join("docs/topology.md");
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == text,
        "docs/topology.md is out of date; run: {UPDATE}=1 cargo test -p imagegen topology_reference"
    );
}

fn section(text: &mut String, schema: &Value, title: &str, part: &Value) {
    let _ = write!(
        text,
        "\n## {title}\n\n| key | type | |\n| --- | --- | --- |\n"
    );
    for (key, value) in part["properties"].as_object().unwrap() {
        let about = value["description"].as_str().unwrap_or_default();
        let about = about.replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(text, "| `{key}` | {} | {about} |", kind(schema, value));
    }
}

fn resolve<'a>(schema: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(path) => schema.pointer(path.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn kind(schema: &Value, value: &Value) -> String {
    let value = resolve(schema, value);
    if let Some(choices) = value["enum"].as_array() {
        let choices: Vec<_> = choices.iter().filter_map(Value::as_str).collect();
        return choices.join(" or ");
    }
    if let Some(any) = value["anyOf"].as_array() {
        let any: Vec<_> = any.iter().map(|one| kind(schema, one)).collect();
        return any.join(" or ");
    }
    let name = match &value["type"] {
        Value::Array(types) => types[0].as_str().unwrap_or_default(),
        other => other.as_str().unwrap_or_default(),
    };
    match name {
        "array" => format!("list of {}", kind(schema, &value["items"])),
        "object" => "mapping".to_owned(),
        other => other.to_owned(),
    }
}

#[test]
fn every_example_is_a_valid_topology() {
    let mut count = 0;
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        Command::cargo_bin("imagegen")
            .unwrap()
            .arg("validate")
            .arg("--topology")
            .arg(&path)
            .assert()
            .success();
        count += 1;
    }
    assert!(count >= 3, "{count} examples");
}
