//! Which crate of the workspace may depend on which. This test boots no machine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Each crate, and the workspace crates that it may use.
const RULES: &[(&str, &[&str])] = &[
    ("age-file", &[]),
    ("build-tools", &[]),
    ("default-package", &["build-tools"]),
    ("firstboot", &["age-file", "userdata", "yaml"]),
    (
        "imagegen",
        &[
            "age-file",
            "build-tools",
            "default-package",
            "userdata",
            "yaml",
        ],
    ),
    ("lvscare", &[]),
    ("lvscare-guest", &["lvscare"]),
    ("userdata", &["yaml"]),
    (
        "vm-tests",
        &[
            "age-file",
            "build-tools",
            "default-package",
            "firstboot",
            "imagegen",
            "userdata",
            "yaml",
        ],
    ),
    ("yaml", &[]),
];

#[test]
fn crates_depend_only_on_those_that_the_rules_allow() -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let found: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .filter_map(|package| {
            let uses = package["dependencies"].as_array()?.iter();
            // Only crates of the workspace are dependencies by path.
            let uses = uses.filter(|used| used["path"].is_string());
            let uses = uses.filter_map(|used| used["name"].as_str()).collect();
            Some((package["name"].as_str()?, uses))
        })
        .collect();
    let names: BTreeSet<_> = found.keys().copied().collect();
    let ruled: BTreeSet<_> = RULES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ruled, "every crate has a rule");
    for (name, allowed) in RULES {
        let allowed: BTreeSet<_> = allowed.iter().copied().collect();
        let more: Vec<_> = found[name].difference(&allowed).collect();
        assert!(more.is_empty(), "{name} may not depend on {more:?}");
    }
    Ok(())
}
