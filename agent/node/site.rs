//! This instance, and its region's services.

use std::cell::OnceCell;
use std::time::Duration;

use crate::aws::imds::IdentityDocument;
use crate::aws::{Aws, Services};
use crate::config;
use crate::failure::{FailedStep, Failure};
use crate::lifecycle::Launch;
use crate::node::steps::identity::FindInstance;
use crate::runner::Runner;
use crate::state::Journal;

/// This instance and its services. Kept for the process's life, because the SDK corrects clock skew per client.
pub struct Site {
    pub(crate) instance: IdentityDocument,
    pub(crate) services: Services,
}

impl Site {
    /// Identifies the instance in a step, unless it is known.
    pub async fn find<'a>(
        known: &'a OnceCell<Site>,
        run: &Runner<'_>,
        aws: &Aws,
        journal: &Journal,
        deadline: Duration,
    ) -> Result<&'a Site, FailedStep> {
        if let Some(site) = known.get() {
            return Ok(site);
        }
        let instance = run.step(FindInstance { imds: &aws.imds, deadline }).await?;
        Ok(Site::connect(known, aws, journal, instance).await)
    }

    /// Tries once to identify the instance, without a step or a log line: the caller retries.
    pub async fn try_find(known: &OnceCell<Site>, aws: &Aws, journal: &Journal) -> Result<(), Failure> {
        let instance = aws.imds.identity().await?;
        Site::connect(known, aws, journal, instance).await;
        Ok(())
    }

    async fn connect<'a>(
        known: &'a OnceCell<Site>,
        aws: &Aws,
        journal: &Journal,
        instance: IdentityDocument,
    ) -> &'a Site {
        journal.claim(&instance.instance_id);
        let services = aws.connect(&instance.region).await;
        known.get_or_init(|| Site { instance, services })
    }

    /// This instance's launch.
    pub fn launch<'a>(&'a self, aws: &'a Aws, config: Option<&'a config::Lifecycle>) -> Launch<'a> {
        Launch::new(&self.services.autoscaling, &aws.imds, &self.instance, config)
    }
}
