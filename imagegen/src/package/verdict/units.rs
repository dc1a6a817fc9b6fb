//! Units and the configuration of crictl: the package's own, fitted to the image, or ours.

use semver::Version;
use userdata::contract::CONF_DIR;

use super::super::Package;
use super::{State, Verdict, docker};

const OURS: [(&str, &str); 4] = [
    (
        "10-kubeadm.conf",
        include_str!("../../../default-package/conf/10-kubeadm.conf"),
    ),
    (
        "kubelet.service",
        include_str!("../../../default-package/conf/kubelet.service"),
    ),
    (
        "containerd.service",
        include_str!("../../../default-package/conf/containerd.service"),
    ),
    (
        "crictl.yaml",
        include_str!("../../../default-package/conf/crictl.yaml"),
    ),
];

/// Flags of the kubelet, which all take a value, and the minor release that has them no more.
const GONE: [(&str, u64); 6] = [
    ("--network-plugin", 24),
    ("--cni-bin-dir", 24),
    ("--cni-conf-dir", 24),
    ("--dynamic-config-dir", 24),
    ("--container-runtime", 27),
    ("--pod-infra-container-image", 35),
];

const PRE_START: &str = "kubelet-pre-start.sh";

pub(super) fn judge(package: &Package, version: Option<&Version>, verdict: &mut Verdict) {
    let runtime = verdict.container_runtime;
    for (name, ours) in OURS {
        if runtime.is_docker() && docker::NOT_OURS.contains(&name) {
            continue;
        }
        let file = format!("conf/{name}");
        let own = package.file(&file).ok().flatten();
        if runtime.is_docker() && name == "crictl.yaml" {
            let text = own.as_deref().map(String::from_utf8_lossy);
            if let Some(ours) = docker::crictl(runtime, text.as_deref()) {
                let socket = runtime.socket();
                let (state, why) = match text {
                    None => (State::Supplied, "the package has none".to_owned()),
                    Some(_) => (
                        State::NotUsed,
                        format!("the socket of this runtime is {socket}"),
                    ),
                };
                verdict.part(file, state, why);
                verdict.conf.insert(name.to_owned(), ours.into_bytes());
                continue;
            }
        }
        let Some(bytes) = own else {
            verdict.part(file, State::Supplied, "the package has none");
            verdict
                .conf
                .insert(name.to_owned(), ours.as_bytes().to_vec());
            continue;
        };
        let Ok(text) = String::from_utf8(bytes) else {
            verdict
                .errors
                .push(format!("{file}: not UTF-8; save it as UTF-8"));
            continue;
        };
        let has_pre_start = verdict.programs.iter().any(|own| own == PRE_START);
        let (fit, changes) = fitted(&text, version, has_pre_start);
        if changes.is_empty() {
            verdict.part(file, State::Used, "in the image as it is");
        } else {
            verdict.part(file, State::Changed, changes.join("; "));
        }
        verdict.conf.insert(name.to_owned(), fit.into_bytes());
    }
    for name in package.names().filter(|name| name.starts_with("conf/")) {
        let rest = name.trim_start_matches("conf/");
        let known = OURS.iter().any(|(own, _)| *own == rest)
            || rest.starts_with("net/")
            || matches!(
                rest,
                "kubeadm.yaml" | "calico.yaml" | "containerd-config.toml" | "config.toml"
            );
        if docker::FILES.contains(&rest) {
            // On nodes with docker, `docker` judges them.
            if !runtime.is_docker() {
                verdict.part(name, State::NotUsed, "nodes run containerd");
            }
        } else if !known {
            let kept = format!("no part of the layout; kept for hooks as {CONF_DIR}/{rest}");
            verdict.part(name, State::NotUsed, kept);
        }
    }
}

/// The text of a unit as the image has it, and what is changed in it.
fn fitted(text: &str, version: Option<&Version>, has_pre_start: bool) -> (String, Vec<String>) {
    let mut changes = Vec::new();
    // The unit of upstream's archives starts /usr/local/bin/containerd.
    let plain = text
        .replace("\r\n", "\n")
        .replace("/usr/local/bin/", "/usr/bin/");
    if plain != text {
        changes.push("programs are in /usr/bin; lines end with LF".to_owned());
    }
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(plain.lines()) {
        let mut line = line.to_owned();
        if !line.trim_start().starts_with(['#', ';']) {
            if line.trim_start().starts_with("ExecStartPre=")
                && !line.contains("=-")
                && line.contains(PRE_START)
                && !has_pre_start
            {
                line = line.replace("ExecStartPre=", "ExecStartPre=-");
                changes.push(format!(
                    "line {number}: `bin/` has no {PRE_START}, which is no failure now"
                ));
            }
            let minor = version.map_or(0, |version| version.minor);
            for (flag, since) in GONE.iter().filter(|(_, since)| minor >= *since) {
                if let Some(without) = without(&line, flag, false) {
                    line = without;
                    changes.push(format!(
                        "line {number}: without `{flag}`, gone from the kubelet in 1.{since}"
                    ));
                }
            }
            if let Some(without) = without(&line, "--cgroup-driver", true) {
                line = without;
                changes.push(format!(
                    "line {number}: without `--cgroup-driver=`, which has no value"
                ));
            }
        }
        lines.push(line);
    }
    let mut fit = lines.join("\n");
    if plain.ends_with('\n') {
        fit.push('\n');
    }
    (fit, changes)
}

/// The line without `flag` and its value, if it has it; `empty`: only if it has no value.
fn without(line: &str, flag: &str, empty: bool) -> Option<String> {
    let end_of_word = |text: &str| text.find([' ', '\t', '"', '\'']).unwrap_or(text.len());
    let (start, rest) = line.match_indices(flag).find_map(|(start, _)| {
        let rest = &line[start + flag.len()..];
        let whole = rest.is_empty() || rest.starts_with(['=', ' ', '\t', '"', '\'']);
        whole.then_some((start, rest))
    })?;
    let mut end = end_of_word(rest);
    if empty && rest.get(..end) != Some("=") {
        return None;
    }
    let next = rest[end..].trim_start();
    if rest.starts_with([' ', '\t']) && !next.is_empty() && !next.starts_with(['-', '$', '"', '\''])
    {
        // The value is the next word.
        end = rest.len() - next.len() + end_of_word(next);
    }
    let after = &rest[end..];
    let before = &line[..start];
    let after = if before.ends_with([' ', '\t', '=']) {
        after.trim_start()
    } else {
        after
    };
    Some(format!("{before}{after}").trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_the_kubelet_has_no_more_are_taken_out() {
        let line = "Environment=\"KUBELET_EXTRA_ARGS=--container-runtime=remote --cgroup-driver= \
                    --container-runtime-endpoint=unix:///a.sock\"\n# --container-runtime=remote\n";
        let (fit, changes) = fitted(line, Some(&Version::new(1, 27, 0)), true);
        assert_eq!(
            fit,
            "Environment=\"KUBELET_EXTRA_ARGS=--container-runtime-endpoint=unix:///a.sock\"\n\
             # --container-runtime=remote\n"
        );
        assert_eq!(changes.len(), 2, "{changes:?}");
        let (fit, changes) = fitted(line, Some(&Version::new(1, 26, 9)), true);
        assert!(fit.contains("ARGS=--container-runtime=remote --container-runtime-endpoint"));
        assert_eq!(changes.len(), 1, "{changes:?}");
        for (line, expected) in [
            (
                "ExecStart=kubelet --network-plugin cni --v=2",
                "ExecStart=kubelet --v=2",
            ),
            ("A=\"--v=2 --network-plugin=cni\"", "A=\"--v=2 \""),
            (
                "ExecStart=kubelet --network-plugin --v=2",
                "ExecStart=kubelet --v=2",
            ),
            ("A=--network-plugins=x", "A=--network-plugins=x"),
        ] {
            let (fit, _) = fitted(line, Some(&Version::new(1, 30, 0)), true);
            assert_eq!(fit, expected);
        }
        let (fit, changes) = fitted("A=--cgroup-driver=systemd\n", None, true);
        assert!(fit == "A=--cgroup-driver=systemd\n" && changes.is_empty());
    }

    #[test]
    fn missing_pre_start_script_is_no_failure() {
        let unit = "[Service]\nExecStartPre=/usr/bin/kubelet-pre-start.sh\n";
        assert_eq!(
            fitted(unit, None, false).0,
            "[Service]\nExecStartPre=-/usr/bin/kubelet-pre-start.sh\n"
        );
        assert_eq!(fitted(unit, None, true).0, unit);
    }
}
