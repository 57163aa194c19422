//! `node-agent check`: whether a node or an image can be expected to come up. It changes nothing.
//!
//! Each file checks one subject and returns findings in a fixed order. No problem is reported twice: a check that cannot be
//! tried because of an earlier finding is unknown.

mod configuration;
mod hook;
mod host;
mod leaving;
mod metadata;
mod permissions;
mod report;
mod services;
mod standing;
mod volumes;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::join;
use tokio::time::{Instant, sleep, timeout_at};

use crate::aws::imds::IdentityDocument;
use crate::aws::{Aws, Services};
use crate::config::{Cluster, Config};
use crate::failure::{Class, Code, Failure};
use crate::log::{self, Format};
use crate::node::places::{PlaceOptions, Places};
use crate::runner::process;
use report::{Finding, Report};
use services::Reachable;

/// `node-agent check`
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    places: PlaceOptions,
    /// Check only the configuration's text, so that it can be checked anywhere
    #[arg(long)]
    offline: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Log the requests to AWS
    #[arg(short, long)]
    verbose: bool,
}

/// The inputs of the checks of AWS.
struct Context<'a> {
    config: &'a Config,
    instance: &'a IdentityDocument,
    services: &'a Services,
    reachable: &'a Reachable,
}

impl Context<'_> {
    /// The cluster that the node belongs to. It has no effect without a group of its own.
    fn cluster(&self) -> Option<&Cluster> {
        self.config.lifecycle.as_ref().and(self.config.cluster.as_ref())
    }
}

impl Check {
    /// Whether more than a configuration's text is checked.
    pub fn is_of_this_host(&self) -> bool {
        !self.offline
    }

    /// Runs the checks and prints what they find.
    pub fn start(&self) -> ExitCode {
        log::init(Format::Text, self.verbose);
        let mut report = Report::new(self.json);
        match process::run(self.run(&mut report)) {
            Ok(()) => report.finish(),
            Err(failure) => {
                eprintln!("node-agent: {failure}");
                ExitCode::FAILURE
            }
        }
    }

    async fn run(&self, report: &mut Report) {
        if self.offline {
            return report.add(configuration::offline(&self.places.config).await);
        }
        let places = Places::new(self.places.clone());
        report.add(standing::check(&places));
        let aws = &Aws::new();
        let ((told, config), (seen, instance)) =
            join!(configuration::check(&self.places.config, &aws.imds), metadata::check(&aws.imds));
        report.add(told);
        report.add(seen);
        let Some(instance) = &instance else {
            report.add(host::check(config.as_ref()).await);
            return report.add([Finding::unknown("AWS", "not tried: without instance metadata there is no region")]);
        };

        let services = &aws.connect(&instance.region).await;
        let (address, tools, (reached, reachable)) = join!(
            metadata::address(&aws.imds, instance, config.as_ref()),
            host::check(config.as_ref()),
            services::check(services, &aws.imds, config.as_ref()),
        );
        report.add(address);
        report.add(tools);
        report.add(reached);
        let Some(config) = &config else {
            let text = "not tried: they need a valid configuration";
            return report.add([Finding::unknown("IAM, volumes, lifecycle hooks, cluster", text)]);
        };

        let context = &Context { config, instance, services, reachable: &reachable };
        let (permissions, volumes, hook, leaving) =
            join!(permissions::check(context), volumes::check(context), hook::check(context), leaving::check(context));
        report.add(permissions);
        report.add(volumes);
        report.add(hook);
        report.add(leaving);
    }
}

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Repeats a call until its answer counts: an outage may pass, and after a refused signature the client has learned the
/// service's time.
async fn ask<T>(call: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    let deadline = Instant::now() + LIMIT;
    let mut last: Option<Failure> = None;
    loop {
        let Ok(answer) = timeout_at(deadline, call()).await else {
            let text = format!("no answer within {} s", LIMIT.as_secs());
            return Err(last.unwrap_or_else(|| Failure::new(Code::ApiUnreachable, text)));
        };
        let refused_before = last.as_ref().is_some_and(|last| last.code == Code::Credentials);
        match answer {
            Err(failure)
                if failure.class() == Class::Outage || (failure.code == Code::Credentials && !refused_before) =>
            {
                last = Some(failure);
            }
            answer => return answer,
        }
        sleep(PAUSE).await;
    }
}
