//! The checks of a single value that both sides share: names, labels, taints, the VIP.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Problem;

/// Why a single value is not acceptable, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub message: String,
    pub help: Option<String>,
}

impl Invalid {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Invalid {
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn at(self, path: impl Into<String>) -> Problem {
        Problem {
            path: path.into(),
            message: self.message,
            help: self.help,
        }
    }
}

/// A label of RFC 1123, which host and node names are: Kubernetes makes labels of them.
pub fn host_name(name: &str) -> Result<(), Invalid> {
    let edges = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let inner = bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if inner && edges(bytes.first()) && edges(bytes.last()) && bytes.len() <= 63 {
        return Ok(());
    }
    Err(Invalid::new("not a host name").help(
        "lower-case letters, digits and `-`, at most 63, with a letter or digit at both ends",
    ))
}

/// One or more such labels with dots between, at most 253 characters.
pub fn dns_name(name: &str) -> Result<(), Invalid> {
    if name.len() <= 253 && name.split('.').all(|label| host_name(label).is_ok()) {
        return Ok(());
    }
    Err(Invalid::new("not a DNS name")
        .help("lower-case letters, digits, `-` and `.`, as in `apiserver.cluster.local`"))
}

/// A label's key: `disk`, `example.com/disk`.
pub fn label_key(key: &str) -> Result<(), Invalid> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_none_or(|prefix| dns_name(prefix).is_ok())
        && !name.is_empty()
        && is_qualified(name)
    {
        return Ok(());
    }
    Err(Invalid::new("not a label key")
        .help("as in `disk` or `example.com/disk`, the name at most 63 characters"))
}

pub fn label_value(value: &str) -> Result<(), Invalid> {
    if is_qualified(value) {
        return Ok(());
    }
    Err(Invalid::new("not a label value")
        .help("at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends"))
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edges = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edges(bytes.first())
        && edges(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `key=value:Effect` or `key:Effect`.
pub fn taint(text: &str) -> Result<(), Invalid> {
    let invalid = |message: &str| Invalid::new(message).help("as in `dedicated=gpu:NoSchedule`");
    let Some((pair, effect)) = text.rsplit_once(':') else {
        return Err(invalid("a taint ends with `:` and its effect"));
    };
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(invalid(
            "the effect must be `NoSchedule`, `PreferNoSchedule` or `NoExecute`",
        ));
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    label_key(key).map_err(|_| invalid("not a taint key"))?;
    label_value(value).map_err(|_| invalid("not a taint value"))
}

/// Whether an address can be the virtual one that IPVS balances.
pub fn vip(vip: IpAddr) -> Result<(), Invalid> {
    if vip.is_loopback() {
        return Err(Invalid::new("the VIP is a loopback address, and IPVS does not balance those")
            .help("the kernel drops answers to loopback addresses that come from another host; choose an unused private address, such as `10.103.97.2`"));
    }
    if vip.is_unspecified()
        || vip.is_multicast()
        || matches!(vip, IpAddr::V4(v4) if v4.is_broadcast() || v4.is_link_local())
    {
        return Err(Invalid::new("the VIP is not an address one host can hold")
            .help("choose an unused private address, such as `10.103.97.2`"));
    }
    Ok(())
}

pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}
