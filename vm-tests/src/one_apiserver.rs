//! One master's etcd and kube-apiserver without a machine, for what clients say to an apiserver.

use std::net::Ipv4Addr;

use anyhow::Result;
use firstboot::kube::client::Client;
use firstboot::system::files::Root;

use crate::run::Run;
use crate::server::Server;
use crate::servers::{Site, in_network};

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 10);
pub const ENDPOINT: &str = "192.168.7.10:6443";
/// The administrator's kubeconfig, in the master's root.
pub const ADMIN: &str = "/etc/kubernetes/admin.conf";

const TOPOLOGY: &str = "\
apiVersion: firstlight/v1
kind: Cluster
name: one
hosts:
- { name: m0, role: master, address: 192.168.7.10/24, mac: \"52:54:00:00:07:10\" }
";

/// Runs `test` beside an apiserver that is ready, with the master's root and both servers. Skips where `in_network` does.
pub fn with_apiserver(
    run: &Run,
    test: impl FnOnce(&Root, [&Server; 2]) -> Result<()> + Send,
) -> Result<()> {
    let site = Site::new(run, TOPOLOGY)?;
    in_network(&[("m0", ADDRESS)], |network| {
        let cluster = format!("m0=https://{ADDRESS}:2380");
        let etcd = site.etcd(network, "m0", &cluster, false)?;
        let mut apiserver = site.apiserver(network, "m0")?;
        let root = Root::new(site.root("m0")?);
        apiserver.wait("become ready", || {
            let client = Client::from_kubeconfig(&root, ADMIN, ENDPOINT)?;
            client.get("/readyz")?.ok()
        })?;
        test(&root, [&etcd, &apiserver])
    })
}
