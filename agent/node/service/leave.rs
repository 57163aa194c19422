//! A node that is to go: it leaves, and the service ends.

use std::rc::Rc;

use super::{Next, Service};
use crate::config;
use crate::failure::{Code, FailedStep};
use crate::node::boot::BootOutcome;
use crate::node::order::Order;
use crate::runner::{stopped, unless_stopped};
use crate::state::FailedStepRecord;

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

    /// Whether an attempt has found that the instance is to go. Without a termination hook it is left alone.
    pub(super) fn is_told_to_go(
        &self,
        result: &Result<BootOutcome, FailedStep>,
        lifecycle: Option<&config::Lifecycle>,
    ) -> Option<Order> {
        let leaves = lifecycle.is_some_and(|lifecycle| lifecycle.terminate_hook_name.is_some());
        let is_terminating = result.as_ref().is_err_and(|failed| failed.failure.code == Code::Terminating);
        (leaves && is_terminating && self.session.site.get().is_some()).then_some(Order::TERMINATED)
    }

    /// Takes the node out of its cluster.
    pub(super) async fn leave(&mut self, order: Order) -> Next {
        let session = &self.session;
        let work = async {
            let config = match &self.config {
                Some(config) => Rc::clone(config),
                None => Rc::new(session.config_to_leave().await),
            };
            session.leave(&config, order).await
        };
        let result = self.control.requests.during(Box::pin(work)).await;
        self.control.requests.answer_followers(result.as_ref().err().map(FailedStepRecord::from).as_ref());
        Next::End(result)
    }
}
