//! All cuts of one recording, judged, and the table of what was lost.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::{header, partition};
use userdata::contract::{ROOT_PARTITION, SEED_PARTITION, STATE_PARTITION, VERITY_PARTITION};

use super::cut::{Cut, Kept};
use super::disk::{AfterCut, Replay, extent, fat_files};
use super::ext4::{self, Tree};
use super::judge::{Known, Left};
use super::log::{Log, Target};
use super::plan::{self, Planned};
use super::recording::{Recorded, Recording};
use crate::host::debian_tools::DebianTools;
use crate::machine::disk::Extent;

/// Where the first copy of a partition table is, with room to spare.
const FRONT: u64 = 1 << 20;

/// etcd's write-ahead logs on the state partition.
const WAL: &str = "/lib/etcd/member/wal";

/// What a campaign does.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number of cuts of each machine.
    pub cuts: usize,
    pub seed: u64,
    /// [`Cut::unit`] of all cuts.
    pub unit: u64,
    /// Only this cut: the name of the machine and the number.
    pub only: Option<(String, usize)>,
}

/// The outcome for one machine.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub machine: String,
    pub role: String,
    pub cuts: usize,
    /// How often each step was cut.
    pub steps: Vec<(String, usize)>,
    /// Cuts that left a file of kubeadm unfinished, for a machine to boot from.
    pub torn: Vec<Cut>,
    /// Number of the cut, its step, and what was lost.
    pub lost: Vec<(usize, String, Vec<String>)>,
}

/// Runs the campaign for every machine. `folder` is for files of gigabytes.
pub fn run(
    tools: &DebianTools,
    recording: &Recording,
    settings: &Settings,
    folder: &Path,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for machine in &recording.machines {
        let only = settings.only.as_ref();
        if only.is_some_and(|(name, _)| *name != machine.name) {
            continue;
        }
        let row = one(tools, recording, machine, settings, folder)
            .with_context(|| format!("the cuts of {}", machine.name))?;
        eprint!("{row}");
        rows.push(row);
    }
    Ok(rows)
}

fn one(
    tools: &DebianTools,
    recording: &Recording,
    machine: &Recorded,
    settings: &Settings,
    folder: &Path,
) -> Result<Row> {
    let log = recording.log(machine)?;
    let subject = Subject::new(tools, recording, machine, &log, folder)?;
    let mut planned = plan::plan(&log, machine, settings.cuts, settings.seed);
    if let Some((_, number)) = &settings.only {
        planned.retain(|one| one.number == *number);
        ensure!(!planned.is_empty(), "there is no cut number {number}");
    }
    for one in &mut planned {
        one.cut.unit = settings.unit;
    }
    let mut row = Row {
        machine: machine.name.clone(),
        role: machine.role.clone(),
        ..Row::default()
    };
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut replay = Replay::new(&log, &subject.base, subject.state, folder)?;
    for one in &planned {
        let after = replay.after(&one.cut)?;
        let (lost, torn) = subject
            .judge(&after, one)
            .with_context(|| format!("cut {} ({:?})", one.number, one.cut))?;
        row.cuts += 1;
        *counts.entry(&one.step).or_default() += 1;
        if torn {
            row.torn.push(one.cut);
        }
        if !lost.is_empty() {
            eprintln!(
                "{}: cut {} after {} of {} requests, in `{}`, {:?}:\n  {}",
                machine.name,
                one.number,
                one.cut.at,
                log.entries().len(),
                one.step,
                one.cut.kept,
                lost.join("\n  ")
            );
            row.lost.push((one.number, one.step.clone(), lost));
        }
    }
    let steps = plan::steps(&log, machine).into_iter();
    row.steps = steps
        .map(|step| {
            let count = counts.get(step.as_str()).copied().unwrap_or_default();
            (step, count)
        })
        .collect();
    Ok(row)
}

/// One machine and what is known of its end.
struct Subject<'a> {
    tools: &'a DebianTools,
    machine: &'a Recorded,
    log: &'a Log,
    base: PathBuf,
    folder: &'a Path,
    state: Extent,
    seed: Extent,
    known: Known,
}

impl<'a> Subject<'a> {
    fn new(
        tools: &'a DebianTools,
        recording: &Recording,
        machine: &'a Recorded,
        log: &'a Log,
        folder: &'a Path,
    ) -> Result<Self> {
        let base = recording.base(&machine.name);
        let table = final_table(log, &base)?;
        let find = |name: &str| {
            extent(&table, name).with_context(|| format!("the disk has no partition `{name}`"))
        };
        let (state, seed) = (find(STATE_PARTITION)?, find(SEED_PARTITION)?);
        // Before the first request: the seed as it was flashed.
        let nothing = Cut::plain(0, Kept::Nothing);
        let before = Replay::new(log, &base, state, folder)?.after(&nothing)?;
        let flashed = fat_files(before.partition(seed)).context("reading the seed")?;
        let everything = Cut::plain(log.entries().len(), Kept::Everything);
        let end = Replay::new(log, &base, state, folder)?.after(&everything)?;
        for name in [ROOT_PARTITION, VERITY_PARTITION] {
            end.assert_unwritten(name, find(name)?)?;
        }
        if let Some(why) = ext4::recover(tools, end.state())? {
            anyhow::bail!("the file system at the end of the log: {why}");
        }
        let scratch = tempfile::tempdir_in(folder)?;
        let tree = ext4::read(tools, end.state(), scratch.path())?;
        let known = Known::new(&machine.role, &flashed, tree)?;
        let judged: Vec<_> = known.judged().collect();
        eprintln!(
            "{} ({}): {} requests, {} flushes, {} files are judged",
            machine.name,
            machine.role,
            log.entries().len(),
            log.entries().iter().filter(|entry| entry.is_flush).count(),
            judged.len()
        );
        fs::write(
            recording.folder().join(format!("{}.judged", machine.name)),
            judged.join("\n"),
        )?;
        // Nothing is left of the secrets once the machine is Ready.
        let mut bytes = Vec::new();
        end.partition(seed).read_to_end(&mut bytes)?;
        for secret in ["PRIVATE KEY", "client-key-data"] {
            ensure!(
                !bytes
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes()),
                "the seed still has `{secret}` at the end"
            );
        }
        Ok(Self {
            tools,
            machine,
            log,
            base,
            folder,
            state,
            seed,
            known,
        })
    }

    /// What a cut has lost, and whether it left a file of kubeadm unfinished.
    fn judge(&self, after: &AfterCut, one: &Planned) -> Result<(Vec<String>, bool)> {
        let table = match after.partitions() {
            Ok(table) => table,
            Err(error) => return Ok((vec![format!("no partition table: {error:#}")], false)),
        };
        let mut lost = Vec::new();
        for name in [ROOT_PARTITION, VERITY_PARTITION, SEED_PARTITION] {
            if extent(&table, name).is_none() {
                lost.push(format!("the table has no partition `{name}`"));
            }
        }
        let tree = match extent(&table, STATE_PARTITION) {
            // It grows with its disk and never moves.
            Some(found) if found.offset != self.state.offset => {
                lost.push("the state partition is at another place".to_owned());
                None
            }
            Some(_) => match ext4::recover(self.tools, after.state())? {
                None => {
                    let scratch = tempfile::tempdir_in(self.folder)?;
                    Some(ext4::read(self.tools, after.state(), scratch.path())?)
                }
                Some(why) => {
                    lost.push(why);
                    return Ok((lost, false));
                }
            },
            None => None,
        };
        let wal = match &tree {
            Some(_) => ext4::names(self.tools, after.state(), WAL)?,
            None => Vec::new(),
        };
        let seed = fat_files(after.partition(self.seed)).map_err(|error| format!("{error:#}"));
        let scratch = tempfile::tempdir_in(self.folder)?;
        lost.extend(self.known.judge(&Left {
            tree: tree.as_ref(),
            wal: &wal,
            seed: seed.as_ref().map_err(Clone::clone),
            reported: &plan::reported(self.log, self.machine, one.cut.at),
            scratch: scratch.path(),
        })?);
        let torn = tree.is_some_and(|tree: Tree| self.known.is_torn(&tree));
        Ok((lost, torn))
    }
}

/// The partition table that the whole log leaves, which has the state partition.
fn final_table(log: &Log, base: &Path) -> Result<Vec<gpt::partition::Partition>> {
    let mut front = Front(vec![0; usize::try_from(FRONT)?]);
    let mut file = File::open(base).with_context(|| format!("opening `{}`", base.display()))?;
    file.read_exact(&mut front.0)?;
    for entry in log.entries() {
        if entry.sector < FRONT / 512 && entry.sectors > 0 {
            log.apply(
                entry,
                0,
                entry.sectors.min(FRONT / 512 - entry.sector),
                &mut front,
            )?;
        }
    }
    let mut stream = Cursor::new(front.0);
    let block = LogicalBlockSize::Lb512;
    let header = header::read_header_from_arbitrary_device(&mut stream, block)?;
    let table = partition::file_read_partitions(&mut stream, &header, block)?;
    Ok(table.into_values().collect())
}

struct Front(Vec<u8>);

impl Target for Front {
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(sector * 512)?;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, sector: u64, sectors: u64) -> Result<()> {
        let at = usize::try_from(sector * 512)?;
        self.0[at..at + usize::try_from(sectors * 512)?].fill(0);
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|(step, count)| format!("{step} {count}"))
            .collect();
        writeln!(
            f,
            "| {:<4} | {:<8} | {:>5} | {:>4} | {} |",
            self.machine,
            self.role,
            self.cuts,
            self.lost.len(),
            steps.join(", ")
        )
    }
}
