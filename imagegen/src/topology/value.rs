//! Checks single values of a topology, besides those that documents share.
//!
//! Independent of other values and of positions.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use userdata::document::is_placeholder;

pub use userdata::value::{
    Invalid, dns_name, host_name, label_key, label_value, overlap, taint, unicast, vip,
};

use crate::pki::issue::AUTHORITY_DAYS;

pub(super) type Checked<T> = Result<T, Invalid>;

/// A label that kubelet may set on its own node (Kubernetes
/// `pkg/kubelet/apis/well_known_labels.go`).
pub fn node_label_key(text: &str) -> Checked<()> {
    label_key(text)?;
    let Some((prefix, _)) = text.split_once('/') else {
        return Ok(());
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
        return Ok(());
    }
    Err(Invalid::new(
        "kubelet may not set this label: names below `kubernetes.io` and `k8s.io` are reserved",
        "write it below `node.kubernetes.io/` or your own domain",
    ))
}

/// A DMI serial number. What mainboards have without one is refused: it fits many machines.
pub fn serial(text: &str) -> Checked<String> {
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Invalid::new(
            "not a serial number",
            "write what `dmidecode -s system-serial-number` prints on the machine",
        ));
    }
    if is_placeholder(text) {
        return Err(Invalid::new(
            format!("`{text}` is what machines without a serial number have"),
            "remove this line; the MAC address tells the machine apart",
        ));
    }
    Ok(text.to_owned())
}

/// An SMBIOS UUID, in lower case and in groups.
pub fn uuid(text: &str) -> Checked<String> {
    let Ok(uuid) = uuid::Uuid::try_parse(text.trim()) else {
        return Err(Invalid::new(
            "not a UUID",
            "write what `dmidecode -s system-uuid` prints on the machine",
        ));
    };
    let text = uuid.hyphenated().to_string();
    if is_placeholder(&text) {
        return Err(Invalid::new(
            format!("`{text}` is what machines without a UUID have"),
            "remove this line; the MAC address tells the machine apart",
        ));
    }
    Ok(text)
}

/// The MAC address of one card, in lower case with colons. Dashes, dots or no separators are valid
/// too.
pub fn mac(text: &str) -> Checked<String> {
    let invalid = || {
        Invalid::new(
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
        return Err(invalid());
    }
    let separated = |mark: char, group: usize| {
        text.contains(mark)
            && text
                .split(mark)
                .all(|part| part.len() == group && !part.contains([':', '-', '.']))
    };
    if !(text.len() == 12 || separated(':', 2) || separated('-', 2) || separated('.', 4)) {
        return Err(invalid());
    }
    let pairs: Vec<&str> = (0..6).map(|i| &digits[2 * i..2 * i + 2]).collect();
    if u8::from_str_radix(pairs[0], 16).is_ok_and(|first| first & 1 == 1) {
        return Err(Invalid::new(
            "a multicast address, which no card has",
            "write the card's own, as `ip link` shows it",
        ));
    }
    if digits == "000000000000" {
        return Err(Invalid::new(
            "an address no card has",
            "write the card's own, as `ip link` shows it",
        ));
    }
    Ok(pairs.join(":"))
}

/// An IP address without prefix.
pub fn ip(text: &str) -> Checked<IpAddr> {
    text.parse().map_err(|_| match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => Invalid::new(
            "an address with prefix length instead of an address",
            format!("write `{address}`"),
        ),
        _ => Invalid::new("not an IP address", "write `192.168.7.1` or `fd00::1`"),
    })
}

/// A name of a certificate: an IP address, a DNS name, or a wildcard for one label of it.
pub fn certificate_name(text: &str) -> Checked<String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    dns_name(text.strip_prefix("*.").unwrap_or(text)).map_err(|_| {
        Invalid::new(
            "neither an IP address nor a DNS name",
            "write `203.0.113.10`, `k8s.example.com` or `*.k8s.example.com`",
        )
    })?;
    Ok(text.to_owned())
}

/// A host's address with prefix length.
pub fn host_address(text: &str) -> Checked<IpNet> {
    let net: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Invalid::new("the prefix is missing", format!("write `{text}/24`")),
        Ok(IpAddr::V6(_)) => Invalid::new("the prefix is missing", format!("write `{text}/64`")),
        Err(_) => Invalid::new(
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
        return Err(Invalid::new(
            format!(
                "the address of the network `{}`, not of a host in it",
                net.trunc()
            ),
            "write the host's own address",
        ));
    }
    unicast(address)?;
    Ok(net)
}

/// A range of addresses.
pub fn range(text: &str) -> Checked<IpNet> {
    let net: IpNet = text.parse().map_err(|_| {
        Invalid::new(
            "not a range of addresses",
            "write `10.244.0.0/16` or `fd00:10:244::/56`",
        )
    })?;
    if net.addr() == net.network() {
        Ok(net)
    } else {
        Err(Invalid::new(
            "the range has host bits set",
            format!("write `{}`", net.trunc()),
        ))
    }
}

/// `20m`, `90s`, `1h30m`.
pub fn duration(text: &str) -> Checked<Duration> {
    let invalid = || {
        Invalid::new(
            "not a duration",
            "write hours, minutes and seconds: `20m`, `90s`, `1h30m`",
        )
    };
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(invalid)?;
        let number: u64 = rest[..end].parse().map_err(|_| invalid())?;
        let unit = match rest.as_bytes()[end] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(invalid()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|s| s.checked_add(seconds))
            .ok_or_else(invalid)?;
        rest = &rest[end + 1..];
    }
    if seconds == 0 {
        Err(invalid())
    } else {
        Ok(Duration::from_secs(seconds))
    }
}

/// `100y` or `3650d`, in days; a year has 365.25.
pub fn validity_days(text: &str) -> Checked<u32> {
    let invalid = || Invalid::new("not a validity", "write years or days: `100y`, `3650d`");
    let days = match text.strip_suffix('y') {
        Some(years) => years
            .parse::<u32>()
            .ok()
            .and_then(|years| years.checked_mul(1461))
            .map(|quarter| quarter / 4),
        None => text
            .strip_suffix('d')
            .ok_or_else(invalid)?
            .parse::<u32>()
            .ok(),
    };
    match days.ok_or_else(invalid)? {
        0 => Err(Invalid::new(
            "certificates without validity",
            "write at least `1d`",
        )),
        days if days > AUTHORITY_DAYS => Err(Invalid::new(
            "more than 100 years, the life of the authorities",
            "write at most `100y`",
        )),
        days => Ok(days),
    }
}

/// A line of an `authorized_keys` file.
pub fn ssh_key(text: &str) -> Checked<String> {
    use base64::Engine as _;
    if text.contains("PRIVATE KEY") {
        return Err(Invalid::new(
            "a private key",
            "write the public half, the line in the file that ends in `.pub`",
        ));
    }
    let invalid = || {
        Invalid::new(
            "not an OpenSSH public key",
            "write one line such as `ssh-ed25519 AAAA… name@host`",
        )
    };
    // Options may precede the type, which the key's bytes repeat.
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
        Err(invalid())
    }
}
