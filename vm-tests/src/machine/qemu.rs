//! Translates the configuration of a machine into QEMU's arguments.
//!
//! These are pure functions. `vm.rs` starts the process.

use std::path::{Path, PathBuf};

use crate::host::accel::Accel;
use crate::host::debian_tools::DebianTools;
use crate::machine::boot_origin::{self, Tap};
use crate::machine::clock;
use crate::machine::drive;
pub use crate::machine::drive::Drive;
pub(super) use crate::machine::options::{Arguments, escape};
use crate::machine::smbios::{COMMAND_PORT, JOURNAL_PORT, Smbios};
use crate::machine::tpm;

/// What the machine boots.
#[derive(Debug, Clone)]
pub enum Boot {
    /// UEFI firmware, which boots from a disk or the network.
    Uefi,
    /// The same with Secure Boot: only programs that Debian's test key signed.
    SecureUefi,
    /// A BIOS, which boots from the first disk.
    Bios,
    /// A kernel that QEMU loads directly, without UEFI.
    Kernel {
        kernel: PathBuf,
        initrd: Option<PathBuf>,
        append: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Clone)]
pub struct DiskFile {
    pub path: PathBuf,
    pub format: DiskFormat,
    pub read_only: bool,
    /// The serial number that the guest sees.
    pub serial: String,
    pub drive: Drive,
}

/// A network card, connected by a pair of Unix datagram sockets.
#[derive(Debug, Clone)]
pub struct Nic {
    pub mac: String,
    /// The socket of QEMU.
    pub local: PathBuf,
    /// The socket of the switch.
    pub remote: PathBuf,
}

/// The time at which the guest's clock starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rtc {
    Host,
    /// A time such as `2020-01-01T00:00:00`, for tests of wrong clocks.
    At(String),
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    pub cpus: u32,
    pub memory_mib: u32,
    /// The SMBIOS UUID; QEMU's default is all zeros.
    pub uuid: Option<String>,
    /// The SMBIOS serial number of the machine.
    pub serial: Option<String>,
    /// The SMBIOS product name, by which clouds are known.
    pub product: Option<String>,
    pub boot: Boot,
    pub disks: Vec<DiskFile>,
    /// A new file for all writes of the first disk; see [`crate::power_cut`].
    pub write_log: Option<PathBuf>,
    pub nics: Vec<Nic>,
    pub tap: Option<Tap>,
    /// An ISO image in an optical drive.
    pub medium: Option<PathBuf>,
    pub smbios: Vec<Smbios>,
    /// The pipe of a [`Keyboard`](super::console::Keyboard).
    pub typed: Option<PathBuf>,
    /// The folder of a TPM 2.0.
    pub tpm: Option<PathBuf>,
    pub rtc: Rtc,
    /// Guest seconds per second of the wall clock; below 1 libfaketime slows the guest's clock.
    pub time_scale: f64,
    /// The guest's clock counts a nanosecond for each instruction, on one emulated processor.
    pub counts_instructions: bool,
    /// The most cores of the host that the machine may use; `None` is no limit.
    pub cpu_quota: Option<f64>,
    /// Adds the journal and command ports. Guests without systemd cannot use them.
    pub reports: bool,
}

impl Machine {
    /// A machine with a console and no disk or network card.
    pub fn new(name: &str, boot: Boot) -> Self {
        Self {
            name: name.to_string(),
            cpus: 2,
            memory_mib: 3072,
            uuid: None,
            serial: None,
            product: None,
            boot,
            disks: Vec::new(),
            write_log: None,
            nics: Vec::new(),
            tap: None,
            medium: None,
            smbios: Vec::new(),
            typed: None,
            tpm: None,
            rtc: Rtc::Host,
            time_scale: 1.0,
            counts_instructions: false,
            cpu_quota: None,
            reports: true,
        }
    }
}

/// The files of one running machine.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Folder of sockets. Its name is short, because a socket's path may have 107 bytes at most.
    pub sockets: PathBuf,
    /// Folder of the console and other evidence.
    pub evidence: PathBuf,
    /// The machine's own copy of the firmware variables, qcow2.
    pub firmware_variables: PathBuf,
}

/// The files of the serial ports: the console, then the two on which an initrd test reports.
pub const SERIAL_PORTS: [&str; 3] = ["console.log", "output", "status"];

/// The arguments of QEMU for `machine`.
pub fn arguments(
    machine: &Machine,
    accel: Accel,
    tools: &DebianTools,
    paths: &Paths,
) -> Vec<String> {
    let mut list = Arguments::default();
    list.add("-name", &machine.name);
    list.flag("-nodefaults");
    list.flag("-no-user-config");
    // A reset ends QEMU, so every boot is one process with its own console and journal.
    list.flag("-no-reboot");
    // The guest starts only when the harness is connected to all channels.
    list.flag("-S");
    for data in tools.qemu_data() {
        list.add("-L", &data.display().to_string());
    }
    // Only the firmware with Secure Boot uses system management mode, which costs time.
    let secure = matches!(machine.boot, Boot::SecureUefi);
    let smm = if secure { "on" } else { "off" };
    list.add("-machine", &format!("q35,smm={smm},vmport=off,hpet=on"));
    if secure {
        list.add("-global", "driver=cfi.pflash01,property=secure,value=on");
        list.add("-global", "ICH9-LPC.disable_s3=1");
    }
    for (name, value) in clock::processor(accel, machine.counts_instructions) {
        list.add(name, value);
    }
    list.add("-smp", &machine.cpus.to_string());
    list.add("-m", &format!("{}M", machine.memory_mib));
    if let Some(uuid) = &machine.uuid {
        list.add("-uuid", uuid);
    }
    if let Some(serial) = &machine.serial {
        list.add("-smbios", &format!("type=1,serial={serial}"));
    }
    if let Some(product) = &machine.product {
        list.add("-smbios", &format!("type=1,product={product}"));
    }
    match &machine.rtc {
        Rtc::Host => list.add("-rtc", "base=utc"),
        Rtc::At(time) => list.add("-rtc", &format!("base={time}")),
    }
    // A screen for the screenshot of a failed test, without a window.
    list.add("-device", "VGA");
    list.add("-display", "none");
    list.add("-device", "virtio-rng-pci");
    // A slot for hot-plugged disks; q35's own bus has none.
    list.add("-device", "pcie-root-port,id=plug,chassis=1");
    boot(&mut list, machine, tools, paths);
    for (number, disk) in machine.disks.iter().enumerate() {
        let log = machine.write_log.as_deref().filter(|_| number == 0);
        add_disk(&mut list, number, disk, log);
    }
    for (number, nic) in machine.nics.iter().enumerate() {
        list.add(
            "-netdev",
            &format!(
                "dgram,id=net{number},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                escape(&nic.local),
                escape(&nic.remote)
            ),
        );
        // No option ROM: the firmware boots from the network with its own drivers.
        list.add(
            "-device",
            &format!("virtio-net-pci,netdev=net{number},mac={},romfile=", nic.mac),
        );
    }
    boot_origin::add(&mut list, machine);
    if machine.tpm.is_some() {
        tpm::add(&mut list, &paths.sockets);
    }
    for text in &machine.smbios {
        list.add(
            "-smbios",
            &format!("type=11,value={}", text.0.replace(',', ",,")),
        );
    }
    channels(&mut list, machine, paths);
    list.into_words()
}

fn boot(list: &mut Arguments, machine: &Machine, tools: &DebianTools, paths: &Paths) {
    match &machine.boot {
        Boot::Bios => {}
        Boot::Uefi | Boot::SecureUefi => {
            let code = match machine.boot {
                Boot::SecureUefi => tools.secure_firmware_code(),
                _ => tools.firmware_code(),
            };
            list.add(
                "-drive",
                &format!(
                    "if=pflash,unit=0,format=raw,readonly=on,file={}",
                    escape(&code)
                ),
            );
            list.add(
                "-drive",
                &format!(
                    "if=pflash,unit=1,format=qcow2,file={}",
                    escape(&paths.firmware_variables)
                ),
            );
        }
        Boot::Kernel {
            kernel,
            initrd,
            append,
        } => {
            list.add("-kernel", &kernel.display().to_string());
            if let Some(initrd) = initrd {
                list.add("-initrd", &initrd.display().to_string());
            }
            list.add("-append", append);
        }
    }
}

fn add_disk(list: &mut Arguments, number: usize, disk: &DiskFile, log: Option<&Path>) {
    list.add("-drive", &drive::options(number, disk, log));
    // With `-kernel`, QEMU uses boot index 0 itself.
    list.add(
        "-device",
        &format!(
            "{},drive=disk{number},serial={},bootindex={}",
            disk.drive.device(),
            disk.serial,
            number + 1
        ),
    );
}

fn channels(list: &mut Arguments, machine: &Machine, paths: &Paths) {
    for (number, file) in SERIAL_PORTS.iter().enumerate() {
        let path = escape(&paths.evidence.join(file));
        // The first is the console.
        let typed = machine.typed.as_deref().filter(|_| number == 0);
        let typed = typed.map_or(String::new(), |pipe| {
            format!(",input-path={}", escape(pipe))
        });
        list.add(
            "-chardev",
            &format!("file,id=serial{number},path={path}{typed}"),
        );
        list.add("-serial", &format!("chardev:serial{number}"));
    }
    // The harness listens and QEMU connects, so nothing has to poll for a socket file.
    let socket = |id: &str| format!("socket,id={id},path={}", escape(&paths.sockets.join(id)));
    list.add("-chardev", &socket("qmp"));
    list.add("-mon", "chardev=qmp,mode=control");
    if machine.reports {
        list.add("-device", "virtio-serial-pci");
        for (id, port) in [("journal", JOURNAL_PORT), ("command", COMMAND_PORT)] {
            list.add("-chardev", &socket(id));
            list.add(
                "-device",
                &format!("virtserialport,chardev={id},name={port}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "\
-name m0
-nodefaults -no-user-config -no-reboot -S
-L /t/usr/share/qemu
-L /t/usr/share/seabios
-machine q35,smm=off,vmport=off,hpet=on
-accel tcg,thread=multi,tb-size=512
-cpu max,la57=off
-smp 2
-m 3072M
-rtc base=2020-01-01T00:00:00
-device VGA
-display none
-device virtio-rng-pci
-device pcie-root-port,id=plug,chassis=1
-drive if=pflash,unit=0,format=raw,readonly=on,file=/t/usr/share/OVMF/OVMF_CODE_4M.fd
-drive if=pflash,unit=1,format=qcow2,file=/e/vars.qcow2
-drive if=none,id=disk0,cache=writeback,discard=unmap,readonly=off,format=qcow2,file=/d/a,,b.qcow2
-device virtio-blk-pci,drive=disk0,serial=m0,bootindex=1
-netdev dgram,id=net0,local.type=unix,local.path=/s/0.machine,remote.type=unix,remote.path=/s/0.switch
-device virtio-net-pci,netdev=net0,mac=52:54:00:00:07:10,romfile=
-smbios type=11,value=io.systemd.credential:a=x,,y
-chardev file,id=serial0,path=/e/console.log
-serial chardev:serial0
-chardev file,id=serial1,path=/e/output
-serial chardev:serial1
-chardev file,id=serial2,path=/e/status
-serial chardev:serial2
-chardev socket,id=qmp,path=/s/qmp
-mon chardev=qmp,mode=control
-device virtio-serial-pci
-chardev socket,id=journal,path=/s/journal
-device virtserialport,chardev=journal,name=firstlight.journal
-chardev socket,id=command,path=/s/command
-device virtserialport,chardev=command,name=firstlight.command
";

    fn machine() -> Machine {
        Machine {
            disks: vec![DiskFile {
                path: "/d/a,b.qcow2".into(),
                format: DiskFormat::Qcow2,
                read_only: false,
                serial: "m0".into(),
                drive: Drive::Virtio,
            }],
            nics: vec![Nic {
                mac: "52:54:00:00:07:10".into(),
                local: "/s/0.machine".into(),
                remote: "/s/0.switch".into(),
            }],
            smbios: vec![Smbios("io.systemd.credential:a=x,y".into())],
            rtc: Rtc::At("2020-01-01T00:00:00".into()),
            ..Machine::new("m0", Boot::Uefi)
        }
    }

    #[test]
    fn arguments_describe_the_complete_machine() {
        let paths = Paths {
            sockets: "/s".into(),
            evidence: "/e".into(),
            firmware_variables: "/e/vars.qcow2".into(),
        };
        let tools = DebianTools::unchecked("/t");
        let list = arguments(&machine(), Accel::Tcg, &tools, &paths).join(" ");
        assert_eq!(list, EXPECTED.trim_end().replace('\n', " "));
        let list = arguments(&machine(), Accel::Kvm, &tools, &paths).join(" ");
        assert!(list.contains("-accel kvm -cpu host"), "{list}");
    }
}
