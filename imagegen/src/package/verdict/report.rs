//! Prints a verdict as a table.

use std::fmt::Write as _;

use super::{State, Verdict};

impl Verdict {
    /// The whole verdict for a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let kubernetes = self.kubernetes.as_deref().unwrap_or("unknown");
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "kubernetes  {kubernetes}\nruntime     {}\ndigest      {}\n",
            self.container_runtime, self.digest
        );
        let width = self
            .parts
            .iter()
            .map(|part| part.name.len())
            .max()
            .unwrap_or(0)
            .min(60);
        for part in &self.parts {
            let state = match part.state {
                State::Used => "used",
                State::Changed => "changed",
                State::Supplied => "supplied",
                State::NotUsed => "not used",
            };
            let line = format!("{state:<9} {:<width$}  {}", part.name, part.detail);
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let width = self
            .images
            .iter()
            .map(|image| image.name.len())
            .max()
            .unwrap_or(0)
            .min(70);
        for image in &self.images {
            let named_by = match image.named_by.as_slice() {
                [] => "nothing in the package refers to it".to_owned(),
                [one] => one.clone(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            };
            let _ = writeln!(out, "image     {:<width$}  {named_by}", image.name);
        }
        for (title, lines) in [("warning", &self.warnings), ("error", &self.errors)] {
            for line in lines {
                let _ = writeln!(out, "{title:<9} {line}");
            }
        }
        let _ = match self.errors.len() {
            0 => writeln!(out, "\nA node image can be built of it."),
            count => writeln!(out, "\nNo node image can be built of it: {count} error(s)."),
        };
        out
    }
}
