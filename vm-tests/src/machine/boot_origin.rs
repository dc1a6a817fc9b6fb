//! What a machine boots from besides disks: the network of a namespace, and a medium.

use super::qemu::{Arguments, Machine, escape};

/// A network card on a card of a network namespace.
#[derive(Debug, Clone)]
pub struct Tap {
    pub namespace: String,
    /// The tap device of the namespace.
    pub card: String,
    pub mac: String,
    pub order: NetworkBoot,
    /// The firmware boots by HTTP in place of PXE.
    pub by_http: bool,
}

/// When the firmware boots from a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkBoot {
    First,
    AfterDisks,
    Never,
}

/// Higher than that of every disk.
const LAST: u32 = 100;

pub(super) fn add(list: &mut Arguments, machine: &Machine) {
    if let Some(tap) = &machine.tap {
        let card = &tap.card;
        list.add(
            "-netdev",
            &format!("tap,id=tap,ifname={card},script=no,downscript=no"),
        );
        let order = match tap.order {
            NetworkBoot::First => ",bootindex=0".to_owned(),
            NetworkBoot::AfterDisks => format!(",bootindex={LAST}"),
            NetworkBoot::Never => String::new(),
        };
        list.add(
            "-device",
            &format!("virtio-net-pci,netdev=tap,mac={},romfile={order}", tap.mac),
        );
        for version in ["IPv4", "IPv6"].iter().filter(|_| tap.by_http) {
            let name = format!("opt/org.tianocore/{version}PXESupport");
            list.add("-fw_cfg", &format!("name={name},string=n"));
        }
    }
    if let Some(medium) = &machine.medium {
        let file = escape(medium);
        list.add(
            "-drive",
            &format!("if=none,id=medium,format=raw,media=cdrom,readonly=on,file={file}"),
        );
        list.add("-device", "ide-cd,drive=medium,bootindex=0");
    }
}
