//! All servers together: from their health to the wished table, and to the flows that must die.
//!
//! Pure: verdicts, the table as found and the time come in; nothing is done here. Two rules stand above all
//! others. *Never zero*: a table with a usable server never becomes one without; if no server is up, all of them
//! are tried ("panic"). *Not on hearsay*: silence alone kills no flow and deletes no server, for the silent one
//! may be we; it takes another server that answered after the silence began.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::health::{Class, Health, Thresholds, Verdict};
use crate::ipvs::Service;
use crate::table::{Actual, Wished};

/// How long a server that left the membership may keep its flows.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub thresholds: Thresholds,
    /// A server sick for this long, with another up, is treated as gone.
    pub kill_sick_after: Duration,
}

/// A server we are told to use.
#[derive(Debug, Clone)]
pub struct Member {
    pub address: SocketAddr,
    /// Its weight when it is up.
    pub weight: u32,
    pub health: Health,
    /// When the class last changed.
    pub since: Instant,
    /// What the last probe complained of.
    pub cause: Option<String>,
    last_up: Option<Instant>,
    /// When the first probe of the present run of silence began.
    silent_since: Option<Instant>,
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Transition {
        address: SocketAddr,
        from: Class,
        to: Class,
        cause: Option<String>,
        after: Duration,
    },
    PanicEntered,
    PanicLeft,
}

/// What is to be done with the table.
#[derive(Debug, Clone)]
pub struct Plan {
    pub wished: Wished,
    /// Of the servers missing from `wished`, those whose flows are dead and must be told.
    pub kill: Vec<SocketAddr>,
    pub events: Vec<Event>,
}

#[derive(Debug)]
pub struct Fleet {
    service: Service,
    rules: Rules,
    members: Vec<Member>,
    /// Found in our service, but no members: since when.
    leaving: BTreeMap<SocketAddr, Instant>,
    panic: bool,
    /// There was something usable in the table, or we put it there.
    was_usable: bool,
}

impl Fleet {
    /// `members` in the order in which they are to be added, each with its weight when up.
    pub fn new(
        service: Service,
        rules: Rules,
        members: &[(SocketAddr, u32)],
        now: Instant,
    ) -> Self {
        let member = |&(address, weight): &(SocketAddr, u32)| Member {
            address,
            weight,
            health: Health::default(),
            since: now,
            cause: None,
            last_up: None,
            silent_since: None,
        };
        let members = members.iter().map(member).collect();
        Self {
            service,
            rules,
            members,
            leaving: BTreeMap::new(),
            panic: false,
            was_usable: false,
        }
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn is_panicking(&self) -> bool {
        self.panic
    }

    /// Takes in what a probe of `address` found, which began at `began` and ended `now`. A stranger's is ignored.
    pub fn observe(
        &mut self,
        address: SocketAddr,
        verdict: &Verdict,
        began: Instant,
        now: Instant,
    ) -> Option<Event> {
        let eager = !self
            .members
            .iter()
            .any(|member| member.health.class() == Class::Up);
        let thresholds = self.rules.thresholds;
        let member = self
            .members
            .iter_mut()
            .find(|member| member.address == address)?;
        member.cause = verdict.cause().map(str::to_owned);
        match verdict {
            Verdict::Silent { .. } => member.silent_since = member.silent_since.or(Some(began)),
            _ => member.silent_since = None,
        }
        if *verdict == Verdict::Up {
            member.last_up = Some(now);
        }
        let from = member.health.judge(verdict, thresholds, eager, now)?;
        let after = now.saturating_duration_since(member.since);
        member.since = now;
        Some(Event::Transition {
            address,
            from,
            to: member.health.class(),
            cause: member.cause.clone(),
            after,
        })
    }

    /// Decides what the table should be, given what it is.
    pub fn plan(&mut self, actual: &Actual, now: Instant) -> Plan {
        let mut events = Vec::new();
        if self.panic
            && self
                .members
                .iter()
                .any(|member| member.health.class() == Class::Up)
        {
            self.panic = false;
            events.push(Event::PanicLeft);
        }
        let mut destinations = Vec::new();
        let mut kill = Vec::new();
        for member in &self.members {
            let found = actual.weight(member.address);
            match member.health.class() {
                Class::Up => destinations.push((member.address, member.weight)),
                Class::Unknown => destinations.extend(found.map(|weight| (member.address, weight))),
                Class::Sick | Class::Gone if self.is_dead(member, now) => kill.push(member.address),
                // What is not in the table need not be put there to be given nothing.
                Class::Sick | Class::Gone => {
                    destinations.extend(found.map(|_| (member.address, 0)));
                }
            }
        }
        let usable = destinations.iter().any(|(_, weight)| *weight > 0);
        // Only a table that never served may wait for the first verdicts.
        let undecided = self
            .members
            .iter()
            .any(|member| member.health.class() == Class::Unknown);
        self.was_usable |= usable || actual.is_usable();
        if self.panic || !usable && (self.was_usable || !undecided) {
            if !self.panic {
                self.panic = true;
                events.push(Event::PanicEntered);
            }
            kill.clear();
            destinations = self
                .members
                .iter()
                .map(|member| (member.address, member.weight))
                .collect();
            self.was_usable = true;
        }
        self.see_off(actual, now, &mut destinations, &mut kill);
        Plan {
            wished: Wished {
                service: self.service.clone(),
                destinations,
            },
            kill,
            events,
        }
    }

    /// Is it certain that the flows to this sick or gone server lead nowhere?
    fn is_dead(&self, member: &Member, now: Instant) -> bool {
        let mut others = self
            .members
            .iter()
            .filter(|other| other.address != member.address);
        match (member.health.class(), member.silent_since) {
            (Class::Gone, None) => true,
            (Class::Gone, Some(since)) => {
                others.any(|other| other.last_up.is_some_and(|up| up > since))
            }
            (Class::Sick, _) => {
                now.saturating_duration_since(member.since) >= self.rules.kill_sick_after
                    && others.any(|other| other.health.class() == Class::Up)
            }
            (Class::Unknown | Class::Up, _) => false,
        }
    }

    /// Servers in our service that are no members: no new flows, and out when idle or after the grace.
    fn see_off(
        &mut self,
        actual: &Actual,
        now: Instant,
        destinations: &mut Vec<(SocketAddr, u32)>,
        kill: &mut Vec<SocketAddr>,
    ) {
        let strangers: Vec<_> = actual
            .destinations
            .iter()
            .filter(|found| {
                !self
                    .members
                    .iter()
                    .any(|member| member.address == found.address)
            })
            .collect();
        self.leaving.retain(|address, _| {
            strangers
                .iter()
                .any(|stranger| stranger.address == *address)
        });
        for stranger in strangers {
            let since = *self.leaving.entry(stranger.address).or_insert(now);
            if self.panic {
                destinations.push((stranger.address, stranger.weight));
            } else if now.saturating_duration_since(since) >= GRACE {
                kill.push(stranger.address);
            } else if stranger.active_connections > 0 {
                destinations.push((stranger.address, 0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipvs::Destination;
    use crate::table::{changes, tests::apply};

    const RULES: Rules = Rules {
        thresholds: Thresholds {
            rise: 2,
            fall: 2,
            interval: Duration::from_millis(500),
        },
        kill_sick_after: Duration::from_secs(30),
    };

    fn server(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 168, 7, n], 6443))
    }

    fn silent() -> Verdict {
        Verdict::Silent {
            cause: "no SYN-ACK".to_owned(),
        }
    }

    fn refused() -> Verdict {
        Verdict::Refused {
            cause: "connection refused".to_owned(),
        }
    }

    fn draining() -> Verdict {
        Verdict::Draining {
            cause: "status 500".to_owned(),
        }
    }

    /// A fleet of servers 1 to 3 and a table, moved by hand.
    struct Scene {
        fleet: Fleet,
        table: Actual,
        now: Instant,
        killed: Vec<SocketAddr>,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            let service = Service::tcp(SocketAddr::from(([10, 103, 97, 2], 6443)), "rr");
            let members: Vec<_> = (1..=3).map(|n| (server(n), 1)).collect();
            let fleet = Fleet::new(service, RULES, &members, now);
            Self {
                fleet,
                table: Actual::default(),
                now,
                killed: Vec::new(),
            }
        }

        fn all_up() -> Self {
            let mut scene = Self::new();
            for n in 1..=3 {
                scene.probe(n, &Verdict::Up);
            }
            scene
        }

        /// One probe, ten milliseconds long, and what follows from it.
        fn probe(&mut self, n: u8, verdict: &Verdict) -> &mut Self {
            let began = self.now;
            self.wait(Duration::from_millis(10));
            self.fleet.observe(server(n), verdict, began, self.now);
            self.settle()
        }

        fn wait(&mut self, time: Duration) -> &mut Self {
            self.now += time;
            self
        }

        fn settle(&mut self) -> &mut Self {
            let plan = self.fleet.plan(&self.table, self.now);
            for address in &plan.kill {
                assert!(
                    !plan
                        .wished
                        .destinations
                        .iter()
                        .any(|(wished, _)| wished == address),
                    "killed and wished for"
                );
            }
            for change in changes(&plan.wished, &self.table) {
                let was_usable = self.table.is_usable();
                apply(&mut self.table, &change);
                assert!(
                    self.table.is_usable() || !was_usable,
                    "{change:?} emptied the table"
                );
                if let crate::table::Change::DeleteDestination(gone) = change
                    && plan.kill.contains(&gone.address)
                {
                    self.killed.push(gone.address);
                }
            }
            self
        }

        fn weights(&self) -> Vec<(SocketAddr, u32)> {
            let mut weights: Vec<_> = self
                .table
                .destinations
                .iter()
                .map(|d| (d.address, d.weight))
                .collect();
            weights.sort();
            weights
        }
    }

    fn weights<const N: usize>(weights: [(u8, u32); N]) -> Vec<(SocketAddr, u32)> {
        weights.map(|(n, weight)| (server(n), weight)).to_vec()
    }

    #[test]
    fn a_server_is_used_from_its_first_answer() {
        assert_eq!(
            Scene::new().probe(2, &Verdict::Up).weights(),
            weights([(2, 1)])
        );
        assert_eq!(Scene::all_up().weights(), weights([(1, 1), (2, 1), (3, 1)]));
    }

    #[test]
    fn a_refused_server_leaves_at_once_and_its_flows_die() {
        let mut scene = Scene::all_up();
        scene.probe(1, &refused());
        assert_eq!(
            (scene.weights(), scene.killed),
            (weights([(2, 1), (3, 1)]), vec![server(1)])
        );
    }

    #[test]
    fn silence_drains_and_only_another_ones_later_answer_kills() {
        let mut scene = Scene::all_up();
        scene.probe(1, &silent());
        assert_eq!(
            (scene.weights(), scene.killed.as_slice()),
            (weights([(1, 0), (2, 1), (3, 1)]), [].as_slice())
        );
        scene.probe(3, &Verdict::Up);
        assert_eq!(
            (scene.weights(), scene.killed),
            (weights([(2, 1), (3, 1)]), vec![server(1)])
        );
    }

    #[test]
    fn when_all_fall_silent_nothing_is_deleted_or_killed_and_all_are_tried() {
        let mut scene = Scene::all_up();
        for n in 1..=3 {
            scene.probe(n, &silent());
        }
        assert!(scene.fleet.is_panicking());
        assert_eq!(
            (scene.weights(), scene.killed.as_slice()),
            (weights([(1, 1), (2, 1), (3, 1)]), [].as_slice())
        );
        scene.probe(2, &Verdict::Up);
        assert!(!scene.fleet.is_panicking());
        assert_eq!(
            (scene.weights(), scene.killed),
            (weights([(2, 1)]), vec![server(1), server(3)])
        );
    }

    #[test]
    fn an_etcd_blip_that_makes_all_answer_500_changes_nothing_for_good() {
        let mut scene = Scene::all_up();
        for n in 1..=3 {
            scene.probe(n, &draining());
        }
        assert_eq!(
            (scene.weights(), scene.killed.as_slice()),
            (weights([(1, 1), (2, 1), (3, 1)]), [].as_slice())
        );
        scene.probe(3, &Verdict::Up);
        assert_eq!(scene.weights(), weights([(1, 0), (2, 0), (3, 1)]));
    }

    #[test]
    fn a_sick_server_keeps_its_flows_for_a_while() {
        let mut scene = Scene::all_up();
        scene
            .probe(1, &draining())
            .wait(Duration::from_secs(29))
            .settle();
        assert_eq!(
            (scene.weights(), scene.killed.as_slice()),
            (weights([(1, 0), (2, 1), (3, 1)]), [].as_slice())
        );
        scene.wait(Duration::from_secs(2)).settle();
        assert_eq!(
            (scene.weights(), scene.killed),
            (weights([(2, 1), (3, 1)]), vec![server(1)])
        );
    }

    #[test]
    fn a_flushed_table_is_restored_from_the_last_known_health() {
        let mut scene = Scene::all_up();
        scene.probe(1, &refused());
        scene.table = Actual::default();
        assert_eq!(scene.settle().weights(), weights([(2, 1), (3, 1)]));
    }

    #[test]
    fn at_start_the_table_is_taken_as_found() {
        let mut scene = Scene::new();
        scene.table.service = Some(scene.fleet.service().clone());
        scene.table.destinations = vec![
            Destination::masquerade(server(1), 0),
            Destination::masquerade(server(2), 1),
        ];
        let found = scene.table.clone();
        assert_eq!(scene.settle().table, found);
    }

    #[test]
    fn at_start_with_an_empty_table_all_are_tried_once_all_have_failed() {
        let mut scene = Scene::new();
        scene.probe(1, &silent()).probe(2, &refused());
        assert_eq!(scene.weights(), vec![]);
        scene.probe(3, &silent());
        assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 1)]));
    }

    #[test]
    fn a_stranger_is_drained_and_leaves_when_idle_or_after_the_grace() {
        let mut scene = Scene::all_up();
        let mut busy = Destination::masquerade(server(9), 1);
        busy.active_connections = 4;
        scene
            .table
            .destinations
            .extend([busy.clone(), Destination::masquerade(server(8), 1)]);
        assert_eq!(
            scene.settle().weights(),
            weights([(1, 1), (2, 1), (3, 1), (9, 0)])
        );
        scene
            .table
            .destinations
            .iter_mut()
            .for_each(|found| found.active_connections = 4);
        scene.wait(GRACE).settle();
        assert_eq!(
            (scene.weights(), scene.killed),
            (weights([(1, 1), (2, 1), (3, 1)]), vec![server(9)])
        );
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            3 => Just(Verdict::Up),
            1 => Just(Verdict::Sick { cause: "slow".to_owned() }),
            1 => Just(draining()),
            1 => Just(refused()),
            2 => Just(silent()),
        ]
    }

    proptest! {
        #[test]
        fn no_history_empties_the_table_or_kills_in_panic(
            history in proptest::collection::vec((1u8..=3, verdict(), 0u64..40_000, 0u8..20), 1..60),
        ) {
            let mut scene = Scene::new();
            let mut ever_usable = false;
            for (n, verdict, wait, flush) in history {
                if flush == 0 {
                    scene.table = Actual::default();
                }
                let killed = scene.killed.len();
                scene.wait(Duration::from_millis(wait)).probe(n, &verdict);
                ever_usable |= scene.table.is_usable();
                prop_assert!(scene.table.is_usable() || !ever_usable, "empty");
                prop_assert!(scene.killed.len() == killed || !scene.fleet.is_panicking(), "killed in panic");
                for member in scene.fleet.members() {
                    let listed = scene.table.weight(member.address).unwrap_or(0) > 0;
                    let class = member.health.class();
                    prop_assert!(class != Class::Up || listed, "up and not used");
                    prop_assert!(!matches!(class, Class::Sick | Class::Gone) || !listed || scene.fleet.is_panicking());
                }
                let before = scene.table.clone();
                prop_assert_eq!(&scene.settle().table, &before, "a second look changed something");
            }
        }
    }
}
