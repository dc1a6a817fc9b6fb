//! Accounts: groups first, then users, then the members of groups.

use anyhow::{Context, Result};

use crate::applied::{Applied, digest};
use crate::system::files::Root;
use crate::system::{accounts, command};
use userdata::cloud_config::{Group, User};

/// Whether all are made for this instance. One that a person has removed since stays away.
pub(super) fn are_made(record: &Applied, users: &[User], groups: &[Group]) -> bool {
    users.iter().all(|user| is_user_made(record, user))
        && groups.iter().all(|group| is_group_made(record, group))
}

pub(super) fn make(
    root: &Root,
    record: &mut Applied,
    users: &[User],
    groups: &[Group],
) -> Result<()> {
    for group in groups.iter().filter(|group| !is_group_made(record, group)) {
        make_group(root, &group.name)?;
    }
    for user in users {
        if is_user_made(record, user) {
            continue;
        }
        // As cloud-init: of an existing user only what permits a login changes.
        if accounts::user(root, &user.name)?.is_none() {
            // Before the account, so that after a power cut the user is still known as new.
            record.set(&new_key(user), made());
            record.save()?;
            if user.create_groups {
                for group in groups_of(user) {
                    make_group(root, group)?;
                }
            }
            let own = accounts::group(root, &user.name)?.is_some();
            command::run("useradd", &useradd(user, own))
                .with_context(|| format!("creating user `{}`", user.name))?;
        }
        record.set(&user_key(user), made());
    }
    for group in groups {
        if is_group_made(record, group) {
            continue;
        }
        for member in &group.members {
            add_member(root, &group.name, member)?;
        }
        record.set(&group_key(group), members(group));
    }
    Ok(())
}

fn make_group(root: &Root, name: &str) -> Result<()> {
    if accounts::group(root, name)?.is_some() {
        return Ok(());
    }
    command::run("groupadd", &[name]).with_context(|| format!("creating group `{name}`"))
}

fn add_member(root: &Root, group: &str, member: &str) -> Result<()> {
    if accounts::user(root, member)?.is_none() {
        log::warn!("user `{member}` does not exist; it does not become a member of `{group}`");
        return Ok(());
    }
    command::run("usermod", &["--append", "--groups", group, member])
        .with_context(|| format!("adding user `{member}` to group `{group}`"))
}

/// Whether the document made the user, who did not exist before.
pub(super) fn is_new(record: &Applied, user: &User) -> bool {
    record.has(&new_key(user), &made())
}

fn new_key(user: &User) -> String {
    format!("new-user:{}", user.name)
}

pub(super) fn is_user_made(record: &Applied, user: &User) -> bool {
    record.has(&user_key(user), &made())
}

fn is_group_made(record: &Applied, group: &Group) -> bool {
    record.has(&group_key(group), &members(group))
}

fn user_key(user: &User) -> String {
    format!("user:{}", user.name)
}

fn group_key(group: &Group) -> String {
    format!("group:{}", group.name)
}

fn made() -> Vec<String> {
    vec!["made".to_owned()]
}

fn members(group: &Group) -> Vec<String> {
    vec![digest(group.members.iter().map(String::as_bytes))]
}

/// The groups of a user by name; a primary group may also be a number.
pub(super) fn groups_of(user: &User) -> impl Iterator<Item = &str> {
    let primary = user
        .primary_group
        .iter()
        .filter(|group| group.parse::<u32>().is_err());
    user.groups.iter().chain(primary).map(String::as_str)
}

/// `own_group`: a group with the user's name exists, and `useradd` must not make another.
fn useradd(user: &User, own_group: bool) -> Vec<String> {
    // Home directories are in the state partition; /home is a link on the read-only root.
    let home = user
        .homedir
        .clone()
        .unwrap_or_else(|| format!("/var/home/{}", user.name));
    let shell = user.shell.clone().unwrap_or_else(|| "/bin/bash".to_owned());
    let create = if user.no_create_home {
        "--no-create-home"
    } else {
        "--create-home"
    };
    let mut arguments = vec![
        create.to_owned(),
        "--home-dir".to_owned(),
        home,
        "--shell".to_owned(),
        shell,
    ];
    if let Some(uid) = user.uid {
        arguments.extend(["--uid".to_owned(), uid.to_string()]);
    }
    if let Some(gecos) = &user.gecos {
        arguments.extend(["--comment".to_owned(), gecos.clone()]);
    }
    if user.system {
        arguments.push("--system".to_owned());
    }
    if !user.groups.is_empty() {
        arguments.extend(["--groups".to_owned(), user.groups.join(",")]);
    }
    if let Some(group) = &user.primary_group {
        arguments.extend(["--gid".to_owned(), group.clone()]);
    } else if user.no_user_group {
        arguments.push("--no-user-group".to_owned());
    } else if own_group {
        arguments.extend(["--gid".to_owned(), user.name.clone()]);
    }
    if let Some(days) = user.inactive {
        arguments.extend(["--inactive".to_owned(), days.to_string()]);
    }
    if let Some(date) = &user.expiredate {
        arguments.extend(["--expiredate".to_owned(), date.clone()]);
    }
    arguments.push(user.name.clone());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: &User, own_group: bool) -> String {
        useradd(user, own_group).join(" ")
    }

    #[test]
    fn primary_group_is_never_made_twice() {
        let mut user = User::named("deploy");
        assert!(!line(&user, false).contains("--gid"));
        assert!(line(&user, true).contains("--gid deploy"));
        user.groups = vec!["docker".to_owned()];
        user.primary_group = Some("deployers".to_owned());
        let line = line(&user, true);
        assert!(line.contains("--groups docker --gid deployers"), "{line}");
        assert_eq!(
            groups_of(&user).collect::<Vec<_>>(),
            ["docker", "deployers"]
        );
        user.primary_group = Some("1000".to_owned());
        assert_eq!(groups_of(&user).collect::<Vec<_>>(), ["docker"]);
    }
}
