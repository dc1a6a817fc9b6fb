//! The current-thread runtime for D-Bus and netlink.
//!
//! firstboot is sequential: `async` stays inside `system/`.

use std::future::Future;

use anyhow::{Context, Result};

/// Runs one exchange with the kernel or systemd.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop")?
        .block_on(work)
}
