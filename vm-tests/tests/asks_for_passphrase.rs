//! An encrypted document: the machine shows that it waits for its passphrase, refuses a wrong one,
//! and opens the document with the right one, typed on a console or from the hypervisor.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use firstboot::journal::{DOCUMENT_FOUND, DOCUMENT_REFUSED, FAILED, STEP_STARTED, WAITING, field};
use vm_tests::cluster::Cluster;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::console::Keyboard;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::smbios::credential;
use vm_tests::machine::vm::Vm;

const DEADLINE: Duration = Duration::from_secs(180);
const CREDENTIAL: &str = "firstlight.document-passphrase";
const WRONG: &str = "vutrnlkj-ihgfedbc-vutrnlkj-ihgfedbc";
const QUESTION: &str = "Passphrase of the document of m0:";
/// What a first boot must not have before it has its document.
const WRITTEN: &str = "ls -A /etc/kubernetes/pki /etc/firstlight /var/lib/firstlight/document.json \
                       2>/dev/null; true";

#[test]
#[ignore = "4 minutes without KVM; run: cargo test -p vm-tests --test asks_for_passphrase -- --include-ignored"]
fn encrypted_document_waits_for_its_passphrase() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("one"))?;
    let run_dir = RunDir::new("asks_for_passphrase")?;
    let encrypted = encrypted(&programs, &output, run_dir.folder())?;
    let path = encrypted.folder().join("pki/passphrases/m0.key");
    let passphrase = fs::read_to_string(path)?.trim().to_owned();
    ensure!(!contains(&encrypted.seed("m0"), "PRIVATE KEY")?);

    // The hypervisor gives a wrong one, and a person types another wrong one, then the right one.
    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    let typed = run_dir.folder().join("typed");
    let mut keyboard = Keyboard::at(&typed)?;
    cluster.take_documents(&encrypted)?;
    let machine = &mut cluster.members[0].machine;
    machine
        .smbios
        .push(credential(CREDENTIAL, WRONG.as_bytes()));
    machine.typed = Some(typed);
    let vm = cluster.first().start(&host, &run_dir)?;
    let never = [DOCUMENT_REFUSED, FAILED, STEP_STARTED].map(RecordMatch::id);
    let asked = vm.wait_for(&RecordMatch::id(WAITING), &never, DEADLINE)?;
    let endpoint = asked.get(field::ENDPOINT);
    assert_eq!(endpoint, Some("the passphrase of m0"), "{asked:?}");
    for text in [
        "== the document of this machine is encrypted ==",
        "52:54:00:00:07:10",
        "does not open it",
        "pki/passphrases/NAME.key",
        QUESTION,
    ] {
        vm.wait_for_console(text, DEADLINE)?;
    }
    let status = vm.shell("firstboot status")?;
    assert!(
        status.contains("waiting for the passphrase of m0"),
        "{status}"
    );
    keyboard.type_line(WRONG)?;
    vm.wait_for_console("does not open the document (1 wrong)", DEADLINE)?;
    assert_eq!(vm.shell(WRITTEN)?, "");
    keyboard.type_line(&passphrase)?;
    let found = vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never[..2], DEADLINE)?;
    assert_eq!(found.get(field::HOST), Some("m0"), "{found:?}");
    vm.wait_for(&RecordMatch::id(STEP_STARTED), &never[..2], DEADLINE)?;
    says_nothing_of(&vm, &passphrase)?;
    // The login of the console is there again.
    vm.shell("systemctl start serial-getty@ttyS0.service && systemctl is-active getty.target")?;
    vm.shell("sync")?;
    drop(vm);

    // Its state has the document now: no boot asks any more.
    let machine = &mut cluster.members[0].machine;
    machine.smbios.pop();
    machine.typed = None;
    let vm = cluster.first().start(&host, &run_dir)?;
    let found = vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never[..2], DEADLINE)?;
    assert_eq!(found.get(field::SOURCE), Some("kept"), "{found:?}");
    ensure!(!vm.console().text().contains(QUESTION));
    drop(vm);

    // The hypervisor gives the right one to a new machine, which does not ask.
    drop(cluster);
    let other_dir = RunDir::new("asks_for_passphrase_given")?;
    let mut cluster = Cluster::new(&host, &other_dir, &output)?;
    cluster.take_documents(&encrypted)?;
    let machine = &mut cluster.members[0].machine;
    machine
        .smbios
        .push(credential(CREDENTIAL, passphrase.as_bytes()));
    let vm = cluster.first().start(&host, &other_dir)?;
    vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never, DEADLINE)?;
    says_nothing_of(&vm, &passphrase)?;
    ensure!(!vm.console().text().contains(QUESTION));
    drop(vm);
    other_dir.passed();
    run_dir.passed();
    Ok(())
}

/// The documents of the same cluster, encrypted.
fn encrypted(programs: &Programs, output: &Output, folder: &Path) -> Result<Output> {
    let path = folder.join("one.yaml");
    let text = fs::read_to_string(topology("one"))?;
    fs::write(
        &path,
        format!("{text}document: {{ encrypt: passphrase }}\n"),
    )?;
    output.changed(programs, &path, &folder.join("one"))
}

fn contains(path: &Path, text: &str) -> Result<bool> {
    let bytes = fs::read(path)?;
    Ok(bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes()))
}

/// Neither the journal nor the console has the passphrase.
fn says_nothing_of(vm: &Vm, passphrase: &str) -> Result<()> {
    for record in vm.journal()?.records() {
        ensure!(
            !format!("{record:?}").contains(passphrase),
            "in the journal"
        );
    }
    ensure!(!vm.console().text().contains(passphrase), "on the console");
    Ok(())
}
