//! The state partition of an image with `image: {state: {encrypt: tpm2}}`, sealed to a TPM: the
//! first boot makes it, the same TPM opens it for every image of the same policy key, another TPM
//! does not, and the recovery key does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use build_tools::process;
use imagegen::image::Signing;
use imagegen::state_keys::PolicyKey;
use userdata::contract::RECOVERY_KEY;
use vm_tests::host::Host;
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Boot, DiskFile, DiskFormat, Drive, Machine};
use vm_tests::machine::smbios::{Smbios, credential, kernel_arguments};
use vm_tests::machine::vm::Vm;
use vm_tests::sealed_image::Builder;

const DEADLINE: Duration = Duration::from_secs(300);
const RECOVERY: &str = "cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv";
/// "Startup finished", systemd's sd-messages.h.
const STARTED: &str = "b07a249cd024414a82dd00cd181378ff";
/// Where dbus.socket listens.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// In a file of the state.
const MARKER: &str = "kept-in-the-encrypted-state";
const CLOSED: &str = "== the TPM of this machine does not open its state ==";
const SEALED_AGAIN: &str = "is sealed to the TPM of this machine now";

#[test]
#[ignore = "5 minutes without KVM; run: cargo test -p vm-tests --test sealed_state -- --include-ignored"]
fn tpm_opens_what_it_sealed_and_the_recovery_key_opens_it_without() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("sealed_state")?;
    let builder = Builder::new(&run_dir, None)?;
    let policy = PolicyKey::create()?;
    let path = builder.disk("node", &policy, "marker=1")?;
    let mut machine = machine(&run_dir, &path, Boot::Uefi);

    // Without a TPM the machine shows the cause, and makes nothing.
    machine.tpm = None;
    let vm = Vm::start(&host, &run_dir, &machine)?;
    for text in [
        "== this machine has no usable state ==",
        "encrypts state with a TPM 2.0",
        "switch on the TPM 2.0",
    ] {
        vm.wait_for_console(text, DEADLINE)?;
    }
    drop(vm);
    assert!(disk::partition(&path, "firstlight-state").is_err());

    // The first boot makes the state, and firstboot enrols the recovery key of its document.
    machine.tpm = Some(run_dir.folder().join("tpm"));
    let vm = start(&host, &run_dir, &machine)?;
    assert_eq!(slots(&vm)?, 2, "the first key and the TPM's");
    ensure!(vm.shell("stat -c %a /var/lib/firstlight/state.key")?.trim() == "600");
    let document = format!(
        "#cloud-config\nwrite_files:\n- {{path: {RECOVERY_KEY}, permissions: '0600', content: \
         {RECOVERY}}}\n"
    );
    let script = format!(
        "systemctl start dbus.socket && export DBUS_SYSTEM_BUS_ADDRESS={BUS}\n\
         mkdir /run/seed && cat >/run/seed/user-data <<'END'\n{document}END\n\
         touch /run/seed/meta-data && firstboot --seed /run/seed"
    );
    vm.shell(&script)?;
    assert_eq!(slots(&vm)?, 2, "the recovery key and the TPM's");
    vm.shell("test ! -e /var/lib/firstlight/state.key")?;
    vm.shell(&format!("echo {MARKER} >/var/marker; sync"))?;
    drop(vm);
    for secret in [RECOVERY, MARKER] {
        let mut grep = Command::new("grep");
        let status = grep.args(["-aqF", secret]).arg(&path).status()?;
        assert_eq!(status.code(), Some(1), "`{secret}` is on the disk");
    }

    // The same image, and a later one of the same policy key, open it by themselves.
    opens(&start(&host, &run_dir, &machine)?, "marker=1")?;
    builder.update(&path, &policy, "marker=2")?;
    opens(&start(&host, &run_dir, &machine)?, "marker=2")?;

    // An image of another policy key does not, and neither does another TPM.
    builder.update(&path, &PolicyKey::create()?, "marker=3")?;
    let vm = Vm::start(&host, &run_dir, &machine)?;
    closed(&vm, "another key signed the policy")?;
    drop(vm);
    builder.update(&path, &policy, "marker=2")?;
    machine.tpm = Some(run_dir.folder().join("other-tpm"));
    let vm = Vm::start(&host, &run_dir, &machine)?;
    closed(&vm, "sealed to another TPM")?;
    drop(vm);

    // The recovery key opens it and binds it to this TPM; a wrong key does not.
    machine.smbios = vec![recovery("wrong")];
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for_console("this key does not open the state", DEADLINE)?;
    drop(vm);
    machine.smbios = vec![recovery(RECOVERY)];
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for_console(SEALED_AGAIN, DEADLINE)?;
    vm.wait_for(&RecordMatch::id(STARTED), &[], DEADLINE)?;
    assert_eq!(vm.shell("cat /var/marker")?.trim(), MARKER);
    assert_eq!(slots(&vm)?, 2, "the recovery key and the new TPM's");
    vm.shell("sync")?;
    drop(vm);
    machine.smbios = Vec::new();
    opens(&start(&host, &run_dir, &machine)?, "marker=2")?;
    run_dir.passed();
    Ok(())
}

#[test]
#[ignore = "7 minutes without KVM; run: cargo test -p vm-tests --test sealed_state -- --include-ignored"]
fn state_of_a_signed_image_opens_only_with_secure_boot() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("sealed_secure_boot")?;
    let [key, certificate] = host.tools().secure_boot_key();
    let plain = run_dir.folder().join("test.key");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-passin", "pass:snakeoil", "-in"]);
    process::run(openssl.arg(&key).arg("-out").arg(&plain))?;
    let builder = Builder::new(&run_dir, Some(Signing::open(&plain, &certificate)?))?;
    let policy = PolicyKey::create()?;
    let path = builder.disk("node", &policy, "marker=1")?;

    // A first boot without Secure Boot seals nothing.
    let mut machine = machine(&run_dir, &path, Boot::Uefi);
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for_console("seals state to Secure Boot, which is off", DEADLINE)?;
    drop(vm);
    assert!(disk::partition(&path, "firstlight-state").is_err());

    machine.boot = Boot::SecureUefi;
    let vm = start(&host, &run_dir, &machine)?;
    vm.shell(&format!("echo {MARKER} >/var/marker; sync"))?;
    // It opens the state as the recovery key does, which firstboot enrols in its place.
    let key = vm.shell("cat /var/lib/firstlight/state.key")?;
    drop(vm);

    // A later image opens it, and takes no unit from outside: no register measures credentials.
    builder.update(&path, &policy, "marker=2")?;
    let unit = "[Service]\nExecStart=/bin/sh -c 'cat /var/marker >/run/stolen'\n";
    machine.smbios = vec![
        credential("systemd.extra-unit.stranger.service", unit.as_bytes()),
        credential(
            "systemd.unit-dropin.sysinit.target~stranger",
            b"[Unit]\nWants=stranger.service\n",
        ),
    ];
    let vm = start(&host, &run_dir, &machine)?;
    opens(&vm, "marker=2")?;
    vm.shell("test -d /sys/firmware/dmi/tables && test ! -e /run/credentials/@system")?;
    let found = vm.shell("systemctl show -p LoadState --value stranger.service")?;
    assert_eq!(found.trim(), "not-found");
    drop(vm);

    // With a kernel argument from outside it stays closed.
    machine.smbios = vec![kernel_arguments("systemd.import_credentials=yes")];
    let vm = Vm::start(&host, &run_dir, &machine)?;
    closed(
        &vm,
        "arguments or credentials from outside the signed image",
    )?;
    drop(vm);

    // The key from the firmware seals it to another TPM, and to no boot with such an argument.
    machine.tpm = Some(run_dir.folder().join("other-tpm"));
    machine.smbios.push(recovery(key.trim()));
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for_console("is not sealed to the TPM of this machine", DEADLINE)?;
    drop(vm);
    machine.smbios = vec![recovery(key.trim())];
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for_console(SEALED_AGAIN, DEADLINE)?;
    drop(vm);
    machine.smbios = Vec::new();
    opens(&start(&host, &run_dir, &machine)?, "marker=2")?;

    machine.boot = Boot::Uefi;
    let vm = Vm::start(&host, &run_dir, &machine)?;
    closed(&vm, "sealed to Secure Boot, which is off")?;
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// The recovery key, as a hypervisor hands it over.
fn recovery(key: &str) -> Smbios {
    credential("cryptsetup.passphrase", key.as_bytes())
}

/// The state is open without a question, in the image with this kernel argument.
fn opens(vm: &Vm, argument: &str) -> Result<()> {
    assert_eq!(vm.shell("cat /var/marker")?.trim(), MARKER);
    let line = vm.shell("cat /proc/cmdline")?;
    ensure!(line.contains(argument), "{line}");
    let source = vm.shell("findmnt -no SOURCE /var")?;
    assert_eq!(source.trim(), "/dev/mapper/firstlight-state");
    ensure!(!vm.console().text().contains("recovery key"));
    Ok(())
}

/// Starts the machine and waits until it has started its services.
fn start(host: &Host, run_dir: &RunDir, machine: &Machine) -> Result<Vm> {
    let vm = Vm::start(host, run_dir, machine)?;
    vm.wait_for(&RecordMatch::id(STARTED), &[], DEADLINE)?;
    Ok(vm)
}

/// The machine asks for the recovery key, with this reason.
fn closed(vm: &Vm, reason: &str) -> Result<()> {
    // The screen breaks lines between words.
    let first = reason.split_whitespace().next().unwrap_or_default();
    for text in [CLOSED, first, "pki/state/recovery/NAME.key"] {
        vm.wait_for_console(text, DEADLINE)?;
    }
    vm.wait_for_console("Recovery key of this host:", DEADLINE)?;
    let text = vm.console().text();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(text.contains(reason), "no `{reason}` in: {text}");
    Ok(())
}

/// The number of keys of the encrypted partition.
fn slots(vm: &Vm) -> Result<usize> {
    let dump = vm.shell("cryptsetup luksDump $(cat /run/firstlight/sealed-partition)")?;
    let keyslots = dump.split("Keyslots:").nth(1).context("no key slots")?;
    let keyslots = keyslots.split("Tokens:").next().unwrap_or_default();
    Ok(keyslots.matches(": luks2").count())
}

fn machine(run_dir: &RunDir, path: &Path, boot: Boot) -> Machine {
    Machine {
        cpus: 1,
        memory_mib: 1024,
        disks: vec![DiskFile {
            path: path.to_path_buf(),
            format: DiskFormat::Raw,
            read_only: false,
            serial: "node".to_owned(),
            drive: Drive::default(),
        }],
        tpm: Some(run_dir.folder().join("tpm")),
        ..Machine::new("node", boot)
    }
}
