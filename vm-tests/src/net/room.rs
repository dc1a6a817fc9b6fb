//! A machine room: a network namespace with a card to which a machine is connected, where programs
//! of the host serve it. Needs root.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::process;
use crate::machine::boot_origin::Tap;

/// The card of the namespace, which is the machine's cable.
pub const CARD: &str = "room0";

#[derive(Debug)]
pub struct Room {
    name: String,
}

impl Room {
    /// A namespace whose card has this address, in a network of 24 bits.
    pub fn new(address: Ipv4Addr) -> Result<Self> {
        let room = Self {
            name: format!("firstlight-{}", std::process::id()),
        };
        process::run(Command::new("ip").args(["netns", "add", &room.name]))
            .context("making a network namespace")?;
        let address = format!("{address}/24");
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["tuntap", "add", "dev", CARD, "mode", "tap"],
            &["address", "add", &address, "dev", CARD],
            &["link", "set", CARD, "up"],
        ] {
            process::run(room.command("ip").args(arguments))
                .with_context(|| format!("arranging the network namespace: {arguments:?}"))?;
        }
        Ok(room)
    }

    /// A program that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// The machine's card at the other end of the cable.
    pub fn tap(&self, mac: &str) -> Tap {
        Tap {
            namespace: self.name.clone(),
            card: CARD.to_owned(),
            mac: mac.to_owned(),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let delete = ["netns", "delete", &self.name];
        let _ = process::run(Command::new("ip").args(delete));
    }
}
