//! One machine: start it, wait for it, ask it, stop it.
//!
//! Dropping it kills it by its process id. What QEMU is told is decided in `qemu.rs`.

mod process;

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::process::{StartingQemu, stderr_tail};
use crate::console::Console;
use crate::credential;
use crate::disk;
use crate::guest::{Guest, Output};
use crate::host::Host;
use crate::journal::{Journal, Record, Want};
use crate::qemu::{self, Accel, Boot, DiskFile, DiskFormat, Machine, Paths};
use crate::qmp::Qmp;
use crate::run::Run;
use crate::share::Share;

/// Writing or reading a machine's memory takes seconds; a disk under load, minutes.
const STATE_DEADLINE: Duration = Duration::from_secs(600);

/// A running machine.
#[derive(Debug)]
pub struct Vm {
    name: String,
    process: Mutex<Child>,
    /// After the process, which has to end first.
    _share: Option<Share>,
    qmp: Mutex<Qmp>,
    journal: Option<Journal>,
    guest: Option<Guest>,
    console: Console,
    folder: PathBuf,
    accel: Accel,
    pace: f64,
    started: Instant,
}

impl Vm {
    /// Switches `machine` on. Its evidence goes to a folder of its own in `run`.
    pub fn start(host: &Host, run: &Run, machine: &Machine) -> Result<Self> {
        Self::start_with(host, host.accel(), run, machine)
            .with_context(|| format!("starting machine `{}`", machine.name))
    }

    pub(crate) fn start_with(
        host: &Host,
        accel: Accel,
        run: &Run,
        machine: &Machine,
    ) -> Result<Self> {
        let vm = Self::launch(host, accel, run, machine, false)?;
        vm.go_on()?;
        Ok(vm)
    }

    /// A machine as [`Self::save`] left it, with its disks as they were then; paused until [`Self::go_on`].
    ///
    /// Its journal has what the guest says from now on, and nothing from before.
    pub fn restore(host: &Host, run: &Run, machine: &Machine, state: &Path) -> Result<Self> {
        let context = || format!("restoring machine `{}`", machine.name);
        let vm = Self::launch(host, host.accel(), run, machine, true).with_context(context)?;
        vm.qmp(|qmp| qmp.migrate("migrate-incoming", state, STATE_DEADLINE))
            .with_context(context)?;
        Ok(vm)
    }

    /// QEMU with everything connected and the guest not running yet.
    fn launch(
        host: &Host,
        accel: Accel,
        run: &Run,
        machine: &Machine,
        incoming: bool,
    ) -> Result<Self> {
        let (name, folder) = new_folder(run.folder(), &machine.name)?;
        let sockets = run.sockets(&name)?;
        let paths = Paths {
            sockets: sockets.clone(),
            firmware_variables: folder.join("firmware-variables.qcow2"),
            evidence: folder.clone(),
        };
        if matches!(machine.boot, Boot::Uefi) {
            disk::convert_to_qcow2(
                host,
                &host.tools().firmware_variables(),
                &paths.firmware_variables,
            )?;
        }
        let mut machine = machine.clone();
        if machine.reports {
            machine.smbios.extend(credential::report_units());
        }
        if accel == Accel::Tcg {
            let arguments = credential::kernel_arguments(credential::NO_TIMER_CHECK);
            machine.smbios.push(arguments);
        }
        let qmp = UnixListener::bind(sockets.join("qmp"))?;
        let reports = machine
            .reports
            .then(|| bind_reports(&sockets))
            .transpose()?;

        let preload = (machine.pace != 1.0).then(|| host.tools().faketime());
        let mut command = host
            .tools()
            .command("bin/qemu-system-x86_64", preload.as_deref());
        command.args(qemu::arguments(&machine, accel, host.tools(), &paths));
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        if preload.is_some() {
            command.envs(qemu::faketime(machine.pace));
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
        let share = machine
            .share
            .map(|cores| Share::give(cores, id))
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
            _share: share,
            qmp: Mutex::new(qmp),
            journal,
            guest,
            console: Console::at(&folder.join(qemu::SERIAL_PORTS[0])),
            folder,
            accel,
            pace: machine.pace,
            started: Instant::now(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Since power-on, by the wall clock.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where console, journal and arguments lie.
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

    /// Waits for a journal record; `guest` is what a machine with KVM would need at most.
    pub fn wait_for(&self, want: &Want<'_>, never: &[Want<'_>], guest: Duration) -> Result<Record> {
        let record = self.journal()?.wait_for_or(want, never, self.wall(guest));
        self.evidence(record)
    }

    pub fn wait_for_console(&self, needle: &str, guest: Duration) -> Result<String> {
        let text = self
            .console
            .wait_for(needle, self.wall(guest), || self.is_running());
        self.evidence(text)
    }

    /// Runs a shell script in the guest.
    pub fn run(&self, script: &str) -> Result<Output> {
        let guest = self
            .guest
            .as_ref()
            .context("this machine was started without reports")?;
        self.evidence(guest.run(script, self.wall(Duration::from_secs(120))))
    }

    /// Runs a shell script that must succeed; its stdout.
    pub fn ok(&self, script: &str) -> Result<String> {
        self.ok_within(script, Duration::from_secs(120))
    }

    /// As `ok`, for scripts that take their time: `guest` is what a machine with KVM would need at most.
    pub fn ok_within(&self, script: &str, guest: Duration) -> Result<String> {
        let shell = self
            .guest
            .as_ref()
            .context("this machine was started without reports")?;
        self.evidence(shell.ok(script, self.wall(guest)))
    }

    /// A guest's deadline on the wall clock of this host.
    pub fn wall(&self, guest: Duration) -> Duration {
        qemu::wall(guest, self.accel, self.pace)
    }

    pub fn is_running(&self) -> bool {
        matches!(self.process().try_wait(), Ok(None))
    }

    /// Waits until the machine switched itself off.
    pub fn wait_off(&self, guest: Duration) -> Result<()> {
        self.wait_off_wall(self.wall(guest))
    }

    pub(crate) fn wait_off_wall(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while self.is_running() {
            if Instant::now() > end {
                return self.evidence(Err(anyhow::anyhow!("still on after {deadline:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Shuts the guest down in order and waits until it is off.
    pub fn power_off(&self) -> Result<()> {
        // The answer may be lost on the way down.
        if let Some(guest) = &self.guest {
            let _ = guest.run(
                "systemctl --no-block poweroff",
                self.wall(Duration::from_secs(20)),
            );
        }
        self.wait_off(Duration::from_secs(120))
            .context("shutting down")
    }

    /// Pulls the plug: what the guest had not flushed is lost.
    pub fn power_cut(&self) -> Result<()> {
        let mut process = self.process();
        process.kill().context("killing QEMU")?;
        process.wait().context("waiting for QEMU")?;
        Ok(())
    }

    /// Stops the guest's time, until [`Self::go_on`].
    pub fn pause(&self) -> Result<()> {
        self.qmp(|qmp| qmp.execute("stop", json!({})))
            .context("pausing the machine")?;
        Ok(())
    }

    /// Lets a paused guest run.
    pub fn go_on(&self) -> Result<()> {
        self.qmp(|qmp| qmp.execute("cont", json!({})))
            .context("letting the machine run")?;
        Ok(())
    }

    /// Writes memory and devices of a paused machine to `state`. Its disks belong to that: until [`Self::go_on`] QEMU
    /// does not touch them, and they can be copied. On failure `state` may be there in part.
    pub fn save(&self, state: &Path) -> Result<()> {
        self.qmp(|qmp| qmp.migrate("migrate", state, STATE_DEADLINE))
            .with_context(|| format!("saving machine `{}`", self.name))
    }

    /// Plugs a disk into the running machine.
    pub fn plug_disk(&self, disk: &DiskFile) -> Result<()> {
        let format = if disk.format == DiskFormat::Raw {
            "raw"
        } else {
            "qcow2"
        };
        self.qmp(|qmp| {
            qmp.execute(
                "blockdev-add",
                json!({"node-name": "plugged", "driver": format, "read-only": disk.read_only,
                       "file": {"driver": "file", "filename": disk.path}}),
            )?;
            let device = json!({"driver": "virtio-blk-pci", "id": "plugged", "drive": "plugged", "serial": disk.serial, "bus": "plug"});
            qmp.execute("device_add", device)
        })
        .context("plugging in a disk")?;
        Ok(())
    }

    /// QEMU's control socket, for what has no method here.
    pub fn qmp<T>(&self, ask: impl FnOnce(&mut Qmp) -> Result<T>) -> Result<T> {
        ask(&mut self.qmp.lock().unwrap_or_else(|bad| bad.into_inner()))
    }

    /// On failure adds what is needed to understand it: the console's end and a picture of the screen.
    pub(crate) fn evidence<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            if self.is_running() {
                let _ = self.qmp(|qmp| qmp.screendump(&self.folder.join("screen.png")));
            }
            let console = self.console.tail(12);
            error.context(format!(
                "machine `{}`; the console shows last:\n{console}\nevidence: {}",
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

/// A machine that is started again gets a folder beside the first one's: `m0`, `m0.2`, …
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
    bail!("machine `{name}` was started a thousand times")
}
