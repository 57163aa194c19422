//! `node-agent plan`: what a run would do now, as far as it can be known by looking.

use std::cell::{OnceCell, RefCell};
use std::fmt::Write as _;

use tokio::sync::watch;

use crate::aws::Aws;
use crate::config::{Config, Scope};
use crate::failure::{Failure, Named};
use crate::host;
use crate::host::this_host::ThisHost;
use crate::node::boot::Boot;
use crate::node::places::Places;
use crate::node::settings;
use crate::readable::{self, Page};
use crate::runner::allowance::Allowance;
use crate::runner::plan::{Finding, Planned};
use crate::runner::stopped;
use crate::sequence::{Sequence, StepName};
use crate::state::Journal;

/// Makes the plan. Takes no lock and changes nothing; what is fetched goes to a directory that is gone afterwards.
pub async fn make(places: &Places, mut stop: watch::Receiver<bool>) -> Result<Vec<Planned>, Failure> {
    let aws = Aws::new();
    let config = tokio::select! {
        config = settings::load(&places.config, &aws.imds, Scope::ThisHost(&ThisHost)) => config?,
        _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
    };
    // A journal that cannot be read would be set aside.
    let journal = Journal::look(&places.state_dir);
    let scratch = tempfile::tempdir().named("making a temporary directory")?;
    let boot = Boot {
        config: &config,
        journal: &journal,
        aws: &aws,
        site: &OnceCell::new(),
        scratch: scratch.path(),
        state_dir: &places.state_dir,
        unwritable: &RefCell::default(),
        boot_id: &host::boot_id()?,
        allowance: &Allowance::default(),
        stop,
    };
    let mut plan = boot.plan().await;
    complete(&mut plan, &config, &journal);
    for planned in &mut plan {
        planned.remedy = planned.remedy.as_deref().map(readable::remedy);
    }
    Ok(plan)
}

/// Adds the steps that nothing can be known of yet.
fn complete(plan: &mut Vec<Planned>, config: &Config, journal: &Journal) {
    plan.sort_by_key(|planned| planned.step);
    let Some(open) = plan.iter().find(|planned| planned.finding != Finding::AlreadySo).map(|planned| planned.step)
    else {
        return once_per_instance(plan, config, journal);
    };
    // That a step's first part has nothing to do says nothing of its second.
    plan.retain(|planned| !planned.step.follows(open) || planned.finding != Finding::AlreadySo);
    // The identity step has something to do only where the instance is launched anew.
    let anew = plan.iter().any(|planned| planned.step == StepName::Identity && planned.finding == Finding::WouldDo);
    let launched = journal.is_set_up(config) && !anew;
    for &step in Sequence::Boot.steps().iter().filter(|step| step.follows(open)) {
        let asked_for = match step {
            StepName::Identity => true,
            StepName::Files | StepName::Complete => !launched,
            StepName::Configure | StepName::HealthCheck => !launched && config.hooks.is_some(),
            _ => !config.volumes.is_empty(),
        };
        if asked_for && plan.iter().all(|planned| planned.step != step) {
            let because = format!("unknown until {}", after(open));
            let finding = Finding::Unknown;
            plan.push(Planned { step, volume: None, finding, because, remedy: None, exit_code: 0 });
        }
    }
    plan.sort_by_key(|planned| planned.step);
}

/// Adds the steps that a completed launch has behind it.
fn once_per_instance(plan: &mut Vec<Planned>, config: &Config, journal: &Journal) {
    let Some(outcome) = journal.launch_outcome() else { return };
    let hooks = config.hooks.is_some();
    let steps = [
        (StepName::Files, !config.files.is_empty()),
        (StepName::Configure, hooks),
        (StepName::HealthCheck, hooks),
        (StepName::Complete, config.lifecycle.is_some()),
    ];
    for (step, _) in steps.into_iter().filter(|(_, asked_for)| *asked_for) {
        if plan.iter().any(|planned| planned.step == step) {
            continue;
        }
        let because = match step {
            StepName::Complete => outcome.to_string(),
            step => format!("done for this instance; node-agent retry --from {step} redoes it"),
        };
        let finding = Finding::AlreadySo;
        plan.push(Planned { step, volume: None, finding, because, remedy: None, exit_code: 0 });
    }
}

fn after(step: StepName) -> String {
    match step {
        StepName::Attach => "the volume is attached".to_owned(),
        other => format!("{other} is done"),
    }
}

/// The exit code: the worst that a run would come to.
pub fn exit_code(plan: &[Planned]) -> u8 {
    plan.iter().map(|planned| planned.exit_code).max().unwrap_or_default()
}

/// The plan for people.
pub fn render(plan: &[Planned]) -> String {
    let mut text = Page::default();
    for Planned { step, volume, finding, because, remedy, .. } in plan {
        let word = match finding {
            Finding::AlreadySo => "already so",
            Finding::WouldDo => "would do",
            Finding::WouldWait => "would wait",
            Finding::WouldFail => "WOULD FAIL",
            Finding::WouldRefuse => "WOULD REFUSE",
            Finding::Unknown => "unknown",
        };
        let volume = volume.as_deref().map(|volume| format!("{volume}  ")).unwrap_or_default();
        // Writing to a Page cannot fail.
        let _ = writeln!(text, "{}", format!("{word:<13} {:<13} {volume}{because}", step.as_str()).trim_end());
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<13} what to do: {remedy}", "");
        }
    }
    text.into_text()
}
