//! Scripts of sealos: what their lines do the image has done already, and a line that does
//! something else is shown.
//!
//! sealos runs `init.sh` on every host, which runs the others. A node of ours runs none of them.

use super::super::Package;

/// The scripts of sealos's packages, by whatever folder.
const SCRIPTS: [&str; 5] = [
    "containerd.sh",
    "docker.sh",
    "init-kube.sh",
    "init.sh",
    "master.sh",
];

/// Kernel modules that the image loads, or that its kernel needs no more.
const MODULES: [&str; 9] = [
    "br_netfilter",
    "bridge",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_sh",
    "ip_vs_wrr",
    "nf_conntrack",
    "nf_conntrack_ipv4",
    "overlay",
];

/// Settings that the image makes.
const SETTINGS: [&str; 5] = [
    "net.bridge.bridge-nf-call-ip6tables",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
];

/// Files that sealos's scripts write, and the image has in its own form.
const WRITTEN: [&str; 5] = [
    "/etc/containerd/config.toml",
    "/etc/docker/daemon.json",
    "/etc/systemd/system/kubelet.service.d/containerd.conf",
    "/etc/sysctl.d/k8s.conf",
    "/var/lib/kubelet/config.yaml",
];

/// Folders that the image or firstboot makes.
const FOLDERS: [&str; 8] = [
    "$storage",
    "/etc/docker",
    "/etc/kubernetes",
    "/etc/systemd/system/kubelet.service.d",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "~/.kube",
    "$HOME/.kube",
];

/// Whether a file of `shell/` is one of sealos's scripts.
pub(super) fn is_sealos(name: &str) -> bool {
    SCRIPTS.contains(&name)
}

/// Number and text of each line of `script` that the image does not do, and that no hook of the
/// package has either. A line of `hooks/waived` is not done, on purpose.
pub(super) fn unknown(package: &Package, script: &str) -> Vec<(usize, String)> {
    let taken: Vec<String> = package
        .names()
        .filter(|name| name.starts_with("hooks/"))
        .filter_map(|name| String::from_utf8(package.file(name).ok()??).ok())
        .collect();
    let is_taken = |line: &str| {
        let mut lines = taken.iter().flat_map(|text| text.lines());
        lines.any(|own| own.trim() == line)
    };
    let mut found = lines(script);
    found.retain(|(_, line)| !is_taken(line) && !default_package::is_own_script_line(line));
    found
}

/// Lines that are none of sealos's.
fn lines(script: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = (1..).zip(script.lines().map(str::trim));
    while let Some((number, line)) = lines.next() {
        let Some((command, end)) = here_document(line) else {
            if !is_line(line) {
                found.push((number, line.to_owned()));
            }
            continue;
        };
        let target = target(command);
        let is_written = target.is_some_and(|target| WRITTEN.contains(&target));
        if !is_written {
            found.push((number, line.to_owned()));
        }
        for (number, line) in lines.by_ref().take_while(|(_, line)| *line != end) {
            let setting = line.split('=').next().unwrap_or_default().trim();
            let of_sysctl = target.is_some_and(|target| target.starts_with("/etc/sysctl.d/"));
            let known = line.is_empty() || line.starts_with('#') || SETTINGS.contains(&setting);
            if is_written && of_sysctl && !known {
                found.push((number, line.to_owned()));
            }
        }
    }
    found
}

/// The command and the end of the text that `cat <<EOF > FILE` begins.
fn here_document(line: &str) -> Option<(&str, &str)> {
    if line.starts_with('#') {
        return None;
    }
    let (_, rest) = line.split_once("<<")?;
    let end = rest.trim_start_matches('-').split_whitespace().next()?;
    Some((line, end.trim_matches(['"', '\''])))
}

/// The file that `>` or `>>` writes to.
fn target(command: &str) -> Option<&str> {
    let (_, rest) = command.split_once('>')?;
    rest.trim_start_matches('>').split_whitespace().next()
}

fn is_line(line: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '|' | '*' | '-' | '_' | ' ');
    let is_pattern = line.strip_suffix(')').is_some_and(|p| p.chars().all(word));
    let is_structure = matches!(
        line,
        "" | "fi" | "else" | "then" | "do" | "done" | "esac" | ";;" | "{" | "}"
    );
    let is_function = line.ends_with("(){") || line.ends_with("() {");
    if line.starts_with('#') || is_structure || is_function || is_pattern {
        return true;
    }
    if line.starts_with("case ") && line.ends_with(" in") {
        return true;
    }
    let line = line
        .strip_prefix("if ")
        .or(line.strip_prefix("elif "))
        .unwrap_or(line);
    // What stands in quotes or in `$(…)` is read, and changes nothing by itself.
    line.replace("||", ";")
        .replace("&&", ";")
        .split(';')
        .all(|command| is_command(command.trim()))
}

fn is_command(command: &str) -> bool {
    let command = command.strip_prefix("! ").unwrap_or(command);
    let quiet = ["> /dev/null", ">/dev/null", "&> /dev/null", "&> /dev/nul"];
    let quiet = quiet.iter().any(|end| command.contains(end));
    if command.contains('>') && !quiet {
        return false;
    }
    let mut words = command.split_whitespace();
    let first = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let arguments = || rest.iter().filter(|word| !word.starts_with('-'));
    let all = |known: &[&str]| arguments().all(|word| known.contains(word));
    match first {
        "" | "then" | "set" | "exit" | "return" | "sleep" | "echo" | "true" | "test" | "["
        | "[[" | "grep" | "command" | "command_exists" | "version_ge" | "get_distribution"
        | "disable_selinux" | "disable_firewalld" | "setenforce" | "ufw" | "swapoff" => true,
        "modprobe" => all(&MODULES),
        "sysctl" => arguments().all(|word| {
            let setting = word.split('=').next().unwrap_or_default();
            SETTINGS.contains(&setting)
        }),
        "systemctl" => arguments().skip(1).all(|unit| {
            let unit = unit.trim_end_matches(".service");
            ["docker", "containerd", "kubelet", "firewalld"].contains(&unit)
        }),
        "chmod" => arguments()
            .skip(1)
            .all(|file| is_sealos(file) || *file == "/usr/bin"),
        "sh" | "bash" | "source" | "." => arguments().all(|file| is_sealos(file)),
        "sed" => command.contains("SELINUX=") || command.contains("../conf/kubeadm.yaml"),
        "cp" => {
            let ours = [
                "../bin/",
                "../conf/",
                "../lib64/",
                "/etc/kubernetes/admin.conf",
            ];
            let mut sources: Vec<_> = arguments().collect();
            sources.pop();
            sources
                .iter()
                .all(|from| ours.iter().any(|own| from.starts_with(own)))
        }
        "tar" => command.contains("../docker/") || command.contains("../containerd/"),
        "mkdir" => arguments().all(|folder| FOLDERS.contains(&folder.trim_end_matches('/'))),
        "docker" => match rest.first() {
            Some(&"load") => command.contains("../images/"),
            Some(&("info" | "version")) => true,
            _ => false,
        },
        "ctr" => command.contains("../images/") || rest.first() == Some(&"version"),
        "kubeadm" => command.contains("init") && command.contains("../conf/kubeadm.yaml"),
        "kubectl" => match rest.first() {
            Some(&"taint") => command.contains("node-role.kubernetes.io/"),
            Some(&"apply") => command.contains("../conf/"),
            _ => false,
        },
        _ => is_assignment(command),
    }
}

/// A variable from a text or from a command that only reads.
fn is_assignment(command: &str) -> bool {
    let Some((name, value)) = command.split_once('=') else {
        return false;
    };
    let reads = [
        "uname ",
        "echo ",
        " get_distribution",
        "docker info",
        ". /etc/os-release",
    ];
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let runs = value.contains("$(") || value.contains('`');
    is_name && (!runs || reads.iter().any(|read| value.contains(read)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_sealos_are_known_and_others_shown() {
        let known = "#!/bin/bash\nchmod a+x docker.sh\nsh docker.sh\nmodprobe -- ip_vs_wrr\n\
             version_ge(){\n  test \"$(echo \"$@\" | sort -rV | head -n 1)\" == \"$1\"\n}\n\
             lsb_dist=\"$(. /etc/os-release && echo \"$ID\")\"\ncase \"$lsb_dist\" in\n\
             ubuntu|debian)\ncommand -v ufw &> /dev/null && ufw disable\n;;\n*)\n\
             systemctl stop firewalld && systemctl disable firewalld\n;;\nesac\n\
             kernel=$(uname -r | cut -d- -f1)\nif version_ge \"${kernel}\" 4.19; then\n\
             modprobe -- nf_conntrack\nelse\nmodprobe -- nf_conntrack_ipv4\nfi\n\
             cat <<EOF >  /etc/sysctl.d/k8s.conf\nnet.ipv4.conf.all.rp_filter=0\nEOF\n\
             sysctl --system\nsysctl -w net.ipv4.ip_forward=1\nswapoff -a || true\n\
             docker load -i ../images/images.tar || true\ncp ../bin/* /usr/bin\n\
             [ -d /var/lib/kubelet ] || mkdir -p /var/lib/kubelet/\n\
             cat <<EOF > /var/lib/kubelet/config.yaml\nkind: KubeletConfiguration\nEOF\n\
             driver=$(docker info -f \"{{.CgroupDriver}}\")\nsystemctl enable kubelet\n\
             kubeadm init --config ../conf/kubeadm.yaml\nmkdir ~/.kube\n\
             cp /etc/kubernetes/admin.conf ~/.kube/config\n\
             kubectl taint nodes --all node-role.kubernetes.io/master-\n\
             kubectl apply -f ../conf/net/calico.yaml\n\
             tar  -xvzf ../containerd/cri-containerd-cni-linux-amd64.tar.gz -C /\n";
        assert_eq!(lines(known), []);
        for line in [
            "modprobe -- nfs",
            "sysctl -w vm.swappiness=0",
            "echo 10.0.0.1 registry >> /etc/hosts",
            "cp ../extra/ca.crt /usr/local/share/ca-certificates/",
            "systemctl enable chronyd",
            "apt-get install -y nfs-common",
            "docker run -d registry",
            "swapoff -a && rm -rf /data",
            "token=$(curl http://10.0.0.1/token)",
            "cat > /etc/exports <<EOF",
        ] {
            assert_eq!(lines(line), [(1, line.to_owned())]);
        }
        let other = "cat <<EOF > /etc/sysctl.d/k8s.conf\nvm.swappiness=0\nEOF\n";
        assert_eq!(lines(other), [(2, "vm.swappiness=0".to_owned())]);
    }
}
