//! A running machine: start it, wait for it, run commands in it, stop it.
//!
//! Dropping a machine kills its QEMU process. `qemu.rs` defines the arguments of QEMU.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::host::Host;
use crate::host::accel::Accel;
use crate::host::cpu_quota::CpuQuota;
use crate::host::run_dir::RunDir;
use crate::machine::clock;
use crate::machine::console::Console;
use crate::machine::disk;
use crate::machine::guest::{Guest, Output};
use crate::machine::journal::{Journal, Record, RecordMatch};
use crate::machine::qemu::{self, Boot, Machine, Paths};
use crate::machine::qmp::Qmp;
use crate::machine::smbios;
use crate::machine::starting_qemu::{StartingQemu, stderr_tail};
use crate::machine::tpm::Tpm;

/// Saving the memory of a machine takes seconds, and minutes when the disk is busy.
const STATE_DEADLINE: Duration = Duration::from_secs(600);

/// A running machine.
#[derive(Debug)]
pub struct Vm {
    name: String,
    process: Mutex<Child>,
    /// Fields are dropped in order: the process must end before its control group is removed.
    _cpu_quota: Option<CpuQuota>,
    _tpm: Option<Tpm>,
    qmp: Mutex<Qmp>,
    journal: Option<Journal>,
    guest: Option<Guest>,
    console: Console,
    folder: PathBuf,
    accel: Accel,
    time_scale: f64,
    started: Instant,
}

impl Vm {
    /// Starts `machine`. Its evidence goes to a folder of its own in `run_dir`.
    pub fn start(host: &Host, run_dir: &RunDir, machine: &Machine) -> Result<Self> {
        let context = || format!("starting machine `{}`", machine.name);
        let vm = Self::launch(host, run_dir, machine, false).with_context(context)?;
        vm.resume().with_context(context)?;
        Ok(vm)
    }

    /// Restores a machine that [`Self::save`] has saved, with its disks as they were at that time.
    /// The machine is paused until [`Self::resume`].
    ///
    /// The journal contains only records from now on.
    pub fn restore(host: &Host, run_dir: &RunDir, machine: &Machine, state: &Path) -> Result<Self> {
        let context = || format!("restoring machine `{}`", machine.name);
        let vm = Self::launch(host, run_dir, machine, true).with_context(context)?;
        vm.qmp(|qmp| qmp.migrate("migrate-incoming", state, STATE_DEADLINE))
            .with_context(context)?;
        Ok(vm)
    }

    /// Starts QEMU, paused, with all channels connected.
    fn launch(host: &Host, run_dir: &RunDir, machine: &Machine, incoming: bool) -> Result<Self> {
        let accel = host.accel();
        let (name, folder) = new_folder(run_dir.folder(), &machine.name)?;
        let sockets = run_dir.sockets(&name)?;
        let paths = Paths {
            sockets: sockets.clone(),
            firmware_variables: folder.join("firmware-variables.qcow2"),
            evidence: folder.clone(),
        };
        let variables = match machine.boot {
            Boot::Uefi => Some(host.tools().firmware_variables()),
            Boot::SecureUefi => Some(host.tools().secure_firmware_variables()),
            Boot::Bios | Boot::Kernel { .. } => None,
        };
        if let Some(variables) = variables {
            disk::convert_to_qcow2(host, &variables, &paths.firmware_variables)?;
        }
        let mut machine = machine.clone();
        if machine.reports {
            machine.smbios.extend(smbios::report_units());
        }
        // A TPM measures arguments from outside; the image of such a machine has this one itself.
        if accel == Accel::Tcg && machine.tpm.is_none() {
            let arguments = smbios::kernel_arguments(smbios::NO_TIMER_CHECK);
            machine.smbios.push(arguments);
        }
        let qmp = UnixListener::bind(sockets.join("qmp"))?;
        let reports = machine
            .reports
            .then(|| bind_reports(&sockets))
            .transpose()?;

        let state = machine.tpm.as_deref();
        let tpm = state.map(|state| Tpm::start(host.tools(), state, &sockets, &folder));
        let tpm = tpm.transpose()?;
        let preload = (machine.time_scale != 1.0).then(|| host.tools().faketime());
        let mut command = host
            .tools()
            .command("bin/qemu-system-x86_64", preload.as_deref());
        if let Some(tap) = &machine.tap {
            // `ip` becomes QEMU: the process stays the one that is started here.
            let mut inside = Command::new("ip");
            inside.args(["netns", "exec", &tap.namespace]);
            inside.arg(command.get_program()).args(command.get_args());
            command = inside;
        }
        command.args(qemu::arguments(&machine, accel, host.tools(), &paths));
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        if preload.is_some() {
            command.envs(clock::faketime(machine.time_scale));
        }
        fs::write(folder.join("arguments"), format!("{command:?}\n"))?;
        let errors = fs::File::create(folder.join("qemu.stderr"))?;
        command
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors);
        let child = command.spawn().context("starting QEMU")?;
        let id = child.id();
        let mut process = StartingQemu(Some(child));
        let cpu_quota = machine
            .cpu_quota
            .map(|cores| CpuQuota::set(cores, id))
            .transpose()?;

        let qmp = Qmp::new(process.accept(&qmp, &folder)?)
            .map_err(|error| error.context(stderr_tail(&folder)))?;
        let (journal, guest) = match reports {
            Some((journal, guest)) => (
                Some(Journal::follow(
                    process.accept(&journal, &folder)?,
                    &folder.join("journal.json"),
                )?),
                Some(Guest::new(process.accept(&guest, &folder)?)?),
            ),
            None => (None, None),
        };
        let Some(child) = process.0.take() else {
            bail!("QEMU ended")
        };
        Ok(Self {
            name,
            process: Mutex::new(child),
            _cpu_quota: cpu_quota,
            _tpm: tpm,
            qmp: Mutex::new(qmp),
            journal,
            guest,
            console: Console::at(&folder.join(qemu::SERIAL_PORTS[0])),
            folder,
            accel,
            time_scale: machine.time_scale,
            started: Instant::now(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The time since power-on, by the wall clock.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The folder of console, journal and QEMU's arguments.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    pub fn journal(&self) -> Result<&Journal> {
        self.journal
            .as_ref()
            .context("this machine was started without reports")
    }

    /// Waits for a journal record that matches `wanted`. A record that matches one of `fatal` ends
    /// the wait with an error. `guest` is the deadline on a machine with KVM.
    pub fn wait_for(
        &self,
        wanted: &RecordMatch<'_>,
        fatal: &[RecordMatch<'_>],
        guest: Duration,
    ) -> Result<Record> {
        let record = self
            .journal()?
            .wait_for_unless(wanted, fatal, self.wall(guest));
        self.evidence(record)
    }

    /// Waits until the console has shown `needle`; returns all of its text.
    pub fn wait_for_console(&self, needle: &str, guest: Duration) -> Result<String> {
        let text = self
            .console
            .wait_for(needle, self.wall(guest), || self.is_running());
        self.evidence(text)
    }

    /// Runs a shell script in the guest. A non-zero exit status is not an error.
    pub fn run(&self, script: &str) -> Result<Output> {
        let guest = self
            .guest
            .as_ref()
            .context("this machine was started without reports")?;
        self.evidence(guest.run(script, self.wall(Duration::from_secs(120))))
    }

    /// Runs a shell script that must succeed, and returns its stdout.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.shell_within(script, Duration::from_secs(120))
    }

    /// Like [`Self::shell`], with the deadline `guest` on a machine with KVM.
    pub fn shell_within(&self, script: &str, guest: Duration) -> Result<String> {
        let shell = self
            .guest
            .as_ref()
            .context("this machine was started without reports")?;
        self.evidence(shell.shell(script, self.wall(guest)))
    }

    /// Converts a deadline on a machine with KVM to this machine and the wall clock.
    pub fn wall(&self, guest: Duration) -> Duration {
        clock::wall(guest, self.accel, self.time_scale)
    }

    pub fn is_running(&self) -> bool {
        matches!(self.process().try_wait(), Ok(None))
    }

    /// Waits until the machine has powered off.
    pub fn wait_off(&self, guest: Duration) -> Result<()> {
        let deadline = self.wall(guest);
        let end = Instant::now() + deadline;
        while self.is_running() {
            if Instant::now() > end {
                return self.evidence(Err(anyhow::anyhow!(
                    "the machine still runs after {deadline:?}"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Shuts the guest down cleanly and waits until it is off.
    pub fn power_off(&self) -> Result<()> {
        // The shutdown may end the command channel before it has answered.
        if let Some(guest) = &self.guest {
            let _ = guest.run(
                "systemctl --no-block poweroff",
                self.wall(Duration::from_secs(20)),
            );
        }
        self.wait_off(Duration::from_secs(120))
            .context("shutting down")
    }

    /// Cuts the power: data that the guest has not flushed is lost.
    pub fn power_cut(&self) -> Result<()> {
        let mut process = self.process();
        process.kill().context("killing QEMU")?;
        process.wait().context("waiting for QEMU")?;
        Ok(())
    }

    /// Pauses the guest until [`Self::resume`].
    pub fn pause(&self) -> Result<()> {
        self.qmp(|qmp| qmp.execute("stop", json!({})))
            .context("pausing the machine")?;
        Ok(())
    }

    /// Resumes a paused guest.
    pub fn resume(&self) -> Result<()> {
        self.qmp(|qmp| qmp.execute("cont", json!({})))
            .context("resuming the machine")?;
        Ok(())
    }

    /// Writes memory and devices of a paused machine to `state`. Its disks match that state until
    /// [`Self::resume`], so copy them before. After a failure `state` may be incomplete.
    pub fn save(&self, state: &Path) -> Result<()> {
        self.qmp(|qmp| qmp.migrate("migrate", state, STATE_DEADLINE))
            .with_context(|| format!("saving machine `{}`", self.name))
    }

    /// Runs `ask` with QEMU's control socket, for commands that have no method here.
    pub fn qmp<T>(&self, ask: impl FnOnce(&mut Qmp) -> Result<T>) -> Result<T> {
        ask(&mut self.qmp.lock().unwrap_or_else(|bad| bad.into_inner()))
    }

    /// Adds to an error the end of the console and the folder of the evidence, and takes a
    /// screenshot.
    pub(crate) fn evidence<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            if self.is_running() {
                let _ = self.qmp(|qmp| qmp.screendump(&self.folder.join("screen.png")));
            }
            let console = self.console.tail(12);
            error.context(format!(
                "machine `{}`; end of its console:\n{console}\nevidence: {}",
                self.name,
                self.folder.display()
            ))
        })
    }

    fn process(&self) -> MutexGuard<'_, Child> {
        self.process.lock().unwrap_or_else(|bad| bad.into_inner())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.power_cut();
    }
}

fn bind_reports(sockets: &Path) -> io::Result<(UnixListener, UnixListener)> {
    Ok((
        UnixListener::bind(sockets.join("journal"))?,
        UnixListener::bind(sockets.join("command"))?,
    ))
}

/// Each start of a machine gets a folder of its own: `m0`, `m0.2`, …
fn new_folder(run: &Path, name: &str) -> Result<(String, PathBuf)> {
    for number in 1..1000 {
        let name = if number == 1 {
            name.to_string()
        } else {
            format!("{name}.{number}")
        };
        let folder = run.join(&name);
        match fs::create_dir(&folder) {
            Ok(()) => return Ok((name, folder)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("creating `{}`", folder.display()));
            }
        }
    }
    bail!("machine `{name}` has been started a thousand times")
}
