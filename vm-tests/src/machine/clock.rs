//! Slowed clocks of guests: an emulated machine does a tenth of the work per second.

use std::time::Duration;

use crate::host::accel::Accel;

/// The environment of libfaketime for a guest whose clock runs at `time_scale`.
pub(super) fn faketime(time_scale: f64) -> [(&'static str, String); 2] {
    [
        ("FAKETIME", format!("+0 x{time_scale}")),
        ("FAKETIME_DONT_RESET", "1".to_string()),
    ]
}

/// The deadline on the wall clock for work that takes `guest` on a machine with KVM.
pub(super) fn wall(guest: Duration, accel: Accel, time_scale: f64) -> Duration {
    // Under TCG a guest does about a tenth of the work per second.
    let slowness = match accel {
        Accel::Kvm => 1.0,
        Accel::Tcg => 10.0,
    };
    // A guest with a slowed clock does more work per guest second, hence the limit.
    guest.mul_f64((slowness / time_scale.max(0.1)).min(40.0).max(slowness))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowed_guest_gets_a_longer_deadline() {
        let second = Duration::from_secs(1);
        assert_eq!(wall(second, Accel::Kvm, 1.0), second);
        assert!(wall(second, Accel::Tcg, 0.2) > wall(second, Accel::Tcg, 1.0));
        assert!(wall(second, Accel::Tcg, 0.0) < Duration::from_secs(60));
    }
}
