//! The system bus: logind and update-engine, as far as an operator needs them.

use std::time::Duration;

use anyhow::Context as _;
use zbus::Connection;
use zbus::connection::Builder;

/// How long the sender of a signal stays on the bus for those who ask who it was.
const LINGER: Duration = Duration::from_secs(1);

/// Longest time one call on the bus may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const LOGIND_MANAGER: &str = "org.freedesktop.login1.Manager";

/// The name of update-engine on the bus.
pub(crate) const UPDATE_ENGINE: &str = "com.coreos.update1";
const UPDATE_ENGINE_PATH: &str = "/com/coreos/update1";
const UPDATE_ENGINE_MANAGER: &str = "com.coreos.update1.Manager";

/// The name of the bus itself.
const BUS: &str = "org.freedesktop.DBus";

/// Something that does not want the machine to go down now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inhibitor {
    pub(crate) who: String,
    pub(crate) why: String,
    pub(crate) pid: u32,
}

/// A connection to the system bus.
#[derive(Debug)]
pub(crate) struct SystemBus {
    connection: Connection,
}

impl SystemBus {
    /// Connects to the bus that `DBUS_SYSTEM_BUS_ADDRESS` names, else to the usual one.
    pub(crate) async fn connect() -> anyhow::Result<Self> {
        let connecting = Builder::system().method_timeout(CALL_TIMEOUT).build();
        let connected = tokio::time::timeout(CALL_TIMEOUT, connecting).await;
        let connection = connected
            .context("the system bus does not answer")?
            .context("cannot connect to the system bus")?;
        Ok(Self { connection })
    }

    /// Whether somebody owns `name`.
    pub(crate) async fn has_owner(&self, name: &str) -> anyhow::Result<bool> {
        let path = "/org/freedesktop/DBus";
        let answer =
            self.connection.call_method(Some(BUS), path, Some(BUS), "NameHasOwner", &name).await;
        Ok(answer.with_context(|| format!("cannot ask who owns {name}"))?.body().deserialize()?)
    }

    /// Whether logind would let us reboot: `yes`, `no`, `challenge` or `na`.
    pub(crate) async fn can_reboot(&self) -> anyhow::Result<String> {
        let answer = self.logind("CanReboot", &()).await.context("cannot ask logind")?;
        Ok(answer.body().deserialize()?)
    }

    /// Who blocks a shutdown. Whoever only delays it is logind's to wait for.
    pub(crate) async fn inhibitors(&self) -> anyhow::Result<Vec<Inhibitor>> {
        let answer =
            self.logind("ListInhibitors", &()).await.context("cannot ask logind for inhibitors")?;
        let body = answer.body();
        let listed: Vec<(String, String, String, String, u32, u32)> = body.deserialize()?;
        let blocks = |what: &str, mode: &str| {
            mode.starts_with("block") && what.split(':').any(|what| what == "shutdown")
        };
        Ok(listed
            .into_iter()
            .filter(|(what, _, _, mode, ..)| blocks(what, mode))
            .map(|(_, who, why, _, _, pid)| Inhibitor { who, why, pid })
            .collect())
    }

    /// Orders the reboot, and has logind tell everybody who is logged in.
    pub(crate) async fn reboot(&self, message: &str) -> zbus::Result<()> {
        // Without a message it reboots all the same.
        let _ = self.logind("SetWallMessage", &(message, true)).await;
        self.logind("Reboot", &false).await.map(drop)
    }

    /// Says what update-engine says when an update waits for a reboot.
    pub(crate) async fn emit_need_reboot(&self, now: i64) -> anyhow::Result<()> {
        let status = (now, 0.0_f64, "UPDATE_STATUS_UPDATED_NEED_REBOOT", "0.0.0", 0_i64);
        let to = None::<&str>;
        self.connection
            .emit_signal(to, UPDATE_ENGINE_PATH, UPDATE_ENGINE_MANAGER, "StatusUpdate", &status)
            .await
            .context("cannot emit the signal")?;
        // An answer to a later question proves that the bus has taken the signal.
        self.has_owner(UPDATE_ENGINE).await?;
        // The agent asks the bus whose signal it was, which the bus only knows of those still there.
        tokio::time::sleep(LINGER).await;
        Ok(())
    }

    async fn logind<B>(&self, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.connection
            .call_method(Some(LOGIND), LOGIND_PATH, Some(LOGIND_MANAGER), method, body)
            .await
    }
}
