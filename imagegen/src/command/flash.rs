//! `imagegen flash`

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal as _};

use anyhow::{Context as _, Result, ensure};
use build_tools::progress::Progress;
use imagegen::cli::{Common, Flash};
use imagegen::flash::{self, Disk, Kind, Source, System, Target, size_text};
use imagegen::virtual_machine::VirtualDisk;

pub(crate) fn run(common: &Common, args: &Flash) -> Result<()> {
    let source = Source::open(&super::folder(common, super::NO_IMAGE)?, &args.host)?;
    let mut target = Target::open(&args.disk, args.size, &source, &System::default())?;
    if let Some(sector) = args.sector_size {
        target.set_sector(sector)?;
    }
    let progress = Progress::stderr();
    source.check_image(&progress)?;
    if target.exists() {
        eprint!("{}", description(&target));
        if !args.yes {
            ask(&target, source.host())?;
        }
        // Said in advance, because Ctrl-C and a pulled disk end the command without a word.
        let shown = target.path().display();
        eprintln!(
            "Until the command succeeds, `{shown}` has no partition table and does not boot."
        );
    }
    flash::write(&source, &mut target, &progress)?;
    super::print(&done(&source, &target))
}

/// What is about to be lost.
fn description(target: &Target) -> String {
    let mut out = format!("{}\n", target.path().display());
    let mut fact = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {name:8} {value}");
    };
    let size = size_text(target.size());
    match target.kind() {
        Kind::File { .. } => {
            fact("is", "a file, which is overwritten");
            fact("size", &size);
        }
        Kind::Disk(disk) => {
            let unknown = || "unknown".to_owned();
            fact("is", &format!("the disk {}", disk.name));
            fact("model", &disk.model.clone().unwrap_or_else(unknown));
            fact("serial", &disk.serial.clone().unwrap_or_else(unknown));
            let removable = if disk.removable { ", removable" } else { "" };
            let sector = disk.sector;
            fact(
                "size",
                &format!("{size}, sectors of {sector} bytes{removable}"),
            );
            fact("holds", &contents(disk));
        }
    }
    out
}

fn contents(disk: &Disk) -> String {
    const SHOWN: usize = 8;
    let mut texts: Vec<_> = disk
        .partitions
        .iter()
        .take(SHOWN)
        .map(|part| {
            let label = part.label.as_deref().unwrap_or("no name");
            format!("{} ({label}, {})", part.name, size_text(part.size))
        })
        .collect();
    match disk.partitions.len() {
        0 => return "no partitions that the kernel knows".to_owned(),
        more if more > SHOWN => texts.push(format!("{} more", more - SHOWN)),
        _ => {}
    }
    texts.join(", ")
}

/// Asks for the name: a wrong letter in `/dev/sdX` is the mistake to catch, and a link in
/// `/dev/disk` leads to the name that was shown.
fn ask(target: &Target, host: &str) -> Result<()> {
    let path = target.path();
    let shown = path.display();
    let stdin = std::io::stdin();
    ensure!(
        stdin.is_terminal(),
        "standard input is not a terminal, so no confirmation is possible; give --yes to erase `{shown}`"
    );
    let name = match target.kind() {
        Kind::Disk(disk) => disk.name.clone(),
        Kind::File { .. } => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        }
    };
    eprint!("Everything on it is lost. Type `{name}` to make it the disk of the host `{host}`: ");
    ensure!(
        is_confirmed(&name, &mut stdin.lock())?,
        "the answer is not `{name}`; nothing was written to `{shown}`"
    );
    Ok(())
}

fn is_confirmed(name: &str, input: &mut impl BufRead) -> Result<bool> {
    let mut answer = String::new();
    input.read_line(&mut answer).context("reading the answer")?;
    Ok(answer.trim() == name)
}

fn done(source: &Source, target: &Target) -> String {
    let (shown, host) = (target.path().display(), source.host());
    let mac = source.mac();
    let next = match target.kind() {
        Kind::Disk(_) => {
            let machine = match mac {
                Some(mac) => format!("the machine with the MAC address {mac}"),
                None => "its machine".to_owned(),
            };
            format!(
                "Next, move it to {machine}, and switch the machine on (UEFI; Secure Boot only \
                 with a signed image).\nIts console, and `firstboot status` on it, tell how far it is."
            )
        }
        Kind::File { .. } => {
            let disk = VirtualDisk {
                host,
                file: target.path(),
                sector: target.sector(),
                mac: mac.as_deref(),
            };
            format!("Next, {disk}")
        }
    };
    format!("`{shown}` has the node image and the seed of the host `{host}`.\n{next}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_disk_is_a_yes() {
        let is = |answer: &str| is_confirmed("sdb", &mut answer.as_bytes()).unwrap();
        assert!(is("sdb\n"));
        for no in ["", "\n", "y\n", "yes\n", "sda\n", "sdb1\n"] {
            assert!(!is(no), "{no:?}");
        }
    }
}
