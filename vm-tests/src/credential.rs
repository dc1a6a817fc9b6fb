//! What the harness tells an unmodified image from outside: SMBIOS type 11 strings.
//!
//! systemd reads credentials from them and systemd-debug-generator (257) makes units of those; systemd-stub
//! reads kernel arguments. Nothing of this exists in the image.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::qemu::{COMMAND_PORT, JOURNAL_PORT};

/// One OEM string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smbios(pub String);

/// A system credential (systemd.system-credentials(7)).
pub fn credential(name: &str, value: &[u8]) -> Smbios {
    Smbios(format!(
        "io.systemd.credential.binary:{name}={}",
        STANDARD.encode(value)
    ))
}

/// An emulated timer beside busy neighbours may tick too seldom for the kernel's check of it at boot, which ends in a panic.
/// Under KVM the kernel leaves the check out by itself.
pub const NO_TIMER_CHECK: &str = "no_timer_check";

/// Kernel arguments that systemd-stub appends to the image's own.
pub fn kernel_arguments(arguments: &str) -> Smbios {
    Smbios(format!("io.systemd.stub.kernel-cmdline-extra={arguments}"))
}

/// The units that send the journal out and take commands in.
pub fn report_units() -> Vec<Smbios> {
    let wants = "[Unit]\nWants=firstlight-test-journal.service firstlight-test-command.service\n";
    vec![
        credential(
            "systemd.extra-unit.firstlight-test-journal.service",
            journal_unit().as_bytes(),
        ),
        credential(
            "systemd.extra-unit.firstlight-test-command.service",
            command_unit().as_bytes(),
        ),
        // A drop-in may add dependencies, and sysinit.target is part of every boot.
        credential(
            "systemd.unit-dropin.sysinit.target~firstlight-test",
            wants.as_bytes(),
        ),
    ]
}

fn journal_unit() -> String {
    // `--all`, or long fields come as null.
    format!(
        "{}[Service]\nExecStart=/bin/sh -c 'exec journalctl --output=json --all --boot --follow --no-tail >/dev/virtio-ports/{JOURNAL_PORT}'\n{}",
        unit_section("the journal, sent to the test harness", JOURNAL_PORT),
        SERVICE_TAIL
    )
}

/// Reads `<number> <base64 of a script>`, answers `<number> <status> <base64 of stdout> <base64 of stderr>`.
fn command_unit() -> String {
    let script = format!(
        "exec 3<>/dev/virtio-ports/{COMMAND_PORT}; d=/run/firstlight-test; mkdir -p $$d; \
         while :; do while read -r n c <&3; do \
         echo $$c | base64 -d >$$d/script; sh $$d/script >$$d/out 2>$$d/err </dev/null 3<&-; s=$$?; \
         echo $$n $$s $$(base64 -w0 $$d/out)= $$(base64 -w0 $$d/err)= >&3; done; sleep 0.2; done"
    );
    format!(
        "{}[Service]\nExecStart=/bin/sh -c '{script}'\n{}",
        unit_section("commands from the test harness", COMMAND_PORT),
        SERVICE_TAIL
    )
}

fn unit_section(description: &str, port: &str) -> String {
    let device = format!("dev-virtio\\x2dports-{port}.device");
    format!(
        "[Unit]\nDescription={description}\nDefaultDependencies=no\nConditionPathExists=!/etc/initrd-release\n\
         Wants={device}\nAfter={device} systemd-journald.service\n"
    )
}

// Nothing of the machine's own limits or stops these before the very end.
const SERVICE_TAIL: &str =
    "Restart=on-failure\nRestartSec=1\nOOMScoreAdjust=-1000\nNice=-10\nStandardOutput=null\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_survives_binary_and_commas() {
        assert_eq!(
            credential("a.b", b"x,\n\xff").0,
            "io.systemd.credential.binary:a.b=eCwK/w=="
        );
    }

    #[test]
    fn no_report_unit_runs_in_the_initrd() {
        for unit in [journal_unit(), command_unit()] {
            assert!(
                unit.contains("ConditionPathExists=!/etc/initrd-release"),
                "{unit}"
            );
        }
    }
}
