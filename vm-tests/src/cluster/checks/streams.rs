//! What reaches into a pod through apiserver and kubelet: logs, exec, cp and port-forward.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::testbed::Testbed;

/// Fails unless a client of `master` reads the log of the pod on `host`, runs a program in it, and
/// copies a file into it and back. The pods are those of
/// [`pods_and_services`](super::pods_and_services).
pub fn logs_exec_and_cp(testbed: &Testbed, master: &str, host: &str) -> Result<()> {
    let kubectl = |arguments: &[&str]| testbed.kubectl(master, arguments);
    let pod = &pod_on(testbed, master, host)?;

    let log = kubectl(&["logs", pod])?;
    ensure!(log.contains("listening on"), "the log of {pod}: {log}");
    let name = kubectl(&["exec", pod, "--", "/usr/bin/cat", "/etc/hostname"])?;
    ensure!(name.trim() == *pod, "exec in {pod}: {name}");

    let folder = testbed.run_dir.folder();
    let (there, back) = (folder.join("copied"), folder.join("copied-back"));
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(&there, &bytes)?;
    kubectl(&[
        "cp",
        &there.display().to_string(),
        &format!("{pod}:/copied"),
    ])?;
    kubectl(&["cp", &format!("{pod}:/copied"), &back.display().to_string()])?;
    ensure!(
        fs::read(&back)? == bytes,
        "cp to {pod} and back: other bytes"
    );
    Ok(())
}

/// Fails unless `kubectl port-forward` by `master` reaches the pod on `host`.
pub fn port_forward(testbed: &Testbed, master: &str, host: &str) -> Result<()> {
    let pod = pod_on(testbed, master, host)?;
    let forward = Forward::start(testbed, master, &pod)?;
    let mut answer = String::new();
    TcpStream::connect(forward.address)?.read_to_string(&mut answer)?;
    ensure!(answer.trim() == pod, "port-forward to {pod}: `{answer}`");
    Ok(())
}

/// The name of the pod on `host`.
fn pod_on(testbed: &Testbed, master: &str, host: &str) -> Result<String> {
    let selector = format!("--field-selector=spec.nodeName={host}");
    let arguments = ["get", "pods", "-l", "app=web", &selector, "-o", "name"];
    let pod = testbed.kubectl(master, &arguments)?;
    let pod = pod.trim().trim_start_matches("pod/");
    ensure!(!pod.is_empty(), "no pod on {host}");
    Ok(pod.to_owned())
}

/// `kubectl port-forward`, which runs until it is dropped.
struct Forward {
    process: Child,
    /// kubectl prints a line for each connection, and a closed pipe would end it.
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Forward {
    fn start(testbed: &Testbed, master: &str, pod: &str) -> Result<Self> {
        let mut process = testbed
            .kubectl_command(master)?
            .args(["port-forward", "--address=127.0.0.1", pod, ":8080"])
            .stdout(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        let stdout = process.stdout.take().context("kubectl has no output")?;
        // From here on the process ends with this value.
        let mut forward = Self {
            process,
            stdout: BufReader::new(stdout),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let mut line = String::new();
        forward.stdout.read_line(&mut line)?;
        // "Forwarding from 127.0.0.1:40123 -> 8080"
        let address = line.split_whitespace().nth(2);
        forward.address = address
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("kubectl port-forward prints `{line}`"))?;
        Ok(forward)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
