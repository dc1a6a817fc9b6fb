//! The cases of cloud-init's and netplan's own tests, fetched when this runs: our verdict beside
//! theirs, as `docs/conformance.md`.
//!
//! `FIRSTLIGHT_CONFORMANCE=DIR` uses sources that `conformance/fetch.sh DIR` fetched before.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use userdata::cloud_config::{CloudConfig, Variables, Verdict, verdict};
use userdata::network::Network;
use yaml::{Diagnostics, MergeRules, Tree};

#[derive(Deserialize)]
struct Case {
    suite: String,
    name: String,
    kind: String,
    texts: Vec<String>,
    /// Whether they take it; of merges, the result.
    theirs: Value,
}

/// `Err`: we refuse, for this reason.
type Ours = Result<(), String>;

#[derive(Default)]
struct Counts {
    both_take: usize,
    both_refuse: usize,
    only_they_take: usize,
    only_we_take: usize,
}

/// Why we take what they refuse, by the beginning of the case's name.
const REASONS: &str = include_str!("conformance/reasons.tsv");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

fn run(program: &Path, arguments: &[&Path]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", program.display());
    output.stdout
}

fn first_error(found: &Diagnostics) -> String {
    let mut errors = found.0.iter();
    let error = errors.find(|one| one.severity == yaml::Severity::Error);
    error.map_or_else(|| "refused".to_owned(), |one| one.message.clone())
}

/// Of an instance, for templates.
fn variables() -> Variables {
    Variables::new(&serde_json::json!({ "instance-id": "i-1", "local-hostname": "n0" }))
}

fn ours(case: &Case) -> Ours {
    let text = case.texts[0].as_str();
    match case.kind.as_str() {
        "config" => CloudConfig::parse_with("user-data", text.as_bytes(), &variables())
            .map(drop)
            .map_err(|found| first_error(&found)),
        "network" => Network::parse("network-config", text)
            .map(drop)
            .map_err(|found| first_error(&found)),
        _ => merged(case),
    }
}

fn merged(case: &Case) -> Ours {
    let value = |text: &str| {
        let parsed = yaml::parse::<Value>("merged", text);
        parsed
            .map(|parsed| parsed.value)
            .map_err(|found| first_error(&found))
    };
    let mut tree = Tree::default();
    for text in &case.texts {
        let (parsed, found) = yaml::parse_leniently::<Value>("part", text, false);
        let part = parsed.ok_or_else(|| first_error(&found))?;
        let part = Tree::of(&part.spans);
        let mut rules = part.rules()?;
        if rules.is_empty() {
            rules = MergeRules::parse("dict(replace)+list()+str()")?;
        }
        tree = tree.merged(part, &rules);
    }
    let (mine, expected) = (
        value(&tree.to_text())?,
        value(case.theirs.as_str().unwrap_or_default())?,
    );
    if mine == expected {
        Ok(())
    } else {
        Err("another result".to_owned())
    }
}

/// Why we take a case that they refuse.
fn reason(case: &Case) -> String {
    if case.kind == "config" {
        let (parsed, _) = yaml::parse_leniently::<Value>("config", &case.texts[0], false);
        let keys = parsed.iter().flat_map(|parsed| parsed.spans.keys(""));
        let idle = keys.filter(|key| {
            matches!(
                verdict(key),
                Some(Verdict::Ignored(_) | Verdict::Impossible(_))
            )
        });
        let idle: Vec<String> = idle.map(|key| format!("`{key}`")).collect();
        if !idle.is_empty() {
            return format!(
                "{} has no effect here; its value is not checked",
                idle.join(", ")
            );
        }
    }
    let full = format!("{}: {}", case.suite, case.name);
    let mut rows = REASONS.lines().filter_map(|line| line.split_once('\t'));
    rows.find(|(start, _)| full.starts_with(start)).map_or_else(
        || format!("NO REASON for `{full}`"),
        |(_, reason)| reason.to_owned(),
    )
}

#[test]
#[ignore = "needs the network; run: cargo test -p userdata --test conformance -- --include-ignored"]
fn verdicts_are_those_of_the_page() {
    let temporary = std::env::temp_dir().join(format!("conformance-{}", std::process::id()));
    let sources = match std::env::var_os("FIRSTLIGHT_CONFORMANCE") {
        Some(given) => PathBuf::from(given),
        None => {
            run(&folder().join("fetch.sh"), &[&temporary]);
            temporary.clone()
        }
    };
    let lines = run(
        Path::new("python3"),
        &[&folder().join("cases.py"), &sources],
    );
    let lines = String::from_utf8(lines).expect("UTF-8");
    let version = |name: &str| {
        let text = std::fs::read_to_string(sources.join(format!("{name}.version")));
        text.unwrap_or_default().trim().replace('_', " ")
    };
    let versions = [version("cloud-init"), version("netplan")];
    let _ = std::fs::remove_dir_all(&temporary);
    let mut counts = BTreeMap::<String, Counts>::new();
    let mut rows = BTreeMap::<(String, bool, String), Vec<String>>::new();
    for line in lines.lines() {
        let case: Case = serde_json::from_str(line).expect(line);
        let theirs = case.theirs.as_bool().unwrap_or(true);
        let ours = ours(&case);
        let count = counts.entry(case.suite.clone()).or_default();
        let why = match (theirs, ours) {
            (true, Ok(())) => {
                count.both_take += 1;
                continue;
            }
            (false, Err(_)) => {
                count.both_refuse += 1;
                continue;
            }
            (true, Err(why)) => {
                count.only_they_take += 1;
                why
            }
            (false, Ok(())) => {
                count.only_we_take += 1;
                reason(&case)
            }
        };
        let row = rows.entry((case.suite, theirs, why)).or_default();
        row.push(case.name);
    }
    let text = page(&versions, &counts, &rows);
    assert!(counts.len() >= 7, "only {} suites were found", counts.len());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    if std::env::var_os("FIRSTLIGHT_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &text).expect("writing the page");
    }
    assert!(!text.contains("NO REASON"), "{text}");
    let now = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        now == text,
        "docs/conformance.md is out of date; run: FIRSTLIGHT_UPDATE_DOCS=1 cargo test -p userdata --test conformance -- \
         --include-ignored\n{text}"
    );
}

fn page(
    versions: &[String; 2],
    counts: &BTreeMap<String, Counts>,
    rows: &BTreeMap<(String, bool, String), Vec<String>>,
) -> String {
    let mut text = format!(
        "# Conformance\n\n\
         The cases of cloud-init's and netplan's own tests ({} and {}, Debian's source packages), and what\n\
         firstboot's parsers say of them. `cargo test -p userdata --test conformance -- --include-ignored` fetches\n\
         them and compares this page; `FIRSTLIGHT_UPDATE_DOCS=1` in front of it writes the page. To take a document\n\
         means to read it without an error; known keys may still have no effect (see [userdata](userdata.md)).\n\n\
         | suite | cases | same verdict | both take | both refuse | only they take | only we take |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        versions[0], versions[1]
    );
    for (suite, count) in counts {
        let same = count.both_take + count.both_refuse;
        let all = same + count.only_they_take + count.only_we_take;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {suite} | {all} | {same} | {} | {} | {} | {} |",
            count.both_take, count.both_refuse, count.only_they_take, count.only_we_take
        );
    }
    text.push_str(
        "\n## Disagreements\n\nWhere only they take a case, the reason is our error message.\n\n\
         | suite | they | reason | cases |\n| --- | --- | --- | --- |\n",
    );
    for ((suite, theirs, why), names) in rows {
        let they = if *theirs { "take" } else { "refuse" };
        let why = why.replace('|', "\\|").replace('\n', " ");
        let _ = writeln!(text, "| {suite} | {they} | {why} | {} |", names.join(", "));
    }
    text
}
