//! A machine room: a network namespace with a bridge to which machines are connected, where programs
//! of the host serve them. Needs root.

use std::cell::Cell;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::web::{self, Answer, Asked, Request};
use crate::host::client_tools::ClientTools;
use crate::host::process::{self, Server};
use crate::machine::boot_origin::{NetworkBoot, Tap};

/// The bridge of the namespace: the network card of the programs there.
pub const CARD: &str = "room0";

/// The two ends of the cable to another DHCP server.
const OTHER: [&str; 2] = ["other0", "other1"];

#[derive(Debug)]
pub struct Room {
    namespace: Namespace,
    /// How many machines are connected.
    cables: Cell<usize>,
}

impl Room {
    /// A namespace whose bridge has this address, in a network of 24 bits.
    pub fn new(address: Ipv4Addr) -> Result<Self> {
        let namespace = Namespace::new(&format!("firstlight-{}", std::process::id()))?;
        let address = format!("{address}/24");
        namespace.arrange(&[
            &["link", "add", CARD, "type", "bridge"],
            &["address", "add", &address, "dev", CARD],
            &["link", "set", CARD, "up"],
        ])?;
        Ok(Self {
            namespace,
            cables: Cell::new(0),
        })
    }

    /// A program that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        self.namespace.run(&Command::new(program))
    }

    /// One more address of the programs there, such as that of a metadata service.
    pub fn add_address(&self, address: Ipv4Addr) -> Result<()> {
        self.namespace
            .arrange(&[&["address", "add", &address.to_string(), "dev", CARD]])
    }

    /// Leases for machines, and nothing to boot from.
    pub fn dhcp(&self, tools: &ClientTools, range: [Ipv4Addr; 2], log: &Path) -> Result<Server> {
        let dnsmasq = tools.dnsmasq()?;
        let program = dnsmasq.get_program().to_str().context("a path in UTF-8")?;
        let mut command = self.command(program);
        command.args(dnsmasq.get_args());
        let [first, last] = range;
        command.args([
            "--conf-file=/dev/null",
            "--no-daemon",
            "--user=root",
            "--port=0",
        ]);
        command.args(["--leasefile-ro", &format!("--interface={CARD}")]);
        command.arg(format!("--dhcp-range={first},{last},1h"));
        Server::start("dnsmasq", log.to_owned(), &mut command)
    }

    /// Answers HTTP requests to `address`.
    pub fn serve(
        &self,
        address: SocketAddrV4,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Asked> {
        let path = format!("/run/netns/{}", self.namespace.0);
        let namespace = File::open(&path).with_context(|| format!("opening `{path}`"))?;
        let (ready, listening) = mpsc::channel();
        let asked = Asked::default();
        let log = asked.clone();
        // A namespace belongs to a thread, and the socket stays where it was made.
        thread::spawn(move || {
            let listener = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| TcpListener::bind(address));
            match listener {
                Ok(listener) => {
                    let _ = ready.send(Ok(()));
                    web::serve(&listener, &log, &answer);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        });
        listening
            .recv()
            .context("waiting for the server")?
            .with_context(|| format!("listening on {address}"))?;
        Ok(asked)
    }

    /// A new cable for a machine whose card has this MAC address, and which boots from it first.
    pub fn tap(&self, mac: &str) -> Result<Tap> {
        self.cable(mac, NetworkBoot::First)
    }

    /// A new cable for a machine that boots from it in this order.
    pub fn cable(&self, mac: &str, order: NetworkBoot) -> Result<Tap> {
        let number = self.cables.get();
        self.cables.set(number + 1);
        let card = format!("cable{number}");
        self.namespace.arrange(&[
            &["tuntap", "add", "dev", &card, "mode", "tap"],
            &["link", "set", &card, "master", CARD, "up"],
        ])?;
        Ok(Tap {
            namespace: self.namespace.0.clone(),
            card,
            mac: mac.to_owned(),
            order,
            by_http: false,
        })
    }

    /// Another machine of the network, with `address`, where `dnsmasq` gives addresses of `range`
    /// and nothing else. Its log goes to a file.
    pub fn other_dhcp(
        &self,
        dnsmasq: &Command,
        address: Ipv4Addr,
        range: [Ipv4Addr; 2],
        log: &Path,
    ) -> Result<OtherDhcp> {
        let namespace = Namespace::new(&format!("{}-other", self.namespace.0))?;
        let [ours, theirs] = OTHER;
        let own = format!("{address}/24");
        self.namespace.arrange(&[
            &["link", "add", ours, "type", "veth", "peer", "name", theirs],
            &["link", "set", theirs, "netns", &namespace.0],
            &["link", "set", ours, "master", CARD, "up"],
        ])?;
        namespace.arrange(&[
            &["address", "add", &own, "dev", theirs],
            &["link", "set", theirs, "up"],
        ])?;
        let [first, last] = range;
        let mut command = namespace.run(dnsmasq);
        command.args(["--keep-in-foreground", "--log-facility=-", "--pid-file"]);
        command.args(["--conf-file=/dev/null", "--port=0", "--user=root"]);
        command.args(["--bind-interfaces", "--leasefile-ro", "--log-dhcp"]);
        command.arg(format!("--interface={theirs}"));
        command.arg(format!("--dhcp-range={first},{last},255.255.255.0,1h"));
        let server = Server::start("the other DHCP server", log.to_owned(), &mut command)?;
        Ok(OtherDhcp {
            _server: server,
            _namespace: namespace,
        })
    }
}

/// A DHCP server of someone else, which ends with this.
#[derive(Debug)]
pub struct OtherDhcp {
    /// Fields are dropped in order.
    _server: Server,
    _namespace: Namespace,
}

/// A network namespace, which ends with this.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Result<Self> {
        process::run(Command::new("ip").args(["netns", "add", name]))
            .context("making a network namespace")?;
        let namespace = Self(name.to_owned());
        namespace.arrange(&[&["link", "set", "lo", "up"]])?;
        Ok(namespace)
    }

    fn arrange(&self, commands: &[&[&str]]) -> Result<()> {
        for arguments in commands {
            process::run(self.run(&Command::new("ip")).args(*arguments))
                .with_context(|| format!("arranging the network namespace: {arguments:?}"))?;
        }
        Ok(())
    }

    /// `command` in the namespace. `ip` becomes the program: the process stays the one that starts.
    fn run(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.0]);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let delete = ["netns", "delete", &self.0];
        let _ = process::run(Command::new("ip").args(delete));
    }
}
