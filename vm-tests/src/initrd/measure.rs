// Runs cloud-init and firstboot in turn, each on a fresh copy of Debian's tree, and prints what
// each run took as a line of JSON. rustc compiles this file alone, without crates.
//
// `measure ROUNDS FIRSTBOOT` in a machine with the tree on its first disk and the seed on another;
// `measure ROUNDS FIRSTBOOT TREE SEED` with two folders, in namespaces of its own.

use std::ffi::{CString, OsStr, c_char, c_int, c_ulong};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_char,
    ) -> c_int;
    fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut Usage) -> c_int;
}

/// `struct rusage`
#[repr(C)]
#[derive(Default)]
struct Usage {
    user: [i64; 2],
    system: [i64; 2],
    peak_kib: i64,
    others: [i64; 13],
}

const READ_ONLY: c_ulong = 1;
const ROUNDS: &str = "/run/rounds";
/// Where cloud-init looks for a seed without a disk.
const SEED: &str = "var/lib/cloud/seed/nocloud";

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::other("the number of rounds is missing"))?;
    let firstboot = arguments
        .next()
        .ok_or_else(|| io::Error::other("the path of firstboot is missing"))?;
    let (tree, seed) = (arguments.next(), arguments.next());
    let tree = match tree {
        Some(tree) => tree,
        None => {
            mount_at("/dev/vda", "/tmp/tree", "ext4", READ_ONLY, "")?;
            "/tmp/tree".to_owned()
        }
    };
    mount_at("tmpfs", ROUNDS, "tmpfs", 0, "")?;
    // On an installed Debian these are compiled already.
    let compiled = fresh_root(&tree, None, "compiled")?;
    run(inside(
        &compiled,
        "/usr/bin/python3",
        &["-m", "compileall", "-q", "/usr/share/netplan"],
    ))?;
    let tree = format!("{}:{tree}", compiled.with_file_name("layer").display());
    // The first round fills the page cache and does not count.
    for round in 0..=rounds {
        for program in ["cloud-init", "firstboot"] {
            let root = fresh_root(&tree, seed.as_deref(), &format!("{program}-{round}"))?;
            let mut found = Usage::default();
            if program == "cloud-init" {
                // A generator runs it in every boot, so that cloud-init need not search.
                found = run(inside(
                    &root,
                    "/usr/lib/cloud-init/ds-identify",
                    &["--force"],
                ))?;
            }
            let used = run(match program {
                "cloud-init" => inside(&root, "/usr/bin/cloud-init", &["init", "--local"]),
                _ => {
                    let mut command = Command::new(&firstboot);
                    command.arg("--root").arg(&root);
                    command.args(seed.iter().flat_map(|seed| ["--seed", seed]));
                    command
                }
            })?;
            if round > 0 {
                let files = written(&root)?;
                let nanoseconds = nanoseconds(&found) + nanoseconds(&used);
                let peak = used.peak_kib.max(found.peak_kib);
                println!(
                    "{{\"program\":\"{program}\",\"processor_ns\":{nanoseconds},\
                     \"peak_memory_kib\":{peak},\"files\":[{files}]}}"
                );
            }
        }
    }
    Ok(())
}

/// Debian's tree with a layer above it, and what the kernel shows.
fn fresh_root(tree: &str, seed: Option<&str>, name: &str) -> io::Result<PathBuf> {
    let base = Path::new(ROUNDS).join(name);
    let root = base.join("root");
    for folder in ["layer", "work"] {
        fs::create_dir_all(base.join(folder))?;
    }
    let text = |path: &Path| path.display().to_string();
    let options = format!(
        "lowerdir={tree},upperdir={},workdir={}",
        text(&base.join("layer")),
        text(&base.join("work"))
    );
    if let Some(seed) = seed {
        let folder = base.join("layer").join(SEED);
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(seed)? {
            let entry = entry?;
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    mount_at("overlay", &text(&root), "overlay", 0, &options)?;
    for (kind, folder) in [
        ("proc", "proc"),
        ("sysfs", "sys"),
        ("devtmpfs", "dev"),
        ("tmpfs", "run"),
        ("tmpfs", "tmp"),
    ] {
        mount_at(kind, &text(&root.join(folder)), kind, 0, "")?;
    }
    Ok(root)
}

/// A program of the tree.
fn inside(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let root = root.to_owned();
    let mut command = Command::new(program);
    command.args(arguments);
    command.env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let enter =
        move || std::os::unix::fs::chroot(&root).and_then(|()| std::env::set_current_dir("/"));
    // SAFETY: the closure makes two system calls; the parent has one thread.
    unsafe { command.pre_exec(enter) };
    command
}

fn run(mut command: Command) -> io::Result<Usage> {
    let child = command.stdin(Stdio::null()).spawn()?;
    let (mut status, mut usage) = (0, Usage::default());
    let id = c_int::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: both pointers are valid for the call, and `Usage` has the layout of `struct rusage`.
    if unsafe { wait4(id, &raw mut status, 0, &raw mut usage) } != id {
        return Err(io::Error::last_os_error());
    }
    if status != 0 {
        return Err(io::Error::other(format!(
            "{command:?}: wait status {status}"
        )));
    }
    Ok(usage)
}

fn nanoseconds(usage: &Usage) -> i64 {
    let of = |time: &[i64; 2]| (time[0] * 1_000_000 + time[1]) * 1000;
    of(&usage.user) + of(&usage.system)
}

/// The files in the layer above the tree, as pairs of JSON.
fn written(root: &Path) -> io::Result<String> {
    let layer = root.with_file_name("layer");
    let (mut folders, mut found) = (vec![layer.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && !folder.ends_with(SEED) {
                let path = entry.path();
                let name = path.strip_prefix(&layer).unwrap_or(&path).display();
                found.push(format!("[\"{name}\",{}]", entry.metadata()?.len()));
            }
        }
    }
    found.sort();
    Ok(found.join(","))
}

fn mount_at(source: &str, target: &str, kind: &str, flags: c_ulong, data: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let text = |text: &str| CString::new(OsStr::new(text).as_bytes()).map_err(io::Error::other);
    let (source, at, kind, data) = (text(source)?, text(target)?, text(kind)?, text(data)?);
    // SAFETY: four NUL-terminated strings outlive the call.
    let result = unsafe {
        mount(
            source.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr(),
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::other(format!("mounting `{target}`: {error}")));
    }
    Ok(())
}
