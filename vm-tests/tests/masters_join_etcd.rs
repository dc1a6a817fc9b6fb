//! firstboot's decisions about etcd members, with real etcd servers and without a machine.
//!
//! Control-plane hosts join one at a time as learners. A host removes the member that a failed
//! attempt has left. A member that lost its data rejoins only while the others have a quorum.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstboot::etcd::learner::Learner;
use firstboot::etcd::membership::{self, Etcd, Member, Verdict, verdict};
use firstboot::system::files::Root;
use vm_tests::control_plane::{ControlPlane, HOSTS, HostNetwork, THREE_HOSTS, in_network};
use vm_tests::host::process::Server;
use vm_tests::host::run_dir::RunDir;

fn address(host: &str) -> Ipv4Addr {
    let found = HOSTS.iter().find(|(name, _)| *name == host);
    found.map_or(Ipv4Addr::UNSPECIFIED, |(_, address)| *address)
}

fn peer(host: &str) -> String {
    format!("https://{}:2380", address(host))
}

struct Masters<'a> {
    control_plane: &'a ControlPlane,
    network: &'a HostNetwork,
}

impl Masters<'_> {
    fn etcd_of(&self, client: &str, host: &str) -> Result<Etcd> {
        let root = Root::new(self.control_plane.root(client)?);
        Etcd::new(&root, &format!("{}:2379", address(host)))
    }

    /// The members that the etcd of `host` lists for a client on `client`.
    fn members(&self, client: &str, host: &str) -> Result<Vec<Member>> {
        self.etcd_of(client, host)?.members()
    }

    /// The decision of `host`, which asks m0. `runs` and `data` are the state of etcd on the host.
    fn verdict(&self, host: &str, runs: bool, data: bool) -> Result<Verdict> {
        let members = self.members(host, "m0")?;
        let healthy = membership::healthy(&Root::new(self.control_plane.root(host)?), &members)?;
        Ok(verdict(&members, &peer(host), &healthy, runs, data))
    }

    /// Waits until `host` would decide `wanted`.
    fn until(&self, server: &mut Server, host: &str, runs: bool, wanted: &Verdict) -> Result<()> {
        server.wait(&format!("let {host} {wanted:?}"), || {
            let found = self.verdict(host, runs, false)?;
            ensure!(found == *wanted, "{host}: {found:?}");
            Ok(())
        })
    }

    fn wait_reason(&self, host: &str) -> Result<String> {
        match self.verdict(host, false, false)? {
            Verdict::Wait(why) => Ok(why),
            other => anyhow::bail!("{host} does not wait: {other:?}"),
        }
    }

    fn own(&self, host: &str) -> Result<Member> {
        let members = self.members(host, "m0")?;
        let own = members.into_iter().find(|m| m.peers == [peer(host)]);
        own.with_context(|| format!("{host} is not a member"))
    }

    /// Removes the member `id` as `host` does. Retries while etcd reports itself unhealthy.
    fn remove(&self, m0: &mut Server, host: &str, id: &str) -> Result<()> {
        m0.wait("remove a member", || self.etcd_of(host, "m0")?.remove(id))
    }

    /// Adds `host` as a learner.
    fn add(&self, host: &str) -> Result<()> {
        self.etcd_of(host, "m0")?.add_learner(&peer(host))
    }

    fn start(&self, host: &str) -> Result<Server> {
        let members = self.members(host, "m0")?;
        let mut cluster = vec![format!("{host}={}", peer(host))];
        for member in members.iter().filter(|m| m.peers != [peer(host)]) {
            cluster.extend(member.peers.iter().map(|p| format!("{}={p}", member.name)));
        }
        self.control_plane
            .etcd(self.network, host, &cluster.join(","), true)
    }

    /// Starts etcd as at a later boot: the data contains the members.
    fn start_again(&self, host: &str) -> Result<Server> {
        let own = format!("{host}={}", peer(host));
        self.control_plane.etcd(self.network, host, &own, true)
    }

    /// Joins `host`, from [`Verdict::Join`] until it votes.
    fn join(&self, m0: &mut Server, host: &str) -> Result<Server> {
        ensure!(self.verdict(host, false, false)? == Verdict::Join);
        // etcd reports itself unhealthy until its voters have been connected for five seconds.
        m0.wait("accept a learner", || self.add(host))?;
        let mut server = self.start(host)?;
        self.until(&mut server, host, true, &Verdict::Resume)?;
        let mut learner = Learner::default();
        server.wait("become a voting member", || {
            let own = self.own(host)?;
            ensure!(!own.name.is_empty(), "the member has not started");
            let committed = self.etcd_of(host, "m0")?.progress()?.committed;
            let applied = self.etcd_of(host, host)?.progress()?.applied;
            // m0 has committed at least two entries: itself and this member.
            ensure!(committed > 1, "m0 reports entry {committed}");
            ensure!(
                learner.has_caught_up(committed, applied),
                "{applied} of {committed}"
            );
            self.etcd_of(host, "m0")?.promote(&own.id)
        })?;
        ensure!(self.verdict(host, true, true)? == Verdict::Joined);
        // The next host waits until this one serves.
        server.wait("serve", || self.etcd_of(host, host)?.health())?;
        Ok(server)
    }
}

#[test]
fn masters_join_as_learners_and_recover_lost_data() -> Result<()> {
    let run_dir = RunDir::new("masters_join_etcd")?;
    let control_plane = ControlPlane::new(&run_dir, THREE_HOSTS)?;
    in_network(&HOSTS, |network| {
        let masters = Masters {
            control_plane: &control_plane,
            network,
        };
        let alone = format!("m0={}", peer("m0"));
        let mut m0 = control_plane.etcd(network, "m0", &alone, false)?;
        m0.wait("serve", || masters.etcd_of("m0", "m0")?.health())?;

        // An attempt that ended before etcd started: its learner blocks all other hosts, and only
        // its own host may remove it.
        masters.add("m1")?;
        let why = masters.wait_reason("m2")?;
        ensure!(
            why.contains("https://192.168.7.11:2380 is still a learner"),
            "{why}"
        );
        let refusal = masters
            .add("m2")
            .err()
            .context("etcd has accepted a second learner")?;
        ensure!(
            format!("{refusal:#}").contains("too many learner"),
            "{refusal:#}"
        );
        let stale = masters.own("m1")?;
        ensure!(stale.name.is_empty() && stale.clients.is_empty() && stale.learner);
        ensure!(masters.verdict("m1", false, false)? == Verdict::Remove(stale.id.clone()));
        masters.remove(&mut m0, "m1", &stale.id)?;
        // etcd derives a member's id from its peer address and the second, and never reuses an id.
        // firstboot pauses longer than a second between two attempts.
        std::thread::sleep(Duration::from_millis(1100));

        let m1 = masters.join(&mut m0, "m1")?;
        let m2 = masters.join(&mut m0, "m2")?;
        let members = masters.members("m2", "m1")?;
        ensure!(
            members.len() == 3 && members.iter().all(|m| !m.learner),
            "{members:?}"
        );

        // m2 loses its disk: the other two remove its member, and it rejoins as a learner.
        drop(m2);
        control_plane.lose_etcd("m2")?;
        let lost = masters.own("m2")?;
        ensure!(masters.verdict("m2", false, false)? == Verdict::Remove(lost.id.clone()));
        masters.remove(&mut m0, "m2", &lost.id)?;
        let m2 = masters.join(&mut m0, "m2")?;
        ensure!(masters.own("m2")?.id != lost.id);

        // The same while m1 is down: one of three is no quorum, and etcd does not list its members.
        drop((m1, m2));
        control_plane.lose_etcd("m2")?;
        let decision = masters.verdict("m2", false, false);
        ensure!(
            decision.is_err() || matches!(decision, Ok(Verdict::Wait(_))),
            "{decision:?}"
        );
        let mut m1 = masters.start_again("m1")?;
        m1.wait("serve", || masters.etcd_of("m1", "m1")?.health())?;
        let lost = masters.own("m2")?;
        masters.until(&mut m1, "m2", false, &Verdict::Remove(lost.id))?;
        Ok(())
    })?;
    run_dir.passed();
    Ok(())
}
