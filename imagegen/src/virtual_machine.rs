//! The commands that start a virtual machine from a disk which `imagegen flash` has written to a
//! file: with QEMU, libvirt and Proxmox VE.

use std::fmt::{self, Display};
use std::path::Path;

use crate::image::vfat::SECTOR;

/// A disk in a file.
#[derive(Debug, Clone, Copy)]
pub struct VirtualDisk<'a> {
    pub host: &'a str,
    pub file: &'a Path,
    /// The size of its sectors.
    pub sector: u64,
    /// The MAC address by which the machine knows its document.
    pub mac: Option<&'a str>,
}

/// One command for each program, in lines that a shell reads as one. The text continues a sentence.
impl Display for VirtualDisk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "start it on a bridge, with QEMU:")?;
        self.qemu(f)?;
        // The commands of the others give a disk sectors of 512 bytes.
        if self.sector == SECTOR {
            writeln!(f, "\nwith libvirt:")?;
            self.libvirt(f)?;
            writeln!(f, "\nor on Proxmox VE:")?;
            self.proxmox(f)?;
        }
        Ok(())
    }
}

impl VirtualDisk<'_> {
    fn qemu(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = format!("file={},format=raw", self.file.display());
        let sector = self.sector;
        let drive = match sector {
            SECTOR => quoted(&format!("{file},if=virtio")),
            _ => format!(
                "{} \\\n    -device virtio-blk-pci,drive=disk,logical_block_size={sector},\
                 physical_block_size={sector}",
                quoted(&format!("{file},if=none,id=disk"))
            ),
        };
        let mac = self.mac.map(|mac| format!(",mac={mac}"));
        // Without random numbers, a machine waits for them.
        write!(
            f,
            "  qemu-system-x86_64 -accel kvm -cpu host -smp 2 -m 4G -device virtio-rng-pci \\\n    \
             -bios /usr/share/ovmf/OVMF.fd -drive {drive} \\\n    \
             -nic bridge,br=br0,model=virtio-net-pci{}",
            mac.unwrap_or_default()
        )
    }

    /// libvirt enrols keys for Secure Boot by default, which did not sign the image.
    fn libvirt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = quoted(&format!("path={},bus=virtio", self.file.display()));
        let mac = self.mac.map(|mac| format!(",mac={mac}"));
        write!(
            f,
            "  virt-install --import --name {} --machine q35 --cpu host-passthrough --vcpus 2 --memory 4096 \\\n    \
             --osinfo detect=off,require=off --graphics none --noautoconsole --disk {disk} \\\n    \
             --boot firmware=efi,firmware.feature0.name=secure-boot,firmware.feature0.enabled=no \\\n    \
             --network bridge=br0,model=virtio{}",
            quoted(self.host),
            mac.unwrap_or_default()
        )
    }

    /// `import-from` wants an absolute path.
    fn proxmox(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.file.is_absolute() {
            true => quoted(&self.file.display().to_string()),
            false => format!("\"$PWD\"/{}", quoted(&self.file.display().to_string())),
        };
        let mac = self.mac.map(|mac| format!("={mac}"));
        write!(
            f,
            "  qm create $(pvesh get /cluster/nextid) --name {} --machine q35 --cpu host --cores 2 --memory 4096 \\\n    \
             --bios ovmf --efidisk0 local-lvm:0,efitype=4m,pre-enrolled-keys=0 --ostype l26 --serial0 socket \\\n    \
             --virtio0 local-lvm:0,import-from={path} --boot order=virtio0 --net0 virtio{},bridge=vmbr0 --start 1",
            quoted(self.host),
            mac.unwrap_or_default()
        )
    }
}

/// An argument as a shell reads it.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> VirtualDisk<'static> {
        VirtualDisk {
            host: "m0",
            file: Path::new("my disks/m0.raw"),
            sector: SECTOR,
            mac: Some("52:54:00:00:07:10"),
        }
    }

    #[test]
    fn each_command_names_host_file_and_mac_address() {
        insta::assert_snapshot!(disk());
    }

    #[test]
    fn disk_of_large_sectors_is_for_qemu_only() {
        let disk = VirtualDisk {
            sector: 4096,
            mac: None,
            ..disk()
        };
        let text = disk.to_string();
        assert!(text.contains(",logical_block_size=4096,"), "{text}");
        assert!(
            !text.contains("mac=") && !text.contains("libvirt"),
            "{text}"
        );
    }
}
