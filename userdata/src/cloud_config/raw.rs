//! The supported keys as written, before they are decoded and checked.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::flex::{Command, OneOrMany, commands, names, values};
use crate::secret::Secret;
use yaml::Scalar;

/// Other top-level keys are judged by `keys`, so they are not refused here.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Top {
    pub(super) hostname: Option<String>,
    pub(super) fqdn: Option<String>,
    pub(super) prefer_fqdn_over_hostname: Option<bool>,
    pub(super) preserve_hostname: Option<bool>,
    pub(super) create_hostname_file: Option<bool>,
    pub(super) manage_etc_hosts: Option<Scalar>,
    pub(super) users: Option<Vec<UserEntry>>,
    pub(super) user: Option<UserEntry>,
    pub(super) system_info: Option<SystemInfo>,
    pub(super) groups: Groups,
    pub(super) ssh_authorized_keys: OneOrMany,
    pub(super) ssh_pwauth: Option<Scalar>,
    pub(super) disable_root: Option<bool>,
    pub(super) allow_public_ssh_keys: Option<bool>,
    pub(super) password: Option<Secret<String>>,
    pub(super) chpasswd: Option<Chpasswd>,
    pub(super) write_files: Vec<WriteFile>,
    #[serde(deserialize_with = "commands")]
    pub(super) bootcmd: Vec<Command>,
    #[serde(deserialize_with = "commands")]
    pub(super) runcmd: Vec<Command>,
    pub(super) ntp: Option<Ntp>,
    pub(super) timezone: Option<String>,
    #[serde(alias = "ca-certs")]
    pub(super) ca_certs: Option<CaCerts>,
    pub(super) mounts: Vec<Vec<Option<Scalar>>>,
    pub(super) mount_default_fields: Vec<Option<Scalar>>,
    pub(super) swap: Option<Swap>,
    pub(super) locale: Option<Scalar>,
    pub(super) locale_configfile: Option<String>,
    pub(super) ssh_keys: BTreeMap<String, Secret<String>>,
    pub(super) final_message: Option<String>,
    pub(super) phone_home: Option<PhoneHome>,
    pub(super) power_state: Option<PowerState>,
}

/// Its other keys configure cloud-init itself.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct SystemInfo {
    pub(super) default_user: Option<Box<User>>,
}

/// `default`, a name, or a mapping.
pub(super) enum UserEntry {
    Named(String),
    Full(Box<User>),
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct User {
    pub(super) name: Option<String>,
    pub(super) gecos: Option<String>,
    #[serde(deserialize_with = "names")]
    pub(super) groups: Vec<String>,
    #[serde(alias = "primary-group")]
    pub(super) primary_group: Option<String>,
    pub(super) homedir: Option<String>,
    pub(super) shell: Option<String>,
    pub(super) uid: Option<Scalar>,
    pub(super) sudo: OneOrMany,
    #[serde(alias = "lock-passwd")]
    pub(super) lock_passwd: Option<bool>,
    pub(super) passwd: Option<Secret<String>>,
    #[serde(alias = "hashed-passwd")]
    pub(super) hashed_passwd: Option<Secret<String>>,
    #[serde(alias = "plain-text-passwd")]
    pub(super) plain_text_passwd: Option<Secret<String>>,
    #[serde(alias = "ssh-authorized-keys", deserialize_with = "values")]
    pub(super) ssh_authorized_keys: OneOrMany,
    pub(super) inactive: Option<Scalar>,
    pub(super) expiredate: Option<String>,
    #[serde(alias = "no-create-home")]
    pub(super) no_create_home: Option<bool>,
    #[serde(alias = "no-user-group")]
    pub(super) no_user_group: Option<bool>,
    #[serde(alias = "no-log-init")]
    pub(super) no_log_init: Option<bool>,
    #[serde(alias = "create-groups")]
    pub(super) create_groups: Option<bool>,
    pub(super) system: Option<bool>,
    // Listed so that the error can give more than "unknown key".
    pub(super) doas: Option<serde::de::IgnoredAny>,
    #[serde(alias = "selinux-user")]
    pub(super) selinux_user: Option<serde::de::IgnoredAny>,
    pub(super) snapuser: Option<serde::de::IgnoredAny>,
    #[serde(alias = "ssh-import-id")]
    pub(super) ssh_import_id: Option<serde::de::IgnoredAny>,
    #[serde(alias = "ssh-redirect-user")]
    pub(super) ssh_redirect_user: Option<serde::de::IgnoredAny>,
}

impl<'de> Deserialize<'de> for UserEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> serde::de::Visitor<'de> for Entry {
            type Value = UserEntry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`default`, a name or a mapping")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<UserEntry, E> {
                Ok(UserEntry::Named(name.to_owned()))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<UserEntry, A::Error> {
                let user = User::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(UserEntry::Full(Box::new(user)))
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

/// `groups: [docker, admin: [alice, bob]]`, or `groups: "docker, admin"`.
#[derive(Default)]
pub(super) struct Groups(pub(super) Vec<(String, Vec<String>)>);

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;
        type List = Vec<(String, Vec<String>)>;
        fn named(names: &str) -> impl Iterator<Item = (String, Vec<String>)> + '_ {
            let names = names
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty());
            names.map(|name| (name.to_owned(), Vec::new()))
        }
        impl<'de> serde::de::Visitor<'de> for Shapes {
            type Value = List;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name, a list of names, or a mapping of names to members")
            }

            fn visit_str<E: serde::de::Error>(self, names: &str) -> Result<List, E> {
                Ok(named(names).collect())
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<List, E> {
                Ok(List::new())
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<List, A::Error> {
                let mut all = List::new();
                while let Some(groups) = items.next_element::<Groups>()? {
                    all.extend(groups.0);
                }
                Ok(all)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<List, A::Error> {
                let mut all = List::new();
                while let Some((name, members)) = map.next_entry::<String, OneOrMany>()? {
                    all.push((name, members.0));
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Shapes).map(Groups)
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Chpasswd {
    pub(super) expire: Option<bool>,
    pub(super) users: Vec<ChpasswdUser>,
    pub(super) list: Option<Secret<OneOrMany>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChpasswdUser {
    pub(super) name: String,
    #[serde(default)]
    pub(super) password: Option<Secret<String>>,
    #[serde(default, rename = "type")]
    pub(super) kind: PasswordKind,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum PasswordKind {
    #[default]
    #[serde(rename = "hash")]
    Hash,
    #[serde(rename = "text")]
    Text,
    #[serde(rename = "RANDOM")]
    Random,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFile {
    pub(super) path: String,
    #[serde(default)]
    pub(super) content: Option<Content>,
    #[serde(default)]
    pub(super) encoding: Option<String>,
    #[serde(default)]
    pub(super) permissions: Option<Scalar>,
    #[serde(default)]
    pub(super) owner: Option<String>,
    #[serde(default)]
    pub(super) append: bool,
    #[serde(default)]
    pub(super) defer: bool,
    #[serde(default)]
    pub(super) source: Option<serde::de::IgnoredAny>,
}

/// A file's content as it was written; `!!binary` is base64 already.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Content(pub(super) Secret<Scalar>);

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ntp {
    pub(super) enabled: Option<bool>,
    pub(super) servers: OneOrMany,
    pub(super) pools: OneOrMany,
    pub(super) peers: OneOrMany,
    pub(super) allow: OneOrMany,
    pub(super) ntp_client: Option<String>,
    pub(super) config: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CaCerts {
    #[serde(alias = "remove-defaults")]
    pub(super) remove_defaults: bool,
    pub(super) trusted: OneOrMany,
}

/// A swap file; without a size there is none.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Swap {
    pub(super) filename: Option<String>,
    pub(super) size: Option<Scalar>,
    pub(super) maxsize: Option<Scalar>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PhoneHome {
    pub(super) url: Option<String>,
    /// `all`, or names.
    pub(super) post: OneOrMany,
    pub(super) tries: Option<Scalar>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PowerState {
    pub(super) mode: Option<String>,
    pub(super) delay: Option<Scalar>,
    pub(super) message: Option<String>,
    pub(super) timeout: Option<Scalar>,
    pub(super) condition: Option<Condition>,
}

/// A boolean, a line for the shell, or the words of a command.
pub(super) enum Condition {
    Fixed(bool),
    Command(Command),
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;
        impl<'de> serde::de::Visitor<'de> for Shapes {
            type Value = Condition;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a boolean, a command or the words of one")
            }

            fn visit_bool<E: serde::de::Error>(self, fixed: bool) -> Result<Condition, E> {
                Ok(Condition::Fixed(fixed))
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Condition, E> {
                Ok(Condition::Command(Command::Shell(line.to_owned())))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<Condition, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = items.next_element::<String>()? {
                    words.push(word);
                }
                Ok(Condition::Command(Command::Argv(words)))
            }
        }
        deserializer.deserialize_any(Shapes)
    }
}
