//! DHCP and TFTP by dnsmasq, a child process: firmware asks it for a boot file, gets iPXE, and iPXE
//! gets the address of the web server: from a script by TFTP, else by DHCP.
//!
//! Only hosts of the topology are answered, so that a stranger on the network does not boot from
//! here.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use build_tools::debian_tree::Tree;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use userdata::network::MacAddress;

use super::AUTOEXEC;
use super::hosts::{Host, Hosts};
use super::link::Link;
use super::neighbours::Neighbours;
use super::table::Table;
use crate::cli::DhcpMode;
use crate::image::live;

const PROGRAM: &str = "dnsmasq";
const PACKAGE: &str = "dnsmasq-base";

/// The command of dnsmasq: this machine's, else for root that of the Debian tree that `tree` makes.
pub fn program(tree: impl FnOnce() -> Result<Tree>) -> Result<Command> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "DHCP and TFTP have ports that only root may open; run imagegen with sudo, or leave out \
         --interface and point an existing DHCP server at this one{}",
        match installed() {
            Some(_) => String::new(),
            None => format!(" ({PROGRAM} is missing too: sudo apt-get install {PACKAGE})"),
        }
    );
    match installed() {
        Some(path) => Ok(Command::new(path)),
        None => {
            let found = tree().and_then(|tree| tree.program(PROGRAM));
            found.with_context(|| format!("{PROGRAM} is missing; apt-get install {PACKAGE}"))
        }
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut files = folders.map(|folder| folder.join(PROGRAM));
    files.find(|file| file.is_file())
}

/// The configuration of dnsmasq, without the folder of TFTP.
pub fn configuration(link: &Link, mode: DhcpMode, port: u16, hosts: &[Host]) -> Result<String> {
    let Link { name, address, .. } = link;
    let network = link.network()?;
    let url = format!("http://{address}:{port}");
    let (script, loader) = (live::SCRIPT, live::LOADER);
    // With `bind-interfaces`, TFTP on a single port cannot send its first answers and no errors:
    // each file would take firmware seconds more, and a missing one half a minute.
    let mut text = format!(
        "port=0\nuser=nobody\ngroup=nogroup\ninterface={name}\nexcept-interface=lo\nbind-dynamic\nno-hosts\nno-resolv\n\
         log-dhcp\nleasefile-ro\nenable-tftp\ntftp-single-port\n\
         dhcp-userclass=set:ipxe,iPXE\n\
         dhcp-match=set:efi,option:client-arch,7\n\
         dhcp-match=set:efi,option:client-arch,9\n\
         dhcp-match=set:http,option:client-arch,16\n\
         # Only hosts of the topology.\n\
         dhcp-ignore=tag:!known\n\
         dhcp-boot=tag:ipxe,{url}/{script}\n"
    );
    match mode {
        DhcpMode::Proxy => {
            // Firmware takes the file from port 4011; two services would be a menu.
            let _ = write!(
                text,
                "dhcp-range={},proxy,{}\n\
                 pxe-service=tag:!ipxe,x86-64_EFI,\"Firstlight\",{loader}\n\
                 pxe-service=tag:!ipxe,BC_EFI,\"Firstlight\",{loader}\n",
                network.network(),
                network.netmask()
            );
        }
        DhcpMode::Full => {
            let _ = write!(
                text,
                "dhcp-range={},static,{},1h\n\
                 dhcp-boot=tag:!ipxe,tag:efi,{loader},,{address}\n\
                 dhcp-option-force=tag:!ipxe,tag:http,60,HTTPClient\n\
                 dhcp-boot=tag:!ipxe,tag:http,{url}/{loader}\n\
                 # This machine is no router and no name server.\n\
                 dhcp-option=option:router\ndhcp-option=option:dns-server\n",
                network.network(),
                network.netmask()
            );
        }
    }
    let mut served = 0;
    for host in hosts {
        let addresses = host.addresses.iter().filter_map(|address| match address {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        });
        let own = addresses.filter(|address| network.contains(*address)).min();
        for (number, mac) in host.macs.iter().enumerate() {
            match (mode, own) {
                (DhcpMode::Proxy, _) => {
                    let _ = writeln!(text, "dhcp-host={mac}");
                    served += 1;
                }
                // Two cards cannot have one address.
                (DhcpMode::Full, Some(own)) if number == 0 => {
                    let _ = writeln!(text, "dhcp-host={mac},{own},{}", host.name);
                    served += 1;
                }
                (DhcpMode::Full, _) => {}
            }
        }
    }
    ensure!(
        served > 0,
        "no host of the topology has an address in {network}, the network of `{name}`; give \
         another --interface, or an address of the hosts' network to this one"
    );
    Ok(text)
}

/// dnsmasq, which ends with this.
#[derive(Debug)]
pub struct Dhcp {
    process: tokio::process::Child,
    errors: Arc<std::sync::Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Dhcp {
    pub fn start(
        command: Command,
        text: &str,
        loader: &Path,
        script: &str,
        hosts: &Hosts,
        table: &Arc<Table>,
    ) -> Result<Self> {
        // dnsmasq reads the files as a user without rights.
        let folder = tempfile::Builder::new()
            .prefix("firstlight-serve-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .context("creating a temporary folder")?;
        let tftp = folder.path().join("tftp");
        let bytes = fs::read(loader).with_context(|| format!("reading `{}`", loader.display()))?;
        fs::create_dir(&tftp).with_context(|| format!("creating `{}`", tftp.display()))?;
        for (name, bytes) in [
            (live::LOADER, bytes.as_slice()),
            (AUTOEXEC, script.as_bytes()),
        ] {
            let path = tftp.join(name);
            fs::write(&path, bytes)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .with_context(|| format!("writing `{}`", path.display()))?;
        }
        let file = folder.path().join("dnsmasq.conf");
        let text = format!("{text}tftp-root={}\n", tftp.display());
        fs::write(&file, text).with_context(|| format!("writing `{}`", file.display()))?;
        let mut command = tokio::process::Command::from(command);
        command.arg("--keep-in-foreground").arg("--log-facility=-");
        command
            .arg("--pid-file")
            .arg(format!("--conf-file={}", file.display()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = match command.kill_on_drop(true).spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{PROGRAM} is missing; apt-get install {PACKAGE}")
            }
            Err(error) => return Err(error).with_context(|| format!("starting {PROGRAM}")),
        };
        let errors = Arc::new(std::sync::Mutex::new(Vec::new()));
        if let Some(pipe) = process.stderr.take() {
            let (kept, table, known) = (errors.clone(), table.clone(), hosts.all()?);
            let neighbours = Neighbours::default();
            tokio::spawn(async move {
                let mut lines = BufReader::new(pipe).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    log::debug!("{line}");
                    follow(&line, &known, &neighbours, &table);
                    let mut kept = kept
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    if kept.len() == 5 {
                        kept.remove(0);
                    }
                    kept.push(line);
                }
            });
        }
        Ok(Self {
            process,
            errors,
            _folder: folder,
        })
    }

    /// Waits for its end, which is an error.
    pub async fn ended(&mut self) -> Error {
        let status = self.process.wait().await;
        // The last lines may still be in the pipe.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let lines = self
            .errors
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let holder = match lines.iter().any(|line| line.contains("in use")) {
            true => {
                "\nanother DHCP server of this machine (libvirt, dnsmasq) has the port; stop it, \
                 or leave out --interface and point it at this server"
            }
            false => "",
        };
        anyhow!(
            "{PROGRAM} ended ({status}):\n  {}{holder}",
            lines.join("\n  ")
        )
    }
}

/// Puts what dnsmasq did for a host into the table.
fn follow(line: &str, hosts: &[Host], neighbours: &Neighbours, table: &Table) {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let offered = words
        .iter()
        .any(|word| word.starts_with("PXE(") || word.starts_with("DHCPACK("));
    let mac = words
        .iter()
        .find_map(|word| word.parse::<MacAddress>().ok());
    let of = |mac: &MacAddress| hosts.iter().find(|host| host.macs.contains(mac));
    if let (true, Some(host)) = (offered, mac.as_ref().and_then(of)) {
        table.fetched(&host.name, "DHCP", None);
    }
    // `sent /tmp/…/snponly.efi to 10.0.0.5`. Another DHCP server may give any address.
    if let Some((_, rest)) = line.split_once("sent ")
        && let Some((path, to)) = rest.rsplit_once(" to ")
        && let Some((_, file)) = path.rsplit_once('/')
    {
        let to = to.trim();
        let address: Option<std::net::IpAddr> = to.parse().ok();
        let host = address.and_then(|at| {
            let known = neighbours.mac(at);
            let with = || hosts.iter().find(|host| host.addresses.contains(&at));
            known.as_ref().and_then(of).or_else(with)
        });
        table.fetched(host.map_or(to, |host| &host.name), file, None);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn link() -> Link {
        Link {
            name: "eth1".to_owned(),
            address: Ipv4Addr::new(192, 168, 7, 1),
            prefix: 24,
        }
    }

    fn host(name: &str, mac: &str, address: &str) -> Result<Host> {
        Ok(Host {
            name: name.to_owned(),
            macs: vec![mac.parse().map_err(Error::msg)?],
            addresses: vec![address.parse()?],
        })
    }

    #[test]
    fn only_hosts_of_the_topology_are_answered() -> Result<()> {
        let hosts = [
            host("m0", "52:54:00:00:07:10", "192.168.7.10")?,
            host("far", "52:54:00:00:08:10", "192.168.8.10")?,
        ];
        let proxy = configuration(&link(), DhcpMode::Proxy, 8069, &hosts)?;
        for line in [
            "dhcp-ignore=tag:!known",
            "dhcp-range=192.168.7.0,proxy,255.255.255.0",
            "dhcp-boot=tag:ipxe,http://192.168.7.1:8069/boot.ipxe",
            "dhcp-host=52:54:00:00:08:10",
        ] {
            assert!(proxy.lines().any(|found| found == line), "{line}\n{proxy}");
        }
        let full = configuration(&link(), DhcpMode::Full, 8069, &hosts)?;
        assert!(
            full.contains("dhcp-host=52:54:00:00:07:10,192.168.7.10,m0\n"),
            "{full}"
        );
        assert!(
            !full.contains("52:54:00:00:08:10") && !full.contains("proxy"),
            "{full}"
        );
        let error = configuration(&link(), DhcpMode::Full, 8069, &hosts[1..]);
        let error = error.err().context("refused")?.to_string();
        assert!(
            error.contains("192.168.7.0/24") && error.contains("--interface"),
            "{error}"
        );
        Ok(())
    }

    #[test]
    fn files_by_tftp_are_in_the_row_of_the_host() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("arp");
        fs::write(
            &path,
            "IP address HW type Flags HW address Mask Device\n\
             192.168.7.105 0x1 0x2 52:54:00:00:07:10 * eth1\n",
        )?;
        let hosts = [host("m0", "52:54:00:00:07:10", "192.168.7.10")?];
        let table = Table::new();
        for line in [
            "dnsmasq-dhcp: 1 PXE(eth1) 52:54:00:00:07:10 proxy",
            // The address is of another DHCP server.
            "dnsmasq-tftp: sent /tmp/firstlight-serve-x/tftp/snponly.efi to 192.168.7.105",
            // A host that the kernel has forgotten.
            "dnsmasq-tftp: sent /tmp/firstlight-serve-x/tftp/autoexec.ipxe to 192.168.7.10",
            "dnsmasq-tftp: sent /tmp/firstlight-serve-x/tftp/snponly.efi to 192.168.7.9",
            "dnsmasq-tftp: file /tmp/firstlight-serve-x/tftp/x not found for 192.168.7.10",
        ] {
            follow(line, &hosts, &Neighbours::at(&path), &table);
        }
        let files = ["DHCP", "snponly.efi", "autoexec.ipxe"];
        assert_eq!(table.files("m0"), files);
        assert_eq!(table.files("192.168.7.9"), ["snponly.efi"]);
        Ok(())
    }
}
