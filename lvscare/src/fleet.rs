//! All servers together: from their health to the wished table, and to the flows that must die.
//!
//! Pure: verdicts, the table as found and the time come in; nothing is done here. Two rules stand above all
//! others. *Never zero*: a table with a usable server never becomes one without; if no server is up, all of them
//! are tried ("panic"). *Not on hearsay*: silence alone kills no flow and deletes no server, for the silent one
//! may be we; it takes another server that answered both before the silent probe and after.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::health::{Class, Health, Thresholds, Verdict};
use crate::ipvs::Service;
use crate::table::{Actual, Wished};

/// A server that nobody tells of any more and that fails is given up after this long, even if no other is up.
const ABSENT: Duration = Duration::from_secs(5 * 60);

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
    /// First and last answer of the present run of good ones.
    answers: Option<(Instant, Instant)>,
    last: Last,
    /// When it was first missing from the members we were told of.
    absent_since: Option<Instant>,
}

impl Member {
    fn new(address: SocketAddr, weight: u32, now: Instant) -> Self {
        Self {
            address,
            weight,
            health: Health::default(),
            since: now,
            cause: None,
            answers: None,
            last: Last::Answered,
            absent_since: None,
        }
    }
}

/// What the last probe met.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// Somebody: whatever was said, old flows may have an end there.
    Answered,
    /// The host, where nobody listens any more.
    Refused,
    /// Nobody. When the probe began.
    Silent(Instant),
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
    /// A server is to be tried from now on.
    Joined(SocketAddr),
    /// A server that is told of no more was given up.
    Left(SocketAddr),
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
        let member = |&(address, weight): &(SocketAddr, u32)| Member::new(address, weight, now);
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

    /// Takes in whom we are told of. Who is missing is not dead, for an apiserver too busy to say that it lives is
    /// missing too; he stays until `plan` finds that he can be done without. An empty list tells nothing.
    pub fn set_members(&mut self, told: &[(SocketAddr, u32)], now: Instant) -> Vec<Event> {
        if told.is_empty() {
            return Vec::new();
        }
        for member in &mut self.members {
            match told.iter().find(|(address, _)| *address == member.address) {
                Some((_, weight)) => {
                    member.weight = *weight;
                    member.absent_since = None;
                }
                None => member.absent_since = member.absent_since.or(Some(now)),
            }
        }
        let mut events = Vec::new();
        for &(address, weight) in told {
            if !self.members.iter().any(|member| member.address == address) {
                self.members.push(Member::new(address, weight, now));
                events.push(Event::Joined(address));
            }
        }
        events
    }

    /// Gives up those we are told of no more: at once if another that we are told of is up, and after a while if they
    /// fail. There is always a member left.
    fn give_up(&mut self, now: Instant) -> Vec<Event> {
        let another_is_up = self
            .members
            .iter()
            .any(|member| member.absent_since.is_none() && member.health.class() == Class::Up);
        let goes = |member: &Member| {
            let Some(since) = member.absent_since else {
                return false;
            };
            let fails = matches!(member.health.class(), Class::Sick | Class::Gone);
            another_is_up || fails && now.saturating_duration_since(since) >= ABSENT
        };
        // Nobody is given up for the sake of nobody.
        if self.members.iter().all(goes) {
            return Vec::new();
        }
        let left = self.members.extract_if(.., |member| goes(member));
        left.map(|member| Event::Left(member.address)).collect()
    }

    /// Is there nothing to be done but to go on watching? Then a verdict that changed nothing needs no look at the
    /// table.
    pub fn is_quiet(&self) -> bool {
        let quiet =
            |member: &Member| member.health.class() == Class::Up && member.absent_since.is_none();
        !self.panic && self.members.iter().all(quiet)
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
        member.last = match verdict {
            Verdict::Silent { .. } => Last::Silent(began),
            Verdict::Refused { .. } => Last::Refused,
            _ => Last::Answered,
        };
        member.answers = match (verdict, member.answers) {
            (Verdict::Up, Some((first, _))) => Some((first, now)),
            (Verdict::Up, None) => Some((now, now)),
            _ => None,
        };
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
        let mut events = self.give_up(now);
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
        match (member.health.class(), member.last) {
            (Class::Gone, Last::Refused) => true,
            // Coming back.
            (Class::Gone, Last::Answered) => false,
            // Another's answers from before the probe until after it: our own link was there all the time.
            (Class::Gone, Last::Silent(began)) => others.any(|other| {
                other
                    .answers
                    .is_some_and(|(first, last)| first <= began && began < last)
            }),
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
mod membership;
#[cfg(test)]
mod tests;
