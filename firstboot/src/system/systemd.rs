//! systemd over D-Bus: subscribe to jobs, call a method, wait for its job.
//!
//! Uses the system bus, whose socket exists before firstboot starts, and not
//! `/run/systemd/private`: there systemd sends its well-known name, and zbus 6 rejects a sender
//! that is not a unique name ("Invalid unique name"; seen with systemd 257 and zbus 6.2.1). Raw
//! method calls instead of generated proxies keep the order of subscribing and calling visible.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use serde::Serialize;
use zbus::wire::{DynamicType, ObjectPath, OwnedObjectPath, OwnedVariant, Type};
use zbus::{Connection, MessageStream, connection};

use super::runtime::block_on;

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// During boot PID 1 may send hundreds of signals before a reply, which a full queue would block.
const QUEUE: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Starts a unit and waits for its start job. Does nothing to an active unit.
pub fn start(unit: &str) -> Result<()> {
    block_on(job("StartUnit", unit)).with_context(|| format!("starting `{unit}`"))
}

pub fn restart(unit: &str) -> Result<()> {
    block_on(job("RestartUnit", unit)).with_context(|| format!("restarting `{unit}`"))
}

/// Reloads a unit; starts it if it is not active.
pub fn reload(unit: &str) -> Result<()> {
    block_on(job("ReloadOrRestartUnit", unit)).with_context(|| format!("reloading `{unit}`"))
}

pub fn stop(unit: &str) -> Result<()> {
    block_on(job("StopUnit", unit)).with_context(|| format!("stopping `{unit}`"))
}

/// Whether the unit is active; false also if it does not exist.
pub fn is_active(unit: &str) -> Result<bool> {
    block_on(async {
        let manager = Manager::connect().await?;
        let path: OwnedObjectPath = manager.call(PATH, MANAGER, "LoadUnit", &unit).await?;
        let state: OwnedVariant = manager
            .call(
                path.as_str(),
                "org.freedesktop.DBus.Properties",
                "Get",
                &("org.freedesktop.systemd1.Unit", "ActiveState"),
            )
            .await?;
        Ok(matches!(
            state.downcast_ref::<&str>(),
            Ok("active" | "reloading")
        ))
    })
    .with_context(|| format!("reading the state of `{unit}`"))
}

/// Enables a unit; does not start it.
pub fn enable(unit: &str) -> Result<()> {
    block_on(async {
        let manager = Manager::connect().await?;
        let (persistent, replace) = (false, false);
        let _: (bool, Vec<(String, String, String)>) = manager
            .call(
                PATH,
                MANAGER,
                "EnableUnitFiles",
                &(vec![unit], persistent, replace),
            )
            .await?;
        let () = manager.call(PATH, MANAGER, "Reload", &()).await?;
        Ok(())
    })
    .with_context(|| format!("enabling `{unit}`"))
}

/// Reads unit files and `/etc/fstab` again.
pub fn reload_units() -> Result<()> {
    block_on(async {
        let manager = Manager::connect().await?;
        let () = manager.call(PATH, MANAGER, "Reload", &()).await?;
        Ok(())
    })
    .context("reloading the units")
}

/// Disables a unit; does not stop it.
pub fn disable(unit: &str) -> Result<()> {
    block_on(async {
        let manager = Manager::connect().await?;
        let persistent = false;
        let _: Vec<(String, String, String)> = manager
            .call(PATH, MANAGER, "DisableUnitFiles", &(vec![unit], persistent))
            .await?;
        let () = manager.call(PATH, MANAGER, "Reload", &()).await?;
        Ok(())
    })
    .with_context(|| format!("disabling `{unit}`"))
}

pub fn is_enabled(unit: &str) -> Result<bool> {
    block_on(async {
        let manager = Manager::connect().await?;
        let state: String = manager
            .call(PATH, MANAGER, "GetUnitFileState", &unit)
            .await?;
        Ok(state == "enabled")
    })
    .with_context(|| format!("checking whether `{unit}` is enabled"))
}

/// A connection to PID 1.
struct Manager(Connection);

impl Manager {
    async fn connect() -> Result<Self> {
        let connection = connection::Builder::system()
            .max_queued(QUEUE)
            .build()
            .await;
        Ok(Self(connection.context(
            "connecting to the system bus; is `dbus.socket` active?",
        )?))
    }

    async fn call<B, T>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<T>
    where
        B: Serialize + DynamicType,
        T: for<'de> serde::Deserialize<'de> + Type,
    {
        let path = ObjectPath::try_from(path)?;
        let reply = self
            .0
            .call_method(Some(NAME), path, Some(interface), method, body)
            .await?;
        Ok(reply.body().deserialize()?)
    }
}

/// Calls a method that creates a job, and waits for that job.
async fn job(method: &str, unit: &str) -> Result<()> {
    let manager = Manager::connect().await?;
    let mut messages = MessageStream::from(&manager.0);
    // Before the call, because a job may end before its reply is read.
    let rule = format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'");
    let bus = Some("org.freedesktop.DBus");
    manager
        .0
        .call_method(
            bus,
            "/org/freedesktop/DBus",
            bus,
            "AddMatch",
            &rule.as_str(),
        )
        .await?;
    let () = manager.call(PATH, MANAGER, "Subscribe", &()).await?;
    let job: OwnedObjectPath = manager
        .call(PATH, MANAGER, method, &(unit, "replace"))
        .await?;
    while let Some(message) = messages.next().await {
        let message = message.context("reading signals of systemd")?;
        if message
            .header()
            .member()
            .is_none_or(|member| member.as_str() != "JobRemoved")
        {
            continue;
        }
        let (_, ended, _, result): (u32, OwnedObjectPath, String, String) =
            message.body().deserialize()?;
        if ended == job {
            return match result.as_str() {
                "done" | "skipped" => Ok(()),
                result => bail!("the job ended with `{result}`; see `journalctl --unit {unit}`"),
            };
        }
    }
    bail!("the bus closed the connection before the job ended")
}
