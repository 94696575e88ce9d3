//! What work on images tells while it goes on, and the tasks that it runs on.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::error::ImageError;

/// What a pull reports while it goes on. Layers are named by the first 12
/// digits of their digests.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The image is known.
    Layers {
        /// Layers it has.
        total: usize,
        /// Those to fetch.
        missing: usize,
        /// Compressed bytes to fetch.
        bytes: u64,
    },
    /// More of a layer is here.
    Downloaded {
        /// Which.
        layer: String,
        /// Compressed bytes so far.
        bytes: u64,
        /// Of how many.
        total: u64,
    },
    /// A layer is unpacked and checked.
    Unpacked {
        /// Which.
        layer: String,
    },
    /// Another process fetches what is still missing.
    Waiting,
    /// The registry says that what is here is what it has.
    UpToDate,
    /// More of a layer is in the registry.
    Uploaded {
        /// Which.
        layer: String,
        /// Compressed bytes so far.
        bytes: u64,
        /// Of how many.
        total: u64,
    },
    /// A layer is in the registry.
    Pushed {
        /// Which.
        layer: String,
        /// `exists`, `mounted` or `sent`.
        state: &'static str,
    },
    /// Something failed and is tried again.
    Retrying {
        /// What.
        request: String,
        /// Why.
        reason: String,
    },
    /// Something the user should know.
    Warning {
        /// A sentence.
        text: String,
    },
}

/// Where progress goes: tasks of any thread send, the pull's own task reports.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::UnboundedSender<Progress>);

impl Events {
    /// Where nobody listens.
    pub(super) fn unheard() -> Self {
        Self(mpsc::unbounded_channel().0)
    }

    pub(super) fn send(&self, progress: Progress) {
        // Nobody listening is a pull that was given up.
        let _ = self.0.send(progress);
    }
}

/// Runs work that sends progress, and reports it on this task.
pub(super) async fn reporting<T, F: Future<Output = Result<T, ImageError>>>(
    progress: impl Fn(Progress) + Send + Sync,
    work: impl FnOnce(Events) -> F,
) -> Result<T, ImageError> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let work = work(Events(sender));
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            biased;
            Some(event) = receiver.recv() => progress(event),
            result = &mut work => break result,
        }
    };
    while let Ok(event) = receiver.try_recv() {
        progress(event);
    }
    result
}

/// Runs file system work on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    image: Arc<str>,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(ImageError::Cancelled {
            image: image.to_string(),
        })
    })
}
