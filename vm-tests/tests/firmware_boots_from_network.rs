//! Real firmware finds its way to the kernel that `imagegen serve` has, by PXE and by HTTP, alone and
//! beside another DHCP server. No image is needed: the kernel is none, and the machine stops there.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use build_tools::progress::Progress;
use imagegen::digest::digest_file;
use imagegen::image::live;
use imagegen::serve::{AUTOEXEC, dhcp};
use serde_json::Value;
use vm_tests::host::artifacts::{Programs, topology};
use vm_tests::host::process;
use vm_tests::host::run_dir::RunDir;
use vm_tests::host::{Host, NO_SKIP};
use vm_tests::machine::boot_origin::Tap;
use vm_tests::machine::qemu::{Boot, Machine};
use vm_tests::machine::vm::Vm;
use vm_tests::net::room::Room;
use vm_tests::net::serve::Serve;

/// Of `topologies/one.yaml`.
const MAC: &str = "52:54:00:00:07:10";

/// What the firmware and iPXE fetch, in this order.
const FILES: [&str; 5] = ["DHCP", live::LOADER, AUTOEXEC, live::SCRIPT, live::KERNEL];

#[test]
fn firmware_gets_to_the_kernel() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        ensure!(
            std::env::var_os(NO_SKIP).is_none(),
            "a network namespace needs root"
        );
        eprintln!("skipped: a network namespace needs root");
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let imagegen = Programs::build_imagegen()?;
    let run_dir = RunDir::new("firmware_boots_from_network")?;
    let folder = run_dir.folder().join("out");
    let mut userdata = Command::new(&imagegen);
    userdata
        .arg("userdata")
        .arg("--topology")
        .arg(topology("one"));
    process::run(userdata.arg("--output").arg(&folder))?;
    let tree = || live::tree(host.cache(), &Progress::stderr());
    let pxe = folder.join("pxe");
    fs::create_dir(&pxe)?;
    for name in live::FILES {
        fs::write(pxe.join(name), name)?;
    }
    fs::write(pxe.join(live::SCRIPT), "#!ipxe\nkernel vmlinuz\n")?;
    let ipxe = tree()?.path().join("usr/lib/ipxe");
    fs::copy(ipxe.join(live::LOADER), pxe.join(live::LOADER))?;
    // The files are of this node image.
    fs::write(folder.join("node.raw"), "image")?;
    let manifest = folder.join("manifest.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&manifest)?)?;
    let digest = digest_file(&folder.join("node.raw"))?;
    value["outputs"]["node.raw"] = digest.clone().into();
    value["inputs"]["pxe-image"] = digest.into();
    fs::write(manifest, value.to_string())?;

    let room = Room::new(Ipv4Addr::new(192, 168, 7, 1))?;
    let tap = room.tap(MAC)?;
    let mut other = None;
    for (arguments, by_http) in [
        (&["--dhcp", "full"][..], false),
        (&["--dhcp", "full"], true),
        (&[], false),
    ] {
        let way = format!(
            "{}{}",
            arguments.join(" "),
            if by_http { " by HTTP" } else { "" }
        );
        if arguments.is_empty() {
            let dnsmasq = dhcp::program(tree)?;
            let range = [100, 120].map(|last| Ipv4Addr::new(192, 168, 7, last));
            let address = Ipv4Addr::new(192, 168, 7, 2);
            let log = run_dir.folder().join("other.log");
            other = Some(room.other_dhcp(&dnsmasq, address, range, &log)?);
        }
        let log = run_dir
            .folder()
            .join(format!("serve{way}.log").replace(' ', "_"));
        let serve = Serve::start(&imagegen, &folder, &room, arguments, &log)?;
        let machine = Machine {
            tap: Some(Tap {
                by_http,
                ..tap.clone()
            }),
            memory_mib: 512,
            reports: false,
            ..Machine::new("m0", Boot::Uefi)
        };
        let vm = Vm::start(&host, &run_dir, &machine)?;
        serve.wait_for("m0", live::KERNEL, &vm, Duration::from_secs(60))?;
        println!("{way}: {:.0} s", vm.age().as_secs_f64());
        let fetched = serve.fetched("m0")?;
        ensure!(fetched == FILES, "{way}: {fetched:?}");
        let by_tftp = serve.log()?.contains(": sent /");
        ensure!(by_tftp != by_http, "{way}: {}", serve.log()?);
    }
    drop(other);
    run_dir.passed();
    Ok(())
}
