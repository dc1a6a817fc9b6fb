//! Documents that servers have: NoCloud over HTTP, and metadata services.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vm_tests::host::client_tools::ClientTools;
use vm_tests::host::process;
use vm_tests::machine::boot_origin::NetworkBoot;
use vm_tests::machine::smbios::kernel_arguments;
use vm_tests::net::room::Room;
use vm_tests::net::web::{Answer, Asked, Request};

use super::{Client, Expected, MAC, OPENSTACK, read};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A network with DHCP, where documents are served at this address.
fn served(
    mut client: Client,
    address: SocketAddrV4,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    expected: Expected,
) -> Result<Asked> {
    let room = Room::new(SERVER)?;
    if *address.ip() != SERVER {
        room.add_address(*address.ip())?;
    }
    let range = [100, 199].map(|last| Ipv4Addr::new(192, 168, 7, last));
    let log = client.run_dir.folder().join("dnsmasq.log");
    let _leases = room.dhcp(&ClientTools::ensure(&client.host)?, range, &log)?;
    let asked = room.serve(address, answer)?;
    client.machine.tap = Some(room.cable(MAC, NetworkBoot::Never)?);
    let result = client.start(expected);
    result.with_context(|| format!("asked: {:#?}", asked.lines()))?;
    Ok(asked)
}

/// Files by their paths.
fn files(files: BTreeMap<String, Vec<u8>>) -> impl Fn(&Request) -> Answer + Send + Sync {
    move |request| files.get(&request.path).cloned().ok_or(404)
}

/// NoCloud over HTTP, named by the serial number.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn nocloud_over_http() -> Result<()> {
    let Some(mut client) = Client::new("cloud-localds")? else {
        return Ok(());
    };
    client.machine.serial = Some(format!(
        "ds=nocloud;s=http://{SERVER}:8000/seed/;h=by-serial"
    ));
    let mut seed = BTreeMap::new();
    for file in ["user-data", "meta-data"] {
        seed.insert(
            format!("/seed/{file}"),
            read(&format!("cloud-localds/{file}"))?,
        );
    }
    let asked = served(
        client,
        SocketAddrV4::new(SERVER, 8000),
        files(seed),
        Expected {
            source: "smbios-serial",
            look: "true",
            shows: &["name by-serial by-serial", "root:$", "192.168.7.1"],
            lacks: &[],
        },
    )?;
    // Each optional file costs one request.
    ensure!(asked.lines().len() == 4, "{:#?}", asked.lines());
    Ok(())
}

#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn openstack_metadata_service() -> Result<()> {
    let Some(mut client) = Client::new("openstack")? else {
        return Ok(());
    };
    client.machine.product = Some("OpenStack Nova".into());
    let mut service = BTreeMap::from([("/openstack".to_owned(), b"2018-08-27\nlatest".to_vec())]);
    for file in [
        "meta_data.json",
        "network_data.json",
        "user_data",
        "vendor_data.json",
        "vendor_data2.json",
    ] {
        let path = format!("/openstack/2018-08-27/{file}");
        service.insert(path.clone(), read(&format!("openstack{path}"))?);
    }
    served(
        client,
        SocketAddrV4::new(METADATA, 80),
        files(service),
        Expected {
            source: "openstack",
            look: "cat /var/lib/example-configured",
            shows: OPENSTACK,
            lacks: &[],
        },
    )
    .map(drop)
}

/// A worker of Cluster API's OpenStack provider. There is no cluster, so that kubeadm fails.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn cluster_api() -> Result<()> {
    let Some(mut client) = Client::new("openstack")? else {
        return Ok(());
    };
    client.machine.product = Some("OpenStack Nova".into());
    let mut service = BTreeMap::from([("/openstack".to_owned(), b"2018-08-27\nlatest".to_vec())]);
    for file in ["meta_data.json", "network_data.json"] {
        let path = format!("/openstack/2018-08-27/{file}");
        service.insert(path.clone(), read(&format!("openstack{path}"))?);
    }
    let user_data = "/openstack/2018-08-27/user_data".to_owned();
    service.insert(user_data, read("cluster-api/user-data")?);
    served(
        client,
        SocketAddrV4::new(METADATA, 80),
        files(service),
        Expected {
            source: "openstack",
            look: "cat /run/kubeadm/kubeadm-join-config.yaml /run/pre-kubeadm; \
                   stat -c '%a %U:%G %n' /run/kubeadm/kubeadm-join-config.yaml; \
                   ls /run/cluster-api; journalctl --boot --unit firstboot --output cat",
            shows: &[
                "name: 'nova-node.novalocal'",
                "640 root:root /run/kubeadm/kubeadm-join-config.yaml",
                "capi:$6$Firstlight$",
                " capi@example",
                "NTP=192.168.7.1",
                "placeholder",
                "\"result\": \"degraded\"",
                // Of kubeadm, which has read its configuration.
                "192.168.7.9:6443",
            ],
            lacks: &["bootstrap-success.complete\n"],
        },
    )
    .map(drop)
}

/// `cloudinit_config` of Terraform for an instance of EC2: gzip of a MIME archive.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn terraform_ec2() -> Result<()> {
    let Some(mut client) = Client::new("terraform-ec2")? else {
        return Ok(());
    };
    client.machine.uuid = Some("ec2e1916-9099-7caf-fd21-012345abcdef".into());
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "-n", "-c"])
        .arg(client.fixtures().join("user-data.mime"));
    let user_data = process::run(&mut gzip)?;
    let token = "AQAEAFirstlight==";
    let answer = move |request: &Request| -> Answer {
        if request.method == "PUT" {
            return match request.path.as_str() {
                "/latest/api/token" => Ok(token.into()),
                _ => Err(405),
            };
        }
        let given = format!("x-aws-ec2-metadata-token: {token}");
        if !request.headers.contains(&given) {
            return Err(401);
        }
        let body = match request.path.as_str() {
            "/latest/user-data" => return Ok(user_data.clone()),
            "/latest/meta-data/instance-id" => "i-0123456789abcdef0",
            "/latest/meta-data/local-hostname" => "ip-192-168-7-100.ec2.internal",
            "/latest/meta-data/placement/region" => "eu-central-1",
            "/latest/meta-data/placement/availability-zone" => "eu-central-1a",
            _ => return Err(404),
        };
        Ok(body.into())
    };
    served(
        client,
        SocketAddrV4::new(METADATA, 80),
        answer,
        Expected {
            source: "ec2",
            look: "cat /etc/example/base.conf /var/lib/example-joined",
            shows: &[
                "name ip-192-168-7-100 ip-192-168-7-100",
                " ops@terraform",
                "from = terraform",
                "ip-192-168-7-100 joined",
                "\"result\": \"applied\"",
            ],
            lacks: &[],
        },
    )
    .map(drop)
}

/// MAAS names its cloud-config on the kernel's command line, and that names the metadata service.
#[test]
#[ignore = "a minute; run: cargo test -p vm-tests --test client_documents -- --include-ignored"]
fn maas() -> Result<()> {
    let Some(mut client) = Client::new("maas")? else {
        return Ok(());
    };
    let base = format!("http://{SERVER}:5240/MAAS/metadata");
    let preseed = "/MAAS/metadata/latest/by-id/wq3hfc/?op=get_preseed";
    let url = format!("{base}/latest/by-id/wq3hfc/?op=get_preseed");
    let arguments = kernel_arguments(&format!("cloud-config-url={url}"));
    client.machine.smbios.push(arguments);
    let mut service = BTreeMap::new();
    for (path, file) in [
        ("meta-data/instance-id", "instance-id"),
        ("meta-data/local-hostname", "local-hostname"),
        ("meta-data/public-keys", "public-keys"),
        ("meta-data/vendor-data", "vendor-data"),
        ("user-data", "user-data"),
    ] {
        let path = format!("/MAAS/metadata/2012-03-01/{path}");
        service.insert(path, read(&format!("maas/{file}"))?);
    }
    let cloud_config = read("maas/preseed")?;
    let answer = move |request: &Request| -> Answer {
        if request.path == preseed {
            return Ok(cloud_config.clone());
        }
        let mut headers = request.headers.iter();
        let signed = headers.any(|header| {
            header.starts_with("authorization: OAuth ")
                && header.contains("oauth_signature=\"%26MAAS-TOKEN-SECRET\"")
                && header.contains("oauth_token=\"yKsSvQWVTEDrg8WpRj\"")
        });
        match signed {
            true => service.get(&request.path).cloned().ok_or(404),
            false => Err(401),
        }
    };
    served(
        client,
        SocketAddrV4::new(SERVER, 5240),
        answer,
        Expected {
            source: "cmdline",
            look: "cat /etc/example/maas.conf",
            shows: &[
                "name live-owl live-owl",
                "127.0.1.1 live-owl",
                "ada:x:",
                "Ada Lovelace",
                "== /etc/ssh/authorized_keys.d/ada",
                " ada@maas",
                "NTP=192.168.7.1",
                "deployed",
                "`apt` is not done",
                "`rsyslog` is not done",
                "\"result\": \"degraded\"",
            ],
            lacks: &["MAAS-TOKEN-SECRET"],
        },
    )
    .map(drop)
}
