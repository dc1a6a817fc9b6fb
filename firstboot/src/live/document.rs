//! The document of this machine from the boot server, kept for the running system.

use anyhow::Result;

use super::Waiting;
use super::fetch::{Answer, Server};
use crate::system::files::{Attributes, Root};
use crate::system::machine::Identity;

/// A NoCloud folder on a tmpfs.
pub const FOLDER: &str = "/run/firstlight/document";

/// The files of a document; the first must exist.
pub const FILES: [&str; 3] = ["user-data", "meta-data", "network-config"];

/// A server that has just sent the root answers again, or not at all.
const TRIES: u32 = 20;

/// Asks the server for the document of each network card, and keeps the first. `Some` is why there
/// is none.
pub(super) fn fetch(root: &Root, server: &Server, machine: &Identity) -> Result<Option<String>> {
    let mut reasons = Vec::new();
    for link in &machine.links {
        let mac = link.identity();
        let folder = format!("hosts/{}", mac.replace(':', "-"));
        let answer = match patient(server, &format!("{folder}/{}", FILES[0])) {
            Ok(answer) => answer,
            Err(error) => return Ok(Some(format!("{error:#}"))),
        };
        if answer.status != 200 {
            reasons.push(format!("{mac}: {}", answer.reason()));
            continue;
        }
        keep(root, FILES[0], &answer)?;
        for name in &FILES[1..] {
            match patient(server, &format!("{folder}/{name}")) {
                Ok(answer) if answer.status == 200 => keep(root, name, &answer)?,
                Ok(answer) if answer.status == 404 => {}
                Ok(answer) => return Ok(Some(format!("{name}: {}", answer.reason()))),
                Err(error) => return Ok(Some(format!("{name}: {error:#}"))),
            }
        }
        return Ok(None);
    }
    if reasons.is_empty() {
        reasons.push("this machine has no network card".to_owned());
    }
    Ok(Some(format!("{}: {}", server.url(""), reasons.join("; "))))
}

fn keep(root: &Root, name: &str, answer: &Answer) -> Result<()> {
    // It has private keys.
    let attributes = Attributes::mode(0o600);
    root.write(format!("{FOLDER}/{name}"), &answer.bytes, attributes)?;
    Ok(())
}

fn patient(server: &Server, name: &str) -> Result<Answer> {
    let mut waiting = Waiting::new(name);
    let mut tries = 0;
    loop {
        match server.small(name) {
            // 5xx and 429: later.
            Ok(answer) if answer.status < 429 => return Ok(answer),
            Ok(answer) if tries >= TRIES => return Ok(answer),
            Ok(answer) => waiting.pause(&format!("{}: {}", server.url(name), answer.reason())),
            Err(error) if tries >= TRIES => return Err(error),
            Err(error) => waiting.pause(&format!("{}: {error:#}", server.url(name))),
        }
        tries += 1;
    }
}
