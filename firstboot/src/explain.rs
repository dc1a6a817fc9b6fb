//! In the initrd: tells on the screen why this machine does not boot.
//!
//! Runs in place of an emergency shell, when the verified root or the state partition is missing.
//! There is no journal that a person could read, so the screen has everything.

use uuid::Uuid;

use crate::report::console;
use crate::screen::Screen;
use crate::sealed::Obstacle;
use crate::state_partition::{self, SYSROOT, SeveralDisks};
use crate::system::command;
use crate::system::disks;
use crate::system::files::Root;
use crate::system::machine::Identity;

/// The PCI class of network controllers, as sysfs writes it.
const NETWORK_CLASS: &[u8] = b"0x02";
const PCI: &str = "/sys/bus/pci/devices";
/// The least size of the state partition, in `state.repart.conf`.
const STATE_MIN: u64 = 2 << 30;

/// Writes the screen. Never fails: what cannot be found out is left out.
pub fn print(root: &Root) {
    load_network_drivers(root);
    let machine = Identity::read(root).unwrap_or_default();
    for line in screen(root, &machine).lines() {
        console::write(root, &line);
    }
}

fn screen(root: &Root, machine: &Identity) -> Screen {
    let mounted = root.exists(format!("{SYSROOT}/usr/bin"));
    let failure = mounted.then(|| state_partition::check_boot_disk(root).err());
    let failure = failure.flatten();
    let several = failure
        .as_ref()
        .is_some_and(|error| error.is::<SeveralDisks>());
    let obstacle = Obstacle::read(root);
    let (headline, advice) = if !mounted {
        (
            "this machine does not find its node image",
            "attach the disk with the node image, or write the image to a disk of this machine \
             with `imagegen flash --host NAME /dev/sdX`; then start it again",
        )
    } else if several {
        (
            "this machine does not know which disk is its own",
            "detach the other disks with a node image; then start the machine again",
        )
    } else if let Some(obstacle) = &obstacle {
        ("this machine has no usable state", obstacle.advice())
    } else if !root.exists(state_partition::LINK) {
        (
            "this machine has no state partition",
            "use a disk that is larger than the image by at least 2 GiB, or write the disk again \
             with `imagegen flash`; then start the machine again",
        )
    } else {
        (
            "this machine cannot mount its state partition",
            "the messages above tell why; a new disk, written with `imagegen flash`, starts this \
             host again without its state",
        )
    };
    let mut screen = Screen::new(headline, root, machine);
    if mounted {
        screen
            .tried
            .extend(obstacle.map(|obstacle| obstacle.to_string()));
        screen
            .tried
            .extend(failure.map(|error| format!("{error:#}")));
    } else {
        screen.tried.extend(wanted(root));
    }
    screen.tried.extend(disk_lines(root));
    screen.advice = vec![advice.to_owned()];
    screen
}

/// The partitions of the root, by the ids that the root hash on the command line gives.
fn wanted(root: &Root) -> Option<String> {
    let line = root.read("/proc/cmdline").ok()??;
    let line = String::from_utf8_lossy(&line).into_owned();
    let hash = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("roothash="));
    let Some((data, tree)) = hash.and_then(ids) else {
        return Some(
            "the kernel's command line has no `roothash=` with 64 hex digits: the firmware or the \
             loader replaced it"
                .to_owned(),
        );
    };
    let all = disks::disks(root).unwrap_or_default();
    let found = |id: Uuid| {
        all.iter().any(|disk| {
            let partitions = disks::partitions(root, disk).unwrap_or_default();
            partitions.iter().any(|partition| partition.id == id)
        })
    };
    let missing: Vec<_> = [("root", data), ("hash tree", tree)]
        .into_iter()
        .filter(|(_, id)| !found(*id))
        .map(|(what, id)| format!("{what} {id}"))
        .collect();
    Some(if missing.is_empty() {
        "the partitions of root and hash tree are there, but the root cannot be verified or \
         mounted; the messages above tell why"
            .to_owned()
    } else {
        format!(
            "no disk has the partition of the {}",
            missing.join(", nor of the ")
        )
    })
}

/// The two halves of a root hash, which are the ids of the partitions.
fn ids(hash: &str) -> Option<(Uuid, Uuid)> {
    let half = |range| Uuid::try_parse(hash.get(range)?).ok();
    (hash.len() == 64).then_some(())?;
    Some((half(0..32)?, half(32..64)?))
}

/// Each disk with its size and the room for a state partition.
fn disk_lines(root: &Root) -> Vec<String> {
    const SHOWN: usize = 6;
    let all = disks::disks(root).unwrap_or_default();
    if all.is_empty() {
        return vec!["this machine has no disk that the kernel knows".to_owned()];
    }
    let lines = all.iter().take(SHOWN).map(|disk| {
        let size = disks::size(root, disk);
        let mut line = format!("{disk}: {}", size_text(size));
        match disks::partitions(root, disk) {
            Ok(partitions) => {
                let end = partitions.iter().map(|partition| partition.end).max();
                // The second table and its alignment are at the end.
                let room = size.saturating_sub(end.unwrap_or_default() + (1 << 20));
                let enough = if room < STATE_MIN {
                    ", too little for state"
                } else {
                    ""
                };
                line += &format!(
                    ", {} partitions, {} free behind them{enough}",
                    partitions.len(),
                    size_text(room)
                );
            }
            Err(_) => line += ", no partition table of a node image",
        }
        line
    });
    lines.collect()
}

fn size_text(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ ..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

/// The initrd has no drivers of network cards, and a person knows a machine by its MAC address. The
/// root has them.
fn load_network_drivers(root: &Root) {
    for device in root.list(PCI).unwrap_or_default() {
        let read = |file| root.read(format!("{PCI}/{device}/{file}")).ok().flatten();
        let class = read("class").unwrap_or_default();
        // The class of virtio devices is that of what they are.
        if !class.starts_with(NETWORK_CLASS) {
            continue;
        }
        let alias = read("modalias").unwrap_or_default();
        let mut aliases = vec![String::from_utf8_lossy(&alias).trim().to_owned()];
        // virtio-net is on a bus of its own, below the PCI device.
        for below in root.list(format!("{PCI}/{device}")).unwrap_or_default() {
            if below.starts_with("virtio") {
                aliases.push("virtio_net".to_owned());
            }
        }
        for alias in aliases {
            let arguments = ["--dirname", SYSROOT, "--quiet", "--", &alias];
            if let Err(error) = command::run("modprobe", &arguments) {
                log::debug!("{error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(dir: &tempfile::TempDir, hash: &str) -> Root {
        let root = Root::new(dir.path());
        let line = format!("roothash={hash} ro\n");
        root.write_volatile("/proc/cmdline", line.as_bytes())
            .unwrap();
        root
    }

    #[test]
    fn missing_image_is_named_by_its_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let root = machine(&dir, &"5a".repeat(32));
        let screen = screen(&root, &Identity::default());
        assert_eq!(screen.headline, "this machine does not find its node image");
        let id = "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a";
        assert_eq!(
            screen.tried,
            [
                format!("no disk has the partition of the root {id}, nor of the hash tree {id}"),
                "this machine has no disk that the kernel knows".to_owned(),
            ]
        );
        assert!(screen.advice[0].contains("imagegen flash"));
    }

    #[test]
    fn replaced_command_line_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = machine(&dir, "5a");
        let tried = screen(&root, &Identity::default()).tried;
        assert!(tried[0].contains("has no `roothash=`"), "{tried:?}");
    }

    #[test]
    fn machine_with_a_root_lacks_state() {
        let dir = tempfile::tempdir().unwrap();
        let root = machine(&dir, &"5a".repeat(32));
        root.write_volatile("/sysroot/usr/bin/x", b"").unwrap();
        let screen = screen(&root, &Identity::default());
        assert_eq!(screen.headline, "this machine has no state partition");
        assert!(screen.advice[0].contains("2 GiB"));
        let obstacle = br#""no-tpm""#;
        root.write_volatile("/run/firstlight/obstacle.json", obstacle)
            .unwrap();
        let screen = super::screen(&root, &Identity::default());
        assert_eq!(screen.headline, "this machine has no usable state");
        assert!(screen.tried[0].contains("TPM 2.0"), "{:?}", screen.tried);
        assert!(screen.advice[0].contains("firmware's settings"));
    }
}
