//! One join of etcd at a time: a Lease in kube-system, held with renewal, taken over when its holder has fallen silent.
//!
//! Orders, and does not protect: what keeps etcd whole is its own rule of one learner. Clocks are not compared between
//! hosts, because they may be years apart: a lease has expired when it has not changed for its duration by our own clock.

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
/// A slow machine's apiserver stalls for a while when a member joins its etcd.
const DURATION: Duration = Duration::from_secs(60);
const RENEW_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is none: make it.
    Create,
    /// Free, ours from before a restart, or its holder is silent: write ourselves in.
    Take,
    /// Another host holds it.
    Wait(String),
}

/// What to do about the lease as it stands, unchanged in our sight for `unchanged`.
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

/// The right to join; given back when dropped.
#[derive(Debug)]
pub struct Held {
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

/// Waits for the lease, and renews it until the returned value is dropped.
///
/// `connect` gives a client of an apiserver that answers; it is asked again after errors, because that one may have died.
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
    report.waited();
    let (stop, stopped) = channel();
    let own = own.to_owned();
    let renewing = thread::spawn(move || renew(&client, &own, &stopped));
    Ok(Held {
        stop: Some(stop),
        renewing: Some(renewing),
    })
}

/// One look and one try: `None` when it is ours, else who has it.
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
    // 409: another was faster; its version is the next one we see.
    if answer.status == 409 {
        return Ok(Some("another master was faster".to_owned()));
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

/// With the version it replaces, so that of two writers one is refused.
fn object(holder: &str, replaced: Option<&Value>) -> Value {
    let mut metadata = json!({ "name": NAME, "namespace": "kube-system" });
    let mut turns = 0;
    if let Some(replaced) = replaced {
        metadata["resourceVersion"] = replaced["metadata"]["resourceVersion"].clone();
        turns = replaced["spec"]["leaseTransitions"].as_u64().unwrap_or(0) + 1;
    }
    // No times, because clocks of hosts are not comparable. Each renewal changes the object's version through the count.
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
            "giving back the lease {NAME} at {}: {error:#}; it expires",
            client.base()
        );
    }
}

/// Changes the lease while it is ours.
fn rewrite(client: &Client, own: &str, holder: &str) -> Result<()> {
    let lease = read(client)?.context("it is gone")?;
    let current = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    if current != own {
        bail!("`{current}` has it");
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
    fn a_lease_is_made_taken_or_waited_for() {
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
    fn a_write_names_the_version_it_replaces_and_differs_from_it() {
        let mut old = lease("m2");
        old["metadata"]["resourceVersion"] = "17".into();
        let new = object("m2", Some(&old));
        assert_eq!(new["metadata"]["resourceVersion"], "17");
        assert_ne!(new["spec"], old["spec"]);
    }
}
