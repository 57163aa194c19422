//! The instance's tag with how the node stands, for people who cannot log in.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::aws::ec2::tag;
use crate::failure::{self, Class, FailedStep};
use crate::node::session::Session;
use crate::readable;

/// How long a failed node may take to tag its instance, so that somebody outside sees why.
const TAGGING: Duration = Duration::from_secs(15);
/// After this long, what did not succeed is tried again.
const TAGGING_AGAIN: Duration = Duration::from_secs(30);
/// The longest value a tag can have (EC2 user guide, "Tag restrictions").
const TAG_LENGTH: usize = 256;

impl Session {
    /// [`Session::tag`], until it has succeeded or cannot.
    pub async fn keep_tagging(&self, failed: Option<&FailedStep>) {
        while !self.tag(failed).await {
            sleep(TAGGING_AGAIN).await;
        }
    }

    /// Tags the instance with how it stands, where it is known and IAM allows it. Without a failure, only to take an earlier
    /// tag back. What a lost or stopped instance says is of no use to anybody. Returns whether there is nothing left to do.
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
                let text = format!("{step}: {}", failed.failure.in_public().lines().next().unwrap_or_default());
                readable::line(&text).chars().take(TAG_LENGTH).collect()
            }
        };
        if failed.is_some() {
            // Before it may be there: an answer can be lost, or come when nobody listens any more.
            self.note_tagged(true);
        }
        let tags = [(tag::STATUS, value.as_str())];
        let tagging = Box::pin(site.services.ec2.tag(&site.instance.instance_id, &tags));
        match timeout(TAGGING, tagging).await {
            Ok(Ok(true)) => self.note_tagged(failed.is_some()),
            Ok(Ok(false)) => {
                tracing::debug!("the instance cannot be tagged: ec2:CreateTags is not allowed");
                self.note_tagged(earlier);
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

    fn note_tagged(&self, tagged: bool) {
        if self.journal.read(|state| state.tagged) == tagged {
            return;
        }
        if let Err(failure) = self.journal.update(|state| state.tagged = tagged) {
            tracing::error!("{failure}");
        }
    }
}
