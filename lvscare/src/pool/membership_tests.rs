//! Changes of the pool: an absent backend is not dead, and no change empties the table.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{Scene, refused, server, verdict, weights};
use super::*;

impl Scene {
    fn listed<const N: usize>(&mut self, servers: [u8; N]) -> &mut Self {
        self.list(&servers)
    }

    fn list(&mut self, servers: &[u8]) -> &mut Self {
        let list: Vec<_> = servers.iter().map(|n| (server(*n), 1)).collect();
        self.pool.set_backends(&list, self.now);
        self.settle()
    }

    fn backends(&self) -> Vec<SocketAddr> {
        self.pool
            .backends()
            .iter()
            .map(|backend| backend.address)
            .collect()
    }

    fn busy(&mut self, n: u8) -> &mut Self {
        for found in &mut self.table.destinations {
            if found.address == server(n) {
                found.active_connections = 3;
            }
        }
        self
    }
}

#[test]
fn a_new_member_is_used_once_it_answers() {
    let mut scene = Scene::all_up();
    scene.listed([1, 2, 3, 4]);
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 1)]));
    scene.probe(4, &Verdict::Up);
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 1), (4, 1)]));
}

#[test]
fn removed_backend_is_drained_then_killed_after_grace() {
    let mut scene = Scene::all_up();
    scene.busy(3).listed([1, 2]);
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 0)]));
    scene.wait(GRACE - Duration::from_secs(1)).settle();
    assert_eq!((scene.weights().len(), scene.killed.len()), (3, 0));
    scene.wait(Duration::from_secs(1)).settle();
    assert_eq!(
        (scene.weights(), scene.killed),
        (weights([(1, 1), (2, 1)]), vec![server(3)])
    );
}

#[test]
fn one_who_left_and_is_idle_goes_at_once() {
    let mut scene = Scene::all_up();
    scene.listed([1, 2]);
    assert_eq!(
        (scene.weights(), scene.killed.len()),
        (weights([(1, 1), (2, 1)]), 0)
    );
}

#[test]
fn backend_back_within_grace_keeps_connections() {
    let mut scene = Scene::all_up();
    scene.busy(3).listed([1, 2]).listed([1, 2, 3]);
    // Its health is unknown again, so its weight stays.
    scene.probe(3, &Verdict::Up).wait(2 * GRACE).settle();
    assert_eq!(
        (scene.weights(), scene.killed.len()),
        (weights([(1, 1), (2, 1), (3, 1)]), 0)
    );
}

#[test]
fn the_last_one_up_stays_though_no_server_lists_it() {
    let mut scene = Scene::all_up();
    scene
        .probe(1, &refused())
        .probe(2, &refused())
        .listed([1, 2]);
    scene.wait(2 * ABSENT).settle();
    assert_eq!(scene.weights(), weights([(3, 1)]));
    scene.probe(1, &Verdict::Up).probe(1, &Verdict::Up);
    assert_eq!(scene.weights(), weights([(1, 1)]));
    assert_eq!(scene.backends(), [server(1), server(2)]);
}

#[test]
fn absent_failing_backend_is_evicted_after_5_min() {
    let mut scene = Scene::all_up();
    for n in 1..=3 {
        scene.probe(n, &refused());
    }
    scene
        .listed([1, 2])
        .wait(ABSENT - Duration::from_secs(1))
        .settle();
    assert_eq!(scene.backends().len(), 3);
    scene.wait(Duration::from_secs(1)).settle();
    assert_eq!(scene.backends(), [server(1), server(2)]);
}

#[test]
fn an_empty_list_changes_nothing() {
    let mut scene = Scene::all_up();
    scene.listed([]).wait(2 * ABSENT).settle();
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 1)]));
}

#[test]
fn disjoint_list_takes_over_once_a_member_is_up() {
    let mut scene = Scene::all_up();
    scene.listed([7, 8]).wait(2 * ABSENT).settle();
    assert_eq!(scene.weights(), weights([(1, 1), (2, 1), (3, 1)]));
    scene.probe(8, &Verdict::Up);
    assert_eq!(scene.weights(), weights([(8, 1)]));
}

proptest! {
    #[test]
    fn no_pool_change_empties_the_table(
        history in proptest::collection::vec(
            (1u8..=5, verdict(), 0u64..400_000, proptest::option::weighted(0.4, proptest::collection::vec(1u8..=5, 0..5)), 0u32..4),
            1..60,
        ),
    ) {
        let mut scene = Scene::new();
        let mut ever_usable = false;
        let mut told: Vec<u8> = vec![1, 2, 3];
        for (n, verdict, wait, list, flows) in history {
            for found in &mut scene.table.destinations {
                found.active_connections = flows;
            }
            let up_before: Vec<_> = scene.pool.backends().iter()
                .filter(|backend| backend.health.class() == Class::Up).map(|backend| backend.address).collect();
            if let Some(list) = list {
                scene.list(&list);
                if !list.is_empty() {
                    told = list;
                }
                let up_after = scene.pool.backends().iter().any(|backend| backend.health.class() == Class::Up);
                prop_assert!(up_before.is_empty() || up_after, "the last one up was dropped");
            }
            let killed = scene.killed.len();
            scene.wait(Duration::from_millis(wait)).probe(n, &verdict);
            ever_usable |= scene.table.is_usable();
            prop_assert!(scene.table.is_usable() || !ever_usable, "empty");
            prop_assert!(scene.killed.len() == killed || !scene.pool.is_panicking(), "killed in panic");
            prop_assert!(!scene.backends().is_empty(), "no backends");
            for n in &told {
                prop_assert!(scene.backends().contains(&server(*n)), "told of, and dropped");
            }
            let before = scene.table.clone();
            prop_assert_eq!(&scene.settle().table, &before, "a second look changed something");
        }
    }
}
