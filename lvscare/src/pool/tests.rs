//! Sequences of verdicts and the resulting tables.

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

pub(super) fn server(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 7, n], 6443))
}

fn silent() -> Verdict {
    Verdict::Silent {
        cause: "no SYN-ACK".to_owned(),
    }
}

pub(super) fn refused() -> Verdict {
    Verdict::Refused {
        cause: "connection refused".to_owned(),
    }
}

fn draining() -> Verdict {
    Verdict::Draining {
        cause: "status 500".to_owned(),
    }
}

/// A pool of servers 1 to 3 and a table, driven by hand.
pub(super) struct Scene {
    pub(super) pool: Pool,
    pub(super) table: Actual,
    pub(super) now: Instant,
    pub(super) killed: Vec<SocketAddr>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let service = Service::tcp(SocketAddr::from(([10, 103, 97, 2], 6443)), "rr");
        let backends: Vec<_> = (1..=3).map(|n| (server(n), 1)).collect();
        let pool = Pool::new(service, RULES, &backends, now);
        Self {
            pool,
            table: Actual::default(),
            now,
            killed: Vec::new(),
        }
    }

    pub(super) fn all_up() -> Self {
        let mut scene = Self::new();
        for n in 1..=3 {
            scene.probe(n, &Verdict::Up);
        }
        scene
    }

    /// One probe of ten milliseconds and its reconcile.
    pub(super) fn probe(&mut self, n: u8, verdict: &Verdict) -> &mut Self {
        let began = self.now;
        self.wait(Duration::from_millis(10));
        self.pool.observe(server(n), verdict, began, self.now);
        self.settle()
    }

    pub(super) fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    pub(super) fn settle(&mut self) -> &mut Self {
        let plan = self.pool.plan(&self.table, self.now);
        for address in &plan.kill {
            assert!(
                !plan
                    .desired
                    .destinations
                    .iter()
                    .any(|(desired, _)| desired == address),
                "killed and desired"
            );
        }
        for change in changes(&plan.desired, &self.table) {
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

    pub(super) fn weights(&self) -> Vec<(SocketAddr, u32)> {
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

pub(super) fn weights<const N: usize>(weights: [(u8, u32); N]) -> Vec<(SocketAddr, u32)> {
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
fn silent_backend_is_killed_only_after_a_later_peer_answer() {
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
fn all_silent_fails_open_without_deletion() {
    let mut scene = Scene::all_up();
    for n in 1..=3 {
        scene.probe(n, &silent());
    }
    assert!(scene.pool.is_panicking());
    assert_eq!(
        (scene.weights(), scene.killed.as_slice()),
        (weights([(1, 1), (2, 1), (3, 1)]), [].as_slice())
    );
    scene.probe(2, &Verdict::Up);
    assert!(!scene.pool.is_panicking());
    assert_eq!(
        (scene.weights(), scene.killed.as_slice()),
        (weights([(1, 0), (2, 1), (3, 0)]), [].as_slice())
    );
}

#[test]
fn first_answer_after_local_outage_kills_no_peer() {
    let mut scene = Scene::all_up();
    for n in 1..=3 {
        scene.probe(n, &silent());
    }
    scene.probe(2, &Verdict::Up).probe(2, &Verdict::Up);
    assert_eq!(scene.killed, []);
    scene.probe(1, &Verdict::Up).probe(1, &Verdict::Up);
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 0)]));
    scene.probe(3, &silent());
    assert_eq!(scene.killed, []);
    scene.probe(2, &Verdict::Up);
    assert_eq!(scene.killed, [server(3)]);
}

#[test]
fn all_backends_recover_after_a_short_500() {
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
fn flushed_table_is_restored_from_last_health() {
    let mut scene = Scene::all_up();
    scene.probe(1, &refused());
    scene.table = Actual::default();
    assert_eq!(scene.settle().weights(), weights([(2, 1), (3, 1)]));
}

#[test]
fn at_start_the_table_is_taken_as_found() {
    let mut scene = Scene::new();
    scene.table.service = Some(scene.pool.service().clone());
    scene.table.destinations = vec![
        Destination::masquerade(server(1), 0),
        Destination::masquerade(server(2), 1),
    ];
    let found = scene.table.clone();
    assert_eq!(scene.settle().table, found);
}

#[test]
fn empty_table_at_start_fails_open_once_all_failed() {
    let mut scene = Scene::new();
    scene.probe(1, &silent()).probe(2, &refused());
    assert_eq!(scene.weights(), vec![]);
    scene.probe(3, &silent());
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 1)]));
}

#[test]
fn foreign_server_is_drained_until_idle_or_grace_ends() {
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

pub(super) fn verdict() -> impl Strategy<Value = Verdict> {
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
            prop_assert!(scene.killed.len() == killed || !scene.pool.is_panicking(), "killed in panic");
            for backend in scene.pool.backends() {
                let listed = scene.table.weight(backend.address).unwrap_or(0) > 0;
                let class = backend.health.class();
                prop_assert!(class != Class::Up || listed, "up and not used");
                prop_assert!(!matches!(class, Class::Sick | Class::Gone) || !listed || scene.pool.is_panicking());
            }
            let before = scene.table.clone();
            prop_assert_eq!(&scene.settle().table, &before, "a second look changed something");
        }
    }
}
