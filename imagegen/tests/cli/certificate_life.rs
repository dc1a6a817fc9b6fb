//! The life of certificates: authorities outlive them, and each run renews what is old.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use imagegen::pki::issue::{NOT_BEFORE, check_clock, not_after};
use imagegen::pki::store::Pki;
use imagegen::plan::ClusterPlan;
use imagegen::topology::check;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use time::{Date, Duration};

use crate::topology_cases::only_error;
use crate::work::PROD;

/// A `pki/` folder between runs.
struct Store {
    folder: tempfile::TempDir,
    plan: ClusterPlan,
}

impl Store {
    fn new(validity: &str) -> Result<Self> {
        let text = PROD.replace("validity: 100y", &format!("validity: {validity}"));
        Ok(Self {
            folder: tempfile::tempdir()?,
            plan: check::read("cluster.yaml", &text)?.plan,
        })
    }

    /// Runs `days` after the first day, and keeps the result.
    fn run(&self, days: i64) -> Result<Pki> {
        let pki = Pki::prepare(self.folder.path(), &self.plan, day(days))?;
        for (path, bytes) in pki.files()? {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs::write(path, bytes)?;
        }
        Ok(pki)
    }

    fn certificates(&self, pki: &Pki) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([("operator".to_owned(), pki.operator.certificate.clone())]);
        for host in &self.plan.hosts {
            for (name, issued) in pki.of_host(host) {
                all.insert(format!("{} {name}", host.name), issued.certificate.clone());
            }
        }
        all
    }
}

fn day(days: i64) -> Date {
    NOT_BEFORE + Duration::days(days)
}

#[test]
fn authorities_live_a_hundred_years() -> Result<()> {
    let store = Store::new("1y")?;
    let pki = store.run(0)?;
    for authority in [
        &pki.authorities.cluster,
        &pki.authorities.etcd,
        &pki.authorities.front_proxy,
    ] {
        assert_eq!(not_after(&authority.certificate)?.date(), day(36_525));
    }
    for (name, certificate) in store.certificates(&pki) {
        assert_eq!(not_after(&certificate)?.date(), day(365), "{name}");
    }
    only_error(
        &PROD.replace("validity: 100y", "validity: 101y"),
        "more than 100 years, the life of the authorities; write at most `100y`",
    );
    Ok(())
}

#[test]
fn certificate_is_renewed_after_two_thirds() -> Result<()> {
    let store = Store::new("300d")?;
    let first = store.run(0)?;
    let kept = store.run(199)?;
    assert!(store.certificates(&kept) == store.certificates(&first));
    let renewed = store.run(200)?;
    for (name, certificate) in store.certificates(&renewed) {
        assert_eq!(not_after(&certificate)?.date(), day(500), "{name}");
    }
    assert_eq!(
        renewed.authorities.cluster.certificate,
        first.authorities.cluster.certificate
    );
    let again = store.run(200)?;
    assert!(store.certificates(&again) == store.certificates(&renewed));
    // All have ended for long.
    let late = store.run(5000)?;
    for (name, certificate) in store.certificates(&late) {
        assert_eq!(not_after(&certificate)?.date(), day(5300), "{name}");
    }
    Ok(())
}

#[test]
fn certificates_that_end_with_their_authority_stay() -> Result<()> {
    let store = Store::new("300d")?;
    store.run(0)?;
    let last = store.run(36_500)?;
    for (name, certificate) in store.certificates(&last) {
        assert_eq!(not_after(&certificate)?.date(), day(36_525), "{name}");
    }
    let again = store.run(36_510)?;
    assert!(store.certificates(&again) == store.certificates(&last));
    let error = format!("{:#}", store.run(36_525).expect_err("an end"));
    assert!(error.contains("the CA expired on 2100-01-01"), "{error}");
    Ok(())
}

#[test]
fn authority_that_is_not_valid_now_is_refused() -> Result<()> {
    for (begin, end, why) in [
        (
            2030,
            2040,
            "the CA begins on 2030-01-01, but today is 2000-01-01; is the clock right?",
        ),
        (
            2030,
            2029,
            "the CA ends on 2029-01-01, before it begins on 2030-01-01",
        ),
        (1990, 1999, "the CA expired on 1999-01-01"),
    ] {
        let store = Store::new("1y")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(begin, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let key = KeyPair::generate()?;
        let path = |name: &str| store.folder.path().join(name);
        fs::write(path("ca.crt"), params.self_signed(&key)?.pem())?;
        fs::write(path("ca.key"), key.serialize_pem())?;
        let error = format!("{:#}", store.run(0).expect_err(why));
        assert!(error.contains(why), "{error}");
    }
    Ok(())
}

#[test]
fn clock_before_the_build_is_refused() {
    let error = check_clock(NOT_BEFORE).expect_err("a wrong clock");
    assert_eq!(
        error.to_string(),
        "the clock of this machine says 2000-01-01, but this program was made after 2026-01-01; \
         set the clock"
    );
    assert!(check_clock(day(10_000)).is_ok());
}
