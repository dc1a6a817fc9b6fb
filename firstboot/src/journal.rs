//! Message ids and field names in the journal, which other programs may rely on.
//!
//! `MESSAGE` itself may change at any time.

/// Defines the ids and their table together, so that the table is complete.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*
        /// Every message id with its name.
        pub const MESSAGES: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

messages! {
    /// firstboot started. Fields: `VERSION`.
    STARTED = "c682e54c6aab4613bcd7e973341dd0a5";
    /// A source was asked. Fields: `SOURCE`, `RESULT` (`found`, `nothing`, `broken`), `BYTES`,
    /// `DURATION_MS`, `REASON`.
    SOURCE_TRIED = "0920edca78ee4a6483a4c1edc910bdd0";
    /// A document was found and is valid. Fields: `SOURCE`, `HOST`, `ROLE`.
    DOCUMENT_FOUND = "06bd4b4d2641476987b7d83a48b3aeca";
    /// A document or a source was found and cannot be used; nothing was written. Fields: `SOURCE`,
    /// `REASON`.
    DOCUMENT_REFUSED = "0ab212728025492a88ea823eccbccf13";
    /// A document that this machine may not take: it keeps the one that it has. Fields: `SOURCE`,
    /// `REASON`.
    DOCUMENT_IGNORED = "7b0c6a1f5d3e4c0f9a52e1d84b6f3c27";
    /// No source has a document; firstboot waits for a disk.
    DOCUMENT_AWAITED = "bb020bc1f856436e802614bb332da712";
    /// Fields: `STEP`, `STEP_NUMBER`, `STEP_COUNT`, as in the next three.
    STEP_STARTED = "80e9812f1a7548cdaeeb1f4513db4532";
    /// Also `DURATION_MS`.
    STEP_DONE = "0c9e73f33160449c84360914ee3ccc4e";
    /// The step is done already, or needs a running system (`REASON`).
    STEP_SKIPPED = "aaaced0aeeed4eeaa8f83173e3eacfea";
    /// Also `REASON`, `DURATION_MS`.
    STEP_FAILED = "21ba4f82cd324ebeb1dcf0d4ff56e520";
    /// The first action of kubeadm or kubelet follows. Fields: `OWN_MS`, the CPU time of firstboot
    /// so far; `SINCE_START_MS`, the wall time; `PEAK_MEMORY_KIB`.
    KUBEADM_STARTED = "063d2ea64eba4261ad0da65ae992961e";
    /// firstboot waits for something outside. Fields: `STEP`, `ENDPOINT`, `ANSWER` (the last one),
    /// `TRIES`, `SINCE_MS` (the age of the wait).
    WAITING = "ae9bfdeb1dbb421fa3419e895a860dea";
    /// The machine is ready. Fields: `HOST`, `ROLE`, `DURATION_MS`, `OWN_MS`, `PEAK_MEMORY_KIB`,
    /// `CHANGED` (number of steps that made a lasting change).
    READY = "124ff8ab7e664a968ae990d838123c81";
    /// firstboot failed. Fields: `REASON`.
    FAILED = "a4bda419b6b841eab8f1a966e60789cb";
}

/// Field names.
pub mod field {
    pub const HOST: &str = "FIRSTLIGHT_HOST";
    pub const ROLE: &str = "FIRSTLIGHT_ROLE";
    pub const STEP: &str = "FIRSTLIGHT_STEP";
    pub const STEP_NUMBER: &str = "FIRSTLIGHT_STEP_NUMBER";
    pub const STEP_COUNT: &str = "FIRSTLIGHT_STEP_COUNT";
    pub const SOURCE: &str = "FIRSTLIGHT_SOURCE";
    pub const RESULT: &str = "FIRSTLIGHT_RESULT";
    pub const REASON: &str = "FIRSTLIGHT_REASON";
    pub const BYTES: &str = "FIRSTLIGHT_BYTES";
    pub const DURATION_MS: &str = "FIRSTLIGHT_DURATION_MS";
    pub const ENDPOINT: &str = "FIRSTLIGHT_ENDPOINT";
    pub const ANSWER: &str = "FIRSTLIGHT_ANSWER";
    pub const TRIES: &str = "FIRSTLIGHT_TRIES";
    pub const SINCE_MS: &str = "FIRSTLIGHT_SINCE_MS";
    pub const OWN_MS: &str = "FIRSTLIGHT_OWN_MS";
    pub const SINCE_START_MS: &str = "FIRSTLIGHT_SINCE_START_MS";
    pub const PEAK_MEMORY_KIB: &str = "FIRSTLIGHT_PEAK_MEMORY_KIB";
    pub const CHANGED: &str = "FIRSTLIGHT_CHANGED";
    pub const VERSION: &str = "FIRSTLIGHT_VERSION";
    /// The program that printed the line.
    pub const PROGRAM: &str = "FIRSTLIGHT_PROGRAM";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_id_is_a_different_128_bit_number() {
        let ids: BTreeSet<_> = super::MESSAGES.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), super::MESSAGES.len());
        for (name, id) in super::MESSAGES {
            assert!(
                id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{name}: {id}"
            );
        }
    }
}
