//! One QEMU machine: its configuration, its life cycle, and what it reports.

pub mod boot_origin;
mod clock;
pub mod console;
pub mod disk;
mod drive;
pub mod guest;
mod hot_plug;
pub mod journal;
mod options;
pub mod qemu;
pub mod qmp;
pub mod smbios;
mod starting_qemu;
mod tpm;
pub mod vm;
