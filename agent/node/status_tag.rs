//! The instance's tag with the node's failure, for operators who cannot log in.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::aws::ec2::tag;
use crate::failure::{self, Class, FailedStep};
use crate::node::session::Session;
use crate::readable;

/// How long an attempt to tag the instance may take.
const TAG_TIMEOUT: Duration = Duration::from_secs(15);
/// The pause before the next attempt.
const TAG_PAUSE: Duration = Duration::from_secs(30);
/// The longest value a tag can have (EC2 user guide, "Tag restrictions").
const TAG_LENGTH: usize = 256;

/// The first line of a text, as a tag can have it.
pub fn value(text: &str) -> String {
    readable::line(text.lines().next().unwrap_or_default()).chars().take(TAG_LENGTH).collect()
}

impl Session {
    /// Retries [`Session::tag`] until it has succeeded or cannot succeed.
    pub async fn keep_tagging(&self, failed: Option<&FailedStep>) {
        while !self.tag(failed).await {
            sleep(TAG_PAUSE).await;
        }
    }

    /// Tags the instance with the failure, if the instance is known and IAM allows it. Without a failure, only an earlier tag is
    /// replaced. A lost or stopped instance is not tagged. Returns whether nothing is left to do.
    pub async fn tag(&self, failed: Option<&FailedStep>) -> bool {
        let Some(site) = self.site.get() else { return true };
        let class = failed.map(|failed| failed.failure.class());
        if matches!(class, Some(Class::Stopped | Class::LifecycleLost)) {
            return true;
        }
        let earlier = self.journal.read(|state| state.tagged);
        let value = match failed {
            None if !earlier => return true,
            None => "done".to_owned(),
            Some(failed) => {
                let step = failure::place(failed.step);
                value(&format!("{step}: {}", failed.failure.in_public()))
            }
        };
        if failed.is_some() {
            // Recorded before the call: its answer can be lost, or arrive after this process has ended.
            self.record_tagged(true);
        }
        let tags = [(tag::STATUS, value.as_str())];
        let tagging = Box::pin(site.services.ec2.tag(&site.instance.instance_id, &tags));
        match timeout(TAG_TIMEOUT, tagging).await {
            Ok(Ok(true)) => self.record_tagged(failed.is_some()),
            Ok(Ok(false)) => {
                tracing::debug!("the instance cannot be tagged: ec2:CreateTags is not allowed");
                self.record_tagged(earlier);
            }
            Ok(Err(failure)) => {
                tracing::debug!("the instance cannot be tagged: {failure}");
                return false;
            }
            Err(_) => {
                tracing::debug!("the instance cannot be tagged: EC2 does not answer");
                return false;
            }
        }
        true
    }

    fn record_tagged(&self, tagged: bool) {
        if self.journal.read(|state| state.tagged) == tagged {
            return;
        }
        if let Err(failure) = self.journal.update(|state| state.tagged = tagged) {
            tracing::error!("{failure}");
        }
    }
}
