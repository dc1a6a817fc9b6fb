//! The documents of a kubeadm configuration, and the shapes that they have had.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// The shapes that kubeadm's configuration has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Api {
    V1Beta2,
    V1Beta3,
    /// Arguments became lists of name and value; time-outs moved to a section of their own.
    V1Beta4,
}

pub(super) struct Documents {
    pub(super) api: Api,
    pub(super) version: String,
    pub(super) all: Vec<Value>,
}

impl Documents {
    /// The document of this kind, made when the base has none. A base of an older package version
    /// is moved up.
    pub(super) fn get(&mut self, kind: &str, version: &str) -> Result<&mut Map<String, Value>> {
        let at = match self
            .all
            .iter()
            .position(|document| document["kind"] == kind)
        {
            Some(at) => at,
            None => {
                self.all.push(json!({ "kind": kind }));
                self.all.len() - 1
            }
        };
        let document = self.all[at]
            .as_object_mut()
            .with_context(|| format!("`{kind}` in `kubeadm.yaml` is not a mapping"))?;
        document.insert("apiVersion".into(), version.into());
        Ok(document)
    }

    pub(super) fn kubeadm(&mut self, kind: &str) -> Result<&mut Map<String, Value>> {
        let version = self.version.clone();
        self.get(kind, &version)
    }

    pub(super) fn remove(&mut self, kind: &str) {
        self.all.retain(|document| document["kind"] != kind);
    }
}

/// An apiserver that stops serves for this long while `/readyz` fails, so that lvscare takes it out of
/// its table before it refuses connections. lvscare asks every 5 s at the longest, and kubelet
/// kills after 30 s.
pub(super) fn shutdown_delay() -> BTreeMap<String, String> {
    BTreeMap::from([("shutdown-delay-duration".to_owned(), "8s".to_owned())])
}

/// Sets flags that are not there already: what the package or the topology says wins.
pub(super) fn default_arguments(
    section: &mut Map<String, Value>,
    key: &str,
    mut flags: BTreeMap<String, String>,
    api: Api,
) -> Result<()> {
    match section.get(key) {
        Some(Value::Object(map)) => flags.retain(|name, _| !map.contains_key(name)),
        Some(Value::Array(list)) => {
            flags.retain(|name, _| list.iter().all(|entry| entry["name"] != name.as_str()));
        }
        _ => {}
    }
    arguments(section, key, &flags, api)
}

/// Sets flags over those that are there already, in the shape of the version.
pub(super) fn arguments(
    section: &mut Map<String, Value>,
    key: &str,
    flags: &BTreeMap<String, String>,
    api: Api,
) -> Result<()> {
    let mut all = Vec::<(String, Value)>::new();
    match section.remove(key) {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => all.extend(map),
        Some(Value::Array(list)) => {
            for entry in list {
                let name = entry["name"]
                    .as_str()
                    .with_context(|| format!("`{key}` has an entry without a name"))?;
                all.push((name.to_owned(), entry["value"].clone()));
            }
        }
        Some(_) => bail!("`{key}` in `kubeadm.yaml` is neither a mapping nor a list"),
    }
    all.retain(|(name, _)| !flags.contains_key(name));
    all.extend(
        flags
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into())),
    );
    if all.is_empty() {
        return Ok(());
    }
    let shaped = if api >= Api::V1Beta4 {
        all.into_iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect()
    } else {
        Value::Object(all.into_iter().collect())
    };
    section.insert(key.into(), shaped);
    Ok(())
}

pub(super) fn section<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
) -> Result<&'a mut Map<String, Value>> {
    let value = parent.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .with_context(|| format!("`{key}` in `kubeadm.yaml` is not a mapping"))
}
