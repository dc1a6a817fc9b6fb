//! Checks of a single value, shared by the topology (imagegen) and the document (firstboot).

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a value is not valid, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub message: String,
    pub help: Option<String>,
}

impl Invalid {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Invalid {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// For an error whose correction is obvious.
    pub fn without_help(message: impl Into<String>) -> Self {
        Invalid {
            message: message.into(),
            help: None,
        }
    }
}

/// An RFC 1123 label: the format of host names and of Kubernetes node names.
pub fn host_name(name: &str) -> Result<(), Invalid> {
    if is_label(name) {
        return Ok(());
    }
    let help = match name.split_once('.') {
        Some((first, _)) if is_label(first) => {
            format!("write `{first}`: the domain is added automatically")
        }
        _ => match corrected_label(name).as_str() {
            "" => "write a name such as `m0`".to_owned(),
            label => format!("write `{label}`"),
        },
    };
    Err(Invalid::new(
        "not an RFC 1123 label: lowercase letters, digits and `-`, at most 63 characters, with a \
         letter or digit at both ends",
        help,
    ))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The label closest to `text`; empty if none of its characters can be kept.
fn corrected_label(text: &str) -> String {
    let label: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    label.trim_matches('-').to_owned()
}

/// RFC 1123 labels separated by dots, at most 253 characters.
pub fn dns_name(name: &str) -> Result<(), Invalid> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(Invalid::new(
        "not a DNS name",
        "write lowercase labels separated by dots, such as `apiserver.cluster.local`",
    ))
}

/// The key of a Kubernetes label or taint: `disk`, `example.com/disk`.
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
    Err(Invalid::new(
        "not a Kubernetes label key",
        "write at most 63 letters, digits, `-`, `_` and `.`, with an optional domain and `/` \
         before them: `example.com/disk`",
    ))
}

/// The value of a Kubernetes label or taint.
pub fn label_value(value: &str) -> Result<(), Invalid> {
    if is_qualified(value) {
        return Ok(());
    }
    Err(Invalid::new(
        "not a Kubernetes label value",
        "write at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
    ))
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `key=value:Effect` or `key:Effect`.
pub fn taint(text: &str) -> Result<(), Invalid> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let Some((pair, effect)) = text.rsplit_once(':') else {
        return Err(Invalid::new(
            "the taint has no effect",
            format!("write `{text}:NoSchedule`"),
        ));
    };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    label_key(key)?;
    label_value(value)?;
    if EFFECTS.contains(&effect) {
        return Ok(());
    }
    let meant = yaml::nearest(effect, EFFECTS).unwrap_or(EFFECTS[0]);
    Err(Invalid::new(
        format!("unknown taint effect `{effect}`"),
        format!("write `{pair}:{meant}`"),
    ))
}

/// An address that a machine can have on a network.
pub fn unicast(address: IpAddr) -> Result<(), Invalid> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let what = match () {
        () if address.is_loopback() => "a loopback address, which never leaves its machine",
        () if address.is_unspecified() => "the unspecified address",
        () if address.is_multicast() => "a multicast address",
        () if broadcast => "the broadcast address",
        () if link_local => "a link-local address, which is not the same on every link",
        () => return Ok(()),
    };
    Err(Invalid::new(
        what,
        "write an ordinary address of the hosts' network",
    ))
}

/// An address that IPVS can balance on every host.
pub fn vip(vip: IpAddr) -> Result<(), Invalid> {
    if vip.is_loopback() {
        return Err(Invalid::new(
            "a loopback address cannot be the VIP: IPVS does not send packets with a 127/8 source \
             off the host, so connections are never answered",
            "write an unused private address, such as `10.103.97.2`",
        ));
    }
    unicast(vip).map_err(|invalid| {
        Invalid::new(
            invalid.message,
            "write an unused private address, such as `10.103.97.2`",
        )
    })
}

/// Whether two ranges have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(result: Result<(), Invalid>) -> String {
        result
            .err()
            .and_then(|invalid| invalid.help)
            .unwrap_or_default()
    }

    #[test]
    fn invalid_host_name_is_corrected() {
        for (name, corrected) in [
            ("M_0", "write `m-0`"),
            (
                "m0.example.com",
                "write `m0`: the domain is added automatically",
            ),
            ("--", "write a name such as `m0`"),
        ] {
            assert_eq!(help(host_name(name)), corrected, "{name}");
        }
    }

    #[test]
    fn mistyped_taint_effect_is_corrected() {
        assert_eq!(help(taint("a=b:NoShedule")), "write `a=b:NoSchedule`");
        assert_eq!(help(taint("only")), "write `only:NoSchedule`");
        assert_eq!(taint("only:NoExecute"), Ok(()));
    }

    #[test]
    fn vip_must_be_a_unicast_address() {
        for address in [
            "127.0.0.2",
            "::1",
            "0.0.0.0",
            "224.0.0.1",
            "169.254.0.1",
            "fe80::1",
        ] {
            assert!(
                vip(address.parse().expect("an address")).is_err(),
                "{address}"
            );
        }
        assert_eq!(vip(IpAddr::from([10, 103, 97, 2])), Ok(()));
    }
}
