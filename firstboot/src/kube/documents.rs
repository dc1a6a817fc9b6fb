//! Files with several YAML documents, as Kubernetes manifests are.

use anyhow::{Result, anyhow};
use serde_json::Value;

/// The documents of a file without empty ones. Errors have the line in the file.
pub fn parse(name: &str, text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    let (mut current, mut first_line) = (String::new(), 0);
    for (number, line) in text.lines().enumerate() {
        // A document marker is at the start of a line, where no content may have one (YAML 1.2,
        // 9.1.2).
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = marker {
            push(name, &current, first_line, &mut documents)?;
            first_line = number;
            current = rest.trim_start().to_owned();
        } else {
            current.push_str(line);
        }
        current.push('\n');
    }
    push(name, &current, first_line, &mut documents)?;
    Ok(documents)
}

fn push(name: &str, text: &str, first_line: usize, documents: &mut Vec<Value>) -> Result<()> {
    let empty = text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if empty {
        return Ok(());
    }
    let padded = "\n".repeat(first_line) + text;
    let parsed = yaml::parse::<Value>(name, &padded)
        .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?;
    documents.push(parsed.value);
    Ok(())
}

/// The documents as JSON between markers, which every YAML reader parses alike.
pub fn to_text(documents: &[Value]) -> String {
    let texts: Vec<_> = documents
        .iter()
        .map(|document| format!("{document:#}\n"))
        .collect();
    texts.join("---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_markers_only() {
        let text = "# head\n---\na: |\n  ---\n  x\n---\n# nothing\n--- \nb: 1\n";
        let found = parse("x.yaml", text).unwrap();
        assert_eq!(
            found,
            [
                serde_json::json!({"a": "---\nx\n"}),
                serde_json::json!({"b": 1})
            ]
        );
        assert_eq!(parse("x.yaml", &to_text(&found)).unwrap(), found);
    }

    #[test]
    fn error_has_the_line_of_the_file() {
        let error = parse("net.yaml", "a: 1\n---\nb: 1\nb: 2\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("net.yaml:4:"), "{error}");
    }
}
