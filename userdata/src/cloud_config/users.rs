//! `users`, `user`, `chpasswd` and the other keys that control logins.

use super::flex::OneOrMany;
use super::keys;
use super::passwords::{self, Password};
use super::raw;
use crate::secret::Secret;
use yaml::{Diagnostics, Spans};

/// An entry of `users`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserEntry {
    /// The image's own default user.
    Default,
    User(Box<User>),
}

/// A user to make. `None` leaves the choice to the host's `useradd`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub gecos: Option<String>,
    /// Besides the primary group.
    pub groups: Vec<String>,
    pub primary_group: Option<String>,
    /// Groups that do not exist are made first.
    pub create_groups: bool,
    pub homedir: Option<String>,
    pub shell: Option<String>,
    pub uid: Option<u32>,
    /// Lines for sudoers, without the user's name.
    pub sudo: Vec<String>,
    /// No login by password; cloud-init's default.
    pub lock_passwd: bool,
    /// `plain_text_passwd` or `hashed_passwd`.
    pub password: Option<Password>,
    /// `passwd`: only for a user who does not exist yet.
    pub first_password: Option<Password>,
    pub ssh_authorized_keys: Vec<String>,
    /// Days after which an expired password locks the account.
    pub inactive: Option<u32>,
    /// `YYYY-MM-DD`
    pub expiredate: Option<String>,
    pub no_create_home: bool,
    pub no_user_group: bool,
    pub system: bool,
}

impl User {
    /// With cloud-init's defaults.
    pub fn named(name: impl Into<String>) -> Self {
        User {
            name: name.into(),
            create_groups: true,
            lock_passwd: true,
            ..User::default()
        }
    }
}

/// `user` and `system_info.default_user` change the distribution's default user: Multipass and MAAS
/// name the login by the second. Where both are given, this is `user`, with the name of the other
/// unless it has one.
pub(super) fn default_user(
    user: Option<raw::UserEntry>,
    system: Option<raw::SystemInfo>,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Option<User> {
    const SYSTEM: &str = "system_info.default_user";
    for key in spans
        .keys("system_info")
        .filter(|key| *key != "default_user")
    {
        let at = format!("system_info.{key}");
        let message = format!("`{at}` is ignored: {}", keys::CLOUD_INIT);
        found.push(spans.warning_at_key(&at, message, None));
    }
    let mut named = system.and_then(|system| system.default_user);
    let (at, raw) = match (user, named.take()) {
        (Some(raw::UserEntry::Full(mut user)), named) => {
            user.name = user.name.or(named.and_then(|named| named.name));
            ("user", raw::UserEntry::Full(user))
        }
        (Some(name), _) => ("user", name),
        (None, Some(named)) => (SYSTEM, raw::UserEntry::Full(named)),
        (None, None) => return None,
    };
    let raw = match raw {
        // `user: {shell: ..}` changes the default user without naming it.
        raw::UserEntry::Full(mut user) => {
            user.name.get_or_insert_with(|| "default".to_owned());
            raw::UserEntry::Full(user)
        }
        named => named,
    };
    let Some(UserEntry::User(mut user)) = entry(raw, at, spans, found) else {
        return None;
    };
    // As the distribution's default user, who may become root.
    let has_rule = spans.get(&format!("{at}.sudo")).is_some();
    if !matches!(user.name.as_str(), "default" | "root") && !has_rule {
        user.sudo = vec!["ALL=(ALL) NOPASSWD:ALL".to_owned()];
    }
    Some(*user)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub members: Vec<String>,
}

pub(super) fn groups(raw: raw::Groups, spans: &Spans, found: &mut Diagnostics) -> Vec<Group> {
    for (name, members) in &raw.0 {
        group_is_good(name, "groups", spans, found);
        for member in members {
            name_is_good(member, "groups", spans, found);
        }
    }
    let groups = raw.0.into_iter();
    groups
        .map(|(name, members)| Group { name, members })
        .collect()
}

pub(super) fn entry(
    raw: raw::UserEntry,
    at: &str,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Option<UserEntry> {
    match raw {
        raw::UserEntry::Named(name) if name == "default" => Some(UserEntry::Default),
        raw::UserEntry::Named(name) => {
            name_is_good(&name, at, spans, found);
            Some(UserEntry::User(Box::new(User::named(name))))
        }
        raw::UserEntry::Full(raw) => {
            user(*raw, at, spans, found).map(|user| UserEntry::User(Box::new(user)))
        }
    }
}

fn user(raw: raw::User, at: &str, spans: &Spans, found: &mut Diagnostics) -> Option<User> {
    let refused = [
        (raw.doas.is_some(), "doas", "use `sudo`"),
        (
            raw.selinux_user.is_some(),
            "selinux_user",
            "the image has no SELinux",
        ),
        (raw.snapuser.is_some(), "snapuser", "write the user out"),
        (
            raw.ssh_import_id.is_some(),
            "ssh_import_id",
            "write the keys under `ssh_authorized_keys`",
        ),
        (
            raw.ssh_redirect_user.is_some(),
            "ssh_redirect_user",
            "write the keys under `ssh_authorized_keys`",
        ),
    ];
    for (given, key, help) in refused {
        // An empty list asks for nothing.
        let path = spelled(spans, at, key);
        let empty = spans.text(&path).is_none() && spans.get(&format!("{path}[0]")).is_none();
        if given && !(key == "ssh_import_id" && empty) {
            let message = format!("`{key}` is not supported");
            found.push(spans.error_at_key(
                &spelled(spans, at, key),
                message,
                Some(help.to_owned()),
            ));
        }
    }
    let Some(name) = raw.name else {
        found.push_unless_known(spans.error_at(at, "the key `name` is missing", None));
        return None;
    };
    name_is_good(&name, &format!("{at}.name"), spans, found);
    for group in &raw.groups {
        group_is_good(group, &format!("{at}.groups"), spans, found);
    }
    if let Some(group) = &raw.primary_group
        && group.parse::<u32>().is_err()
    {
        group_is_good(group, &spelled(spans, at, "primary_group"), spans, found);
    }
    let mut number = |key: &str, scalar: Option<yaml::Scalar>| {
        let scalar = scalar?;
        let parsed = scalar.text.parse::<u32>().ok();
        if parsed.is_none() {
            found.push_unless_known(spans.error_at(
                &format!("{at}.{key}"),
                "expected a number, 0 or larger",
                None,
            ));
        }
        parsed
    };
    let uid = number("uid", raw.uid);
    let inactive = number("inactive", raw.inactive);
    let (keys_at, no_home) = (
        spelled(spans, at, "ssh_authorized_keys"),
        raw.no_create_home.unwrap_or(false),
    );
    let ssh_authorized_keys = keys(raw.ssh_authorized_keys, &keys_at, spans, found);
    if no_home && !ssh_authorized_keys.is_empty() {
        found.push_unless_known(spans.error_at(
            &keys_at,
            "a user without a home folder cannot hold SSH keys",
            None,
        ));
    }
    for (key, value) in [
        ("gecos", &raw.gecos),
        ("homedir", &raw.homedir),
        ("shell", &raw.shell),
    ] {
        if value
            .as_ref()
            .is_some_and(|value| value.contains([':', '\n', '\0']))
        {
            found.push_unless_known(spans.error_at(
                &format!("{at}.{key}"),
                "it cannot hold `:` or line breaks",
                None,
            ));
        }
    }
    if raw.expiredate.as_deref().is_some_and(|date| !is_date(date)) {
        let help = "write the day the account ends, as in `2038-01-19`".to_owned();
        let at = format!("{at}.expiredate");
        found.push_unless_known(spans.error_at(&at, "not a date", Some(help)));
    }
    let mut hash = |key: &str, hash: Option<Secret<String>>| {
        let hash = hash?;
        passwords::warn_unless_hash(&hash, &spelled(spans, at, key), spans, found);
        Some(Password::Hash(hash))
    };
    let hashed = hash("hashed_passwd", raw.hashed_passwd);
    let first_password = hash("passwd", raw.passwd);
    Some(User {
        name,
        gecos: raw.gecos,
        groups: raw.groups,
        create_groups: raw.create_groups.unwrap_or(true),
        primary_group: raw.primary_group,
        homedir: raw.homedir,
        shell: raw.shell,
        uid,
        sudo: raw.sudo.0,
        lock_passwd: raw.lock_passwd.unwrap_or(true),
        // cloud-init sets both, and the hash last.
        password: hashed.or(raw.plain_text_passwd.map(Password::Text)),
        first_password,
        ssh_authorized_keys,
        inactive,
        expiredate: raw.expiredate,
        no_create_home: no_home,
        no_user_group: raw.no_user_group.unwrap_or(false),
        system: raw.system.unwrap_or(false),
    })
}

/// What `useradd --expiredate` takes.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, length: usize, range: std::ops::RangeInclusive<u32>| {
        part.len() == length && part.parse().is_ok_and(|number| range.contains(&number))
    };
    matches!(parts.as_slice(), [year, month, day]
        if number(year, 4, 1970..=9999) && number(month, 2, 1..=12) && number(day, 2, 1..=31))
}

/// The path of a user's key in the spelling the document chose.
fn spelled(spans: &Spans, at: &str, key: &str) -> String {
    let hyphens = format!("{at}.{}", key.replace('_', "-"));
    if spans.get(&hyphens).is_some() {
        hyphens
    } else {
        format!("{at}.{key}")
    }
}

fn name_is_good(name: &str, at: &str, spans: &Spans, found: &mut Diagnostics) {
    is_good(name, "a user", at, spans, found);
}

fn group_is_good(name: &str, at: &str, spans: &Spans, found: &mut Diagnostics) {
    is_good(name, "a group", at, spans, found);
}

/// What `useradd` and `groupadd` take.
fn is_good(name: &str, what: &str, at: &str, spans: &Spans, found: &mut Diagnostics) {
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if !(first && rest && name.len() <= 32) {
        let help = "up to 32 letters, digits, `_`, `-` and `.`, the first a letter or `_`";
        found.push_unless_known(spans.error_at(
            at,
            format!("not {what} name"),
            Some(help.to_owned()),
        ));
    }
}

/// One key a line; a text of several lines is several keys.
pub(super) fn keys(
    raw: OneOrMany,
    at: &str,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Vec<String> {
    let lines = raw
        .0
        .iter()
        .flat_map(|text| text.lines())
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    if keys
        .iter()
        .any(|key| !key.contains(' ') || key.contains("PRIVATE KEY"))
    {
        let help = "a key looks like `ssh-ed25519 AAAA… comment`";
        found.push_unless_known(spans.error_at(at, "not a public SSH key", Some(help.to_owned())));
    }
    keys
}
