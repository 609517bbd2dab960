//! Where figures go, as the configuration says, and again as it says after a reload.

use std::net::SocketAddr;
use std::path::PathBuf;

use rebootlock::config::MetricsSettings;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Metrics, serve, textfile};

/// Shows figures until it is dropped. With nothing configured it runs nothing.
#[derive(Debug)]
pub struct Export {
    metrics: Metrics,
    server: Option<(SocketAddr, Task)>,
    writer: Option<(PathBuf, Task)>,
    listening: watch::Sender<Option<SocketAddr>>,
}

/// Ends when it is dropped, at the next chance; [`Task::end`] waits for that.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    async fn end(mut self) {
        self.0.abort();
        // Whether it was done or aborted makes no difference.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Export {
    /// Begins to show `metrics`. Neither a port that is taken nor a folder that is missing keeps
    /// the agent from its work: both are told in the log, and tried again. Call it inside the
    /// runtime.
    pub fn start(metrics: Metrics, settings: &MetricsSettings) -> Self {
        let mut export =
            Self { metrics, server: None, writer: None, listening: watch::Sender::new(None) };
        export.begin(settings);
        export
    }

    /// Goes on as `settings` say; what they do not change goes on undisturbed.
    pub async fn change(&mut self, settings: &MetricsSettings) {
        let listen = settings.listen;
        if let Some((_, task)) = self.server.take_if(|(address, _)| Some(*address) != listen) {
            // The new one may want the same port.
            task.end().await;
            self.listening.send_replace(None);
        }
        let textfile = settings.textfile.as_deref();
        if let Some((_, task)) = self.writer.take_if(|(path, _)| Some(path.as_path()) != textfile) {
            task.end().await;
        }
        self.begin(settings);
    }

    /// The address that figures are served on, once they are.
    pub fn listening(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.listening.subscribe()
    }

    fn begin(&mut self, settings: &MetricsSettings) {
        if let (None, Some(address)) = (&self.server, settings.listen) {
            let serve = serve::serve(self.metrics.clone(), address, self.listening.clone());
            self.server = Some((address, Task(tokio::spawn(serve))));
        }
        if let (None, Some(path)) = (&self.writer, &settings.textfile) {
            let keep = textfile::keep(self.metrics.clone(), path.clone());
            self.writer = Some((path.clone(), Task(tokio::spawn(keep))));
        }
    }
}
