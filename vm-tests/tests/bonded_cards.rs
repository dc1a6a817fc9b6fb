//! A machine is matched by the permanent addresses of its network cards, although its document
//! renames and bonds them and gives them another address.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstboot::journal::{DOCUMENT_AWAITED, DOCUMENT_FOUND, READY, field};
use imagegen::seed;
use vm_tests::cluster::never_ready;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Boot, DiskFormat, Machine};
use vm_tests::machine::vm::Vm;
use vm_tests::net::switch::Switch;

const DEADLINE: Duration = Duration::from_secs(150);
const MACS: [&str; 2] = ["52:54:00:00:07:30", "52:54:00:00:07:31"];

/// A host without a role.
const FILES: &[(&str, &[u8])] = &[
    (
        "meta-data",
        b"instance-id: i-bonded\nlocal-hostname: bonded\nmatch: { macs: [\"52:54:00:00:07:30\"] }\n",
    ),
    ("user-data", b"#cloud-config\nhostname: bonded\n"),
    ("network-config", include_bytes!("bonded_cards.yaml")),
];

/// Waits for the bond, then prints each card with its master and its address of the moment.
const CARDS: &str = "
    until ip -4 -brief address show dev bond0 | grep -q 192.168.7.30/24; do sleep 1; done
    until ip -brief link show master bond0 | grep -q lan1; do sleep 1; done
    for card in lan0 lan1; do
      echo $card $(basename $(readlink /sys/class/net/$card/master)) $(cat /sys/class/net/$card/address)
    done";
const ENSLAVED: &str = "lan0 bond0 02:00:00:00:00:77\nlan1 bond0 02:00:00:00:00:77\n";

#[test]
#[ignore = "2 minutes without KVM; run: cargo test -p vm-tests --test bonded_cards -- --include-ignored"]
fn bonded_machine_is_known_by_its_permanent_address() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("lab"))?;
    let run_dir = RunDir::new("bonded_cards")?;
    let path = run_dir.folder().join("seed.img");
    std::fs::write(&path, seed::with_files(FILES)?)?;
    let switch = Switch::start(&run_dir)?;
    let ports = [switch.port()?, switch.port()?];
    let nics = || {
        let cards = ports.iter().zip(MACS);
        cards.map(|(port, mac)| port.nic(mac)).collect()
    };
    // Documents of other hosts are in the image.
    let image = disk::overlay(&host, &run_dir, "bonded", &output.image(), DiskFormat::Raw)?;
    let mut machine = Machine {
        disks: vec![image, disk::seed(&path)],
        nics: nics(),
        memory_mib: 2048,
        time_scale: host.time_scale(1),
        ..Machine::new("bonded", Boot::Uefi)
    };

    let vm = Vm::start(&host, &run_dir, &machine)?;
    found(&vm, "cidata")?;
    ensure!(vm.shell(CARDS)? == ENSLAVED);
    vm.power_off()?;
    drop(vm);

    // Without the seed, after a reboot.
    let seed = machine.disks.pop().context("the seed is the last disk")?;
    machine.nics = nics();
    let vm = Vm::start(&host, &run_dir, &machine)?;
    found(&vm, "kept")?;
    ensure!(vm.shell(CARDS)? == ENSLAVED);
    // Here the cards are enslaved for certain while firstboot asks who the machine is: with its own
    // document, and as on a first boot.
    let status = restarted(&vm, "true")?;
    ensure!(status.contains("document from kept ("), "{status}");
    vm.plug_disk(&seed)?;
    let status = restarted(
        &vm,
        "until [ -b /dev/vdb ]; do sleep 1; done; firstboot reset",
    )?;
    ensure!(status.contains("document from cidata ("), "{status}");
    // The journal comes a moment after the answer.
    let last = RecordMatch::id(DOCUMENT_FOUND).field(field::SOURCE, "cidata");
    vm.wait_for(&last, &never_ready(), DEADLINE)?;
    let sources: Vec<String> = vm
        .journal()?
        .records()
        .iter()
        .filter(|record| record.get("MESSAGE_ID") == Some(DOCUMENT_FOUND))
        .filter_map(|record| Some(record.get(field::SOURCE)?.to_owned()))
        .collect();
    ensure!(sources == ["kept", "kept", "cidata"], "{sources:?}");
    ensure!(!vm.console().text().contains("no document for this machine"));
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// Waits until the document of the host is applied, which is from `source`.
fn found(vm: &Vm, source: &str) -> Result<()> {
    let [failed, refused] = never_ready();
    let never = [failed, refused, RecordMatch::id(DOCUMENT_AWAITED)];
    let found = vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never, DEADLINE)?;
    ensure!(found.get(field::HOST) == Some("bonded"), "{found:?}");
    ensure!(found.get(field::SOURCE) == Some(source), "{found:?}");
    vm.wait_for(&RecordMatch::id(READY), &never, DEADLINE)?;
    Ok(())
}

/// Runs `before`, then firstboot once more; its status.
fn restarted(vm: &Vm, before: &str) -> Result<String> {
    vm.shell(&format!(
        "{before} && systemctl restart firstboot && firstboot status"
    ))
}
