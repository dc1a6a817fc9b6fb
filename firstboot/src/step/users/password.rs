//! Passwords of accounts: those of `users`, then those of `chpasswd`, each set once.

use anyhow::{Context, Result, bail};

use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::files::Root;
use crate::system::{accounts, command, machine};
use userdata::cloud_config::{Password, Passwords, User};

/// What happens to the password of a user.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Set(&'a Password),
    /// The account needs no password.
    Clear,
    Lock,
    Unlock,
    /// There is no password to unlock.
    Nothing,
}

/// The changes of an entry of `users`, in order, as cloud-init makes them.
///
/// `new`: the document makes the user. `has_password`: an existing user has one, locked or not.
fn changes(user: &User, new: bool, has_password: bool) -> Vec<Change<'_>> {
    let first = user.first_password.as_ref().filter(|_| new);
    let password = user.password.as_ref().or(first);
    let mut changes = Vec::new();
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        changes.push(Change::Set(password));
    }
    changes.push(match password {
        _ if user.lock_passwd => Change::Lock,
        Some(password) if password.is_empty() => Change::Clear,
        Some(_) => Change::Unlock,
        None if has_password => Change::Unlock,
        None => Change::Nothing,
    });
    changes
}

/// Whether every password is set for this instance.
pub(super) fn are_set(record: &Applied, users: &[User], passwords: &Passwords) -> bool {
    users
        .iter()
        .all(|user| record.has(&user_key(&user.name), &user_parts(user)))
        && passwords.users.iter().all(|(name, password)| {
            record.has(&list_key(name), &list_parts(password, passwords.expire))
        })
}

/// Refuses a password of a user who does not exist, before the first change.
pub(super) fn check(root: &Root, users: &[User], passwords: &Passwords) -> Result<()> {
    for (name, _) in &passwords.users {
        // A directory of `--root` need not hold the table.
        if root.exists("/etc/passwd")
            && !users.iter().any(|user| user.name == *name)
            && accounts::user(root, name)?.is_none()
        {
            bail!("chpasswd: user `{name}` does not exist; add it to `users`");
        }
    }
    Ok(())
}

pub(super) fn set(
    root: &Root,
    record: &mut Applied,
    users: &[User],
    passwords: &Passwords,
    is_new: impl Fn(&Applied, &User) -> bool,
    report: &mut Reporter,
) -> Result<()> {
    for user in users {
        let (key, parts) = (user_key(&user.name), user_parts(user));
        if record.has(&key, &parts) {
            continue;
        }
        let new = is_new(record, user);
        if !new && user.password.is_none() && user.first_password.is_some() {
            log::warn!(
                "users: `passwd` of `{}` is ignored, because the user exists; use `hashed_passwd`",
                user.name
            );
        }
        let current = accounts::password(root, &user.name)?.unwrap_or_default();
        let has_password = !current.trim_start_matches('!').trim_matches('*').is_empty();
        for change in changes(user, new, has_password) {
            apply(&user.name, &change, report)
                .with_context(|| format!("setting the password of user `{}`", user.name))?;
        }
        record.set(&key, parts);
        record.save()?;
    }
    for (name, password) in &passwords.users {
        let (key, parts) = (list_key(name), list_parts(password, passwords.expire));
        if record.has(&key, &parts) {
            continue;
        }
        apply(name, &Change::Set(password), report)
            .and_then(|()| match passwords.expire {
                true => command::run("passwd", &["--expire", name]),
                false => Ok(()),
            })
            .with_context(|| format!("setting the password of user `{name}`"))?;
        record.set(&key, parts);
        record.save()?;
    }
    Ok(())
}

fn apply(name: &str, change: &Change<'_>, report: &mut Reporter) -> Result<()> {
    match change {
        Change::Set(Password::Hash(hash)) => {
            let line = format!("{name}:{}\n", hash.expose());
            command::run_with_input("chpasswd", &["--encrypted"], line.as_bytes())
        }
        Change::Set(Password::Text(text)) => {
            let line = format!("{name}:{}\n", text.expose());
            command::run_with_input("chpasswd", &[], line.as_bytes())
        }
        Change::Set(Password::Random) => {
            let password = machine::random_word(20)?;
            let line = format!("{name}:{password}\n");
            command::run_with_input("chpasswd", &[], line.as_bytes())?;
            // Not to the journal, which more people read than the console.
            report.console_only(&format!("the random password of {name} is {password}"));
            Ok(())
        }
        Change::Clear => command::run("passwd", &["--delete", name]),
        Change::Lock => command::run("usermod", &["--lock", name]),
        Change::Unlock => command::run("usermod", &["--unlock", name]),
        Change::Nothing => {
            log::warn!("users: `{name}` stays locked: `lock_passwd` is false without a password");
            Ok(())
        }
    }
}

fn user_key(name: &str) -> String {
    format!("password:{name}")
}

fn list_key(name: &str) -> String {
    format!("chpasswd:{name}")
}

fn user_parts(user: &User) -> Vec<String> {
    let none = || (b"-".as_slice(), b"".as_slice());
    let (kind, text) = user.password.as_ref().map_or_else(none, bytes);
    let (first_kind, first) = user.first_password.as_ref().map_or_else(none, bytes);
    let lock = [u8::from(user.lock_passwd)];
    vec![digest([kind, text, first_kind, first, &lock])]
}

fn list_parts(password: &Password, expire: bool) -> Vec<String> {
    let (kind, text) = bytes(password);
    vec![digest([kind, text, &[u8::from(expire)]])]
}

fn bytes(password: &Password) -> (&[u8], &[u8]) {
    match password {
        Password::Hash(hash) => (b"hash", hash.expose().as_bytes()),
        Password::Text(text) => (b"text", text.expose().as_bytes()),
        Password::Random => (b"random", b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(edit: impl FnOnce(&mut User)) -> User {
        let mut user = User::named("ops");
        edit(&mut user);
        user
    }

    /// `Distro.create_user` of cloud-init 25.1.
    #[test]
    fn passwords_of_users_are_those_of_cloud_init() {
        let hash = || Password::Hash("$6$salt$hash".to_owned().into());
        let text = || Password::Text("pw".to_owned().into());
        let empty = || Password::Hash(String::new().into());
        let open = |user: &mut User| user.lock_passwd = false;
        let account = user(|_| ());
        assert_eq!(changes(&account, true, false), [Change::Lock]);
        let account = user(|user| user.password = Some(text()));
        assert_eq!(
            changes(&account, true, false),
            [Change::Set(&text()), Change::Lock]
        );
        let account = user(|user| {
            open(user);
            user.first_password = Some(hash());
        });
        assert_eq!(
            changes(&account, true, false),
            [Change::Set(&hash()), Change::Unlock]
        );
        // `passwd` is for new users only.
        assert_eq!(changes(&account, false, false), [Change::Nothing]);
        assert_eq!(changes(&account, false, true), [Change::Unlock]);
        let account = user(|user| {
            open(user);
            user.password = Some(empty());
        });
        assert_eq!(changes(&account, false, true), [Change::Clear]);
        assert_eq!(changes(&user(open), true, false), [Change::Nothing]);
    }

    #[test]
    fn changed_password_is_set_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut record = Applied::open(&root, "i").unwrap();
        let passwords = |text: &str| Passwords {
            expire: false,
            users: vec![("ops".to_owned(), Password::Text(text.to_owned().into()))],
        };
        let (_, one) = &passwords("one").users[0];
        record.set(&list_key("ops"), list_parts(one, false));
        assert!(are_set(&record, &[], &passwords("one")));
        assert!(!are_set(&record, &[], &passwords("two")));
        let mut expires = passwords("one");
        expires.expire = true;
        assert!(!are_set(&record, &[], &expires));
    }

    #[test]
    fn password_of_an_unknown_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mode = crate::system::files::Attributes::mode(0o644);
        root.write("/etc/passwd", b"root:x:0:0::/root:/bin/sh\n", mode)
            .unwrap();
        let of = |name: &str| Passwords {
            expire: false,
            users: vec![(name.to_owned(), Password::Random)],
        };
        check(&root, &[], &of("root")).unwrap();
        check(&root, &[User::named("ops")], &of("ops")).unwrap();
        let error = check(&root, &[], &of("ops")).unwrap_err().to_string();
        assert!(error.contains("user `ops` does not exist"), "{error}");
    }
}
