//! Hooks of the package, before and after the steps of the role.

use std::fmt;

use anyhow::{Context, Result};
use userdata::contract::HOOKS_DIR;

use super::Step;
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

/// One hook in the read-only root. It must be safe to run again.
#[derive(Debug)]
pub struct Hook {
    root: Root,
    /// Step and file name: `before-role`, `after-role`.
    name: &'static str,
}

impl Hook {
    /// `None` when the package has no such hook.
    pub fn find(root: &Root, name: &'static str) -> Option<Self> {
        root.exists(format!("{HOOKS_DIR}/{name}")).then(|| Self {
            root: root.clone(),
            name,
        })
    }

    fn mark(&self) -> String {
        format!("/var/lib/firstlight/hook-{}", self.name)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run the package's hook `{}`", self.name)
    }
}

impl Step for Hook {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.root.exists(self.mark()))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        command::run(&format!("{HOOKS_DIR}/{}", self.name), &[""; 0])
            .with_context(|| format!("running the package's hook `{}`", self.name))?;
        self.root.write(self.mark(), b"", Attributes::mode(0o600))?;
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
