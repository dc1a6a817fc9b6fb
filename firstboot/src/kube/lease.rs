//! The etcd join lock: a Lease in kube-system, renewed by its holder and taken over when it
//! expires.
//!
//! It only orders the joins; etcd itself admits one learner at a time. Clocks of hosts are not
//! compared, because they may be years apart: a lease has expired when it has not changed for its
//! duration by the local clock.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::client::Client;
use crate::report::Reporter;
use crate::wait::Backoff;

const LIST: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const NAME: &str = "firstlight-join";
/// A slow apiserver stalls for a while when a member joins its etcd.
const DURATION: Duration = Duration::from_secs(60);
const RENEW_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// It does not exist: create it.
    Create,
    /// It is free, expired, or held by this host before a restart: become its holder.
    Take,
    /// Another host holds it, which this names.
    Wait(String),
}

/// The action for this lease, which has not changed for `unchanged`.
pub fn decide(lease: Option<&Value>, own: &str, unchanged: Duration) -> Decision {
    let Some(lease) = lease else {
        return Decision::Create;
    };
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let limit = lease["spec"]["leaseDurationSeconds"]
        .as_u64()
        .map_or(DURATION, Duration::from_secs);
    if holder.is_empty() || holder == own || unchanged >= limit {
        return Decision::Take;
    }
    Decision::Wait(format!("{holder} is joining"))
}

/// The held lease; dropping it releases the lease.
#[derive(Debug)]
pub struct Held {
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

/// Waits for the lease, and renews it until the returned value is dropped.
///
/// `connect` returns a client of an apiserver that answers. It is called again after errors,
/// because that apiserver may have failed.
pub fn hold(
    own: &str,
    report: &mut Reporter,
    mut connect: impl FnMut(&mut Reporter) -> Result<Client>,
) -> Result<Held> {
    let mut backoff = Backoff::new(own);
    let mut client = connect(report)?;
    let mut seen: Option<(String, Instant)> = None;
    loop {
        match step(&client, own, &mut seen) {
            Ok(None) => break,
            Ok(Some(holder)) => {
                let target = format!("the etcd join lock (lease {NAME}) at {}", client.base());
                report.waiting(&target, &holder, backoff.wait());
            }
            Err(error) => {
                let target = format!("the etcd join lock (lease {NAME}) at {}", client.base());
                report.waiting(&target, &format!("{error:#}"), backoff.wait());
                backoff.pause();
                client = connect(report)?;
                continue;
            }
        }
        backoff.pause();
    }
    report.wait_finished();
    let (stop, stopped) = channel();
    let own = own.to_owned();
    let renewing = thread::spawn(move || renew(&client, &own, &stopped));
    Ok(Held {
        stop: Some(stop),
        renewing: Some(renewing),
    })
}

/// Tries once. `None`: this host holds the lease; else the reason to wait.
fn step(
    client: &Client,
    own: &str,
    seen: &mut Option<(String, Instant)>,
) -> Result<Option<String>> {
    let lease = read(client)?;
    let version = lease
        .as_ref()
        .and_then(|lease| lease["metadata"]["resourceVersion"].as_str())
        .unwrap_or_default()
        .to_owned();
    let unchanged = match seen {
        Some((known, since)) if *known == version => since.elapsed(),
        _ => {
            *seen = Some((version, Instant::now()));
            Duration::ZERO
        }
    };
    let answer = match decide(lease.as_ref(), own, unchanged) {
        Decision::Wait(why) => return Ok(Some(why)),
        Decision::Create => client.send("POST", LIST, &object(own, None))?,
        Decision::Take => client.send(
            "PUT",
            &format!("{LIST}/{NAME}"),
            &object(own, lease.as_ref()),
        )?,
    };
    // 409: another host was faster; the next try reads its version.
    if answer.status == 409 {
        return Ok(Some("another host was faster".to_owned()));
    }
    answer.ok().map(|_| None)
}

fn read(client: &Client) -> Result<Option<Value>> {
    let answer = client.get(&format!("{LIST}/{NAME}"))?;
    if answer.status == 404 {
        return Ok(None);
    }
    answer.ok().map(Some)
}

/// With the version that it replaces, so that one of two writers gets a conflict.
fn object(holder: &str, replaced: Option<&Value>) -> Value {
    let mut metadata = json!({ "name": NAME, "namespace": "kube-system" });
    let mut turns = 0;
    if let Some(replaced) = replaced {
        metadata["resourceVersion"] = replaced["metadata"]["resourceVersion"].clone();
        turns = replaced["spec"]["leaseTransitions"].as_u64().unwrap_or(0) + 1;
    }
    // No times, because clocks of hosts are not comparable. The count makes each renewal a change.
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": DURATION.as_secs(),
            "leaseTransitions": turns,
        },
    })
}

fn renew(client: &Client, own: &str, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(RENEW_EVERY) {
        if let Err(error) = rewrite(client, own, own) {
            log::warn!("renewing the lease {NAME} at {}: {error:#}", client.base());
        }
    }
    if let Err(error) = rewrite(client, own, "") {
        log::warn!(
            "releasing the lease {NAME} at {}: {error:#}; it will expire",
            client.base()
        );
    }
}

/// Changes the lease if this host holds it.
fn rewrite(client: &Client, own: &str, holder: &str) -> Result<()> {
    let lease = read(client)?.context("the lease does not exist")?;
    let current = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    if current != own {
        bail!("`{current}` holds the lease");
    }
    let answer = client.send(
        "PUT",
        &format!("{LIST}/{NAME}"),
        &object(holder, Some(&lease)),
    )?;
    ensure!(answer.status == 200, "{}", answer.say());
    Ok(())
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Value {
        object(holder, None)
    }

    #[test]
    fn lease_is_created_taken_or_waited_for() {
        let (now, later) = (Duration::ZERO, DURATION);
        assert_eq!(decide(None, "m1", now), Decision::Create);
        assert_eq!(decide(Some(&lease("")), "m1", now), Decision::Take);
        assert_eq!(decide(Some(&lease("m1")), "m1", now), Decision::Take);
        assert_eq!(decide(Some(&lease("m2")), "m1", later), Decision::Take);
        let almost = later.checked_sub(Duration::from_millis(1)).unwrap();
        for unchanged in [now, almost] {
            let waits = Decision::Wait("m2 is joining".into());
            assert_eq!(decide(Some(&lease("m2")), "m1", unchanged), waits);
        }
    }

    #[test]
    fn write_names_the_version_that_it_replaces() {
        let mut old = lease("m2");
        old["metadata"]["resourceVersion"] = "17".into();
        let new = object("m2", Some(&old));
        assert_eq!(new["metadata"]["resourceVersion"], "17");
        assert_ne!(new["spec"], old["spec"]);
    }
}
