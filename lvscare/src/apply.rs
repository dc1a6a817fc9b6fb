//! Applies a plan to the kernel: route, IPVS table and sockets, in a safe order.
//!
//! Decides only the order. Every error may be transient (a module loaded later, a race, a link that
//! comes back), so all of them are returned to the caller, which retries after 500 ms.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use rtnetlink::Handle;

use crate::ipvs::{self, Destination, Identity, Ipvs, Service};
use crate::table::{Actual, Change, changes};
use crate::{pool::Plan, route, sockets};

/// The result of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Requests that changed the table, by their names.
    pub changes: Vec<&'static str>,
    /// Sockets of this host that were closed.
    pub destroyed: usize,
    /// Open connections of pods to a deleted server.
    pub expired: usize,
    /// Another program changed the table meanwhile, or connections are left: retry soon.
    pub again: bool,
}

/// Which changes a pass may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyMode {
    /// Everything.
    Full,
    /// As `Full`, but sockets stay open.
    KeepFlows,
    /// Nothing is deleted; servers to delete get weight 0.
    Additive,
}

/// The IPVS table, opened when needed.
#[derive(Debug, Default)]
pub struct Table(Option<Ipvs>);

impl Table {
    /// Our service and its real servers.
    pub fn read(&mut self, service: &Service) -> Result<Actual, ipvs::Error> {
        let Identity::Address { address, .. } = service.identity else {
            return Ok(Actual::default());
        };
        self.with(|ipvs| {
            let Some(found) = ipvs.service(service.identity)? else {
                return Ok(Actual::default());
            };
            match ipvs.destinations(address) {
                Ok(destinations) => Ok(Actual {
                    service: Some(found),
                    destinations,
                }),
                // Deleted between the two requests.
                Err(error) if error.is_race() => Ok(Actual::default()),
                Err(error) => Err(error),
            }
        })
    }

    /// Brings the table from `actual` to the plan.
    pub fn apply(&mut self, plan: &Plan, actual: &Actual, mode: ApplyMode) -> anyhow::Result<Done> {
        let mut done = Done::default();
        for change in changes(&plan.desired, actual) {
            let identity = plan.desired.service.identity;
            let name = change.name();
            let outcome = match change {
                Change::DeleteDestination(gone) if mode == ApplyMode::Additive => {
                    if gone.weight == 0 {
                        continue;
                    }
                    self.with(|ipvs| ipvs.set_destination(identity, &drained(&gone)))
                }
                Change::DeleteDestination(gone) => {
                    let kill = mode == ApplyMode::Full && plan.kill.contains(&gone.address);
                    if kill && !self.close_sockets(identity, &gone, &mut done)? {
                        continue;
                    }
                    self.with(|ipvs| ipvs.delete_destination(identity, &gone))
                }
                Change::NewService(service) => self.with(|ipvs| ipvs.new_service(&service)),
                Change::SetService(service) => self.with(|ipvs| ipvs.set_service(&service)),
                Change::NewDestination(new) => {
                    self.with(|ipvs| ipvs.new_destination(identity, &new))
                }
                Change::SetDestination(new) => {
                    self.with(|ipvs| ipvs.set_destination(identity, &new))
                }
            };
            match outcome {
                Ok(()) => done.changes.push(name),
                // The table changed after it was read, and the remaining changes depend on it.
                Err(error) if error.is_race() => {
                    done.again = true;
                    break;
                }
                Err(error) => return Err(error).context("changing the IPVS table"),
            }
        }
        Ok(done)
    }

    /// Removes our service with its real servers; succeeds if it does not exist.
    pub fn remove(&mut self, service: &Service) -> Result<(), ipvs::Error> {
        match self.with(|ipvs| ipvs.delete_service(service.identity)) {
            Err(error) if error.is_race() => Ok(()),
            done => done,
        }
    }

    pub fn info(&mut self) -> Result<ipvs::Info, ipvs::Error> {
        self.with(Ipvs::info)
    }

    /// Sets weight 0, then closes existing connections; the caller deletes the server afterwards.
    /// `false`: connections are left, retry.
    fn close_sockets(
        &mut self,
        identity: Identity,
        gone: &Destination,
        done: &mut Done,
    ) -> anyhow::Result<bool> {
        let Identity::Address { address, .. } = identity else {
            return Ok(true);
        };
        if gone.weight > 0 {
            match self.with(|ipvs| ipvs.set_destination(identity, &drained(gone))) {
                Ok(()) => done.changes.push("set_destination"),
                Err(error) if error.is_race() => {}
                Err(error) => return Err(error).context("changing the IPVS table"),
            }
        }
        match sockets::destroy(address, gone.address) {
            Ok(outcome) => {
                done.destroyed += outcome.destroyed;
                done.again |= outcome.left > 0;
                if outcome.left == 0 {
                    done.expired += outcome.foreign;
                }
                Ok(outcome.left == 0)
            }
            Err(error) => {
                // The kernel resets them at their next packet: late, but a dead server must not
                // stay.
                log::warn!(
                    "closing connections to {}: {error:#}; deleting the server anyway",
                    gone.address
                );
                Ok(true)
            }
        }
    }

    fn with<T>(
        &mut self,
        ask: impl FnOnce(&mut Ipvs) -> Result<T, ipvs::Error>,
    ) -> Result<T, ipvs::Error> {
        let ipvs = match &mut self.0 {
            Some(ipvs) => ipvs,
            closed => closed.insert(Ipvs::open()?),
        };
        let answer = ask(ipvs);
        // A reloaded module has another family number, and a late response may be pending: reopen.
        // An unknown family is reported as ENOENT too.
        if answer.as_ref().is_err_and(|error| {
            !error.is_race() || matches!(error, ipvs::Error::Kernel(nix::errno::Errno::ENOENT))
        }) {
            self.0 = None;
        }
        answer
    }
}

fn drained(destination: &Destination) -> Destination {
    Destination {
        weight: 0,
        ..destination.clone()
    }
}

/// Updates the route to `vip` with the given source, or the one this node uses towards `servers`.
/// Returns the source and whether the route changed; `None` if no server is reachable and no route
/// exists.
pub async fn put_route(
    handle: &Handle,
    vip: IpAddr,
    source: Option<IpAddr>,
    servers: &[SocketAddr],
) -> anyhow::Result<(Option<IpAddr>, bool)> {
    let servers: Vec<_> = servers.iter().map(SocketAddr::ip).collect();
    let desired = match source {
        Some(source) => Some(source),
        None => route::source_towards(handle, &servers).await?,
    };
    let found = route::current(handle, vip).await?;
    match desired {
        Some(desired) if found != Some(desired) => {
            route::put(handle, vip, desired).await?;
            Ok((Some(desired), true))
        }
        _ => Ok((desired.or(found), false)),
    }
}
