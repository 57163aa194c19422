//! What earlier runs on this instance mean for this one: whether its launch is completed, and which steps are due again.

use tokio::time::Instant;

use crate::failure::{Code, FailedStep, Failure};
use crate::lifecycle::Launch;
use crate::node::boot::Boot;
use crate::node::steps::lost_journal::AssessLostJournal;
use crate::node::steps::warm_pool::Relaunch;
use crate::runner::Runner;
use crate::sequence::StepName;
use crate::state::LaunchOutcome;

impl Boot<'_> {
    /// Whether the once-per-instance steps are done. Fails, before a volume is touched, if the journal can record no launch.
    pub(super) async fn is_launched(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<bool, FailedStep> {
        if let Some(config) = self.config.lifecycle.as_ref().filter(|_| self.journal.may_be_launched_anew(self.boot_id))
        {
            let (journal, deadline, planning) = (self.journal, self.config.timeouts.aws, run.is_planning());
            run.step(Relaunch { journal, launch, config, deadline, began: Instant::now(), planning }).await?;
        }
        self.assess_lost_journal(run, launch).await?;
        let launched = self.is_recorded_as_launched().and_then(|launched| self.must_be_recordable().map(|()| launched));
        launched.map_err(|failure| FailedStep::at(StepName::Identity, failure))
    }

    /// Decides, once per journal, what the possible loss of the one before means for the once-per-instance steps.
    async fn assess_lost_journal(&self, run: &Runner<'_>, launch: &Launch<'_>) -> Result<(), FailedStep> {
        let journal = self.journal;
        let lost = journal.lost().filter(|lost| AssessLostJournal::has_trace(*lost, &self.config.volumes));
        if let (Some(lost), Some(config)) = (lost, self.config.lifecycle.as_ref()) {
            let deadline = self.config.timeouts.aws;
            if run.step(AssessLostJournal { launch, config, lost, deadline }).await? {
                journal.presume_set_up();
            }
        }
        journal.nothing_lost();
        if journal.read(|state| state.lifecycle.presumed) {
            let text = format!(
                "the journal was lost, and {} is in service: files, configure and health-check count as done and are not \
                 repeated; if this node was never set up: node-agent retry --from files",
                launch.instance.instance_id
            );
            journal.warn(StepName::Identity, None, text);
        }
        Ok(())
    }

    /// Whether the journal shows the steps as done. Fails for an instance that was abandoned.
    fn is_recorded_as_launched(&self) -> Result<bool, Failure> {
        match self.journal.launch_outcome() {
            Some(LaunchOutcome::Abandoned) => {
                Err(Failure::new(Code::LaunchAbandoned, "the launch of this instance was abandoned before"))
            }
            _ => Ok(self.journal.is_set_up(self.config)),
        }
    }

    /// Fails for a launch that cannot be recorded. A node in service is mounted even without a usable journal.
    fn must_be_recordable(&self) -> Result<(), Failure> {
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
