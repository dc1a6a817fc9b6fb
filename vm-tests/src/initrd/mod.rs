//! Initrd tests: a machine with a kernel, one static program and the modules that it needs.
//!
//! Such a machine has no systemd, no disk and no network card, and takes three seconds under TCG.

pub mod lvscare_guest;
pub mod userdata_guest;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use build_tools::cache::Key;

use crate::host::Host;
use crate::host::debian_tools::Kernel;
use crate::host::process;
use crate::host::run_dir::RunDir;
use crate::machine::qemu::{Boot, DiskFile, Machine, SERIAL_PORTS};
use crate::machine::smbios::NO_TIMER_CHECK;
use crate::machine::vm::Vm;

const INIT_SOURCE: &str = include_str!("init.rs");

/// A program and the machine that runs it.
#[derive(Debug, Clone)]
pub struct InitrdTest {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    modules: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    kernel_arguments: String,
    kernel: Option<Kernel>,
    autoload: Vec<String>,
    cpus: u32,
    memory_mib: u32,
    disks: Vec<DiskFile>,
    counts_instructions: bool,
}

/// The result of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: i32,
    /// stdout and stderr, in the order they were written.
    pub output: String,
}

impl InitrdTest {
    /// Runs `program`, a static executable, as the only process of a machine.
    pub fn new(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_string(),
            program: program.to_path_buf(),
            arguments: Vec::new(),
            modules: Vec::new(),
            files: Vec::new(),
            kernel_arguments: String::new(),
            kernel: None,
            autoload: Vec::new(),
            cpus: 1,
            memory_mib: 512,
            disks: Vec::new(),
            counts_instructions: false,
        }
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| argument.to_string()));
        self
    }

    /// Loads kernel modules by name (`ip_vs_rr`), after the modules that they depend on.
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules
            .extend(names.iter().map(|name| name.to_string()));
        self
    }

    /// Adds an executable file at the absolute `path`, which must not be below /tmp or /run: those
    /// are mount points.
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files
            .push((path.trim_start_matches('/').to_string(), bytes.into()));
        self
    }

    /// Boots `kernel` in place of the one in the Debian tools tree.
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Adds kernel modules for `/sbin/modprobe`, which the test must add as a file, to load on
    /// demand.
    pub fn autoload(mut self, names: &[&str]) -> Self {
        self.autoload
            .extend(names.iter().map(|name| name.to_string()));
        self
    }

    pub fn size(mut self, cpus: u32, memory_mib: u32) -> Self {
        (self.cpus, self.memory_mib) = (cpus, memory_mib);
        self
    }

    /// Adds arguments to the kernel's command line.
    pub fn kernel_arguments(mut self, arguments: &str) -> Self {
        self.kernel_arguments = arguments.to_string();
        self
    }

    /// Adds a virtio disk.
    pub fn disk(mut self, disk: DiskFile) -> Self {
        self.disks.push(disk);
        self
    }

    /// The machine's clock counts instructions.
    pub fn counts_instructions(mut self) -> Self {
        self.counts_instructions = true;
        self
    }

    /// Boots the machine, runs the program and powers off. A non-zero exit status is an
    /// [`Outcome`]; a module that does not load or a kernel panic is an error. `deadline` is the
    /// one on a machine with KVM.
    pub fn run(&self, host: &Host, run_dir: &RunDir, deadline: Duration) -> Result<Outcome> {
        let kernel = match &self.kernel {
            Some(kernel) => kernel.clone(),
            None => host.tools().kernel()?,
        };
        let initrd = run_dir.folder().join(format!("{}.initrd", self.name));
        fs::write(&initrd, self.archive(host, &kernel)?)?;
        let append = format!(
            "console=ttyS0 quiet panic=-1 {NO_TIMER_CHECK} {}",
            self.kernel_arguments
        );
        let boot = Boot::Kernel {
            kernel: kernel.image,
            initrd: Some(initrd),
            append,
        };
        let machine = Machine {
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            reports: false,
            disks: self.disks.clone(),
            counts_instructions: self.counts_instructions,
            ..Machine::new(&self.name, boot)
        };
        let vm = Vm::start(host, run_dir, &machine)?;
        vm.wait_off(deadline)?;
        let status = fs::read_to_string(vm.folder().join(SERIAL_PORTS[2]))?;
        let output =
            String::from_utf8_lossy(&fs::read(vm.folder().join(SERIAL_PORTS[1]))?).into_owned();
        match status.trim().split_once(' ') {
            Some(("exit", code)) => Ok(Outcome {
                status: code.parse()?,
                output,
            }),
            Some((_, error)) => bail!("initrd test `{}`: {error}", self.name),
            None => bail!(
                "initrd test `{}` reported no result; console:\n{}",
                self.name,
                vm.console().tail(40)
            ),
        }
    }

    fn archive(&self, host: &Host, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in [
            "bin",
            "dev",
            "etc",
            "proc",
            "run",
            "sys",
            "test",
            "test/modules.d",
            "tmp",
        ] {
            archive.folder(folder);
        }
        archive.file("init", &fs::read(static_init(host)?)?);
        let mut list = String::new();
        for module in with_dependencies(kernel, &self.modules)? {
            let name = module
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            archive.file(&format!("test/modules.d/{name}"), &fs::read(&module)?);
            list.push_str(&name);
            list.push('\n');
        }
        archive.file("test/modules", list.as_bytes());
        let mut files = self.files.clone();
        files.extend(self.autoloaded(kernel)?);
        for (path, bytes) in &files {
            let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for parent in parents
                .iter()
                .rev()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                archive.folder(&parent.display().to_string());
            }
            archive.file(path, bytes);
        }
        let bytes = fs::read(&self.program)
            .with_context(|| format!("reading `{}`", self.program.display()))?;
        archive.file("test/program", &bytes);
        let arguments: String = self
            .arguments
            .iter()
            .map(|argument| format!("{argument}\0"))
            .collect();
        archive.file("test/arguments", arguments.as_bytes());
        Ok(archive.finish())
    }
}

impl InitrdTest {
    /// The modules to load on demand, and the indexes of depmod, which modprobe needs.
    fn autoloaded(&self, kernel: &Kernel) -> Result<Vec<(String, Vec<u8>)>> {
        if self.autoload.is_empty() {
            return Ok(Vec::new());
        }
        let mut paths = with_dependencies(kernel, &self.autoload)?;
        let entries = fs::read_dir(&kernel.modules)
            .with_context(|| format!("reading `{}`", kernel.modules.display()))?;
        let indexes = entries.flatten().map(|entry| entry.path());
        paths.extend(indexes.filter(|path| path.is_file()));
        let release = kernel.modules.file_name().unwrap_or_default();
        let folder = Path::new("lib/modules").join(release);
        let file = |path: PathBuf| {
            let bytes = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
            let inside = folder.join(path.strip_prefix(&kernel.modules)?);
            Ok((inside.display().to_string(), bytes))
        };
        paths.into_iter().map(file).collect()
    }
}

fn static_init(host: &Host) -> Result<PathBuf> {
    static_program(host, "initrd-init", INIT_SOURCE)
}

/// Compiles a program of one file, once per content.
fn static_program(host: &Host, name: &str, text: &str) -> Result<PathBuf> {
    let key = Key::new(name, 1).with("source", text);
    host.cache().ensure(name, &key, |path| {
        let source = path.with_extension("rs");
        fs::write(&source, text)?;
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc
            .args([
                "--edition=2024",
                "--target=x86_64-unknown-linux-gnu",
                "-Ctarget-feature=+crt-static",
            ])
            .args(["-Copt-level=s", "-Cstrip=symbols", "-Cpanic=abort", "-o"])
            .arg(path)
            .arg(&source);
        process::run(&mut rustc).with_context(|| format!("compiling `{name}` for initrd tests"))?;
        fs::remove_file(source)?;
        Ok(())
    })
}

/// The files of the modules, each after its dependencies. Built-in modules have none.
fn with_dependencies(kernel: &Kernel, names: &[String]) -> Result<Vec<PathBuf>> {
    let read = |file: &str| {
        let path = kernel.modules.join(file);
        fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))
    };
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let mut files: Vec<PathBuf> = Vec::new();
    for name in names {
        if builtin
            .lines()
            .any(|line| module_name(line) == module_name(name))
        {
            continue;
        }
        let line = dependencies.lines().find(|line| {
            line.split_once(':')
                .is_some_and(|(file, _)| module_name(file) == module_name(name))
        });
        let Some((file, needs)) = line.and_then(|line| line.split_once(':')) else {
            bail!("the kernel has no module `{name}`");
        };
        // modules.dep lists direct dependencies first, and they must be loaded last.
        for path in needs.split_whitespace().rev().chain([file]) {
            let path = kernel.modules.join(path);
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// The module name of a file name: `kernel/net/ip-vs.ko.xz` is `ip_vs`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// The kernel's initramfs format, "newc"
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let fields = [
            self.count,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            // Writing to a Vec cannot fail.
            let _ = write!(self.bytes, "{field:08x}");
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
