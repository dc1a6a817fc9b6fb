//! What a single value of the topology may be, and what to write instead.
//!
//! Knows nothing of other values or of positions.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// Why a value is refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub help: Option<String>,
}

impl Refusal {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: Some(help.into()),
        }
    }
}

type Checked<T> = Result<T, Refusal>;

/// A label of RFC 1123 in lower case, as Kubernetes wants node names and hosts want host names.
pub fn label(text: &str) -> Checked<String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| inner(b) || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits {
        return Ok(text.to_owned());
    }
    let help = match text.split_once('.') {
        Some((first, _)) if label(first).is_ok() => {
            format!("write `{first}`: the domain is added by itself")
        }
        _ => {
            let mended: String = text
                .to_lowercase()
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .take(63)
                .collect();
            let mended = mended.trim_matches('-');
            if mended.is_empty() {
                "write a name such as `m0`".to_owned()
            } else {
                format!("write `{mended}`")
            }
        }
    };
    Err(Refusal::new(
        "not a name of RFC 1123: lower-case letters, digits and `-` between them, at most 63",
        help,
    ))
}

/// A domain of RFC 1123 in lower case.
pub fn domain(text: &str) -> Checked<String> {
    if text.len() <= 253 && text.split('.').all(|part| label(part).is_ok()) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        "not a domain name of RFC 1123",
        "write lower-case labels with dots, `apiserver.cluster.local`",
    ))
}

/// The key of a Kubernetes label or taint: `[prefix/]name`.
pub fn label_key(text: &str) -> Checked<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_some_and(|prefix| domain(prefix).is_err())
        || name.is_empty()
        || label_value(name).is_err()
    {
        return Err(Refusal::new(
            "not a key of a Kubernetes label",
            "write letters, digits, `-`, `_` and `.`, at most 63, with a domain and `/` before it at will: \
             `example.com/disk`",
        ));
    }
    Ok(text.to_owned())
}

/// The value of a Kubernetes label or taint.
pub fn label_value(text: &str) -> Checked<String> {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let fits = bytes.len() <= 63
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && edge(bytes.first())
        && edge(bytes.last());
    if fits {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        "not a value of a Kubernetes label",
        "write letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends",
    ))
}

/// A label that kubelet agrees to give its own node (Kubernetes `pkg/kubelet/apis/well_known_labels.go`).
pub fn node_label_key(text: &str) -> Checked<String> {
    label_key(text)?;
    let Some((prefix, _)) = text.split_once('/') else {
        return Ok(text.to_owned());
    };
    let below = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    const KNOWN: [&str; 10] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    ];
    let allowed = !(below("kubernetes.io") || below("k8s.io"))
        || below("kubelet.kubernetes.io")
        || below("node.kubernetes.io")
        || KNOWN.contains(&text);
    if allowed {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(
        "a kubelet refuses to give itself this label: names below `kubernetes.io` and `k8s.io` are reserved",
        "write it under `node.kubernetes.io/` or under a domain of your own",
    ))
}

/// `key=value:Effect` or `key:Effect`.
pub fn taint(text: &str) -> Checked<String> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let Some((what, effect)) = text.rsplit_once(':') else {
        return Err(Refusal::new(
            "a taint needs an effect",
            format!("write `{text}:NoSchedule`"),
        ));
    };
    let (key, value) = what.split_once('=').unwrap_or((what, ""));
    label_key(key)?;
    label_value(value)?;
    if EFFECTS.contains(&effect) {
        return Ok(text.to_owned());
    }
    let meant = nearest(effect, &EFFECTS).unwrap_or("NoSchedule");
    Err(Refusal::new(
        format!("no taint has the effect `{effect}`"),
        format!("write `{what}:{meant}`"),
    ))
}

/// A MAC address of one card, in lower case with colons; dashes, dots and nothing between are read too.
pub fn mac(text: &str) -> Checked<String> {
    let wanted = || {
        Refusal::new(
            "not a MAC address",
            "write six pairs of hex digits, `\"52:54:00:00:07:10\"`",
        )
    };
    let digits: String = text
        .chars()
        .filter(|c| !":-.".contains(*c))
        .collect::<String>()
        .to_lowercase();
    if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wanted());
    }
    let separated = |mark: char, group: usize| {
        text.contains(mark)
            && text
                .split(mark)
                .all(|part| part.len() == group && !part.contains([':', '-', '.']))
    };
    if !(text.len() == 12 || separated(':', 2) || separated('-', 2) || separated('.', 4)) {
        return Err(wanted());
    }
    let pairs: Vec<&str> = (0..6).map(|i| &digits[2 * i..2 * i + 2]).collect();
    if u8::from_str_radix(pairs[0], 16).is_ok_and(|first| first & 1 == 1) {
        return Err(Refusal::new(
            "a group address, which no card has",
            "write the card's own, as `ip link` shows it",
        ));
    }
    if digits == "000000000000" {
        return Err(Refusal::new(
            "an address no card has",
            "write the card's own, as `ip link` shows it",
        ));
    }
    Ok(pairs.join(":"))
}

/// An IP address without prefix.
pub fn ip(text: &str) -> Checked<IpAddr> {
    text.parse().map_err(|_| match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => Refusal::new(
            "an address without prefix is wanted here",
            format!("write `{address}`"),
        ),
        _ => Refusal::new("not an IP address", "write `192.168.7.1` or `fd00::1`"),
    })
}

/// A host's own address with its prefix.
pub fn host_address(text: &str) -> Checked<IpNet> {
    let net: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Refusal::new("the prefix is missing", format!("write `{text}/24`")),
        Ok(IpAddr::V6(_)) => Refusal::new("the prefix is missing", format!("write `{text}/64`")),
        Err(_) => Refusal::new(
            "not an address with prefix",
            "write `192.168.7.10/24` or `fd00::10/64`",
        ),
    })?;
    let whole = net.prefix_len() == net.max_prefix_len();
    let point_to_point = net.prefix_len() + 1 == net.max_prefix_len();
    let address = net.addr();
    if !whole
        && !point_to_point
        && (address == net.network() || (address.is_ipv4() && address == net.broadcast()))
    {
        return Err(Refusal::new(
            format!(
                "the address of the network `{}` itself, not of a host in it",
                net.trunc()
            ),
            "write the host's own address",
        ));
    }
    unicast(address)?;
    Ok(net)
}

/// An address a machine on a network can have.
pub fn unicast(address: IpAddr) -> Checked<()> {
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
    Err(Refusal::new(
        what,
        "write an ordinary address of the hosts' network",
    ))
}

/// A range of addresses.
pub fn range(text: &str) -> Checked<IpNet> {
    let net: IpNet = text.parse().map_err(|_| {
        Refusal::new(
            "not a range of addresses",
            "write `10.244.0.0/16` or `fd00:10:244::/56`",
        )
    })?;
    if net.addr() == net.network() {
        Ok(net)
    } else {
        Err(Refusal::new(
            "the range has host bits set",
            format!("write `{}`", net.trunc()),
        ))
    }
}

/// `20m`, `90s`, `1h30m`.
pub fn duration(text: &str) -> Checked<Duration> {
    let wanted = || {
        Refusal::new(
            "not a length of time",
            "write hours, minutes and seconds: `20m`, `90s`, `1h30m`",
        )
    };
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(wanted)?;
        let number: u64 = rest[..end].parse().map_err(|_| wanted())?;
        let unit = match rest.as_bytes()[end] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wanted()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|s| s.checked_add(seconds))
            .ok_or_else(wanted)?;
        rest = &rest[end + 1..];
    }
    if seconds == 0 {
        Err(wanted())
    } else {
        Ok(Duration::from_secs(seconds))
    }
}

/// `100y` or `3650d`, in days; a year has 365.25.
pub fn validity_days(text: &str) -> Checked<u32> {
    let wanted = || Refusal::new("not a validity", "write years or days: `100y`, `3650d`");
    let days = match text.strip_suffix('y') {
        Some(years) => years
            .parse::<u32>()
            .ok()
            .and_then(|years| years.checked_mul(1461))
            .map(|quarter| quarter / 4),
        None => text
            .strip_suffix('d')
            .ok_or_else(wanted)?
            .parse::<u32>()
            .ok(),
    };
    match days.ok_or_else(wanted)? {
        0 => Err(Refusal::new(
            "certificates that end before they begin",
            "write at least `1d`",
        )),
        days if days > 365_250 => Err(Refusal::new(
            "more than 1000 years",
            "write at most `1000y`",
        )),
        days => Ok(days),
    }
}

/// A line of an `authorized_keys` file.
pub fn ssh_key(text: &str) -> Checked<String> {
    use base64::Engine as _;
    if text.contains("PRIVATE KEY") {
        return Err(Refusal::new(
            "a private key",
            "write the public half, the line in the file that ends in `.pub`",
        ));
    }
    let wanted = || {
        Refusal::new(
            "not an OpenSSH public key",
            "write one line such as `ssh-ed25519 AAAA… name@host`",
        )
    };
    // Options may stand before the type; the type is repeated inside the key's own bytes.
    let words: Vec<&str> = text.split_whitespace().collect();
    let found = words.windows(2).any(|pair| {
        base64::engine::general_purpose::STANDARD
            .decode(pair[1])
            .is_ok_and(|blob| {
                blob.len() > 4 + pair[0].len()
                    && blob[..4] == (pair[0].len() as u32).to_be_bytes()
                    && blob[4..].starts_with(pair[0].as_bytes())
            })
    });
    if found && !text.contains(['\n', '\r']) {
        Ok(text.trim().to_owned())
    } else {
        Err(wanted())
    }
}

/// The candidate a mistyped word was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &candidate.to_lowercase()),
                *candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 2).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
