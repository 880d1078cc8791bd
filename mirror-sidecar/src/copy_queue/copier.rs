//! What copies an image, and how that can fail.

use std::net::IpAddr;

use mirror_contract::ImageRef;
use mirror_copy::{CopyReport, Retry};

use super::job::{Outlook, Task};
use super::progress::JobProgress;
use crate::reason::Reason;

/// Copies images.
pub trait Copier: Send + Sync + 'static {
    /// Copies an image; dropping the future stops the copy.
    fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        progress: &JobProgress,
    ) -> impl Future<Output = Result<CopyReport, Failure>> + Send;

    /// The state of the registry of an image that is being copied.
    fn source_state(&self, _image: &ImageRef<'static>) -> SourceState {
        SourceState::default()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SourceState {
    /// The address that the host name last resolved to, if known.
    pub address: Option<IpAddr>,
    /// The registry requested a pause that is not over.
    pub is_paused: bool,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub reason: Reason,
    pub retry: Retry,
    /// The source reports that it has no such image, or does not reveal whether it has it.
    pub is_absent: bool,
    /// The cause is logged elsewhere, once for all images that it affects.
    pub is_reported: bool,
}

impl Failure {
    pub(super) fn passing(reason: String) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::Transient { after: None },
            is_absent: false,
            is_reported: false,
        }
    }

    pub(super) fn outlook(&self) -> Outlook {
        match self.retry {
            Retry::Transient { .. } => Outlook::Passing,
            Retry::Permanent if self.is_absent => Outlook::Absent,
            Retry::Permanent => Outlook::Lasting,
        }
    }
}
