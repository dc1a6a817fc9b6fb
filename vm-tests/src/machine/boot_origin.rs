//! What a machine boots from before any disk: the network of a namespace, and a medium.

use super::qemu::{Arguments, Machine, escape};

/// A network card on a card of a network namespace, from which the machine boots first.
#[derive(Debug, Clone)]
pub struct Tap {
    pub namespace: String,
    /// The tap device of the namespace.
    pub card: String,
    pub mac: String,
}

/// What the firmware boots from before any disk.
pub(super) fn add(list: &mut Arguments, machine: &Machine) {
    if let Some(tap) = &machine.tap {
        let card = &tap.card;
        list.add(
            "-netdev",
            &format!("tap,id=tap,ifname={card},script=no,downscript=no"),
        );
        list.add(
            "-device",
            &format!(
                "virtio-net-pci,netdev=tap,mac={},romfile=,bootindex=0",
                tap.mac
            ),
        );
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
