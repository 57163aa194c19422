//! What earlier runs on this instance mean for this one: whether its launch is behind it, and what of it is due again.

use crate::failure::{Code, FailedStep, Failure};
use crate::lifecycle::Launch;
use crate::node::boot::Boot;
use crate::node::steps::lost_journal::FindLost;
use crate::node::steps::warm_pool::Relaunch;
use crate::runner::Runner;
use crate::sequence::StepName;
use crate::state::LaunchOutcome;

impl Boot<'_> {
    /// Whether the once-per-instance steps are behind this instance. A journal that can record no launch is refused here, before
    /// a volume is touched.
    pub(super) async fn is_launched(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<bool, FailedStep> {
        if let Some(config) = self.config.lifecycle.as_ref().filter(|_| self.journal.may_be_launched_anew(self.boot_id))
        {
            let deadline = self.config.timeouts.aws;
            run.step(Relaunch::new(self.journal, launch, config, deadline, run.is_planning())).await?;
        }
        self.find_what_was_lost(run, launch).await?;
        let launched = self.launched_before().and_then(|launched| self.must_take_records().map(|()| launched));
        launched.map_err(|failure| FailedStep::at(StepName::Identity, failure))
    }

    /// Decides what a journal that may have been lost means for the once-per-instance steps, once for a journal.
    async fn find_what_was_lost(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<(), FailedStep> {
        let journal = self.journal;
        let lost = journal.lost().filter(|lost| FindLost::has_trace(*lost, &self.config.volumes));
        if let (Some(lost), Some(config)) = (lost, self.config.lifecycle.as_ref()) {
            let deadline = self.config.timeouts.aws;
            if run.step(FindLost { launch, config, lost, deadline }).await? {
                journal.presume_set_up();
            }
        }
        journal.nothing_lost();
        if journal.read(|state| state.lifecycle.presumed) {
            let text = format!(
                "the journal was lost, and {} is in service: files, configure and health-check count as done, and are not \
                 called; if this node was never set up: node-agent retry --from files",
                launch.instance.instance_id
            );
            journal.warn(StepName::Identity, None, text);
        }
        Ok(())
    }

    /// What the journal says. An instance that was abandoned is not to be used.
    fn launched_before(&self) -> Result<bool, Failure> {
        match self.journal.launch_outcome() {
            Some(LaunchOutcome::Abandoned) => {
                Err(Failure::new(Code::LaunchAbandoned, "the launch of this instance was abandoned before"))
            }
            _ => Ok(self.journal.is_set_up(self.config)),
        }
    }

    /// A launch is begun only where it can be recorded. A node in service is mounted first, whatever became of its journal.
    fn must_take_records(&self) -> Result<(), Failure> {
        let left_alone = self.journal.left_alone();
        if self.journal.launch_outcome().is_none() {
            let failure = self.unwritable.take().or(left_alone);
            return failure.map_or(Ok(()), Err);
        }
        if let Some(failure) = left_alone {
            self.journal.warn(StepName::Identity, None, format!("{failure}; {}", failure.what_to_do()));
        }
        Ok(())
    }
}
