//! A control-plane host that waits to join reports its target and the last answer in the journal,
//! on the console, in its status and over the network.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use firstboot::journal::{WAITING, field};
use serde_json::Value;
use userdata::contract::{STATUS_FILE, STATUS_PORT};
use vm_tests::cluster::{Cluster, never_ready};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::journal::{Record, RecordMatch};
use vm_tests::machine::vm::Vm;

// One boot for all checks, because it takes minutes without KVM.
#[test]
fn waiting_master_reports_target_and_last_answer() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("reports_what_it_waits_for")?;
    let programs = Programs::build()?;
    // Both topologies have the same image, and building another one takes a minute.
    let output = Output::make(&programs, &topology("one"))?.changed(
        &programs,
        &topology("ha"),
        &run_dir.folder().join("ha"),
    )?;
    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    // The other machines stay off, so this one needs no slowed clock.
    cluster.member_mut("m1")?.machine.time_scale = host.time_scale(1);
    let member = cluster.member("m1")?;
    let vm = member.start(&host, &run_dir)?;
    let joining = RecordMatch::id(WAITING).field(field::STEP, "kubelet-start");
    let waiting = vm.wait_for(&joining, &never_ready(), Duration::from_secs(120))?;

    let endpoint = check_journal(&waiting)?;
    vm.wait_for_console(&format!("waiting for {endpoint}"), Duration::from_secs(5))?;
    check_status(&vm, &endpoint)?;
    check_status_of_all_hosts(&vm, &endpoint)?;
    let local = cluster
        .port_forward
        .forward(0, SocketAddr::new(member.address, STATUS_PORT))?
        .to_string();
    write_credentials(&output, run_dir.folder())?;
    check_status_server(run_dir.folder(), &local, &endpoint)?;
    check_status_service(&vm)?;
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// Checks target and last answer in the journal, and returns the target.
fn check_journal(waiting: &Record) -> Result<String> {
    let endpoint = waiting.get(field::ENDPOINT).unwrap_or_default();
    assert_eq!(
        endpoint,
        "an apiserver (192.168.7.10:6443, 192.168.7.12:6443)"
    );
    let answer = waiting.get(field::ANSWER).unwrap_or_default();
    assert!(answer.starts_with("m0 (192.168.7.10:6443): "), "{answer}");
    Ok(endpoint.to_owned())
}

/// The status file, `firstboot status` and the status text of systemd.
fn check_status(vm: &Vm, endpoint: &str) -> Result<()> {
    let status: Value = serde_json::from_str(&vm.shell(&format!("cat {STATUS_FILE}"))?)?;
    assert_eq!(status["waiting"]["endpoint"], endpoint);
    let text = vm.shell("firstboot status")?;
    assert!(
        text.contains(&format!("waiting for {endpoint}\n  since "))
            && text.contains("last answer: m0"),
        "{text}"
    );
    let text = vm.shell("systemctl show --property=StatusText firstboot.service")?;
    assert!(text.contains(endpoint), "{text}");
    Ok(())
}

/// `firstboot status --all`: the other hosts are unreachable.
fn check_status_of_all_hosts(vm: &Vm, endpoint: &str) -> Result<()> {
    let all = vm.run("firstboot status --all --timeout 10")?;
    println!("firstboot status --all:\n{}", all.stdout);
    assert_eq!(all.status, 1, "{}", all.stderr);
    let line = |name: &str| {
        let found = all.stdout.lines().find(|line| line.starts_with(name));
        found.unwrap_or_default().to_owned()
    };
    assert!(line("m1").contains(endpoint), "{}", all.stdout);
    for (name, address) in [
        ("m0", "192.168.7.10"),
        ("m2", "192.168.7.12"),
        ("n0", "192.168.7.20"),
    ] {
        let line = line(name);
        assert!(
            line.contains("unreachable") && line.contains(address),
            "{}",
            all.stdout
        );
    }
    Ok(())
}

/// The status over the network, with openssl as the client. It requires the administrator's
/// certificate.
fn check_status_server(folder: &Path, address: &str, endpoint: &str) -> Result<()> {
    let certificate = ["-cert", "admin.crt", "-key", "admin.key"];
    let answer = openssl(folder, address, &certificate)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let report: Value = serde_json::from_str(body)?;
    assert_eq!(report["status"]["host"], "m1");
    assert_eq!(report["status"]["waiting"]["endpoint"], endpoint);
    let answer = openssl(folder, address, &[])?;
    assert_eq!(answer, "", "a client without a certificate gets no answer");
    Ok(())
}

/// The first request starts the service, which no request makes fail.
fn check_status_service(vm: &Vm) -> Result<()> {
    let units = vm.shell("systemctl list-units --all --plain --no-legend 'firstboot-status.*'")?;
    assert!(!units.contains("failed"), "{units}");
    let sandbox = vm.shell("systemctl show --property User,Result firstboot-status.service")?;
    assert!(sandbox.contains("Result=success"), "{sandbox}");
    Ok(())
}

/// Writes the credentials of the administrator's kubeconfig to files.
fn write_credentials(output: &Output, folder: &Path) -> Result<()> {
    let conf = fs::read_to_string(output.admin())?;
    for (name, field) in [
        ("ca.crt", "certificate-authority-data"),
        ("admin.crt", "client-certificate-data"),
        ("admin.key", "client-key-data"),
    ] {
        fs::write(folder.join(name), decoded(&conf, field)?)?;
    }
    Ok(())
}

/// Sends one request, and returns the answer.
fn openssl(folder: &Path, address: &str, certificate: &[&str]) -> Result<String> {
    let mut client = Command::new("openssl")
        .current_dir(folder)
        .args([
            "s_client", "-quiet", "-connect", address, "-CAfile", "ca.crt",
        ])
        .args(["-verify_return_error", "-verify_ip", "192.168.7.11"])
        .args(certificate)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("running openssl (Debian: openssl)")?;
    let mut request = client.stdin.take().context("no pipe to openssl")?;
    // The server may close the connection of a rejected client before the request is sent.
    let _ = request.write_all(b"GET /status HTTP/1.1\r\nHost: m1\r\n\r\n");
    let output = client.wait_with_output().context("waiting for openssl")?;
    drop(request);
    String::from_utf8(output.stdout).context("reading what openssl printed")
}

/// Decodes a field of the first user or cluster of a kubeconfig.
fn decoded(conf: &str, field: &str) -> Result<Vec<u8>> {
    let line = conf
        .lines()
        .find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(field));
    let text = line
        .context("the kubeconfig lacks a field")?
        .trim_start_matches(':');
    let bytes = BASE64_STANDARD.decode(text.trim().trim_matches('"'))?;
    ensure!(!bytes.is_empty(), "`{field}` is empty");
    Ok(bytes)
}
