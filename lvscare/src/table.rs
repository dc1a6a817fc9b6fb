//! The desired and the actual IPVS table, and the minimal changes between them.
//!
//! Pure: no clock, no kernel, no health. Only entries of our own service are considered.

use std::net::SocketAddr;

use crate::ipvs::{Destination, Forwarding, Service};

/// Our service as desired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub service: Service,
    /// In the order of insertion: `rr` starts at the head of the list.
    pub destinations: Vec<(SocketAddr, u32)>,
}

/// Our service as the kernel has it; without a service there are no destinations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    pub service: Option<Service>,
    pub destinations: Vec<Destination>,
}

impl Actual {
    pub fn weight(&self, address: SocketAddr) -> Option<u32> {
        self.destination(address)
            .map(|destination| destination.weight)
    }

    pub fn destination(&self, address: SocketAddr) -> Option<&Destination> {
        self.destinations
            .iter()
            .find(|destination| destination.address == address)
    }

    /// Whether a new connection can be served.
    pub fn is_usable(&self) -> bool {
        self.destinations
            .iter()
            .any(|destination| destination.weight > 0)
    }
}

/// One request to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    NewService(Service),
    SetService(Service),
    NewDestination(Destination),
    SetDestination(Destination),
    DeleteDestination(Destination),
}

impl Change {
    /// The name in the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NewService(_) => "new_service",
            Self::SetService(_) => "set_service",
            Self::NewDestination(_) => "new_destination",
            Self::SetDestination(_) => "set_destination",
            Self::DeleteDestination(_) => "delete_destination",
        }
    }
}

/// The changes in an order that refuses no connection: the service (never recreated), additions,
/// and only then removals.
///
/// Removes nothing if no usable server is desired: an empty table helps no client.
pub fn changes(desired: &Desired, actual: &Actual) -> Vec<Change> {
    let mut changes = Vec::new();
    match &actual.service {
        None => changes.push(Change::NewService(desired.service.clone())),
        Some(found) if !same_settings(&desired.service, found) => {
            changes.push(Change::SetService(desired.service.clone()));
        }
        Some(_) => {}
    }
    let mut raised = Vec::new();
    let mut lowered = Vec::new();
    for &(address, weight) in &desired.destinations {
        let target = Destination::masquerade(address, weight);
        match actual.destination(address) {
            None => changes.push(Change::NewDestination(target)),
            Some(found) if same_destination(&target, found) => {}
            Some(_) if weight > 0 => raised.push(Change::SetDestination(target)),
            Some(_) => lowered.push(Change::SetDestination(target)),
        }
    }
    changes.append(&mut raised);
    if desired.destinations.iter().any(|(_, weight)| *weight > 0) {
        changes.append(&mut lowered);
        let is_wished = |found: &&Destination| {
            desired
                .destinations
                .iter()
                .any(|(address, _)| *address == found.address)
        };
        let superfluous = actual.destinations.iter().filter(|found| !is_wished(found));
        changes.extend(superfluous.cloned().map(Change::DeleteDestination));
    }
    changes
}

fn same_settings(desired: &Service, found: &Service) -> bool {
    let settings = |service: &Service| {
        (
            service.scheduler.clone(),
            service.flags,
            service.timeout,
            service.netmask,
        )
    };
    settings(desired) == settings(found)
}

fn same_destination(desired: &Destination, found: &Destination) -> bool {
    // The kernel reports a server on this node as LOCALNODE, whatever was requested.
    let local = Forwarding(1);
    (found.forwarding == desired.forwarding || found.forwarding == local)
        && found.weight == desired.weight
        && found.upper_threshold == desired.upper_threshold
        && found.lower_threshold == desired.lower_threshold
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vip() -> SocketAddr {
        SocketAddr::from(([10, 103, 97, 2], 6443))
    }

    fn server(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 168, 7, n], 6443))
    }

    fn desired(weights: &[(u8, u32)]) -> Desired {
        let destinations = weights
            .iter()
            .map(|&(n, weight)| (server(n), weight))
            .collect();
        Desired {
            service: Service::tcp(vip(), "rr"),
            destinations,
        }
    }

    fn actual(weights: &[(u8, u32)]) -> Actual {
        let destinations = weights
            .iter()
            .map(|&(n, weight)| Destination::masquerade(server(n), weight))
            .collect();
        Actual {
            service: Some(Service::tcp(vip(), "rr")),
            destinations,
        }
    }

    /// Applies one change as the kernel does; panics where it returns an error.
    pub(crate) fn apply(table: &mut Actual, change: &Change) {
        match change {
            Change::NewService(service) => {
                assert!(table.service.is_none(), "EEXIST");
                table.service = Some(service.clone());
            }
            Change::SetService(service) => {
                assert!(table.service.is_some(), "ESRCH");
                table.service = Some(service.clone());
            }
            Change::NewDestination(new) => {
                assert!(table.service.is_some(), "ESRCH");
                assert_eq!(table.destination(new.address), None, "EEXIST");
                table.destinations.push(new.clone());
            }
            Change::SetDestination(new) => {
                let found = table
                    .destinations
                    .iter_mut()
                    .find(|found| found.address == new.address)
                    .expect("ENOENT");
                // The kernel counts connections.
                let (active, inactive) = (found.active_connections, found.inactive_connections);
                *found = new.clone();
                (found.active_connections, found.inactive_connections) = (active, inactive);
            }
            Change::DeleteDestination(old) => {
                let before = table.destinations.len();
                table
                    .destinations
                    .retain(|found| found.address != old.address);
                assert_eq!(table.destinations.len() + 1, before, "ENOENT");
            }
        }
    }

    #[test]
    fn each_difference_has_its_change() {
        use Change::{DeleteDestination, NewDestination, NewService, SetDestination, SetService};
        let to = |n, weight| Destination::masquerade(server(n), weight);
        let mut odd = actual(&[(1, 1)]);
        odd.service.as_mut().unwrap().scheduler = "wlc".to_owned();
        let mut routed = actual(&[(1, 1)]);
        routed.destinations[0].forwarding = Forwarding(3);
        let mut local = actual(&[(1, 1)]);
        local.destinations[0].forwarding = Forwarding(1);
        let table = [
            (
                "nothing to do",
                desired(&[(1, 1), (2, 0)]),
                actual(&[(2, 0), (1, 1)]),
                vec![],
            ),
            (
                "flushed",
                desired(&[(2, 1), (1, 1)]),
                Actual::default(),
                vec![
                    NewService(Service::tcp(vip(), "rr")),
                    NewDestination(to(2, 1)),
                    NewDestination(to(1, 1)),
                ],
            ),
            (
                "another scheduler",
                desired(&[(1, 1)]),
                odd,
                vec![SetService(Service::tcp(vip(), "rr"))],
            ),
            (
                "direct routing",
                desired(&[(1, 1)]),
                routed,
                vec![SetDestination(to(1, 1))],
            ),
            ("on this node", desired(&[(1, 1)]), local, vec![]),
            (
                "one for another",
                desired(&[(1, 0), (3, 1)]),
                actual(&[(1, 1), (2, 1)]),
                vec![
                    NewDestination(to(3, 1)),
                    SetDestination(to(1, 0)),
                    DeleteDestination(to(2, 1)),
                ],
            ),
            (
                "nothing usable is desired",
                desired(&[(1, 0)]),
                actual(&[(1, 1), (2, 1)]),
                vec![],
            ),
        ];
        for (name, desired, actual, expected) in table {
            assert_eq!(changes(&desired, &actual), expected, "{name}");
        }
    }

    fn weights() -> impl Strategy<Value = Vec<(u8, u32)>> {
        proptest::collection::btree_map(0u8..6, 0u32..3, 0..6)
            .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn any_table_converges_is_never_emptied_and_then_left_alone(
            target in weights(),
            found in proptest::option::of(weights()),
        ) {
            let desired = desired(&target);
            let mut table = found.map_or_else(Actual::default, |found| actual(&found));
            let mut was_usable = table.is_usable();
            for change in changes(&desired, &table) {
                apply(&mut table, &change);
                prop_assert!(table.is_usable() || !was_usable, "{:?} emptied the table", change);
                was_usable |= table.is_usable();
            }
            prop_assert_eq!(changes(&desired, &table), vec![]);
            if target.iter().any(|(_, weight)| *weight > 0) {
                let mut found: Vec<_> = table.destinations.iter().map(|d| (d.address, d.weight)).collect();
                found.sort();
                prop_assert_eq!(found, desired.destinations);
            }
        }

        #[test]
        fn nothing_is_added_after_something_was_taken_away(target in weights(), found in weights()) {
            let takes = |change: &Change| match change {
                Change::DeleteDestination(_) => true,
                Change::SetDestination(to) => to.weight == 0,
                _ => false,
            };
            let changes = changes(&desired(&target), &actual(&found));
            prop_assert!(changes.is_sorted_by_key(takes), "{:?}", changes);
        }
    }
}
