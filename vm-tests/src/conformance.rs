//! Kubernetes' own conformance tests against a formed cluster: upstream's `e2e.test` on the host.
//!
//! Results are kept, so that a run which is stopped goes on where it was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host::process;

/// The tests that cannot pass or cannot run here, each with its reason.
const EXPLAINED: &str = include_str!("conformance/explained.yaml");

/// `e2e.test` and the cluster that it tests.
#[derive(Debug)]
pub struct Suite {
    pub e2e_test: PathBuf,
    pub kubectl: PathBuf,
    pub kubeconfig: PathBuf,
    /// Where logs and reports go.
    pub folder: PathBuf,
}

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub state: State,
    /// By the host's clock.
    pub seconds: f64,
    /// Why it failed or was skipped; empty when it passed.
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Passed,
    /// The test itself found that it does not apply.
    Skipped,
    Failed,
}

/// One test that is not expected to pass.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explained {
    /// A part of the test's name.
    pub test: String,
    pub reason: String,
    /// Whether it is run nevertheless.
    #[serde(default)]
    pub run: bool,
}

/// A test in the output of `--list-conformance-tests`.
#[derive(Debug, Deserialize)]
struct Listed {
    codename: String,
}

/// Ginkgo's report of one run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    /// In nanoseconds.
    #[serde(default)]
    run_time: f64,
    failure: Option<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// The tests that are not expected to pass.
pub fn explained() -> Result<Vec<Explained>> {
    serde_yaml::from_str(EXPLAINED).context("reading conformance/explained.yaml")
}

/// The reason why `test` is not expected to pass.
pub fn explanation<'a>(all: &'a [Explained], test: &str) -> Option<&'a Explained> {
    all.iter().find(|one| test.contains(&one.test))
}

impl Suite {
    /// The names of all conformance tests of this release.
    pub fn listed(&self) -> Result<Vec<String>> {
        let mut list = Command::new(&self.e2e_test);
        list.arg("--list-conformance-tests");
        let text = process::run(&mut list)?;
        let tests: Vec<Listed> =
            serde_yaml::from_slice(&text).context("reading the list of conformance tests")?;
        Ok(tests.into_iter().map(|test| test.codename).collect())
    }

    /// Runs `tests` one after another and returns what became of them. One that `e2e.test` does not
    /// report, because it was ended before, is left out.
    pub fn run(&self, tests: &[String]) -> Result<BTreeMap<String, Outcome>> {
        let report = self.folder.join("report.json");
        let log = self.folder.join("e2e.log");
        let _ = fs::remove_file(&report);
        let focus: Vec<_> = tests.iter().map(|test| quoted(test)).collect();
        let output = File::options().create(true).append(true).open(&log)?;
        let status = Command::new(&self.e2e_test)
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", self.kubectl.display()))
            .arg(format!("--e2e-output-dir={}", self.folder.display()))
            .arg(format!("--ginkgo.focus=^({})$", focus.join("|")))
            .arg(format!("--ginkgo.json-report={}", report.display()))
            .args([
                "--provider=skeleton",
                "--disable-log-dump",
                "--ginkgo.timeout=24h",
                "--ginkgo.seed=1",
                "--ginkgo.no-color",
                // An emulated node takes its time.
                "--system-pods-startup-timeout=30m",
                "--system-daemonsets-startup-timeout=30m",
                "--node-schedulable-timeout=60m",
            ])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("starting `{}`", self.e2e_test.display()))?;
        let text = fs::read_to_string(&report).with_context(|| {
            format!(
                "e2e.test ({status}) has written no report; see `{}`",
                log.display()
            )
        })?;
        outcomes(&text, tests)
    }
}

/// What a report says about `tests`.
fn outcomes(report: &str, tests: &[String]) -> Result<BTreeMap<String, Outcome>> {
    let reports: Vec<Report> = serde_json::from_str(report).context("reading Ginkgo's report")?;
    let specs = reports.into_iter().flat_map(|report| report.spec_reports);
    let mut outcomes = BTreeMap::new();
    for spec in specs {
        let mut texts = spec.container_hierarchy_texts.unwrap_or_default();
        if spec.leaf_node_type != "It" {
            // The suite's own set-up: no test runs without it.
            if spec.state == "failed" {
                let message = spec.failure.unwrap_or_default().message;
                bail!("{} failed: {message}", spec.leaf_node_type);
            }
            continue;
        }
        texts.push(spec.leaf_node_text);
        let name = texts.join(" ");
        if !tests.contains(&name) {
            continue;
        }
        let state = match spec.state.as_str() {
            "passed" => State::Passed,
            "skipped" | "pending" => State::Skipped,
            // Ended from outside: says nothing about the cluster.
            "interrupted" | "aborted" => continue,
            _ => State::Failed,
        };
        let outcome = Outcome {
            state,
            seconds: (spec.run_time / 1e8).round() / 10.0,
            message: spec.failure.unwrap_or_default().message,
        };
        outcomes.insert(name, outcome);
    }
    Ok(outcomes)
}

/// A regular expression that matches only `text`.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted
}

/// Outcomes in a file.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    pub outcomes: BTreeMap<String, Outcome>,
}

impl Results {
    /// Those of earlier runs.
    pub fn open(path: &Path) -> Result<Self> {
        let outcomes = match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("reading `{}`", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("reading `{}`", path.display()));
            }
        };
        let path = path.to_owned();
        Ok(Self { path, outcomes })
    }

    /// Adds outcomes and writes the file.
    pub fn add(&mut self, new: BTreeMap<String, Outcome>) -> Result<()> {
        self.outcomes.extend(new);
        let making = self.path.with_extension("making");
        fs::write(&making, serde_json::to_vec_pretty(&self.outcomes)?)
            .and_then(|()| fs::rename(&making, &self.path))
            .with_context(|| format!("writing `{}`", self.path.display()))
    }

    pub fn count(&self, state: State) -> usize {
        let states = self.outcomes.values().map(|outcome| outcome.state);
        states.filter(|&one| one == state).count()
    }

    /// A table of all `listed` tests, in Markdown.
    pub fn table(&self, listed: &[String], explained: &[Explained]) -> String {
        let mut text =
            String::from("| test | result | seconds | remark |\n| --- | --- | --- | --- |\n");
        for test in listed {
            let reason = explanation(explained, test).map_or("", |one| one.reason.as_str());
            let (result, seconds) = match self.outcomes.get(test) {
                None => ("not run", String::new()),
                Some(outcome) => {
                    let result = match outcome.state {
                        State::Passed => "passed",
                        State::Skipped => "skipped",
                        State::Failed => "failed",
                    };
                    (result, format!("{:.0}", outcome.seconds))
                }
            };
            let name = test.replace(" [Conformance]", "").replace('|', "\\|");
            text.push_str(&format!("| {name} | {result} | {seconds} | {reason} |\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "ContainerHierarchyTexts": null, "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "should run [Conformance]",
         "State": "passed", "RunTime": 1234567890},
        {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "should stop [Conformance]",
         "State": "timedout", "RunTime": 300000000000, "Failure": {"Message": "no pod"}},
        {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "another",
         "State": "skipped"}]}]"#;

    fn names() -> Vec<String> {
        ["should run", "should stop", "should wait"]
            .map(|name| format!("[sig-node] Pods {name} [Conformance]"))
            .to_vec()
    }

    #[test]
    fn reports_name_what_became_of_each_test() -> Result<()> {
        let found = outcomes(REPORT, &names())?;
        assert_eq!(found.len(), 2);
        let passed = &found["[sig-node] Pods should run [Conformance]"];
        assert_eq!((passed.state, passed.seconds), (State::Passed, 1.2));
        let failed = &found["[sig-node] Pods should stop [Conformance]"];
        assert_eq!(failed.state, State::Failed);
        assert_eq!(failed.message, "no pod");
        Ok(())
    }

    #[test]
    fn failed_set_up_is_an_error() {
        let report = REPORT.replacen("\"State\": \"passed\"", "\"State\": \"failed\"", 1);
        let error = outcomes(&report, &names()).expect_err("the set-up failed");
        assert!(
            error.to_string().contains("SynchronizedBeforeSuite"),
            "{error}"
        );
    }

    #[test]
    fn focus_matches_the_name_only() {
        assert_eq!(quoted("[sig] a (b) *.c"), r"\[sig\] a \(b\) \*\.c");
    }

    #[test]
    fn results_outlive_the_run_and_name_what_was_not_run() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("results.json");
        let mut results = Results::open(&path)?;
        results.add(outcomes(REPORT, &names())?)?;
        let again = Results::open(&path)?;
        assert_eq!(again.outcomes, results.outcomes);
        assert_eq!(again.count(State::Failed), 1);
        let table = again.table(&names(), &[]);
        for line in [
            "| [sig-node] Pods should run | passed | 1 |  |",
            "| [sig-node] Pods should stop | failed | 300 |  |",
            "| [sig-node] Pods should wait | not run |  |  |",
        ] {
            assert!(table.contains(line), "{table}");
        }
        Ok(())
    }

    #[test]
    fn every_explanation_has_a_reason() -> Result<()> {
        for one in explained()? {
            assert!(!one.test.is_empty() && one.reason.len() > 20, "{one:?}");
        }
        Ok(())
    }
}
