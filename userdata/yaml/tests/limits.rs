//! Limits of the reader: a short or hostile text is one clear error and takes little memory.

use serde_json::Value;

fn errors(text: &str) -> Vec<String> {
    let found = yaml::parse::<Value>("text", text).expect_err("refused");
    found.lines().collect()
}

#[track_caller]
fn only_error(text: &str, expected: &str) {
    let found = errors(text);
    assert!(
        found.len() == 1 && found[0].contains(expected),
        "{expected}: {found:#?}"
    );
}

#[test]
fn bytes_copied_by_aliases_are_limited() {
    let scalar = "y".repeat(100_000);
    let expected = "error: anchors and aliases copy more than 8 MiB";
    for text in [
        format!("- &a {scalar}\n{}", "- *a\n".repeat(100)),
        format!("- &a {{{scalar}: 1}}\n{}", "- *a\n".repeat(100)),
        format!("- &a {{k: {scalar}}}\n{}", "- {<<: *a}\n".repeat(100)),
    ] {
        only_error(&text, expected);
    }
    // Each anchor keeps a copy, those inside others too.
    let nested: String = (0..60).map(|n| format!("&a{n} [")).collect();
    let large = "y".repeat(200_000);
    only_error(&format!("{nested}{large}{}", "]".repeat(60)), expected);
    let few = format!("- &a {scalar}\n{}", "- *a\n".repeat(20));
    assert!(yaml::parse::<Value>("text", &few).is_ok());
}

#[test]
fn values_and_depth_are_limited() {
    let lists: String = (1..9)
        .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(9)))
        .collect();
    only_error(
        &format!("a0: &a0 [x]\n{lists}"),
        "expands to more than 250000 values",
    );
    only_error(&"- ".repeat(70), "nested deeper than 64 levels");
    only_error(&"[".repeat(100_000), "recursion limit exceeded");
}

#[test]
fn size_of_a_text_is_limited() {
    let text = format!("a: {}", "x".repeat(17 << 20));
    only_error(
        &text,
        "error: larger than 16 MiB; keep large files out of it",
    );
}

#[test]
fn number_and_size_of_findings_are_limited() {
    for unit in ["a: 1,", "!x a: 1,", "[a]: 1,"] {
        let text = format!("{{{}}}", unit.repeat(20_000));
        let found = yaml::parse::<Value>("text", &text).expect_err("refused");
        assert_eq!(found.0.len(), 100, "{unit}");
        let shown = found.to_string().len();
        assert!(shown < 200_000, "{unit}: {shown} bytes");
    }
}

#[test]
fn position_in_a_long_line_is_shown() {
    let text = format!("{{{} b: !x ü, {}}}", "a: 1,", "é".repeat(5000));
    let found = yaml::parse::<Value>("text", &text).expect_err("a tag");
    let shown = found.to_string();
    assert!(
        shown.contains("b: !x ü, é") && shown.len() < 2000,
        "{shown}"
    );
}

#[test]
fn separators_in_one_value_are_limited() {
    let expected = "the list or mapping behind this has more than 250000 separators";
    only_error(&format!("- {{{}}}", "a: 1, ".repeat(200_000)), expected);
    only_error(&format!("- b\n- [{}", "[], ".repeat(200_000)), expected);
    let text = ",:[{".repeat(100_000);
    for scalar in [
        format!("a: |\n  {text}\n# {text}\n"),
        format!("a: \"{text}\""),
        format!("{{a: '{text}'}}"),
        format!("a: x{}", ",".repeat(400_000)),
    ] {
        let start: String = scalar.chars().take(9).collect();
        assert!(yaml::parse::<Value>("text", &scalar).is_ok(), "{start}");
    }
}
