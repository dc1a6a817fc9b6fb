//! Docker as the runtime: its unit, its configuration, and cri-dockerd's unit.

use serde_json::{Map, Value, json};
use userdata::runtime::Runtime;

use super::super::Package;
use super::conf::Kubeadm;
use super::containerd::{self, Said};
use super::{State, Verdict};

const OUR_UNIT: &str = include_str!("../../../assets/docker/docker.service");
const OUR_DAEMON: &str = include_str!("../../../assets/docker/daemon.json");
const CRI_UNIT: &str = include_str!("../../../assets/docker/cri-docker.service");

const UNIT: &str = "conf/docker.service";
const DAEMON: &str = "conf/daemon.json";

/// Where dockershim and cri-dockerd find docker.
const SOCKET: &str = "unix:///var/run/docker.sock";

/// Files of `conf/` that have a meaning on nodes with docker only.
pub(super) const FILES: [&str; 5] = [
    "docker.service",
    "docker.socket",
    "daemon.json",
    "cri-docker.service",
    "cri-docker.socket",
];

/// Files of `conf/` that have a meaning on nodes with containerd only.
pub(super) const NOT_OURS: [&str; 3] = [
    "containerd.service",
    "containerd-config.toml",
    "config.toml",
];

/// What becomes of docker's configuration.
#[derive(Debug)]
pub(super) struct Daemon {
    settings: Map<String, Value>,
    /// The package has one that can be read.
    own: bool,
    changes: Vec<String>,
    /// Whether docker leaves cgroups to systemd, with the place.
    systemd: Option<(bool, String)>,
}

/// Reads `conf/daemon.json` and judges the units.
pub(super) fn read(package: &Package, verdict: &mut Verdict) -> Daemon {
    for name in NOT_OURS.map(|name| format!("conf/{name}")) {
        if package.contains(&name) {
            let why = "nodes run docker, which starts and configures its containerd itself";
            verdict.part(name, State::NotUsed, why);
        }
    }
    for name in ["docker.socket", "cri-docker.socket", "cri-docker.service"] {
        let name = format!("conf/{name}");
        if package.contains(&name) {
            let why = match verdict.container_runtime {
                Runtime::CriDockerd if name.ends_with("service") => {
                    "the image has its own unit, which names the package's sandbox image"
                }
                Runtime::Dockershim if name.contains("cri-docker") => {
                    "the kubelet of this release speaks to docker itself"
                }
                _ => "the service makes its socket itself",
            };
            verdict.part(name, State::NotUsed, why);
        }
    }
    let mut daemon = daemon(package, verdict);
    unit(package, &mut daemon, verdict);
    daemon
}

fn daemon(package: &Package, verdict: &mut Verdict) -> Daemon {
    let ours = || serde_json::from_str(OUR_DAEMON).unwrap_or_default();
    let mut daemon = Daemon {
        settings: ours(),
        own: false,
        changes: Vec::new(),
        systemd: None,
    };
    let Some(bytes) = package.file(DAEMON).ok().flatten() else {
        return daemon;
    };
    daemon.own = true;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(settings)) => daemon.settings = settings,
        Ok(_) => verdict
            .errors
            .push(format!("{DAEMON}:1:1: not a JSON object: `{{…}}`")),
        Err(error) => verdict.errors.push(format!(
            "{DAEMON}:{}:{}: not JSON: {error}",
            error.line(),
            error.column()
        )),
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    settle(&mut daemon, &text, verdict);
    daemon
}

/// Line and column of a text in `conf/daemon.json`.
fn place(text: &str, part: &str) -> String {
    let found = text
        .lines()
        .enumerate()
        .find(|(_, line)| line.contains(part));
    found.map_or(DAEMON.to_owned(), |(number, line)| {
        let column = line.split(part).next().unwrap_or_default().chars().count();
        format!("{DAEMON}:{}:{}", number + 1, column + 1)
    })
}

/// Gives the package's settings what nodes need.
fn settle(daemon: &mut Daemon, text: &str, verdict: &mut Verdict) {
    let settings = &mut daemon.settings;
    let remap = settings.get("userns-remap").and_then(Value::as_str);
    if remap.is_some_and(|user| !user.is_empty()) {
        verdict.errors.push(format!(
            "{}: userns-remap moves docker's images to another folder and the kubelet does not \
             know it; remove it",
            place(text, "userns-remap")
        ));
    }
    for key in ["data-root", "graph"] {
        let own = settings.get(key).and_then(Value::as_str);
        if own.is_some_and(|own| own.trim_end_matches('/') != "/var/lib/docker") {
            settings.remove(key);
            daemon
                .changes
                .push(format!("{key} is /var/lib/docker, where the images are"));
        }
    }
    if settings.remove("containerd").is_some() {
        daemon
            .changes
            .push("docker starts its own containerd".to_owned());
    }
    let driver = settings.insert("storage-driver".to_owned(), json!("overlay2"));
    if driver.as_ref() != Some(&json!("overlay2")) {
        daemon
            .changes
            .push("storage-driver is overlay2, as which the images are unpacked".to_owned());
    }
    let feature = settings
        .get_mut("features")
        .and_then(|features| features.get_mut("containerd-snapshotter"));
    if let Some(feature) = feature.filter(|feature| **feature == json!(true)) {
        *feature = json!(false);
        daemon
            .changes
            .push("features.containerd-snapshotter is false, for overlay2".to_owned());
    }
    if let Some(hosts) = settings.get_mut("hosts").and_then(Value::as_array_mut) {
        let before = hosts.clone();
        hosts.retain(|host| !host.as_str().is_some_and(|host| host.starts_with("fd:")));
        let is_socket = |host: &Value| {
            [SOCKET, "unix:///run/docker.sock"].contains(&host.as_str().unwrap_or_default())
        };
        if !hosts.iter().any(is_socket) {
            hosts.push(json!(SOCKET));
        }
        if *hosts != before {
            let change = format!("hosts has {SOCKET}, which the kubelet asks, and no socket unit");
            daemon.changes.push(change);
        }
    }
    let options = settings.get("exec-opts").and_then(Value::as_array);
    let driver = options.into_iter().flatten().find_map(|option| {
        let option = option.as_str()?;
        Some((option, option.strip_prefix("native.cgroupdriver=")?))
    });
    if let Some((option, driver)) = driver {
        let place = place(text, option);
        match driver {
            "systemd" | "cgroupfs" => daemon.systemd = Some((driver == "systemd", place)),
            _ => verdict.errors.push(format!(
                "{place}: native.cgroupdriver is `{driver}`; write systemd"
            )),
        }
    }
    let logs = settings.get("log-driver").and_then(Value::as_str);
    if logs.is_some_and(|driver| driver != "json-file") {
        verdict.warnings.push(format!(
            "{}: `kubectl logs` shows logs of the driver json-file only",
            place(text, "log-driver")
        ));
    }
}

/// The package's own unit without what the image does not have, or ours.
fn unit(package: &Package, daemon: &mut Daemon, verdict: &mut Verdict) {
    let Some(bytes) = package.file(UNIT).ok().flatten() else {
        verdict.part(UNIT, State::Supplied, "the package has none");
        let ours = OUR_UNIT.as_bytes().to_vec();
        verdict.conf.insert("docker.service".to_owned(), ours);
        return;
    };
    let Ok(text) = String::from_utf8(bytes) else {
        let error = format!("{UNIT}: not UTF-8; save it as UTF-8");
        return verdict.errors.push(error);
    };
    let mut fit = String::new();
    let mut starts = false;
    for (number, line) in settings_of(&text) {
        let line = line.replace("/usr/local/bin/", "/usr/bin/");
        let (key, value) = line.split_once('=').unwrap_or((&line, ""));
        let line = match key.trim() {
            "Requires" | "BindsTo" | "Wants" | "After" | "PartOf" => {
                let others = ["docker.socket", "containerd.service"];
                let words: Vec<&str> = value
                    .split_whitespace()
                    .filter(|word| !others.contains(word))
                    .collect();
                if words.is_empty() && !value.trim().is_empty() {
                    continue;
                }
                format!("{key}={}", words.join(" "))
            }
            "ExecStart" if value.contains("dockerd") => {
                starts = true;
                let place = format!("{UNIT}:{number}");
                format!("{key}={}", arguments(&place, value, daemon, verdict))
            }
            _ => line,
        };
        fit.push_str(line.trim_end());
        fit.push('\n');
    }
    if !starts {
        verdict.errors.push(format!(
            "{UNIT}: no `ExecStart` starts dockerd; write `ExecStart=/usr/bin/dockerd`, or remove \
             the file: the image has its own"
        ));
    }
    if fit == text {
        verdict.part(UNIT, State::Used, "in the image as it is");
    } else {
        let why = "programs are in /usr/bin; dockerd opens its socket and starts containerd itself";
        verdict.part(UNIT, State::Changed, why);
    }
    verdict
        .conf
        .insert("docker.service".to_owned(), fit.into_bytes());
}

/// Lines of a unit with their numbers; one that ends with a backslash goes on in the next.
fn settings_of(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in text.lines().enumerate() {
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, whole)) => {
                whole.push(' ');
                whole.push_str(part.trim_start());
            }
            None => lines.push((number + 1, part.to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// dockerd's command line without units that the image does not have. dockerd does not start if a
/// setting is on its command line and in its configuration.
fn arguments(place: &str, value: &str, daemon: &mut Daemon, verdict: &mut Verdict) -> String {
    let mut kept = Vec::new();
    let mut words = value.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (word, None),
        };
        let next = words.peek().copied().filter(|next| !next.starts_with('-'));
        let given = inline.or(next).unwrap_or_default();
        let dropped = match flag {
            "-H" | "--host" => given.starts_with("fd:"),
            "--containerd" => true,
            _ => false,
        };
        if dropped {
            if inline.is_none() {
                words.next();
            }
            continue;
        }
        let key = match flag {
            "-s" => "storage-driver",
            "-g" | "--graph" => "data-root",
            "--exec-opt" => "exec-opts",
            "--log-opt" => "log-opts",
            "-H" | "--host" => "hosts",
            "-b" => "bridge",
            _ => flag.trim_start_matches("--"),
        };
        if ["storage-driver", "data-root", "exec-opts", "userns-remap"].contains(&key) {
            verdict.errors.push(format!(
                "{place}: `{flag}` on dockerd's command line; imagegen sets {key} in daemon.json, and \
                 dockerd refuses both: remove it here"
            ));
        } else if flag.starts_with('-') && daemon.settings.contains_key(key) {
            if daemon.own {
                verdict.errors.push(format!(
                    "{place}: `{flag}` is in {DAEMON} too, and dockerd refuses both; remove one"
                ));
            } else {
                daemon.settings.remove(key);
            }
        }
        kept.push(word);
    }
    kept.join(" ")
}

/// Completes the configuration: one cgroup driver for docker and the kubelet. `changes_of_kubeadm`
/// are those of kubeadm's configuration so far.
pub(super) fn complete(
    daemon: Daemon,
    kubeadm: Kubeadm,
    changes_of_kubeadm: Vec<String>,
    verdict: &mut Verdict,
) {
    let Daemon {
        mut settings,
        own,
        mut changes,
        systemd,
    } = daemon;
    let (name, cure) = ("docker", "`native.cgroupdriver=systemd`");
    let said = match systemd {
        None if own => Said::Nothing,
        None => Said::Ours,
        Some(systemd) => Said::Systemd(systemd),
    };
    let driver = containerd::driver(kubeadm, changes_of_kubeadm, name, cure, &said, verdict);
    if matches!(said, Said::Nothing) {
        let mut options = match settings.remove("exec-opts") {
            Some(Value::Array(options)) => options,
            _ => Vec::new(),
        };
        options.retain(|option| {
            !option
                .as_str()
                .is_some_and(|option| option.starts_with("native.cgroupdriver="))
        });
        options.push(json!(format!("native.cgroupdriver={driver}")));
        settings.insert("exec-opts".to_owned(), Value::Array(options));
        changes.push(format!("native.cgroupdriver is {driver}, as the kubelet's"));
    }
    match (own, changes.as_slice()) {
        (false, _) => verdict.part(DAEMON, State::Supplied, "the package has none"),
        (true, []) => verdict.part(DAEMON, State::Used, "/etc/docker/daemon.json"),
        (true, changes) => verdict.part(DAEMON, State::Changed, changes.join("; ")),
    }
    let text = format!("{:#}\n", Value::Object(settings));
    verdict
        .conf
        .insert("daemon.json".to_owned(), text.into_bytes());
    if verdict.container_runtime == Runtime::CriDockerd {
        let pause = verdict.choice.as_ref().map(|choice| choice.pause.clone());
        let text = CRI_UNIT.replace("@PAUSE_IMAGE@", &pause.unwrap_or_default());
        let name = "cri-docker.service";
        if !verdict
            .parts
            .iter()
            .any(|part| part.name == format!("conf/{name}"))
        {
            verdict.part(
                format!("conf/{name}"),
                State::Supplied,
                "the package has none",
            );
        }
        verdict.conf.insert(name.to_owned(), text.into_bytes());
    }
}

/// `/etc/crictl.yaml`: the package's own if it names the socket of this runtime.
pub(super) fn crictl(runtime: Runtime, own: Option<&str>) -> Option<String> {
    let socket = runtime.socket();
    let names_it = own.is_some_and(|text| text.contains(socket.trim_start_matches("/var")));
    (!names_it).then(|| format!("# /etc/crictl.yaml\nruntime-endpoint: unix://{socket}\n"))
}

/// The part of the image's key that this module decides.
pub(crate) fn recipe() -> String {
    [OUR_UNIT, OUR_DAEMON, CRI_UNIT].concat()
}
