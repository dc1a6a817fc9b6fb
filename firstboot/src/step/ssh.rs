//! Starts the SSH server, once the document's files may have configured it.
//!
//! A server that does not start is reported, and the boot continues: kubelet starts only after this
//! step, and a node must not go down with its SSH server.

use std::{fmt, fs};

use anyhow::{Context, Error, Result};

use super::Step;
use crate::report::Reporter;
use crate::system::files::Root;
use crate::system::{command, systemd};

/// The image ships it disabled; the step `users` enables it.
pub const SSH_UNIT: &str = "ssh.service";
const RUNTIME_FOLDER: &str = "/run/sshd";

#[derive(Debug)]
pub struct Ssh {
    pub root: Root,
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {SSH_UNIT}")
    }
}

impl Step for Ssh {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn is_done(&self) -> Result<bool> {
        systemd::is_active(SSH_UNIT)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        if let Err(error) = systemd::start(SSH_UNIT) {
            report.degraded(&format!("{:#}", self.explain(error)));
        }
        Ok(())
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

impl Ssh {
    /// Adds sshd's own check of its configuration: without sshd, an operator cannot log in to read
    /// the unit's journal.
    fn explain(&self, error: Error) -> Error {
        // systemd removes its runtime directory when the unit fails, and sshd checks nothing
        // without it.
        let checked = fs::create_dir_all(self.root.join(RUNTIME_FOLDER))
            .context("creating its runtime directory")
            .and_then(|()| command::run("/usr/sbin/sshd", &["-t"]));
        match checked.context("sshd refuses its configuration") {
            Ok(()) => error,
            Err(reason) => error.context(format!("{reason:#}")),
        }
    }
}
