//! Slowed clocks of guests: an emulated machine does a tenth of the work per second.

use std::time::Duration;

use crate::host::accel::Accel;

/// A busy host may not run a guest for seconds.
const SHORTEST_UNDER_TCG: Duration = Duration::from_secs(10);

/// The arguments of QEMU that choose who executes the guest's instructions.
pub(super) fn processor(
    accel: Accel,
    counts_instructions: bool,
) -> &'static [(&'static str, &'static str)] {
    // Five-level page tables make every emulated memory access slower.
    const MODEL: (&str, &str) = ("-cpu", "max,la57=off");
    match (accel, counts_instructions) {
        // Time that the guest sleeps passes at once.
        (_, true) => &[
            ("-accel", "tcg,thread=single,tb-size=512"),
            ("-icount", "shift=0,sleep=off"),
            MODEL,
        ],
        (Accel::Kvm, false) => &[("-accel", "kvm"), ("-cpu", "host")],
        (Accel::Tcg, false) => &[("-accel", "tcg,thread=multi,tb-size=512"), MODEL],
    }
}

/// The environment of libfaketime for a guest whose clock runs at `time_scale`.
pub(super) fn faketime(time_scale: f64) -> [(&'static str, String); 2] {
    [
        ("FAKETIME", format!("+0 x{time_scale}")),
        ("FAKETIME_DONT_RESET", "1".to_string()),
    ]
}

/// The deadline on the wall clock for work that takes at most `guest` on a machine with KVM.
///
/// Deadlines are several times what the work takes with KVM, so a guest gets less than the tenfold
/// time of its tenfold slower processor: a test that waits in vain ends within CI's 90 minutes.
pub(super) fn wall(guest: Duration, accel: Accel, time_scale: f64) -> Duration {
    match accel {
        Accel::Kvm => guest,
        // A guest with a slowed clock does more work per guest second, hence the limit.
        Accel::Tcg => {
            SHORTEST_UNDER_TCG + guest.mul_f64((1.5 / time_scale.max(0.1)).clamp(4.0, 15.0))
        }
    }
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
