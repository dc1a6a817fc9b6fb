//! Prints results, one line of JSON each.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

/// Runs one check and prints its result. Returns `false` if it fails, so that the others can run.
pub(crate) fn claim(name: &str, check: impl FnOnce() -> anyhow::Result<Value>) -> bool {
    let start = Instant::now();
    let result = check();
    let seconds = start.elapsed().as_secs_f64();
    let holds = result.is_ok();
    let line = match result {
        Ok(facts) => json!({"claim": name, "holds": true, "facts": facts, "seconds": seconds}),
        Err(error) => {
            json!({"claim": name, "holds": false, "error": format!("{error:#}"), "seconds": seconds})
        }
    };
    println!("{line}");
    if !holds {
        println!("{}", json!({ "logs": logs() }));
    }
    holds
}

/// The ends of the logs of all balancers, as evidence of a failure.
fn logs() -> Value {
    let mut ends = serde_json::Map::new();
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for host in folders(Path::new("/run")).flat_map(|testbed| folders(&testbed.path())) {
        let path = host.path().join("log");
        if let Ok(text) = fs::read(&path) {
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].to_vec();
            ends.insert(path.display().to_string(), json!(end));
        }
    }
    Value::Object(ends)
}

/// Milliseconds from `since` to `end`; null without an end.
pub(crate) fn ms(since: Instant, end: Option<Instant>) -> Value {
    end.map_or(Value::Null, |end| {
        let time = end.saturating_duration_since(since);
        json!(time.as_micros() as f64 / 1000.0)
    })
}
