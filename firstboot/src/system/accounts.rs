//! Users and groups by name, from `/etc/passwd` and `/etc/group`.
//!
//! Not with the C library: firstboot is static, and glibc would load name service modules of the
//! image, which belong to another glibc.

use anyhow::Result;

use super::files::Root;

/// User and primary group id.
pub fn user(root: &Root, name: &str) -> Result<Option<(u32, u32)>> {
    let table = root.read("/etc/passwd")?.unwrap_or_default();
    Ok(fields(&table, name)
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))))
}

/// The name of the user with this id.
pub fn name(root: &Root, uid: u32) -> Result<Option<String>> {
    let table = root.read("/etc/passwd")?.unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let owner = table.lines().find(|line| {
        let id = line.split(':').nth(2);
        id.and_then(|id| id.parse().ok()) == Some(uid)
    });
    Ok(owner.and_then(|line| line.split(':').next().map(str::to_owned)))
}

pub fn group(root: &Root, name: &str) -> Result<Option<u32>> {
    let table = root.read("/etc/group")?.unwrap_or_default();
    Ok(fields(&table, name).and_then(|fields| fields.get(2)?.parse().ok()))
}

/// The password field of a user in `/etc/shadow`; empty: none is needed.
pub fn password(root: &Root, name: &str) -> Result<Option<String>> {
    let table = root.read("/etc/shadow")?.unwrap_or_default();
    Ok(fields(&table, name).and_then(|fields| fields.into_iter().nth(1)))
}

/// The line of this name, split at its colons.
fn fields(table: &[u8], name: &str) -> Option<Vec<String>> {
    let table = String::from_utf8_lossy(table);
    let lines = table
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
    let mut matching = lines.filter(|fields| fields.first().is_some_and(|first| first == name));
    matching.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::files::Attributes;

    #[test]
    fn names_match_completely() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nrooted:x:7:8::/:/bin/sh\n+::::::\n";
        root.write("/etc/passwd", passwd, Attributes::mode(0o644))
            .unwrap();
        assert_eq!(user(&root, "root").unwrap(), Some((0, 0)));
        assert_eq!(user(&root, "rooted").unwrap(), Some((7, 8)));
        assert_eq!(user(&root, "roo").unwrap(), None);
        assert_eq!(group(&root, "root").unwrap(), None);
    }

    #[test]
    fn root_exists_on_this_machine() {
        assert_eq!(user(&Root::new("/"), "root").unwrap(), Some((0, 0)));
        assert_eq!(group(&Root::new("/"), "root").unwrap(), Some(0));
    }
}
