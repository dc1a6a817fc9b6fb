//! Single values of version 1: flags, lists that may be text, addresses with masks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use yaml::Scalar;

pub(super) fn is_null(scalar: &Scalar) -> bool {
    scalar.style == yaml::Style::Plain && matches!(scalar.text.as_str(), "" | "~" | "null")
}

pub(super) fn is_true(scalar: &Scalar) -> Option<bool> {
    match scalar.text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Lists may also be one text with blanks or commas.
pub(super) fn words(texts: &[String]) -> Vec<String> {
    let words = texts.iter().flat_map(|text| text.split([' ', ',']));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(super) fn add<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// An address with its prefix length or mask beside it. cloud-init's defaults are 24 and 64; `host`
/// in place of the mask is one address.
pub(super) fn net(text: &str, mask: Option<&str>) -> Option<IpNet> {
    let (address, mask) = match text.trim().split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text.trim(), mask),
    };
    let address: IpAddr = address.parse().ok()?;
    let length = match (mask, address) {
        (None, IpAddr::V4(_)) => 24,
        (None, IpAddr::V6(_)) => 64,
        (Some("host"), IpAddr::V4(_)) => 32,
        (Some("host"), IpAddr::V6(_)) => 128,
        (Some(mask), _) => prefix_length(mask.trim())?,
    };
    IpNet::new(address, length).ok()
}

/// Of `24`, `255.255.255.0` or `ffff:ffff::`.
fn prefix_length(mask: &str) -> Option<u8> {
    if let Ok(length) = mask.parse() {
        return Some(length);
    }
    if let Ok(mask) = mask.parse::<Ipv4Addr>() {
        return ipnet::ipv4_mask_to_prefix(mask).ok();
    }
    ipnet::ipv6_mask_to_prefix(mask.parse::<Ipv6Addr>().ok()?).ok()
}
