//! Carries a plan out: the route, the table, and the flows, in the order that hurts nobody.
//!
//! Decides nothing but the order. Every error may heal (a module loaded later, a race, a link that comes back), so
//! all of them go up to whoever asks again in a second.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use rtnetlink::Handle;

use crate::ipvs::{self, Destination, Identity, Ipvs, Service};
use crate::table::{Actual, Change, changes};
use crate::{fleet::Plan, flows, route};

/// What one pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Requests that changed the table, by their names.
    pub changes: Vec<&'static str>,
    /// Host sockets ended.
    pub destroyed: usize,
    /// Flows of others (pods) that were open when their server was deleted.
    pub expired: usize,
    /// Somebody else changed the table meanwhile, or flows are left: come again soon.
    pub again: bool,
}

/// How far a pass may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everything.
    Full,
    /// As `Full`, but flows are left alone.
    KeepFlows,
    /// Nothing is deleted; what should be gone gets no new connections.
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
                // Gone between the two questions.
                Err(error) if error.is_race() => Ok(Actual::default()),
                Err(error) => Err(error),
            }
        })
    }

    /// Brings the table from `actual` to the plan.
    pub fn apply(&mut self, plan: &Plan, actual: &Actual, reach: Reach) -> anyhow::Result<Done> {
        let mut done = Done::default();
        for change in changes(&plan.wished, actual) {
            let identity = plan.wished.service.identity;
            let name = change.name();
            let outcome = match change {
                Change::DeleteDestination(gone) if reach == Reach::Additive => {
                    if gone.weight == 0 {
                        continue;
                    }
                    self.with(|ipvs| ipvs.set_destination(identity, &drained(&gone)))
                }
                Change::DeleteDestination(gone) => {
                    let kill = reach == Reach::Full && plan.kill.contains(&gone.address);
                    if kill && !self.end_flows(identity, &gone, &mut done)? {
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
                // What we read is no longer so. The rest was decided on it too.
                Err(error) if error.is_race() => {
                    done.again = true;
                    break;
                }
                Err(error) => return Err(error).context("changing the IPVS table"),
            }
        }
        Ok(done)
    }

    /// Removes our service, and with it its real servers. Fine if there is none.
    pub fn remove(&mut self, service: &Service) -> Result<(), ipvs::Error> {
        match self.with(|ipvs| ipvs.delete_service(service.identity)) {
            Err(error) if error.is_race() => Ok(()),
            done => done,
        }
    }

    pub fn info(&mut self) -> Result<ipvs::Info, ipvs::Error> {
        self.with(Ipvs::info)
    }

    /// No new connections first, then an end to the old ones; the server is deleted after that. `false`: there are
    /// more, come again.
    fn end_flows(
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
        match flows::destroy(address, gone.address) {
            Ok(outcome) => {
                done.destroyed += outcome.destroyed;
                done.again |= outcome.left > 0;
                if outcome.left == 0 {
                    done.expired += outcome.foreign;
                }
                Ok(outcome.left == 0)
            }
            Err(error) => {
                // The kernel resets them at their next packet: late, but no reason to keep a dead server.
                log::warn!(
                    "ending the flows to {}: {error:#}; deleting the server without",
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
        // A reloaded module has another family number, and a late answer may still be under way: start afresh.
        // ENOENT is also what an unknown family looks like.
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

/// Makes the route to `vip` right: the given source, or the one this node uses towards `servers`. Answers the source
/// and whether anything was changed; `None` if no server can be reached and there is no route yet.
pub async fn put_route(
    handle: &Handle,
    vip: IpAddr,
    source: Option<IpAddr>,
    servers: &[SocketAddr],
) -> anyhow::Result<(Option<IpAddr>, bool)> {
    let servers: Vec<_> = servers.iter().map(SocketAddr::ip).collect();
    let wanted = match source {
        Some(source) => Some(source),
        None => route::source_towards(handle, &servers).await?,
    };
    let found = route::current(handle, vip).await?;
    match wanted {
        Some(wanted) if found != Some(wanted) => {
            route::put(handle, vip, wanted).await?;
            Ok((Some(wanted), true))
        }
        _ => Ok((wanted.or(found), false)),
    }
}
