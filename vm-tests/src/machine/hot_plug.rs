//! Devices that appear while a machine runs. Each takes the only slot for them.

use anyhow::{Context, Result};
use serde_json::json;

use super::qemu::{DiskFile, DiskFormat, Nic};
use super::vm::Vm;

impl Vm {
    /// Adds a disk to the running machine.
    pub fn plug_disk(&self, disk: &DiskFile) -> Result<()> {
        let format = if disk.format == DiskFormat::Raw {
            "raw"
        } else {
            "qcow2"
        };
        self.qmp(|qmp| {
            qmp.execute(
                "blockdev-add",
                json!({"node-name": "plugged", "driver": format, "read-only": disk.read_only,
                       "file": {"driver": "file", "filename": disk.path}}),
            )?;
            let device = json!({"driver": "virtio-blk-pci", "id": "plugged", "drive": "plugged", "serial": disk.serial, "bus": "plug"});
            qmp.execute("device_add", device)
        })
        .context("adding a disk")?;
        Ok(())
    }

    /// Adds a network card to the running machine.
    pub fn plug_nic(&self, nic: &Nic) -> Result<()> {
        self.qmp(|qmp| {
            qmp.execute(
                "netdev_add",
                json!({"type": "dgram", "id": "plugged",
                       "local": {"type": "unix", "path": nic.local},
                       "remote": {"type": "unix", "path": nic.remote}}),
            )?;
            let device = json!({"driver": "virtio-net-pci", "id": "plugged-nic", "netdev": "plugged", "mac": nic.mac, "romfile": "", "bus": "plug"});
            qmp.execute("device_add", device)
        })
        .context("adding a network card")?;
        Ok(())
    }
}
