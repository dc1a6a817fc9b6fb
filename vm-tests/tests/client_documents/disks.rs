//! Documents on media, and in SMBIOS.

use std::fs;

use anyhow::Result;
use imagegen::seed;
use vm_tests::host::client_tools::Iso;
use vm_tests::machine::disk;
use vm_tests::machine::smbios::credential;

use super::{Client, Expected, OPENSTACK, read};

/// virt-install attaches the ISO to a SATA drive, and names NoCloud in the serial number.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn virt_install() -> Result<()> {
    let Some(mut client) = Client::new("virt-install")? else {
        return Ok(());
    };
    client.machine.medium = Some(client.iso("cidata", Iso::RockRidge)?);
    client.machine.serial = Some("ds=nocloud".into());
    client.boot(Expected {
        source: "cidata",
        look: "cat /etc/cloud/cloud-init.disabled",
        shows: &[
            "root:$",
            "== /etc/ssh/authorized_keys.d/root",
            " root@virt-install",
            " clouduser@virt-install",
            "Disabled by virt-install",
            "ssh active",
            "\"result\": \"applied\"",
        ],
        lacks: &[],
    })
}

#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn proxmox() -> Result<()> {
    let Some(mut client) = Client::new("proxmox")? else {
        return Ok(());
    };
    client.machine.medium = Some(client.iso("cidata", Iso::RockRidge)?);
    client.boot(Expected {
        source: "cidata",
        look: "id ops",
        shows: &[
            "name pve-node pve-node",
            "127.0.1.1 pve-node.example.test pve-node",
            "ops:$6$Firstlight$",
            "== /etc/ssh/authorized_keys.d/ops",
            "ops ALL=(ALL) NOPASSWD:ALL",
            "192.168.7.20/24",
            "default via 192.168.7.1",
            "nameserver 192.168.7.1",
            "search example.test",
            "\"result\": \"applied\"",
        ],
        lacks: &[],
    })
}

/// Its network is in the format of ifupdown, which is not read.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn proxmox_configdrive2() -> Result<()> {
    let Some(mut client) = Client::new("proxmox-configdrive2")? else {
        return Ok(());
    };
    client.machine.medium = Some(client.iso("config-2", Iso::RockRidge)?);
    client.boot(Expected {
        source: "config-drive",
        look: "id ops; journalctl --boot --unit firstboot --output cat",
        shows: &[
            "name pve-node pve-node",
            "ops:$6$Firstlight$",
            "is in the format of ifupdown and not read",
            "\"result\": \"applied\"",
        ],
        lacks: &[],
    })
}

/// The medium is also Lima's own disk of scripts, which a script of the document mounts.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn lima() -> Result<()> {
    let Some(mut client) = Client::new("lima")? else {
        return Ok(());
    };
    let iso = client.iso("cidata", Iso::RockRidge)?;
    client.machine.disks.push(disk::seed(&iso));
    client.boot(Expected {
        source: "cidata",
        look: "cat /run/lima-bootcmd /run/lima-boot; grep lima /etc/fstab; id ada",
        shows: &[
            "name lima-default lima-default",
            "ada:x:501:",
            "Ada Lovelace:/var/home/ada.guest:/bin/bash",
            "ada ALL=(ALL) NOPASSWD:ALL",
            " ada@lima",
            "zone /usr/share/zoneinfo/Europe/Berlin",
            "RouteMetric=200",
            "hello",
            "boot.sh",
            "mount0 /mnt/lima-home 9p",
        ],
        lacks: &[],
    })
}

#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn multipass() -> Result<()> {
    let Some(mut client) = Client::new("multipass")? else {
        return Ok(());
    };
    client.machine.medium = Some(client.iso("cidata", Iso::Joliet)?);
    client.boot(Expected {
        source: "cidata",
        look: "cat /etc/pollinate/add-user-agent",
        shows: &[
            "name primary primary",
            "127.0.1.1 primary",
            "ubuntu:x:",
            "== /etc/ssh/authorized_keys.d/ubuntu",
            " ubuntu@localhost",
            "ubuntu ALL=(ALL) NOPASSWD:ALL",
            "zone /usr/share/zoneinfo/Europe/Berlin",
            "multipass/version/",
            "DHCP=ipv4",
            "\"result\": \"applied\"",
        ],
        lacks: &[],
    })
}

#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn terraform_libvirt() -> Result<()> {
    let Some(mut client) = Client::new("terraform-libvirt")? else {
        return Ok(());
    };
    client.machine.medium = Some(client.iso("cidata", Iso::Plain)?);
    client.boot(Expected {
        source: "cidata",
        look: "id terraform",
        shows: &[
            "name tf-node tf-node",
            " terraform@libvirt",
            "192.168.7.20/24",
            "default via 192.168.7.1",
            "\"result\": \"applied\"",
        ],
        lacks: &["== /etc/ssh/authorized_keys.d/root"],
    })
}

/// KubeVirt of Harvester attaches a virtio disk.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn harvester() -> Result<()> {
    let Some(mut client) = Client::new("harvester")? else {
        return Ok(());
    };
    let iso = client.iso("cidata", Iso::RockRidge)?;
    client.machine.disks.push(disk::seed(&iso));
    client.boot(Expected {
        source: "cidata",
        look: "id rancher",
        shows: &[
            "name pool1-7c9f pool1-7c9f",
            "rancher:$",
            " rancher@harvester",
            "PasswordAuthentication yes",
            // The image is immutable, and has no guest agent.
            "`packages` is not done",
            "\"result\": \"degraded\"",
        ],
        lacks: &[],
    })
}

#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn openstack_config_drive() -> Result<()> {
    let Some(mut client) = Client::new("openstack")? else {
        return Ok(());
    };
    client.machine.medium = Some(client.iso("config-2", Iso::RockRidge)?);
    client.boot(Expected {
        source: "config-drive",
        look: "cat /var/lib/example-configured",
        shows: OPENSTACK,
        lacks: &[],
    })
}

/// cloud-localds with `--filesystem=vfat`.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn cloud_localds() -> Result<()> {
    let Some(mut client) = Client::new("cloud-localds")? else {
        return Ok(());
    };
    let (user, meta) = (
        read("cloud-localds/user-data")?,
        read("cloud-localds/meta-data")?,
    );
    let image = seed::with_files(&[("user-data", user.as_slice()), ("meta-data", &meta)])?;
    let path = client.run_dir.folder().join("seed.img");
    fs::write(&path, image)?;
    client.machine.disks.push(disk::seed(&path));
    client.boot(Expected {
        source: "cidata",
        look: "true",
        shows: &[
            "name localds localds",
            "root:$",
            "PasswordAuthentication yes",
            "\"result\": \"applied\"",
        ],
        lacks: &[],
    })
}

/// systemd's credentials in SMBIOS strings.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn credentials() -> Result<()> {
    let Some(mut client) = Client::new("cloud-localds")? else {
        return Ok(());
    };
    for file in ["user-data", "meta-data"] {
        let bytes = read(&format!("cloud-localds/{file}"))?;
        let name = format!("firstlight.{file}");
        client.machine.smbios.push(credential(&name, &bytes));
    }
    client.boot(Expected {
        source: "credentials",
        look: "true",
        shows: &["name localds localds", "root:$", "\"result\": \"applied\""],
        lacks: &[],
    })
}
