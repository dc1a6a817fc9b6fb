//! The group whose members may use docker's socket.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use crate::image::archive::{Archive, Content, Data};

const NAME: &str = "docker";

/// Adds the group, as docker's packages do on a running host, unless the root has it. dockerd gives
/// its socket to root alone without it.
pub(in crate::image) fn add(root: &mut Archive) -> Result<()> {
    let groups = text(root, "etc/group")?;
    let mut used = BTreeSet::new();
    for line in groups.lines() {
        let mut fields = line.split(':');
        if fields.next() == Some(NAME) {
            return Ok(());
        }
        used.extend(fields.nth(1).and_then(|id| id.parse::<u32>().ok()));
    }
    // As groupadd(8) of Debian chooses the number of a system group.
    let id = (100..1000).rev().find(|id| !used.contains(id));
    let id = id.context("/etc/group has no free number between 100 and 999")?;
    append(root, "etc/group", &groups, &format!("{NAME}:x:{id}:\n"));
    if root.get("etc/gshadow").is_some() {
        let passwords = text(root, "etc/gshadow")?;
        append(root, "etc/gshadow", &passwords, &format!("{NAME}:!::\n"));
    }
    Ok(())
}

fn text(root: &Archive, path: &str) -> Result<String> {
    String::from_utf8(root.read(path)?).with_context(|| format!("`{path}` is not UTF-8"))
}

/// Owner and mode stay.
fn append(root: &mut Archive, path: &str, text: &str, line: &str) {
    if let Some(mut entry) = root.get(path).cloned() {
        let bytes = format!("{text}{line}").into_bytes();
        entry.content = Content::File(Data::Bytes(bytes.into()));
        root.add(path, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_gets_a_free_number_once() -> Result<()> {
        let mut root = Archive::default();
        root.file("etc/group", 0o644, b"root:x:0:\nssl:x:999:\n".to_vec());
        root.file("etc/gshadow", 0o640, b"root:*::\n".to_vec());
        for _ in 0..2 {
            add(&mut root)?;
            assert_eq!(
                text(&root, "etc/group")?,
                "root:x:0:\nssl:x:999:\ndocker:x:998:\n"
            );
            assert_eq!(text(&root, "etc/gshadow")?, "root:*::\ndocker:!::\n");
        }
        assert_eq!(root.get("etc/gshadow").map(|entry| entry.mode), Some(0o640));
        Ok(())
    }
}
