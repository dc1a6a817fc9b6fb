//! Bootstrap tokens of kubeadm, which no document has.

/// Whether `id.secret` has the format of kubeadm. One token in 200 has no digit and passes, since it looks like two words.
pub(super) fn is_bootstrap_token(id: &str, secret: &str) -> bool {
    let lower = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    id.len() == 6
        && secret.len() == 16
        && lower(id)
        && lower(secret)
        && secret.bytes().any(|b| b.is_ascii_digit())
}
