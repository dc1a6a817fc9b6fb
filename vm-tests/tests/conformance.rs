//! Kubernetes' own conformance tests pass on a formed cluster.
//!
//! `FIRSTLIGHT_CONFORMANCE=text,text` selects tests by a part of their names. A run that is stopped
//! goes on where it was: results are kept in `target/vm-tests/conformance/`. With
//! `FIRSTLIGHT_CONFORMANCE_MINUTES=60` it ends by itself. `FIRSTLIGHT_UPDATE_DOCS=1` writes the table
//! of `docs/kubernetes-conformance.md`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use default_package::conformance::{Conformance, RELEASE};
use vm_tests::cluster::snapshot;
use vm_tests::conformance::{self, Results, State, Suite};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::target_dir;

const SELECTED: &str = "FIRSTLIGHT_CONFORMANCE";
const MINUTES: &str = "FIRSTLIGHT_CONFORMANCE_MINUTES";
const UPDATE: &str = "FIRSTLIGHT_UPDATE_DOCS";

/// How many tests one start of `e2e.test` runs: few are lost when it is stopped, and its set-up of
/// some seconds is shared.
const AT_ONCE: usize = 8;

const TABLE_BEGINS: &str = "<!-- The table is written by the test `conformance`. -->\n";

#[test]
#[ignore = "hours without KVM; run: cargo test -p vm-tests --test conformance -- --include-ignored"]
fn cluster_passes_kubernetes_conformance_tests() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let cache = Cache::open()?;
    let built = Conformance::ensure(&cache, &Progress::stderr())?;
    let output = Output::make_of(
        &Programs::build()?,
        &topology("conformance"),
        &built.package,
        "conformance",
    )?;
    let testbed = snapshot::restored_output(host, "conformance", output)?;
    let folder = target_dir().join("vm-tests/conformance");
    fs::create_dir_all(&folder)?;
    let suite = Suite {
        e2e_test: built.e2e_test,
        kubectl: built.package.join("bin/kubectl"),
        kubeconfig: testbed.kubeconfig("m0")?,
        folder: folder.clone(),
    };
    let mut results = Results::open(&folder.join(format!("results-{RELEASE}.json")))?;
    let explained = conformance::explained()?;
    let listed = suite.listed()?;
    let mut wanted: Vec<String> = selected(&listed)
        .filter(|test| !has_passed(&results, test))
        .filter(|test| conformance::explanation(&explained, test).is_none_or(|one| one.run))
        .cloned()
        .collect();
    // Tests that nothing else may run beside change the whole cluster.
    wanted.sort_by_key(|test| test.contains("[Serial]"));
    let end = minutes()?.map(|minutes| Instant::now() + minutes);
    for batch in wanted.chunks(AT_ONCE) {
        if end.is_some_and(|end| Instant::now() > end) {
            break;
        }
        results.add(suite.run(batch)?)?;
        println!(
            "{} of {} tests passed, {} failed",
            results.count(State::Passed),
            listed.len(),
            results.count(State::Failed)
        );
    }
    let table = results.table(&listed, &explained);
    fs::write(folder.join("results.md"), &table)?;
    if std::env::var_os(UPDATE).is_some() {
        update_docs(&table)?;
    }
    let failed: Vec<_> = selected(&listed)
        .filter(|test| {
            let outcome = results.outcomes.get(*test);
            outcome.is_some_and(|outcome| outcome.state == State::Failed)
        })
        .filter(|test| conformance::explanation(&explained, test).is_none())
        .collect();
    ensure!(
        failed.is_empty(),
        "failed, see `{}`: {failed:#?}",
        folder.join("e2e.log").display()
    );
    testbed.passed();
    Ok(())
}

fn has_passed(results: &Results, test: &str) -> bool {
    let outcome = results.outcomes.get(test);
    outcome.is_some_and(|outcome| outcome.state == State::Passed)
}

fn selected(listed: &[String]) -> impl Iterator<Item = &String> {
    let wanted = std::env::var(SELECTED).unwrap_or_default();
    listed.iter().filter(move |test| {
        let mut texts = wanted.split(',').map(str::trim);
        wanted.is_empty() || texts.any(|text| !text.is_empty() && test.contains(text))
    })
}

fn minutes() -> Result<Option<Duration>> {
    let Some(text) = std::env::var(MINUTES).ok().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let minutes: u64 = text
        .parse()
        .with_context(|| format!("{MINUTES} is `{text}`, and must be a number of minutes"))?;
    Ok(Some(Duration::from_secs(60 * minutes)))
}

fn update_docs(table: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes-conformance.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
    let (before, _) = text
        .split_once(TABLE_BEGINS)
        .with_context(|| format!("`{}` has no line {TABLE_BEGINS}", path.display()))?;
    fs::write(&path, format!("{before}{TABLE_BEGINS}\n{table}"))
        .with_context(|| format!("writing `{}`", path.display()))
}
