//! Log lines for events and for errors that last.

use crate::pool::Event;

/// Logs an error when it appears, changes or is resolved, not on every round.
pub(crate) fn log_once(last: &mut Option<String>, error: Option<String>) {
    match (&*last, &error) {
        (last, Some(error)) if last.as_ref() != Some(error) => log::error!("{error}"),
        (Some(last), None) => log::info!("resolved: {last}"),
        _ => {}
    }
    *last = error;
}

pub(crate) fn log_event(event: &Event) {
    match event {
        Event::Transition {
            address,
            from,
            to,
            cause,
            after,
        } => {
            let cause = cause
                .as_deref()
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            log::info!(
                "{address}: {to}, was {from} for {:.1} s{cause}",
                after.as_secs_f64()
            );
        }
        Event::Joined(address) => log::info!("{address}: added"),
        Event::Left(address) => log::info!("{address}: removed"),
        Event::PanicEntered => log::error!("no healthy server: failing open (panic mode)"),
        Event::PanicLeft => log::info!("a server is healthy again: leaving panic mode"),
    }
}
