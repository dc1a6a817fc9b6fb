//! Time to read 4 MB of hostile text, per shape: `cargo bench -p yaml --bench hostile_text`.
//!
//! It fails if a shape takes more than a second.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;

const SIZE: usize = 4_000_000;
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Doc {
    #[serde(default)]
    a: Option<String>,
    #[serde(default)]
    list: Vec<u16>,
    #[serde(default)]
    map: BTreeMap<String, Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Item {
    name: String,
}

/// `unit` repeated to the size; `#` becomes a number.
fn repeat(head: &str, unit: &str, tail: &str) -> String {
    let mut text = String::with_capacity(SIZE + 64);
    text.push_str(head);
    for number in 0.. {
        if text.len() + unit.len() > SIZE {
            break;
        }
        text.push_str(&unit.replace('#', &number.to_string()));
    }
    text.push_str(tail);
    text
}

/// `count` units: as many values as the reader takes.
fn many(head: &str, unit: &str, count: usize, tail: &str) -> String {
    let units = (0..count).map(|number| unit.replace('#', &number.to_string()));
    format!("{head}{}{tail}", units.collect::<String>())
}

fn texts() -> Vec<(&'static str, String)> {
    let half = "x".repeat(SIZE / 2);
    vec![
        ("one plain scalar", repeat("a: ", "x", "")),
        ("one quoted scalar", repeat("a: \"", "x", "\"")),
        (
            "one quoted scalar with escapes",
            repeat("a: \"", "\\n", "\""),
        ),
        ("unclosed quote", repeat("a: \"", "x\n  ", "")),
        ("quoted lines", repeat("a: \"", "x\n  ", "\"")),
        ("plain lines", repeat("a: ", "x\n  ", "")),
        ("one block", repeat("a: |\n", "  line\n", "")),
        ("one folded block", repeat("a: >\n", "  line\n", "")),
        ("block of empty lines", repeat("a: |\n", "\n", "")),
        ("empty blocks", repeat("", "k#: |\n", "")),
        (
            "blocks and trailing lines",
            repeat(&"- |\n x\n".repeat(SIZE / 16), "\n", ""),
        ),
        (
            "blocks and a long last line",
            repeat(&"- |\n x\n".repeat(SIZE / 16), " ", ""),
        ),
        ("block list", repeat("list:\n", "- 1\n", "")),
        ("flow list", repeat("list: [", "1,", "]")),
        ("unclosed flow list", repeat("list: [", "1,", "")),
        ("list of wrong values", repeat("list:\n", "- x\n", "")),
        ("flow list of wrong values", repeat("list: [", "x,", "]")),
        ("unknown keys", repeat("", "k#: 1\n", "")),
        ("unknown keys in one line", repeat("{", "k#: 1,", "}")),
        ("wrong items", repeat("map:\n", "  k#: {nam: x}\n", "")),
        (
            "wrong items in one line",
            repeat("map: {", "k#: {nam: x},", "}"),
        ),
        ("duplicate keys", repeat("", "a: 1\n", "")),
        ("duplicate keys in one line", repeat("{", "a: 1,", "}")),
        ("unknown tags", repeat("", "- !x a\n", "")),
        ("unknown tags in one line", repeat("[", "!x a,", "]")),
        ("keys that are lists", repeat("", "? [a]\n: b\n", "")),
        ("anchors", repeat("", "- &a# x\n", "")),
        ("aliases", repeat("- &a x\n", "- *a\n", "")),
        ("unknown aliases", repeat("", "- *a\n", "")),
        (
            "large alias",
            format!("- &a {half}\n{}", "- *a\n".repeat(SIZE / 10)),
        ),
        (
            "large key alias",
            format!("- &a {{{half}: 1}}\n{}", "- *a\n".repeat(SIZE / 10)),
        ),
        ("merges", repeat("- &a {x: 1}\n", "- {<<: *a}\n", "")),
        ("merge list", repeat("- &a {x: 1}\n- {<<: [", "*a,", "]}\n")),
        ("flow nesting", repeat("", "[", "")),
        ("flow mapping nesting", repeat("", "{a: ", "")),
        ("block nesting", repeat("", "- ", "")),
        (
            "indented nesting",
            (0..2800)
                .map(|n| format!("{}a:\n", " ".repeat(n)))
                .collect(),
        ),
        ("question marks", repeat("", "? ", "")),
        ("colons", repeat("", ": ", "")),
        ("comments", repeat("", "# x\n", "")),
        ("one comment", repeat("a: 1 #", "x", "")),
        ("documents", repeat("", "---\n", "")),
        ("document ends", repeat("", "...\n", "")),
        ("directives", repeat("", "%A b\n", "")),
        ("line breaks", repeat("", "\n", "a: 1")),
        ("spaces", repeat("a:", " ", "1")),
        ("tabs", repeat("a:", "\t", "1")),
        ("letters of many bytes", repeat("a: ", "ü", "")),
        ("lines of many bytes", repeat("", "- ü\n", "")),
        ("multiline keys", repeat("", "\"k\n #\": 1\n", "")),
        ("all values", many("list:\n", "- 1\n", 240_000, "")),
        ("all values wrong", many("list:\n", "- x\n", 240_000, "")),
        (
            "all values wrong in one line",
            many("list: [", "x,", 240_000, "]"),
        ),
        ("all keys unknown", many("", "k#: 1\n", 120_000, "")),
        (
            "all keys unknown in one line",
            many("{", "k#: 1,", 120_000, "}"),
        ),
        (
            "all items wrong",
            many("map:\n", "  k#: {nam: x}\n", 60_000, ""),
        ),
        (
            "one item wrong",
            many("map:\n", "  k#: {name: x}\n", 60_000, "b: 1"),
        ),
        (
            "thousand long values",
            many("", &format!("k#: {}\n", "x".repeat(4000)), 1000, ""),
        ),
        ("null bytes", repeat("a: ", "\0", "")),
    ]
}

fn time<T: serde::de::DeserializeOwned>(text: &str) -> (Duration, String) {
    let start = Instant::now();
    let result = yaml::parse::<T>("text", text);
    let time = start.elapsed();
    let shown = match result {
        Ok(_) => "valid".to_owned(),
        Err(found) => {
            let start = Instant::now();
            let text = found.to_string();
            let first = found.lines().next().unwrap_or_default();
            let first: String = first.chars().take(90).collect();
            let printing = start.elapsed();
            format!(
                "{} findings, {} bytes in {printing:?}: {first}",
                found.0.len(),
                text.len()
            )
        }
    };
    (time, shown)
}

fn main() -> ExitCode {
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut slow = Vec::new();
    for (name, text) in texts().into_iter().filter(|(name, _)| name.contains(&only)) {
        // Other programs share the machine: the best of three times is that of the reader.
        let best = |read: fn(&str) -> (Duration, String)| (0..3).map(|_| read(&text)).min();
        let typed = best(time::<Doc>).unwrap_or_default();
        let untyped = best(time::<serde_json::Value>).unwrap_or_default();
        for (kind, (time, shown)) in [("typed", typed), ("untyped", untyped)] {
            println!("{time:>10.1?} {name} ({kind}): {shown}");
            if time > LIMIT {
                slow.push(format!("{name} ({kind}): {time:?}"));
            }
        }
    }
    for one in &slow {
        println!("over {LIMIT:?}: {one}");
    }
    ExitCode::from(u8::from(!slow.is_empty()))
}
