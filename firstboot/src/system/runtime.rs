//! The one current-thread runtime on which D-Bus and netlink run.
//!
//! firstboot does one thing after another: `async` stays inside `system/`.

use std::future::Future;

use anyhow::{Context, Result};

/// Runs one conversation with the kernel or with systemd to its end.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop")?
        .block_on(work)
}
