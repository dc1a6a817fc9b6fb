//! What firstboot decides about etcd's members, against etcd itself: masters join as learners, one at a time; what a try
//! left behind goes; a member that lost its data comes back only while the others are a majority.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstboot::etcd::learner::Learner;
use firstboot::etcd::membership::{self, Etcd, Member, Verdict, verdict};
use firstboot::system::files::Root;
use vm_tests::run::Run;
use vm_tests::server::Server;
use vm_tests::servers::{MASTERS, Network, Site, THREE_MASTERS, in_network};

fn address(host: &str) -> Ipv4Addr {
    let found = MASTERS.iter().find(|(name, _)| *name == host);
    found.map_or(Ipv4Addr::UNSPECIFIED, |(_, address)| *address)
}

fn peer(host: &str) -> String {
    format!("https://{}:2380", address(host))
}

struct Masters<'a> {
    site: &'a Site,
    network: &'a Network,
}

impl Masters<'_> {
    fn etcd_of(&self, asker: &str, host: &str) -> Result<Etcd> {
        let root = Root::new(self.site.root(asker)?);
        Etcd::new(&root, &format!("{}:2379", address(host)))
    }

    /// As `asker` sees them through `host`.
    fn members(&self, asker: &str, host: &str) -> Result<Vec<Member>> {
        self.etcd_of(asker, host)?.members()
    }

    /// What `host` would do, asking m0; `runs` and `data` as the step finds them on the host.
    fn verdict(&self, host: &str, runs: bool, data: bool) -> Result<Verdict> {
        let members = self.members(host, "m0")?;
        let healthy = membership::healthy(&Root::new(self.site.root(host)?), &members)?;
        Ok(verdict(&members, &peer(host), &healthy, runs, data))
    }

    /// Waits until `host` would do this.
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
            other => anyhow::bail!("{host} would not wait: {other:?}"),
        }
    }

    fn own(&self, host: &str) -> Result<Member> {
        let members = self.members(host, "m0")?;
        let own = members.into_iter().find(|m| m.peers == [peer(host)]);
        own.with_context(|| format!("{host} is no member"))
    }

    /// Removes the member `id` on behalf of `host`; etcd may call itself unhealthy for a while.
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
        self.site.etcd(self.network, host, &cluster.join(","), true)
    }

    /// As at a later boot: its data says where it belongs.
    fn start_again(&self, host: &str) -> Result<Server> {
        let own = format!("{host}={}", peer(host));
        self.site.etcd(self.network, host, &own, true)
    }

    /// The way of a host that joins, from [`Verdict::Join`] to its vote.
    fn join(&self, m0: &mut Server, host: &str) -> Result<Server> {
        ensure!(self.verdict(host, false, false)? == Verdict::Join);
        // etcd calls itself unhealthy until its voters have been connected for five seconds.
        m0.wait("take a learner", || self.add(host))?;
        let mut server = self.start(host)?;
        self.until(&mut server, host, true, &Verdict::Resume)?;
        let mut learner = Learner::default();
        server.wait("get its vote", || {
            let own = self.own(host)?;
            ensure!(!own.name.is_empty(), "it has not started");
            let committed = self.etcd_of(host, "m0")?.progress()?.committed;
            let applied = self.etcd_of(host, host)?.progress()?.applied;
            // m0 has at least added itself and this one.
            ensure!(committed > 1, "m0 tells entry {committed}");
            ensure!(
                learner.has_caught_up(committed, applied),
                "{applied} of {committed}"
            );
            self.etcd_of(host, "m0")?.promote(&own.id)
        })?;
        ensure!(self.verdict(host, true, true)? == Verdict::Joined);
        // Until it serves, the next one waits.
        server.wait("serve", || self.etcd_of(host, host)?.health())?;
        Ok(server)
    }
}

#[test]
fn masters_join_as_learners_and_recover_lost_data() -> Result<()> {
    let run = Run::new("masters_join_etcd")?;
    let site = Site::new(&run, THREE_MASTERS)?;
    in_network(&MASTERS, |network| {
        let masters = Masters {
            site: &site,
            network,
        };
        let alone = format!("m0={}", peer("m0"));
        let mut m0 = site.etcd(network, "m0", &alone, false)?;
        m0.wait("serve", || masters.etcd_of("m0", "m0")?.health())?;

        // A try that ended before etcd started: it stands in everybody's way, and only its own host may remove it.
        masters.add("m1")?;
        let why = masters.wait_reason("m2")?;
        ensure!(
            why.contains("https://192.168.7.11:2380 is still a learner"),
            "{why}"
        );
        let refusal = masters
            .add("m2")
            .err()
            .context("etcd took a second learner")?;
        ensure!(
            format!("{refusal:#}").contains("too many learner"),
            "{refusal:#}"
        );
        let stale = masters.own("m1")?;
        ensure!(stale.name.is_empty() && stale.clients.is_empty() && stale.learner);
        ensure!(masters.verdict("m1", false, false)? == Verdict::Remove(stale.id.clone()));
        masters.remove(&mut m0, "m1", &stale.id)?;
        // etcd makes a member's id of its peer address and the second, and never takes an id back. On a host the pause
        // between two looks is longer than that.
        std::thread::sleep(Duration::from_millis(1100));

        let m1 = masters.join(&mut m0, "m1")?;
        let m2 = masters.join(&mut m0, "m2")?;
        let members = masters.members("m2", "m1")?;
        ensure!(
            members.len() == 3 && members.iter().all(|m| !m.learner),
            "{members:?}"
        );

        // It lost its disk: two of three remove it, and it comes back as a learner.
        drop(m2);
        site.lose_etcd("m2")?;
        let lost = masters.own("m2")?;
        ensure!(masters.verdict("m2", false, false)? == Verdict::Remove(lost.id.clone()));
        masters.remove(&mut m0, "m2", &lost.id)?;
        let m2 = masters.join(&mut m0, "m2")?;
        ensure!(masters.own("m2")?.id != lost.id);

        // The same while another is away: one of three is no majority, and etcd does not even tell its members.
        drop((m1, m2));
        site.lose_etcd("m2")?;
        let said = masters.verdict("m2", false, false);
        ensure!(
            said.is_err() || matches!(said, Ok(Verdict::Wait(_))),
            "{said:?}"
        );
        let mut m1 = masters.start_again("m1")?;
        m1.wait("serve", || masters.etcd_of("m1", "m1")?.health())?;
        let lost = masters.own("m2")?;
        masters.until(&mut m1, "m2", false, &Verdict::Remove(lost.id))?;
        Ok(())
    })?;
    run.passed();
    Ok(())
}
