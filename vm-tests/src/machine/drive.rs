//! The devices that a disk of the harness can be, and the files behind them.

use std::path::Path;

use super::qemu::{DiskFile, DiskFormat, escape};

/// The device that a disk is to the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drive {
    #[default]
    Virtio,
    /// virtio-blk with logical sectors of 4,096 bytes.
    Virtio4k,
    /// An NVMe controller whose name space has logical sectors of 4,096 bytes.
    Nvme4k,
    /// A SATA disk at an AHCI controller.
    Ahci,
}

impl Drive {
    /// QEMU's device with its options.
    pub(super) fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-blk-pci",
            Self::Virtio4k => "virtio-blk-pci,logical_block_size=4096,physical_block_size=4096",
            Self::Nvme4k => "nvme,logical_block_size=4096,physical_block_size=4096",
            Self::Ahci => "ide-hd",
        }
    }
}

/// The options of QEMU's `-drive`. With `log`, an existing empty file, QEMU keeps all writes there.
pub(super) fn options(number: usize, disk: &DiskFile, log: Option<&Path>) -> String {
    let format = match disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let path = escape(&disk.path);
    let source = match log {
        None => format!("format={format},file={path}"),
        // The guest's flushes are logged. The two files need not reach the medium of the host.
        Some(log) => format!(
            "driver=blklogwrites,log.driver=file,log.filename={},log.cache.no-flush=on,\
             file.driver={format},file.file.driver=file,file.file.filename={path},\
             file.cache.no-flush=on",
            escape(log)
        ),
    };
    // `writeback` honours flushes of the guest: a power cut loses what a real disk would lose.
    format!(
        "if=none,id=disk{number},cache=writeback,discard=unmap,readonly={},{source}",
        if disk.read_only { "on" } else { "off" },
    )
}
