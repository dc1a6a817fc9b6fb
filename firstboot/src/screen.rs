//! One screen for a person at a machine that cannot go on by itself: what the machine is, what it
//! tried and what to do.

use std::fmt::Write as _;

use nix::ifaddrs::getifaddrs;

use crate::system::files::Root;
use crate::system::machine::Identity;

/// A text screen is 80 by 25; the last column and the last line stay free.
const WIDTH: usize = 79;
const HEIGHT: usize = 24;

/// The column of the values.
const INDENT: usize = 11;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Screen {
    pub headline: String,
    /// Name and value of what identifies the machine.
    pub machine: Vec<(String, String)>,
    /// What it tried, with the result.
    pub tried: Vec<String>,
    /// What to do.
    pub advice: Vec<String>,
}

impl Screen {
    /// A screen about `machine`.
    pub fn new(headline: &str, root: &Root, machine: &Identity) -> Self {
        Self {
            headline: headline.to_owned(),
            machine: facts(root, machine),
            ..Self::default()
        }
    }

    /// No source has a document.
    pub fn no_document(root: &Root, machine: &Identity, reasons: &[String]) -> Self {
        Self {
            tried: reasons.to_vec(),
            advice: vec![
                "attach a disk labelled `cidata` with the files of this host, \
                 `hosts/NAME/seed.img` of imagegen: it is found by itself, without a restart"
                    .to_owned(),
                "the document's `match` must name a MAC address, the serial number or the UUID \
                 above"
                    .to_owned(),
            ],
            ..Self::new("no document for this machine", root, machine)
        }
    }

    /// The document needs a passphrase.
    pub fn encrypted(root: &Root, machine: &Identity, tried: Vec<String>) -> Self {
        Self {
            tried,
            advice: vec![
                "type the passphrase of this host, which imagegen keeps in \
                 `pki/passphrases/NAME.key`, or give it as the credential \
                 `firstlight.document-passphrase`"
                    .to_owned(),
            ],
            ..Self::new("the document of this machine is encrypted", root, machine)
        }
    }

    /// The document is invalid or for another machine.
    pub fn refused(root: &Root, machine: &Identity, reason: &str) -> Self {
        Self {
            tried: vec![reason.to_owned()],
            advice: vec![
                "correct the document, attach it again and start the machine, or run `systemctl \
                 restart firstboot` on it"
                    .to_owned(),
            ],
            ..Self::new("this machine does not use its document", root, machine)
        }
    }

    /// The lines, at most as many as a screen has. What does not fit is left out of `tried`, which
    /// the journal has in full.
    pub fn lines(&self) -> Vec<String> {
        let mut top = vec![String::new(), rule(&self.headline)];
        for (name, value) in &self.machine {
            top.extend(paragraph(name, value));
        }
        let mut bottom = Vec::new();
        for (number, text) in self.advice.iter().enumerate() {
            let name = if number == 0 { "do" } else { "" };
            bottom.extend(paragraph(name, text));
        }
        bottom.push("=".repeat(WIDTH));
        let mut tried = Vec::new();
        for (number, text) in self.tried.iter().enumerate() {
            let name = if number == 0 { "tried" } else { "" };
            // A message of several lines keeps them.
            for (line, part) in text.lines().enumerate() {
                tried.extend(paragraph(if line == 0 { name } else { "" }, part));
            }
        }
        let room = HEIGHT.saturating_sub(top.len() + bottom.len());
        if tried.len() > room {
            tried.truncate(room.saturating_sub(1));
            tried.extend(paragraph("", "and more: see `journalctl --unit firstboot`"));
        }
        top.into_iter().chain(tried).chain(bottom).collect()
    }
}

fn rule(headline: &str) -> String {
    let text = format!("== {headline} ");
    let rest = WIDTH.saturating_sub(text.chars().count());
    text + &"=".repeat(rest)
}

/// `text` behind `name`, broken between words.
fn paragraph(name: &str, text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = format!("{name:<INDENT$}");
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let length = line.chars().count() + word.chars().count();
        if !is_empty && length >= WIDTH {
            lines.push(std::mem::replace(&mut line, " ".repeat(INDENT)));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines
}

fn facts(root: &Root, machine: &Identity) -> Vec<(String, String)> {
    const SHOWN: usize = 6;
    let mut facts = Vec::new();
    for link in machine.links.iter().take(SHOWN) {
        let carrier = root.read(format!("/sys/class/net/{}/carrier", link.name));
        let state = match carrier.ok().flatten().as_deref().map(<[u8]>::trim_ascii) {
            Some(b"1") => "connected",
            Some(_) => "no cable",
            // The kernel tells it only of a link that is up.
            None => "off",
        };
        let mut text = format!("{}, {state}", link.identity());
        if root.is_machine() {
            for address in addresses(&link.name) {
                // Writing to a String cannot fail.
                let _ = write!(text, ", {address}");
            }
        }
        facts.push((link.name.clone(), text));
    }
    match machine.links.len() {
        0 => facts.push(("cards".to_owned(), "no network card".to_owned())),
        more if more > SHOWN => {
            facts.push(("cards".to_owned(), format!("{} more", more - SHOWN)));
        }
        _ => {}
    }
    for (name, value) in [("serial", &machine.serial), ("UUID", &machine.uuid)] {
        let value = value.clone().unwrap_or_else(|| "none".to_owned());
        facts.push((name.to_owned(), value));
    }
    facts
}

/// The IP addresses of a link.
fn addresses(link: &str) -> Vec<String> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    let own = all.filter(|one| one.interface_name == link);
    let addresses = own.filter_map(|one| one.address);
    let ips = addresses.filter_map(|address| {
        let four = address.as_sockaddr_in().map(|four| four.ip().to_string());
        four.or_else(|| address.as_sockaddr_in6().map(|six| six.ip().to_string()))
    });
    ips.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::machine::Link;

    fn machine(cards: usize) -> Identity {
        Identity {
            links: (0..cards)
                .map(|number| Link {
                    name: format!("enp{number}s0"),
                    mac: format!("52:54:00:00:07:1{number}"),
                    permanent: None,
                })
                .collect(),
            serial: Some("SN-1".to_owned()),
            ..Identity::default()
        }
    }

    #[test]
    fn screen_tells_machine_tries_and_cure() {
        let root = Root::new("/nowhere");
        let mut screen = Screen::new("no document for this machine", &root, &machine(1));
        screen.tried = vec!["cidata: no disk is labelled `cidata`".to_owned()];
        screen.advice = vec!["attach a disk".to_owned()];
        let lines = screen.lines();
        assert_eq!(
            &lines[1..7],
            [
                &format!("== no document for this machine {}", "=".repeat(47)),
                "enp0s0     52:54:00:00:07:10, off",
                "serial     SN-1",
                "UUID       none",
                "tried      cidata: no disk is labelled `cidata`",
                "do         attach a disk",
            ]
        );
    }

    #[test]
    fn everything_fits_a_text_screen() {
        let root = Root::new("/nowhere");
        let mut screen = Screen::new("no document", &root, &machine(9));
        screen.tried = vec!["one word after the other ".repeat(20); 9];
        screen.advice = vec!["write the disk again ".repeat(6); 2];
        let lines = screen.lines();
        assert!(lines.len() <= HEIGHT, "{lines:#?}");
        for line in &lines {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let text = lines.join("\n");
        assert!(
            text.contains("3 more") && text.contains("and more: see"),
            "{text}"
        );
        assert!(text.ends_with(&"=".repeat(WIDTH)), "{text}");
    }
}
