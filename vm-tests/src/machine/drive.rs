//! The devices that a disk of the harness can be.

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
