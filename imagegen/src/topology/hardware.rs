//! Rules for what a site adds to its image: firmware, kernel modules and arguments, packages.

use super::value::{Checked, Invalid};
use crate::image::uki;
use crate::plan::FIRMWARE;

/// Arguments that imagegen sets for the verified root, or that make the kernel, the initrd or
/// systemd leave it out. A word that ends with `.` or `_` stands for all that begin with it.
const BOOT_CHAIN: &[&str] = &[
    "root",
    "rootfstype",
    "rootflags",
    "ro",
    "rw",
    "roothash",
    "usrhash",
    "mount.usr",
    "mount.usrfstype",
    "mount.usrflags",
    "init",
    "rdinit",
    "initrd",
    "noinitrd",
    "initramfs_options",
    "systemd.verity",
    "systemd.verity_",
    "rd.systemd.verity",
    "rd.systemd.unit",
    "rd.systemd.gpt_auto",
    "rd.shell",
    "rd.break",
    "systemd.gpt_auto",
    "systemd.unit",
    "systemd.volatile",
    "systemd.debug_shell",
    "systemd.mask",
    "systemd.factory_reset",
    "rd.systemd.debug_shell",
    "rd.systemd.mask",
    "emergency",
    "rescue",
    "single",
    "efi",
    "noefi",
    "module_blacklist",
    "modprobe.blacklist",
    "firstlight.",
    "--",
];

/// The place of the documents, which a site chooses.
const SEED: &str = "firstlight.seed";

/// One argument of the kernel that does not change the way to the verified root, nor the way around
/// the signature of an image that `is_signed`.
pub(super) fn kernel_argument(text: &str, is_signed: bool) -> Checked<String> {
    let key = text.split('=').next().unwrap_or_default();
    // The kernel and systemd take both for the same.
    let plain = |name: &str| name.replace('-', "_");
    let reserved = |word: &&str| match word.ends_with(['.', '_']) {
        true => plain(key).starts_with(*word),
        false => plain(key) == plain(word),
    };
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Err(Invalid::new(
            "not one argument of the kernel",
            "write one argument per item, without spaces",
        ))
    } else if text.contains('"') {
        Err(Invalid::new(
            "a quotation mark would take the arguments behind it",
            "write the argument without quotation marks",
        ))
    } else if is_signed && uki::is_unsafe(text) {
        Err(Invalid::new(
            format!("`{key}` would let a signed image run unsigned code"),
            "remove this item, or `image.secure_boot`",
        ))
    } else if key == "console" {
        Err(Invalid::new(
            "consoles have their own key",
            "write it under `image.console`",
        ))
    } else if key != SEED && BOOT_CHAIN.iter().any(reserved) {
        Err(Invalid::new(
            format!("`{key}` would change the way to the verified root, which imagegen sets"),
            "remove this item",
        ))
    } else {
        Ok(text.to_owned())
    }
}

/// A console with its speed: the kernel's default of a serial line is 9,600 baud.
pub(super) fn console(text: &str) -> Checked<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b',';
    if text.is_empty() || !text.bytes().all(inner) {
        return Err(Invalid::new(
            "not a console",
            "write `tty0` or `ttyS0,115200n8`",
        ));
    }
    let is_bare = text.starts_with("ttyS") && !text.contains(',');
    Ok(if is_bare {
        format!("{text},115200n8")
    } else {
        text.to_owned()
    })
}

/// The name of firmware in the table.
pub(super) fn firmware(text: &str) -> Checked<String> {
    if FIRMWARE.iter().any(|(name, _)| *name == text) {
        return Ok(text.to_owned());
    }
    let names = FIRMWARE.iter().map(|(name, _)| *name);
    let help = match yaml::nearest(text, names.clone()) {
        Some(meant) => format!("write `{meant}`"),
        None => format!("write one of {}", names.collect::<Vec<_>>().join(", ")),
    };
    Err(Invalid::new(format!("unknown firmware `{text}`"), help))
}

/// The name of a kernel module; the build finds out whether the kernel has it.
pub(super) fn module(text: &str) -> Checked<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if text.is_empty() || !text.bytes().all(inner) {
        return Err(Invalid::new(
            "not the name of a kernel module",
            "write a name as `lsmod` prints it, `nvme_tcp`",
        ));
    }
    Ok(text.replace('-', "_"))
}

/// The name of a Debian package (deb-control(5)).
pub(super) fn package(text: &str) -> Checked<String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if text.len() < 2 || !starts || !text.bytes().all(inner) || text.ends_with('-') {
        return Err(Invalid::new(
            "not the name of a Debian package",
            "write a name of Debian 13, `open-iscsi`",
        ));
    }
    if text.starts_with("linux-image") {
        return Err(Invalid::new(
            "the kernel has its own key",
            "write `kernel: generic` or `kernel: cloud` under `image`",
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_leave_the_verified_root_are_refused() {
        for text in [
            "root=/dev/sda1",
            "rw",
            "init=/bin/sh",
            "roothash=00",
            "systemd.verity_root_data=/dev/sda1",
            "systemd.verity=no",
            "rd.break",
            "initrd=x",
            "systemd.mask=firstboot.service",
            "modprobe.blacklist=dm_verity",
            "systemd.debug-shell",
            "firstlight.root=http://a/",
            "firstlight.disk=00",
            "console=ttyS0",
            "--",
            "a=\"b",
            "a b",
            "",
        ] {
            assert!(kernel_argument(text, false).is_err(), "{text}");
        }
        for text in [
            "mitigations=off",
            "rootdelay=5",
            "loglevel=7",
            "intel_iommu=on",
            "firstlight.seed=http://a/",
            "quiet",
        ] {
            assert!(kernel_argument(text, true).is_ok(), "{text}");
        }
    }

    #[test]
    fn serial_console_has_a_speed() {
        let of = |text| console(text).ok();
        assert_eq!(of("ttyS1").as_deref(), Some("ttyS1,115200n8"));
        assert_eq!(of("ttyS0,9600").as_deref(), Some("ttyS0,9600"));
        assert_eq!(of("tty0").as_deref(), Some("tty0"));
        assert_eq!(of("tty 0"), None);
    }

    #[test]
    fn names_are_checked() {
        assert!(firmware("misc-nonfree").is_ok());
        let error = firmware("misc-non-free").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("write `misc-nonfree`"));
        assert_eq!(module("nvme-tcp").ok().as_deref(), Some("nvme_tcp"));
        assert!(module("../x").is_err());
        for text in ["open-iscsi", "g++", "libc6"] {
            assert!(package(text).is_ok(), "{text}");
        }
        for text in ["x", "-x", "Vim", "a b", "vim-", "linux-image-amd64", "a=1"] {
            assert!(package(text).is_err(), "{text}");
        }
    }
}
