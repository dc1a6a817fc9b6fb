//! Applies manifests: API discovery finds the path of each kind, then server-side apply.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::client::Client;
use crate::status::Wait;
use crate::wait::Backoff;

/// A new custom resource is served with a delay, and an apiserver may still be starting.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The kinds of one group and version: plural name, and whether they are namespaced.
type Kinds = BTreeMap<String, (String, bool)>;

/// Applies objects in order. Safe to run again.
pub fn apply(
    client: &Client,
    objects: &[Value],
    mut waiting: impl FnMut(&str, &Wait),
) -> Result<()> {
    let mut known = BTreeMap::<String, Kinds>::new();
    for object in objects {
        let (version, kind, name) = identify(object)?;
        let end = Instant::now() + TIMEOUT;
        let mut backoff = Backoff::fixed();
        loop {
            let Err(error) = apply_one(client, object, &mut known) else {
                break;
            };
            if !error.passing || Instant::now() >= end {
                return Err(error.error)
                    .with_context(|| format!("applying {version} {kind} `{name}`"));
            }
            waiting(
                &format!("{kind} `{name}`: {:#}", error.error),
                backoff.wait(),
            );
            known.remove(version);
            backoff.pause();
        }
        log::info!("applied {kind} `{name}`");
    }
    Ok(())
}

struct Failure {
    error: anyhow::Error,
    /// Whether to retry: the server did not answer, or does not know the kind yet.
    passing: bool,
}

fn apply_one(
    client: &Client,
    object: &Value,
    known: &mut BTreeMap<String, Kinds>,
) -> std::result::Result<(), Failure> {
    let passing = |error| Failure {
        error,
        passing: true,
    };
    let (version, kind, name) = identify(object).map_err(|error| Failure {
        error,
        passing: false,
    })?;
    if !known.contains_key(version) {
        known.insert(
            version.to_owned(),
            discover(client, version).map_err(passing)?,
        );
    }
    let Some((plural, namespaced)) = known[version].get(kind) else {
        return Err(passing(anyhow::anyhow!(
            "{} does not serve the kind {kind} in {version}",
            client.base()
        )));
    };
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default");
    let place = if *namespaced {
        format!("/namespaces/{namespace}")
    } else {
        String::new()
    };
    let path = format!("{}{place}/{plural}/{name}", root(version));
    let answer = client.apply(&path, object).map_err(passing)?;
    let status = answer.status;
    // 404: the namespace does not exist yet. 403: a new apiserver has not created its default
    // roles.
    let again = status >= 500 || matches!(status, 403 | 404 | 409 | 429);
    answer.ok().map(|_| ()).map_err(|error| Failure {
        error,
        passing: again,
    })
}

fn discover(client: &Client, version: &str) -> Result<Kinds> {
    let answer = client
        .get(&root(version))?
        .ok()
        .with_context(|| format!("discovering the kinds of {version}"))?;
    let resources = answer["resources"]
        .as_array()
        .with_context(|| format!("the list of {version} has no resources"))?;
    Ok(resources
        .iter()
        .filter_map(|resource| {
            Some((
                resource["kind"].as_str()?,
                resource["name"].as_str()?,
                resource["namespaced"].as_bool()?,
            ))
        })
        // Subresources, such as `deployments/scale`.
        .filter(|(_, name, _)| !name.contains('/'))
        .map(|(kind, name, namespaced)| (kind.to_owned(), (name.to_owned(), namespaced)))
        .collect())
}

/// The path of a group and version; the core group has its own prefix.
fn root(version: &str) -> String {
    if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    }
}

/// apiVersion, kind and name of an object.
pub fn identify(object: &Value) -> Result<(&str, &str, &str)> {
    let parts = (
        object["apiVersion"].as_str(),
        object["kind"].as_str(),
        object["metadata"]["name"].as_str(),
    );
    let (Some(version), Some(kind), Some(name)) = parts else {
        bail!("an object has no apiVersion, kind or metadata.name");
    };
    Ok((version, kind, name))
}
