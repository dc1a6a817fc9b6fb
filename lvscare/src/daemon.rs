//! The daemon: an event loop that reconciles the kernel's table every 500 ms and on every event.
//!
//! The daemon keeps no state that a restart needs: the kernel's table is the state. Every failure
//! is retried after 500 ms; only a signal ends the daemon, which leaves the table and route in
//! place.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;
use rtnetlink::MulticastGroup;
use signal_hook::consts::SIGALRM;
use signal_hook::flag::register_conditional_shutdown;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use crate::pool::members::Members;
use crate::probe::checkers::HealthCheckers;
use crate::probe::ticker::Ticker;
use crate::reconcile::Reconciler;
use crate::settings::Settings;
use crate::sockets;

/// Interval between two checks of the table, which sends no notifications: an external change is
/// reverted within this time.
const ROUND: Duration = Duration::from_millis(500);

/// Route, sysctls and the server file are checked every so many rounds.
const ROUNDS_PER_CHECK: u32 = 2;

/// Delay after a race or an external change, which often come in groups.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Seconds without a round after which SIGALRM ends the process, for kubelet or systemd to restart
/// it.
const WATCHDOG: u32 = 10;

/// `EX_SOFTWARE`: the main loop was stuck.
const STUCK: i32 = 70;

/// Runs until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, handle, mut links) =
        rtnetlink::new_multicast_connection(&groups).context("opening rtnetlink")?;
    tokio::spawn(connection);
    // A handler, because the kernel ignores the default action of signals for PID 1 of a container.
    let always = Arc::new(AtomicBool::new(true));
    register_conditional_shutdown(SIGALRM, STUCK, always).context("arming the watchdog")?;
    // SIGALRM may be blocked by an inherited mask; unblock it or the watchdog never fires.
    let mut alarm_alone = SigSet::empty();
    alarm_alone.add(Signal::SIGALRM);
    alarm_alone
        .thread_unblock()
        .context("unblocking SIGALRM for the watchdog")?;
    // Armed before the first round, so that a hang during start is caught and `/livez` implies an
    // armed watchdog.
    alarm::set(WATCHDOG);
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (sender, mut reports) = mpsc::channel(64);
    let (lists_sender, mut lists) = mpsc::channel(4);
    if let Some(discovery) = settings.discovery.clone() {
        tokio::spawn(discovery.run(lists_sender));
    }
    if settings.kill
        && let Err(error) = sockets::prepare(settings.service)
    {
        log::warn!("{error:#}; idle connections to dead servers hang until their next packet");
    }
    let members = Members::new(settings.sources.clone())?;
    let ticker = Ticker::start();
    let mut reconciler = Reconciler::new(
        settings,
        handle,
        members,
        HealthCheckers::new(sender, ticker),
    );
    reconciler.listen().await;
    let mut next_round = tokio::time::Instant::now();
    let mut round = 0u32;
    let mut again = false;
    let mut check_at: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = sleep_until(next_round) => {
                next_round = ticker.next(ROUND);
                alarm::set(WATCHDOG);
                round = round.wrapping_add(1);
                if round % ROUNDS_PER_CHECK == 1 {
                    reconciler.check_route_and_sysctls().await;
                    reconciler.reread();
                }
            }
            Some(report) = reports.recv() => {
                if !reconciler.on_probe(&report) && reconciler.pool.is_steady() {
                    continue;
                }
            }
            Some(list) = lists.recv() => reconciler.on_discovered(list),
            // Link events come in bursts; one delayed check serves all of them.
            Some(_) = links.next() => {
                check_at.get_or_insert_with(|| tokio::time::Instant::now() + RETRY_DELAY);
                continue;
            }
            () = sleep_until(check_at.unwrap_or_else(tokio::time::Instant::now)), if check_at.is_some() => {
                check_at = None;
                reconciler.check_route_and_sysctls().await;
            }
            () = sleep(RETRY_DELAY), if again => {}
        }
        again = reconciler.reconcile();
        reconciler.update_checkers();
    }
    alarm::cancel();
    log::info!("shutting down; IPVS service and route left in place");
    Ok(())
}
