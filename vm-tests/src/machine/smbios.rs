//! SMBIOS type 11 strings, by which the harness configures an unmodified image from outside.
//!
//! systemd reads credentials from these strings, and systemd-debug-generator (257) makes units of
//! some credentials. systemd-stub reads kernel arguments from them. The image contains none of
//! this.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One OEM string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smbios(pub String);

/// The virtio ports of a machine with `reports`, by the names that the guest sees.
pub const JOURNAL_PORT: &str = "firstlight.journal";
pub const COMMAND_PORT: &str = "firstlight.command";

/// At boot the kernel checks that its timer ticks, and panics otherwise. An emulated timer may tick
/// too seldom on a busy host. Under KVM the kernel skips the check by itself.
pub const NO_TIMER_CHECK: &str = "no_timer_check";

/// A system credential (systemd.system-credentials(7)).
pub fn credential(name: &str, value: &[u8]) -> Smbios {
    Smbios(format!(
        "io.systemd.credential.binary:{name}={}",
        STANDARD.encode(value)
    ))
}

/// Kernel arguments that systemd-stub appends to those of the image.
pub fn kernel_arguments(arguments: &str) -> Smbios {
    Smbios(format!("io.systemd.stub.kernel-cmdline-extra={arguments}"))
}

const JOURNAL_UNIT: &str = "firstlight-test-journal.service";
const COMMAND_UNIT: &str = "firstlight-test-command.service";
/// A drop-in may add dependencies, and every boot reaches sysinit.target.
const WANTS: &str =
    "[Unit]\nWants=firstlight-test-journal.service firstlight-test-command.service\n";

/// The units that send the journal to the harness and run its commands.
pub fn report_units() -> Vec<Smbios> {
    let unit =
        |name: &str, text: &str| credential(&format!("systemd.extra-unit.{name}"), text.as_bytes());
    vec![
        unit(JOURNAL_UNIT, &journal_unit()),
        unit(COMMAND_UNIT, &command_unit()),
        credential(
            "systemd.unit-dropin.sysinit.target~firstlight-test",
            WANTS.as_bytes(),
        ),
    ]
}

/// The same units as files of systemd's folder, for an image that takes no credentials.
pub fn report_files() -> [(String, String); 3] {
    [
        (JOURNAL_UNIT.to_owned(), journal_unit()),
        (COMMAND_UNIT.to_owned(), command_unit()),
        (
            "sysinit.target.d/firstlight-test.conf".to_owned(),
            WANTS.to_owned(),
        ),
    ]
}

fn journal_unit() -> String {
    // Without `--all` journalctl writes null for long fields.
    format!(
        "{}[Service]\nExecStart=/bin/sh -c 'exec journalctl --output=json --all --boot --follow \
         --no-tail >/dev/virtio-ports/{JOURNAL_PORT}'\n{SERVICE_TAIL}",
        unit_section("Firstlight tests: journal to the harness", JOURNAL_PORT),
    )
}

/// The other end of [`crate::machine::guest::Guest`]. It is part of the unit, because the image has
/// no place for a script.
fn command_unit() -> String {
    // systemd expands `$` in ExecStart, and `$$` is a literal one. Comments and line breaks are for
    // the reader of the file only.
    let script: Vec<_> = COMMAND_LOOP
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .collect();
    let script = script.join(" ").replace('$', "$$");
    format!(
        "{}[Service]\nExecStart=/bin/sh -c '{script}' sh {COMMAND_PORT}\n{SERVICE_TAIL}",
        unit_section("Firstlight tests: commands of the harness", COMMAND_PORT),
    )
}

const COMMAND_LOOP: &str = include_str!("command_loop.sh");

fn unit_section(description: &str, port: &str) -> String {
    let device = format!("dev-virtio\\x2dports-{port}.device");
    format!(
        "[Unit]\nDescription={description}\nDefaultDependencies=no\n\
         ConditionPathExists=!/etc/initrd-release\n\
         Wants={device}\nAfter={device} systemd-journald.service\n"
    )
}

// Neither the OOM killer nor a shutdown ends these units before the very end.
const SERVICE_TAIL: &str =
    "Restart=on-failure\nRestartSec=1\nOOMScoreAdjust=-1000\nNice=-10\nStandardOutput=null\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_encodes_bytes_and_commas() {
        assert_eq!(
            credential("a.b", b"x,\n\xff").0,
            "io.systemd.credential.binary:a.b=eCwK/w=="
        );
    }

    #[test]
    fn report_units_do_not_run_in_the_initrd() {
        for unit in [journal_unit(), command_unit()] {
            assert!(
                unit.contains("ConditionPathExists=!/etc/initrd-release"),
                "{unit}"
            );
        }
    }

    #[test]
    fn command_unit_is_one_line_that_systemd_does_not_expand() {
        let unit = command_unit();
        let line = unit.lines().find(|line| line.starts_with("ExecStart="));
        let line = line.expect("ExecStart");
        assert!(line.ends_with("done' sh firstlight.command"), "{line}");
        assert!(!line.replace("$$", "").contains('$'), "{line}");
        assert_eq!(line.matches('\'').count(), 2, "{line}");
        assert!(!line.contains('%'), "{line}");
    }
}
