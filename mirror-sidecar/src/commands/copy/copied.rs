//! The result of one copy.

use mirror_copy::CopyReport;

use super::missing::Failure;
use super::plan::Plan;

/// A copy that has come to its end.
pub(super) struct Copied {
    /// Its number among the copies of this run.
    pub(super) number: usize,
    pub(super) plan: Plan,
    pub(super) result: Result<CopyReport, Failure>,
}
