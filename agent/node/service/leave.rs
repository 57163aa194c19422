//! A node that is to go: it leaves, and the service ends.

use std::rc::Rc;

use super::{Next, Service};
use crate::config;
use crate::failure::{Code, FailedStep, Failure};
use crate::node::boot::BootOutcome;
use crate::node::order::Order;
use crate::runner::{stopped, unless_stopped};
use crate::state::{FailedStepRecord, LaunchOutcome};

impl Service {
    /// What the journal says comes first: a departure that was begun goes on, if it is this instance's.
    pub(super) async fn begin(&mut self) -> Next {
        let session = &self.session;
        session.journal.forget_root_volume_replacement();
        if session.journal.departure_reason().is_none() {
            return Next::Again;
        }
        let known = unless_stopped(&session.stop, async {
            session.wait_until_known().await;
            Ok(())
        });
        if self.control.requests.during(Box::pin(known)).await.is_err() {
            return Next::End(Err(stopped().into()));
        }
        match session.journal.departure_reason() {
            Some(reason) => Next::Leave(Order { reason, at: None }),
            None => Next::Again,
        }
    }

    /// Whether an attempt has found that the instance is to go. Without a termination hook it is left alone, and so it is in a warm
    /// pool.
    pub(super) async fn is_told_to_go(
        &self,
        result: &Result<BootOutcome, FailedStep>,
        lifecycle: Option<&config::Lifecycle>,
    ) -> Option<Order> {
        let leaves = lifecycle.is_some_and(|lifecycle| lifecycle.terminate_hook_name.is_some());
        let is_terminating = result.as_ref().is_err_and(|failed| failed.failure.code == Code::Terminating);
        let site = self.session.site.get().filter(|_| leaves && is_terminating)?;
        let state = site.services.autoscaling.state(&site.instance.instance_id).await;
        (!state.is_ok_and(|state| state.is_in_pool())).then_some(Order::TERMINATED)
    }

    /// Whether the node leaves before the service ends with this failure: its instance was given up, so its group terminates it and
    /// waits for the termination hook.
    pub(super) fn leaves_given_up(&self, failed: &FailedStep) -> bool {
        let journal = &self.session.journal;
        let leaves = journal.last_action().is_some_and(|lifecycle| lifecycle.terminate_hook_name.is_some());
        let is_given_up = journal.launch_outcome() == Some(LaunchOutcome::Abandoned);
        leaves && is_given_up && !failed.was_stopped() && journal.departure_reason().is_none()
    }

    /// Takes the node out of its cluster.
    pub(super) async fn leave(&mut self, order: Order) -> Next {
        let given_up = self.given_up.take();
        let session = &self.session;
        // Whoever has asked for a retry learns that it has come to nothing.
        let text = "the instance is to be terminated, and the node leaves: node-agent status";
        let told =
            given_up.as_ref().map_or_else(|| Failure::new(Code::Terminating, text).into(), FailedStepRecord::from);
        self.control.requests.answer_followers(Some(&told));
        let work = async {
            let config = match &self.config {
                Some(config) => Rc::clone(config),
                None => Rc::new(session.config_to_leave().await),
            };
            session.leave(&config, order, given_up).await
        };
        let result = self.control.requests.during(Box::pin(work)).await;
        self.control.requests.answer_followers(result.as_ref().err().map(FailedStepRecord::from).as_ref());
        Next::End(result)
    }
}
