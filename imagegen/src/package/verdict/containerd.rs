//! containerd's configuration, and one cgroup driver for it and the kubelet.

use serde_json::{Value, json};
use toml::Table;

use super::super::Package;
use super::conf::{KUBEADM, Kubeadm, Setting};
use super::{State, Verdict};

/// Our configuration in version 2, which every containerd from 1.3 on reads.
const OURS: &str = include_str!("../../../default-package/conf/containerd-config-1.toml");
/// Its name in the package and in the image.
const NAME: &str = "containerd-config.toml";

/// Tables of containerd's CRI plugin with its runtimes: versions 2, 1, and 3 on.
const RUNTIMES: [&str; 3] = [
    "io.containerd.grpc.v1.cri",
    "cri",
    "io.containerd.cri.v1.runtime",
];

/// The package's own configuration.
#[derive(Debug)]
pub(super) struct Own {
    file: String,
    text: String,
    table: Table,
    pub(super) sandbox: Option<Setting>,
    /// Whether containerd leaves cgroups to systemd, with the place.
    systemd: Option<(bool, String)>,
}

pub(super) fn read(package: &Package, verdict: &mut Verdict) -> Option<Own> {
    let names = ["conf/containerd-config.toml", "conf/config.toml"];
    let file = names.into_iter().find(|name| package.contains(name))?;
    if names[0] == file && package.contains(names[1]) {
        verdict.part(
            names[1],
            State::NotUsed,
            "`conf/containerd-config.toml` takes its place",
        );
    }
    let bytes = package.file(file).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
            verdict.errors.push(format!(
                "{file}:{line}:{column}: not TOML: {}",
                error.message()
            ));
            return None;
        }
    };
    let sandbox = [
        &["plugins", "io.containerd.grpc.v1.cri", "sandbox_image"][..],
        &["plugins", "cri", "sandbox_image"],
        &[
            "plugins",
            "io.containerd.cri.v1.images",
            "pinned_images",
            "sandbox",
        ],
    ]
    .into_iter()
    .find_map(|path| {
        let value = get(&table, path)?.as_str()?.to_owned();
        let key = path.last().copied().unwrap_or_default();
        Some(Setting {
            place: place(file, &text, key, &value),
            value,
        })
    });
    if sandbox.is_none() {
        verdict.errors.push(format!(
            "{file}: it names no sandbox image, and containerd's own is of its release; add \
             `sandbox_image` (version 2) or `pinned_images.sandbox` (version 3)"
        ));
    }
    let systemd = RUNTIMES.into_iter().find_map(|plugin| {
        let options = get(
            &table,
            &[
                "plugins",
                plugin,
                "containerd",
                "runtimes",
                "runc",
                "options",
            ],
        );
        let value = options
            .and_then(|options| options.get("SystemdCgroup"))
            .or_else(|| {
                get(&table, &["plugins", plugin, "systemd_cgroup"])
                    .filter(|v| v.as_bool() == Some(true))
            })?;
        Some((
            value.as_bool()?,
            place(file, &text, "ystemd", &value.to_string()),
        ))
    });
    Some(Own {
        file: file.to_owned(),
        text,
        table,
        sandbox,
        systemd,
    })
}

fn get<'t>(table: &'t Table, path: &[&str]) -> Option<&'t toml::Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(table.get(*first)?, |value, key| value.get(key))
}

/// Line and column of a byte.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (
        line,
        before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1,
    )
}

/// The place of a key with its value, which stand on one line.
fn place(file: &str, text: &str, key: &str, value: &str) -> String {
    let found = text.lines().enumerate().find(|(_, line)| {
        !line.trim_start().starts_with('#') && line.contains(key) && line.contains(value)
    });
    match found {
        Some((number, line)) => {
            let column = line.find(value).unwrap_or(0) + 1;
            format!("{file}:{}:{column}", number + 1)
        }
        None => file.to_owned(),
    }
}

/// Completes both configurations: one cgroup driver, the sandbox image of the package. `changes`
/// are those of kubeadm's configuration so far.
pub(super) fn complete(
    own: Option<Own>,
    kubeadm: Kubeadm,
    changes: Vec<String>,
    verdict: &mut Verdict,
) {
    let said = match &own {
        None => Said::Ours,
        Some(own) => own.systemd.clone().map_or(Said::Nothing, Said::Systemd),
    };
    let cure = "`SystemdCgroup = true`";
    let driver = driver(kubeadm, changes, "containerd", cure, &said, verdict);
    runtime(own, &driver, verdict);
}

/// What the configuration of a runtime says about cgroups.
#[derive(Debug)]
pub(super) enum Said {
    /// The image supplies it, and it says systemd.
    Ours,
    Nothing,
    /// Whether the runtime leaves cgroups to systemd, with the place.
    Systemd((bool, String)),
}

/// The cgroup driver of the kubelet and of the runtime `name`, in whose configuration `cure` means
/// systemd. kubeadm's configuration, with its `changes` so far, is completed with it.
pub(super) fn driver(
    mut kubeadm: Kubeadm,
    mut changes: Vec<String>,
    name: &str,
    cure: &str,
    said: &Said,
    verdict: &mut Verdict,
) -> String {
    let kubelet = kubeadm.cgroup_driver.take();
    if let Some(other) = kubelet
        .as_ref()
        .filter(|own| !matches!(&*own.value, "" | "systemd" | "cgroupfs"))
    {
        verdict.errors.push(format!(
            "{}: cgroupDriver is `{}`; write systemd",
            other.place, other.value
        ));
    }
    let given = kubelet
        .as_ref()
        .map(|own| own.value.as_str())
        .filter(|value| !value.is_empty());
    let driver = match said {
        // firstboot sets systemd where the package says nothing.
        Said::Ours | Said::Systemd((true, _)) => "systemd",
        Said::Nothing => given.unwrap_or("systemd"),
        Said::Systemd((false, _)) => "cgroupfs",
    }
    .to_owned();
    if let (Said::Systemd((_, place)), Some(kubelet)) = (said, &kubelet)
        && given.is_some_and(|given| given != driver)
    {
        verdict.errors.push(format!(
            "{}: the kubelet's cgroupDriver is {}, and {place} makes {name}'s {driver}; pods need \
             the same in both: write systemd and {cure}",
            kubelet.place, kubelet.value
        ));
    }
    let changed = given.is_none_or(|given| given != driver)
        && (given.is_some() || kubelet.is_some() || driver != "systemd");
    if changed {
        set_driver(&mut kubeadm.documents, &driver);
        changes.push(format!("cgroupDriver is {driver}, as {name}'s"));
    }
    let (state, detail) = if changes.is_empty() {
        (
            State::Used,
            "the base of kubeadm's configuration".to_owned(),
        )
    } else {
        (State::Changed, changes.join("; "))
    };
    verdict.part(KUBEADM, state, detail);
    verdict.base = kubeadm.base;
    let texts: Vec<String> = kubeadm
        .documents
        .iter()
        .map(|d| format!("{d:#}\n"))
        .collect();
    verdict
        .conf
        .insert("kubeadm.yaml".to_owned(), texts.join("---\n").into_bytes());
    driver
}

fn set_driver(documents: &mut Vec<Value>, driver: &str) {
    let kubelet = documents
        .iter_mut()
        .find(|document| document["kind"] == "KubeletConfiguration");
    match kubelet {
        Some(document) => document["cgroupDriver"] = json!(driver),
        None => documents.push(json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": driver,
        })),
    }
}

fn runtime(own: Option<Own>, driver: &str, verdict: &mut Verdict) {
    let Some(mut own) = own else {
        let pause = verdict.choice.as_ref().map(|choice| choice.pause.clone());
        let text = OURS.replace("@PAUSE_IMAGE@", &pause.unwrap_or_default());
        if !verdict.conf.contains_key(NAME) {
            verdict.part(
                format!("conf/{NAME}"),
                State::Supplied,
                "the package has none, or none that can be read",
            );
        }
        verdict.conf.insert(NAME.to_owned(), text.into_bytes());
        return;
    };
    let mut bytes = own.text.into_bytes();
    if own.systemd.is_none() && driver == "systemd" {
        let version = own
            .table
            .get("version")
            .and_then(toml::Value::as_integer)
            .unwrap_or(1);
        let plugin = RUNTIMES[match version {
            ..=1 => 1,
            2 => 0,
            _ => 2,
        }];
        let path = ["plugins", plugin, "containerd", "runtimes", "runc"];
        let Some(runc) = table_at(&mut own.table, &path) else {
            verdict
                .errors
                .push(format!("{}: `{}` is no table", own.file, path.join(".")));
            return;
        };
        runc.entry("runtime_type")
            .or_insert_with(|| "io.containerd.runc.v2".into());
        if let Some(options) = table_at(runc, &["options"]) {
            options.insert("SystemdCgroup".to_owned(), true.into());
        }
        bytes = own.table.to_string().into_bytes();
        verdict.part(
            &own.file,
            State::Changed,
            "SystemdCgroup is true, as kubelet's cgroupDriver",
        );
    } else {
        verdict.part(&own.file, State::Used, "/etc/containerd/config.toml");
    }
    verdict.conf.insert(NAME.to_owned(), bytes);
}

fn table_at<'t>(table: &'t mut Table, path: &[&str]) -> Option<&'t mut Table> {
    path.iter().try_fold(table, |table, key| {
        table
            .entry(*key)
            .or_insert_with(|| Table::new().into())
            .as_table_mut()
    })
}
