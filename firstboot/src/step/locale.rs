//! The locale of logins and services.

use std::fmt;

use anyhow::Result;

use super::Step;
use crate::applied::Applied;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use userdata::cloud_config::Locale as Wanted;

/// systemd reads the first, PAM the second.
const FILES: [&str; 2] = ["/etc/locale.conf", "/etc/default/locale"];
/// What every image has.
const BUILT_IN: [&str; 4] = ["C", "POSIX", "C.UTF-8", "C.utf8"];
/// In the record.
const KEY: &str = "locale";

/// Set once for an instance.
#[derive(Debug)]
pub struct Locale {
    pub root: Root,
    pub locale: Wanted,
    pub instance: String,
}

impl fmt::Display for Locale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set the locale: {}", self.locale.name)
    }
}

impl Step for Locale {
    fn name(&self) -> &'static str {
        "locale"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(Applied::open(&self.root, &self.instance)?.has(KEY, &self.parts()))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let text = format!("LANG={}\n", self.locale.name);
        let mode = Attributes::mode(0o644);
        for file in FILES.into_iter().chain(self.locale.file.as_deref()) {
            self.root.write(file, text.as_bytes(), mode)?;
        }
        let mut record = Applied::open(&self.root, &self.instance)?;
        record.set(KEY, self.parts());
        record.save()
    }
}

impl Locale {
    /// Whether the image has this locale. With another one every program would complain.
    pub fn is_known(root: &Root, name: &str) -> bool {
        BUILT_IN.contains(&name) || root.exists(format!("/usr/lib/locale/{name}"))
    }

    fn parts(&self) -> Vec<String> {
        vec![
            self.locale.name.clone(),
            self.locale.file.clone().unwrap_or_default(),
        ]
    }
}
