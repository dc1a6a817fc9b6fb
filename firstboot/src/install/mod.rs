//! `firstboot install`: makes a disk of a machine that booted over the network boot the same root.
//!
//! 1. [`target`] finds out whether the disk may be overwritten.
//! 2. The EFI program comes from the boot server; the kernel's command line has its digest. Root
//!    and hash tree are read through dm-verity and from memory, and the document is this machine's
//!    own.
//! 3. systemd-repart writes all of it and the partition table last, in the disk's own sectors.
//!    [`layout`] describes the partitions.
//! 4. Everything is read back and compared.

pub mod layout;
pub mod target;

use std::fs::{self, File};
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use self::layout::{Part, Plan};
use self::target::Target;
use crate::live::fetch::Server;
use crate::live::{Place, Record, Settings, document};
use crate::system::command;
use crate::system::files::{Attributes, Root};

/// The EFI program of a disk, on the boot server.
const PROGRAM: &str = "disk.efi";
/// Images and definitions, on a tmpfs.
const WORK: &str = "/run/firstlight/install";

/// Writes root, EFI program and document of this machine to the disk `path`.
pub fn run(root: &Root, path: &Path, yes: bool) -> Result<()> {
    let settings = Settings::read(root)?;
    let Some(settings) = settings else {
        bail!("this machine boots from its own disk; nothing is left to install")
    };
    let Place::Server(base) = &settings.place else {
        bail!("only a machine that booted over the network can be installed: boot it by PXE")
    };
    let record = Record::read(root)?.unwrap_or_default();
    if let Some(reason) = record.no_document {
        bail!("this machine has no document from its boot server, which the disk needs: {reason}");
    }
    let plan = Plan::of(root, &settings.root_hash)?;
    let target = Target::open(root, path, plan.smallest_disk())?;
    eprint!("{}", target.description());
    if !yes {
        ask(&target)?;
    }
    let result = write(root, base, &settings, &plan, &target);
    if result.is_err()
        && let Err(error) = target.clear()
    {
        log::warn!("{error:#}");
    }
    let _ = fs::remove_dir_all(WORK);
    result.with_context(|| {
        format!(
            "installing on `{}`; it has no partition table now and does not boot",
            target.path().display()
        )
    })?;
    println!(
        "`{}` has the node image and this machine's document, read back and compared.\nPut the \
         disk before the network in the firmware's boot order, and reboot.",
        target.path().display()
    );
    Ok(())
}

fn ask(target: &Target) -> Result<()> {
    let stdin = std::io::stdin();
    let name = target.name();
    ensure!(
        stdin.is_terminal(),
        "standard input is not a terminal, so no confirmation is possible; give --yes to erase `{name}`"
    );
    eprint!("Everything on it is lost. Type `{name}` to install on it: ");
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .context("reading the answer")?;
    ensure!(
        answer.trim() == name,
        "the answer is not `{name}`; nothing was written"
    );
    Ok(())
}

fn write(root: &Root, base: &str, settings: &Settings, plan: &Plan, target: &Target) -> Result<()> {
    let work = Path::new(WORK);
    let sector = target.sector();
    let _ = fs::remove_dir_all(work);
    fs::create_dir_all(work).with_context(|| format!("creating `{WORK}`"))?;
    let (esp, seed) = (work.join("esp"), work.join("seed"));
    let program = program(base, settings)?;
    let files: [(&str, &[u8]); 1] = [("EFI/BOOT/BOOTX64.EFI", &program)];
    layout::volume(&esp, layout::ESP_SIZE, sector, "ESP", &files)?;
    drop(program);
    let mut files = Vec::new();
    for name in document::FILES {
        if let Some(bytes) = root.read(format!("{}/{name}", document::FOLDER))? {
            files.push((name, bytes));
        }
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    layout::volume(&seed, layout::SEED_SIZE, sector, "CIDATA", &files)?;
    let parts = plan.parts(&esp, &seed);
    for (number, part) in parts.iter().enumerate() {
        let path = format!("{WORK}/repart.d/{number}0.conf");
        root.write(&path, part.definition().as_bytes(), Attributes::mode(0o644))?;
    }
    // What the disk had before must not boot half overwritten.
    target.clear()?;
    target.release();
    let node = target.path().to_string_lossy();
    let definitions = format!("--definitions={WORK}/repart.d");
    let arguments = [
        "--dry-run=no",
        "--empty=force",
        "--discard=no",
        &definitions,
        &node,
    ];
    command::run("systemd-repart", &arguments)?;
    command::run("udevadm", &["settle", "--timeout=60"])?;
    verify(root, target, &parts)
}

/// The EFI program, if it is the one that the command line names.
fn program(base: &str, settings: &Settings) -> Result<Vec<u8>> {
    ensure!(
        !settings.disk_digest.is_empty(),
        "the kernel's command line has no `firstlight.disk=`; make pxe/ again"
    );
    let server = Server::new(base);
    let total = server.size(PROGRAM)?;
    ensure!(
        total <= layout::ESP_SIZE / 2,
        "{}: {total} bytes do not fit into the ESP twice",
        server.url(PROGRAM)
    );
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < total {
        server.append_part(PROGRAM, total, &mut bytes)?;
    }
    let digest = Sha256::digest(&bytes);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        digest == settings.disk_digest,
        "{}: its SHA-256 is {digest}, the kernel's command line says {}",
        server.url(PROGRAM),
        settings.disk_digest
    );
    Ok(bytes)
}

/// Reads every partition back from the disk and compares it with its source.
fn verify(root: &Root, target: &Target, parts: &[Part]) -> Result<()> {
    command::run(
        "blockdev",
        &["--flushbufs", &target.path().to_string_lossy()],
    )?;
    for part in parts {
        let Some(source) = &part.source else {
            continue;
        };
        let partition = target.partition(root, part.label)?;
        command::run("blockdev", &["--flushbufs", &partition.to_string_lossy()])?;
        compare(source, &partition)
            .with_context(|| format!("reading `{}` back", partition.display()))?;
    }
    Ok(())
}

fn compare(source: &Path, copy: &Path) -> Result<()> {
    let open =
        |path: &Path| File::open(path).with_context(|| format!("opening `{}`", path.display()));
    let (mut source, mut copy) = (open(source)?, open(copy)?);
    let (mut expected, mut found) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let got = source.read(&mut expected).context("reading the source")?;
        if got == 0 {
            return Ok(());
        }
        copy.read_exact(&mut found[..got])
            .context("reading the disk")?;
        ensure!(
            expected[..got] == found[..got],
            "the disk returns other bytes than were written, from byte {at} on; replace it"
        );
        at += got;
    }
}
