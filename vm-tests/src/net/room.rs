//! A machine room: a network namespace with a bridge to which machines are connected, where programs
//! of the host serve them. Needs root.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::process;
use crate::machine::boot_origin::Tap;

/// The bridge of the namespace: the network card of the programs there.
pub const CARD: &str = "room0";

#[derive(Debug)]
pub struct Room {
    name: String,
    /// How many machines are connected.
    cables: Cell<usize>,
}

impl Room {
    /// A namespace whose bridge has this address, in a network of 24 bits.
    pub fn new(address: Ipv4Addr) -> Result<Self> {
        let room = Self {
            name: format!("firstlight-{}", std::process::id()),
            cables: Cell::new(0),
        };
        process::run(Command::new("ip").args(["netns", "add", &room.name]))
            .context("making a network namespace")?;
        let address = format!("{address}/24");
        room.arrange(&[
            &["link", "set", "lo", "up"],
            &["link", "add", CARD, "type", "bridge"],
            &["address", "add", &address, "dev", CARD],
            &["link", "set", CARD, "up"],
        ])?;
        Ok(room)
    }

    fn arrange(&self, commands: &[&[&str]]) -> Result<()> {
        for arguments in commands {
            process::run(self.command("ip").args(*arguments))
                .with_context(|| format!("arranging the network namespace: {arguments:?}"))?;
        }
        Ok(())
    }

    /// A program that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// A new cable for a machine whose card has this MAC address.
    pub fn tap(&self, mac: &str) -> Result<Tap> {
        let number = self.cables.get();
        self.cables.set(number + 1);
        let card = format!("cable{number}");
        self.arrange(&[
            &["tuntap", "add", "dev", &card, "mode", "tap"],
            &["link", "set", &card, "master", CARD, "up"],
        ])?;
        Ok(Tap {
            namespace: self.name.clone(),
            card,
            mac: mac.to_owned(),
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let delete = ["netns", "delete", &self.name];
        let _ = process::run(Command::new("ip").args(delete));
    }
}
