//! Who may log in, by cloud-init's rules (`ug_util.normalize_users_groups`, `cc_ssh`).
//!
//! Keys of the top level and of the meta-data go to the default user and to root. While root is
//! disabled, its copies only print which user to log in as.

use super::Document;
use crate::cloud_config::{CloudConfig, Passwords, User, UserEntry};
use yaml::{Diagnostics, Spans};

/// The user `default` of a cloud-config: the image has no other.
const DEFAULT_USER: &str = "root";

/// The name of the default user in an entry of `users`.
const DEFAULT: &str = "default";

/// cloud-init's `disable_root_opts` up to the message.
const LOCK: &str = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command=";

/// Whether a line of `authorized_keys` only tells its user to log in as another user.
pub fn is_locked_key(line: &str) -> bool {
    line.starts_with(LOCK)
}

impl Document {
    /// The keys of the default user, from the cloud-config and the meta-data, without duplicates.
    pub fn ssh_authorized_keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = Vec::new();
        let config = &self.cloud_config;
        let public = self
            .meta_data
            .public_keys
            .iter()
            .filter(|_| config.allow_public_ssh_keys != Some(false));
        for key in config.ssh_authorized_keys.iter().chain(public) {
            if !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        keys
    }

    /// `chpasswd`, or else the top-level `password` of the default user.
    pub fn passwords(&self) -> Passwords {
        let config = &self.cloud_config;
        let mut passwords = config.passwords.clone();
        if let (true, Some(password)) = (passwords.users.is_empty(), &config.password)
            && has_default(config)
        {
            let user = (default_name(config).to_owned(), password.clone());
            passwords.users.push(user);
        }
        passwords
    }

    /// The users to make, each once, with all keys that each of them gets.
    pub fn users(&self) -> Vec<User> {
        let config = &self.cloud_config;
        let keys: Vec<String> = self
            .ssh_authorized_keys()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let default = default_name(config);
        let mut users = Vec::<User>::new();
        for entry in entries(config) {
            let user = match entry {
                UserEntry::Default => default_user(config),
                UserEntry::User(user) if user.name == DEFAULT => User {
                    name: default.to_owned(),
                    ..*user
                },
                UserEntry::User(user) => *user,
            };
            match users.iter_mut().find(|known| known.name == user.name) {
                Some(known) => known.ssh_authorized_keys.extend(user.ssh_authorized_keys),
                None => users.push(user),
            }
        }
        if keys.is_empty() {
            return without_keyless_users(users, config);
        }
        if has_default(config)
            && let Some(user) = users.iter_mut().find(|user| user.name == default)
        {
            add(user, &keys);
        }
        let at = users.iter().position(|user| user.name == DEFAULT_USER);
        let at = at.unwrap_or_else(|| {
            users.push(User::named(DEFAULT_USER));
            users.len() - 1
        });
        let root = &mut users[at];
        if root_is_disabled(config) {
            // As cloud-init does: a key that root has of its own stays, unless it is one of these.
            root.ssh_authorized_keys.retain(|key| !keys.contains(key));
            let advice = if has_default(config) { default } else { "NONE" };
            let locked = keys.iter().map(|key| lock(key, advice));
            root.ssh_authorized_keys.extend(locked);
        } else {
            add(root, &keys);
        }
        without_keyless_users(users, config)
    }
}

/// A document without users and without keys changes no user.
fn without_keyless_users(mut users: Vec<User>, config: &CloudConfig) -> Vec<User> {
    if config.users.is_none() && config.default_user.is_none() {
        users.retain(|user| !user.ssh_authorized_keys.is_empty());
    }
    users
}

fn add(user: &mut User, keys: &[String]) {
    for key in keys {
        if !user.ssh_authorized_keys.contains(key) {
            user.ssh_authorized_keys.push(key.clone());
        }
    }
}

fn lock(key: &str, user: &str) -> String {
    format!(
        "{LOCK}\"echo 'Please login as the user \\\"{user}\\\" rather than the user \
         \\\"{DEFAULT_USER}\\\".';echo;sleep 10;exit 142\" {key}"
    )
}

/// The entries of `users`. `user` makes its user the default one and adds it to any list.
fn entries(config: &CloudConfig) -> Vec<UserEntry> {
    let mut entries = match &config.users {
        None => vec![UserEntry::Default],
        Some(entries) => entries.clone(),
    };
    if config.default_user.is_some() && !entries.iter().any(is_default) {
        entries.push(UserEntry::Default);
    }
    entries
}

fn is_default(entry: &UserEntry) -> bool {
    match entry {
        UserEntry::Default => true,
        UserEntry::User(user) => user.name == DEFAULT,
    }
}

fn has_default(config: &CloudConfig) -> bool {
    entries(config).iter().any(is_default)
}

fn default_name(config: &CloudConfig) -> &str {
    config
        .default_user
        .as_ref()
        .map(|user| user.name.as_str())
        .filter(|name| *name != DEFAULT)
        .unwrap_or(DEFAULT_USER)
}

fn default_user(config: &CloudConfig) -> User {
    let name = default_name(config).to_owned();
    match config.default_user.clone() {
        Some(given) => User { name, ..given },
        None => User::named(name),
    }
}

/// cloud-init disables root unless the document says otherwise. Here root is the default user of an
/// image that has no other, and then no login would be possible.
fn root_is_disabled(config: &CloudConfig) -> bool {
    let only_root = has_default(config) && default_name(config) == DEFAULT_USER;
    config.disable_root.unwrap_or(!only_root)
}

/// Warns of each key that allows no login.
pub(super) fn check(document: &Document, config: &Spans, meta: &Spans, found: &mut Diagnostics) {
    let cloud_config = &document.cloud_config;
    let has_default = has_default(cloud_config);
    if cloud_config.password.is_some() && !has_default && cloud_config.passwords.users.is_empty() {
        let message = "`password` is of no use: `users` has no `default`";
        let help = Some("add `default` to `users`, or use `chpasswd`".to_owned());
        found.push(config.warning_at_key("password", message, help));
    }
    let default = default_name(cloud_config);
    if !root_is_disabled(cloud_config) || has_default && default != DEFAULT_USER {
        return;
    }
    let (why, help) = if has_default {
        (
            "`disable_root` is true, and root is the default user",
            "name another user in `user`, or set `disable_root: false`",
        )
    } else {
        (
            "`users` has no `default`, and root is disabled",
            "add `default` to `users`, give the key to a user, or set `disable_root: false`",
        )
    };
    // A key that a user of the list has too is of use.
    let users = document.users();
    let used = |key: &String| {
        users
            .iter()
            .any(|user| user.ssh_authorized_keys.contains(key))
    };
    let message = format!("this SSH key allows no login: {why}");
    let at = "ssh_authorized_keys";
    for (i, key) in cloud_config.ssh_authorized_keys.iter().enumerate() {
        if !used(key) {
            let item = format!("{at}[{i}]");
            let path = if config.get(&item).is_some() {
                item.as_str()
            } else {
                at
            };
            found.push(config.warning_at(path, &message, Some(help.to_owned())));
        }
    }
    let public = document.meta_data.public_keys.iter();
    if cloud_config.allow_public_ssh_keys != Some(false) && public.clone().any(|key| !used(key)) {
        let key = if meta.get("public_keys").is_some() {
            "public_keys"
        } else {
            "public-keys"
        };
        found.push(meta.warning_at_key(
            key,
            format!("these SSH keys allow no login: {why}"),
            Some(help.to_owned()),
        ));
    }
}
