//! Rules in every shape, and what they make of two trees.

use super::*;
use serde_json::{Value, json};

fn tree(text: &str) -> Tree {
    let (parsed, found) = crate::parse_leniently::<serde::de::IgnoredAny>("t", text, false);
    assert!(!found.has_errors(), "{found}");
    Tree::of(&parsed.expect(text).spans)
}

fn merged(old: &str, new: &str, rules: &str) -> Value {
    let rules = MergeRules::parse(rules).expect(rules);
    let text = tree(old).merged(tree(new), &rules).to_text();
    crate::parse::<Value>("merged", &text).expect(&text).value
}

#[test]
fn rules_are_those_of_cloud_init() {
    let (old, new) = (
        "a: [1, 2]\nb: {x: 1}\nc: old",
        "a: [3]\nb: {x: 2, y: 2}\nc: new\nd: 1",
    );
    for (rules, expected) in [
        (
            "list()+dict()+str()",
            json!({"a": [1, 2], "b": {"x": 1, "y": 2}, "c": "old", "d": 1}),
        ),
        (
            "dict(replace)+list()+str()",
            json!({"a": [3], "b": {"x": 2, "y": 2}, "c": "new", "d": 1}),
        ),
        (
            "list(append)+dict(recurse_array,recurse_str)+str(append)",
            json!({"a": [1, 2, 3], "b": {"x": 1, "y": 2}, "c": "oldnew", "d": 1}),
        ),
        (
            "list(prepend)+dict(recurse_list)",
            json!({"a": [3, 1, 2], "b": {"x": 1, "y": 2}, "c": "old", "d": 1}),
        ),
        (
            "list()+dict(recurse-list)",
            json!({"a": [3, 2], "b": {"x": 1, "y": 2}, "c": "old", "d": 1}),
        ),
        (
            "list(append)",
            json!({"a": [1, 2], "b": {"x": 1}, "c": "old"}),
        ),
    ] {
        assert_eq!(merged(old, new, rules), expected, "{rules}");
    }
    let deleted = merged("a: 1\nb: 2", "a: null", "dict(allow_delete)");
    assert_eq!(deleted, json!({"b": 2}));
}

#[test]
fn rules_are_read_in_every_shape() {
    let expected = MergeRules::parse("list(append)+dict(no_replace,recurse_list)").expect("rules");
    for text in [
        "merge_how: list(append)+dict(no_replace,recurse_list)",
        "merge_type: 'list(append) + Dict(no-replace, recurse-list)'",
        "merge_how: [{name: list, settings: [append]}, {name: dict, settings: [no_replace, \
         recurse_list]}]",
        "merge_how: [[list, append], [dict, no_replace, recurse_list]]",
    ] {
        assert_eq!(tree(text).rules(), Ok(expected.clone()), "{text}");
    }
    for text in ["merge_how: set()", "merge_how: list", "merge_how: {a: b}"] {
        assert!(tree(text).rules().is_err(), "{text}");
    }
}

#[test]
fn text_means_the_same_after_it_was_written() {
    for text in [
        "a: 44\nb: '0644'\nc: true\nd: 'yes'\ne: ~\nf:\ng: -1\nh: '-'\ni: ''\nj: plain text",
        "a: |\n  two\n  lines: {x}\nb: \"\\u2028 \\t\\\"\"\n'c d': [[], {}]\ne: a, b # no",
        "b: 'ünï'\nc: https://x/?a=b",
    ] {
        let first = tree(text);
        let written = first.to_text();
        assert_eq!(tree(&written).to_text(), written, "{text}");
        let values = |text: &str| crate::parse::<Value>("t", text).expect(text).value;
        assert_eq!(values(&written), values(text), "{written}");
    }
    // What readers take for a mode or a boolean is still one.
    assert_eq!(
        tree("[0644, yes, '0644']").to_text(),
        "[0644, yes, \"0644\"]\n"
    );
}
