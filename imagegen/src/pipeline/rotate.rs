//! The phases of a rotation of the authority of clients.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use userdata::node_config::Role;

use super::userdata::userdata_for;
use super::{Input, PKI};
use crate::output::Folder;
use crate::pki::document_key::Generations;
use crate::pki::folder;
use crate::pki::rotation::{Phase, Rotation};

/// The flag of the apiserver that a rotation changes.
const CLIENT_CA: &str = "client-ca-file";

/// A step of a rotation.
#[derive(Debug, Clone)]
pub enum Step {
    /// The first phase, or more hosts to expel during it.
    Begin { expel: Vec<String> },
    Next {
        /// The output of `firstboot status --all --json`; `None`: the user answers for the hosts.
        statuses: Option<String>,
    },
}

/// Writes the documents of the next phase. Each phase appears complete or not at all, like every
/// run of imagegen; an interrupted one is completed by the next call, which then goes no further.
pub fn rotate(input: &Input, output: &Folder, step: Step) -> Result<()> {
    let dir = output.root().join(PKI);
    // Fails without a key of documents: then no host has a document that a phase could follow.
    let (_, generations) = folder::document_key_of(&dir)?;
    let now = Rotation::read(&dir)?;
    match step {
        Step::Begin { expel } => {
            for name in &expel {
                check_host(input, name)?;
            }
            ensure!(
                !input.plan.kubernetes.apiserver_args.contains_key(CLIENT_CA),
                "the topology sets `{CLIENT_CA}` of the apiserver (`kubernetes.apiserver_args`), \
                 so that imagegen does not know which clients it accepts; remove the argument, or \
                 rotate that authority yourself"
            );
            userdata_for(input, output, now.begin(&expel)?)?;
        }
        Step::Next { statuses } => {
            let Some(next) = now.clone().next() else {
                bail!(
                    "`{}` is in no rotation; begin one with `--expel NAME` or `--start`",
                    output.root().display()
                );
            };
            let outcome = userdata_for(input, output, now.clone())?;
            ensure!(
                !outcome.changed,
                "the documents of the present phase were not up to date (the topology changed, or \
                 a run was interrupted); they are now: give them to the hosts, then run this again"
            );
            if let Some(statuses) = statuses {
                check_statuses(input, &now, &generations, &statuses)?;
            }
            userdata_for(input, output, next)?;
        }
    }
    Ok(())
}

fn check_host(input: &Input, name: &str) -> Result<()> {
    let hosts = &input.plan.hosts;
    let Some(host) = hosts.iter().find(|host| host.name == name) else {
        let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
        bail!(
            "the topology has no host `{name}`; its hosts are {}",
            names.join(", ")
        );
    };
    ensure!(
        host.role == Role::Node,
        "`{name}` is a master and has the keys of all authorities, of service accounts and of \
         Secrets: a new authority of clients does not expel it. If it was stolen, move \
         `{PKI}/` away, write all documents again and erase every state partition: a new cluster"
    );
    Ok(())
}

/// What is needed of `firstboot status --all --json`.
#[derive(Deserialize)]
struct Line {
    host: String,
    status: Option<Status>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    phase: String,
    document: Option<Document>,
}

#[derive(Deserialize)]
struct Document {
    generation: Option<u64>,
}

/// Fails unless every host is ready with its newest document. Names all that are not.
fn check_statuses(
    input: &Input,
    rotation: &Rotation,
    generations: &Generations,
    text: &str,
) -> Result<()> {
    let lines: Vec<Line> = serde_json::from_str(text).context(
        "reading the statuses of the hosts; give the output of `firstboot status --all --json`",
    )?;
    let hosts = input.plan.hosts.iter();
    let hosts = hosts.filter(|host| !rotation.is_expelled(&host.name));
    let behind: Vec<String> = hosts
        .filter_map(|host| {
            let line = lines.iter().find(|line| line.host == host.name);
            let why = behind(line, generations.newest(&host.name))?;
            Some(format!("  {}: {why}", host.name))
        })
        .collect();
    ensure!(
        behind.is_empty(),
        "these hosts do not have the documents of the present phase yet:\n{}\nnothing was changed",
        behind.join("\n")
    );
    Ok(())
}

/// Why a host is not ready with the document `newest`.
fn behind(line: Option<&Line>, newest: u64) -> Option<String> {
    let Some(line) = line else {
        return Some("the statuses do not have it".to_owned());
    };
    let Some(status) = &line.status else {
        let error = line.error.as_deref().unwrap_or("no status");
        return Some(error.to_owned());
    };
    let document = status.document.as_ref();
    match document.and_then(|document| document.generation) {
        Some(number) if number != newest => Some(format!("has document {number} of {newest}")),
        None => Some(format!("has no signed document, its newest is {newest}")),
        Some(_) if status.phase != "ready" => Some(format!("is not ready but {}", status.phase)),
        Some(_) => None,
    }
}

/// The phase, the hosts that need documents, and what to do next.
pub fn rotation(input: &Input, output: &Path) -> Result<String> {
    let dir = output.join(PKI);
    let (_, generations) = folder::document_key_of(&dir)?;
    let rotation = Rotation::read(&dir)?;
    let expelled = rotation.expelled().collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    let Some(phase) = rotation.phase() else {
        text += "no rotation is under way\n";
        if !expelled.is_empty() {
            text += &format!("expelled, without documents: {expelled}\n");
        }
        text += "next: `--expel NAME` begins one that expels a worker, `--start` one that expels \
                 none\n";
        return Ok(text);
    };
    text += &format!("phase {} of 3: {}\n", phase.number(), phase.title());
    if !expelled.is_empty() {
        text += &format!("expelled, without documents: {expelled}\n");
    }
    text += "documents of this phase:";
    let hosts = input.plan.hosts.iter();
    for host in hosts.filter(|host| !rotation.is_expelled(&host.name)) {
        text += &format!(" {}={}", host.name, generations.newest(&host.name));
    }
    text += "\nnext: give each host its document, one master at a time. When all are ready";
    text += match phase {
        Phase::IssueNew => " (the new `admin.conf` works already), run\n",
        Phase::TrustBoth | Phase::TrustNew => ", run\n",
    };
    text += "  firstboot status --all --json > status.json    (on a master)\n  \
             imagegen pki rotate --next --status status.json    (with -t and -o)\n";
    Ok(text)
}
