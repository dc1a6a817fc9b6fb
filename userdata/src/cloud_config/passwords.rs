//! `password`, `chpasswd` and the passwords of `users`.

use super::raw;
use crate::secret::Secret;
use yaml::{Diagnostics, Spans};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// A hash in the format of `/etc/shadow`. Empty: the account needs no password.
    Hash(Secret<String>),
    Text(Secret<String>),
    /// Made on the host and shown on its console, once.
    Random,
}

impl Password {
    /// A value as `password` and the lines of `chpasswd.list` have it.
    fn guess(text: String) -> Self {
        match text.as_str() {
            "R" | "RANDOM" => Password::Random,
            _ if is_hash(&text) => Password::Hash(text.into()),
            _ => Password::Text(text.into()),
        }
    }

    /// Whether it is set to nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Password::Hash(secret) | Password::Text(secret) => secret.expose().is_empty(),
            Password::Random => false,
        }
    }
}

/// `chpasswd`: passwords of users by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwords {
    /// The password must be changed at the first login; cloud-init's default is yes.
    pub expire: bool,
    pub users: Vec<(String, Password)>,
}

impl Default for Passwords {
    fn default() -> Self {
        Passwords {
            expire: true,
            users: Vec::new(),
        }
    }
}

/// The top-level `password`, of the default user.
pub(super) fn of_default_user(raw: Option<Secret<String>>) -> Option<Password> {
    raw.map(|password| Password::guess(password.into_exposed()))
}

pub(super) fn passwords(raw: raw::Chpasswd, spans: &Spans, found: &mut Diagnostics) -> Passwords {
    let mut users = Vec::new();
    for (i, user) in raw.users.into_iter().enumerate() {
        let at = format!("chpasswd.users[{i}]");
        if user.name.is_empty() || user.name.contains([':', '\n']) {
            found.push_unless_known(spans.error_at(&format!("{at}.name"), "not a user name", None));
            continue;
        }
        let password = match (user.kind, user.password) {
            (raw::PasswordKind::Random, _) => Password::Random,
            (_, None) => {
                let help = Some("or write `type: RANDOM`".to_owned());
                let message = "the key `password` is missing";
                found.push_unless_known(spans.error_at(&at, message, help));
                continue;
            }
            (raw::PasswordKind::Hash, Some(hash)) => {
                warn_unless_hash(&hash, &format!("{at}.password"), spans, found);
                Password::Hash(hash)
            }
            (raw::PasswordKind::Text, Some(text)) => Password::Text(text),
        };
        users.push((user.name, password));
    }
    let list = raw.list.map(Secret::into_exposed).unwrap_or_default();
    let lines = list.0.iter().flat_map(|text| text.lines()).map(str::trim);
    for line in lines.filter(|line| !line.is_empty()) {
        match line.split_once(':') {
            Some((name, password)) if !name.is_empty() => {
                users.push((name.to_owned(), Password::guess(password.to_owned())));
            }
            _ => found.push_unless_known(spans.error_at(
                "chpasswd.list",
                "each line must be `user:password`",
                None,
            )),
        }
    }
    Passwords {
        expire: raw.expire.unwrap_or(true),
        users,
    }
}

/// cloud-init stores any text as a hash, with which no login succeeds.
pub(super) fn warn_unless_hash(
    hash: &Secret<String>,
    at: &str,
    spans: &Spans,
    found: &mut Diagnostics,
) {
    let text = hash.expose();
    // `!` and `*` lock an account; thirteen characters are the oldest kind of hash.
    let known = text.is_empty()
        || text.starts_with(['$', '!', '*'])
        || text.len() == 13
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b));
    if !known {
        let help = "`mkpasswd` makes a hash; a password in plain text is `plain_text_passwd`, or \
                    `type: text`";
        let message = "not a password hash: no login succeeds with it";
        found.push(spans.warning_at(at, message, Some(help.to_owned())));
    }
}

/// cloud-init's own rule: `\$(1|2a|2y|5|6)(\$.+){2}`; and yescrypt, which Debian 13 writes.
pub(super) fn is_hash(password: &str) -> bool {
    let mut parts = password.split('$');
    parts.next() == Some("")
        && matches!(
            parts.next(),
            Some("1" | "2a" | "2b" | "2y" | "5" | "6" | "y")
        )
        && parts.filter(|part| !part.is_empty()).count() >= 2
        && !password.contains(':')
}
