//! `node-agent plan`: what a run would do now, as far as observation shows.

use std::cell::{OnceCell, RefCell};
use std::fmt::Write as _;

use tokio::sync::watch;

use crate::aws::Aws;
use crate::config::{Config, Scope};
use crate::failure::{Failure, Named};
use crate::host;
use crate::host::this_host::ThisHost;
use crate::node::boot::Boot;
use crate::node::leave::Departure;
use crate::node::places::Places;
use crate::node::settings;
use crate::node::site::Site;
use crate::readable::{self, Page};
use crate::runner::allowance::Allowance;
use crate::runner::plan::{Finding, Planned};
use crate::runner::{Runner, unless_stopped};
use crate::sequence::{Sequence, StepName};
use crate::state::Journal;

/// Makes the plan. Takes no lock and changes nothing; fetched files go to a temporary directory.
pub async fn make(places: &Places, stop: watch::Receiver<bool>) -> Result<Vec<Planned>, Failure> {
    let aws = Aws::new();
    let load = settings::load(&places.config, &aws.imds, Scope::ThisHost(&ThisHost));
    let config = unless_stopped(&stop, load).await?;
    // For reading only: `Journal::open` would set an unreadable journal aside.
    let journal = Journal::read_only(&places.state_dir);
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

/// Makes the plan of a departure, beside the running service. Changes nothing, either.
pub async fn make_of_departure(places: &Places, stop: watch::Receiver<bool>) -> Result<Vec<Planned>, Failure> {
    let aws = Aws::new();
    // Whether its accounts exist does not matter to a node that leaves.
    let config = unless_stopped(&stop, settings::load(&places.config, &aws.imds, Scope::Offline)).await?;
    if config.lifecycle.as_ref().is_none_or(|lifecycle| lifecycle.terminate_hook_name.is_none()) {
        let why = "nothing is done: lifecycle.terminate_hook_name is not set";
        return Ok(Sequence::Departure.steps().iter().map(|step| already_so(*step, why)).collect());
    }
    let journal = Journal::read_only(&places.state_dir);
    let scratch = tempfile::tempdir().named("making a temporary directory")?;
    let allowance = &Allowance::default();
    let run = Runner::planning(&journal, stop.clone(), allowance);
    let known = OnceCell::new();
    let site = Site::find(&known, &run, &aws, &journal, config.timeouts.aws).await.map_err(|failed| failed.failure)?;
    let departure = Departure {
        config: &config,
        journal: &journal,
        aws: &aws,
        site,
        allowance,
        scratch: scratch.path(),
        state_dir: &places.state_dir,
        boot_id: &host::boot_id()?,
        stop,
    };
    let mut plan = Box::pin(departure.plan()).await;
    // A step's first part that has nothing to do says nothing.
    plan.retain(|planned| planned.volume.is_some() || planned.finding != Finding::AlreadySo);
    for &step in Sequence::Departure.steps() {
        if plan.iter().all(|planned| planned.step != step) {
            plan.push(already_so(step, idle(step, &config, &journal)));
        }
    }
    plan.sort_by_key(|planned| planned.step);
    for planned in &mut plan {
        planned.remedy = planned.remedy.as_deref().map(readable::remedy);
        // Whatever fails, the node leaves.
        planned.exit_code = 0;
    }
    Ok(plan)
}

/// Why a departure would do nothing in this step.
fn idle(step: StepName, config: &Config, journal: &Journal) -> &'static str {
    match step {
        StepName::Gate if config.cluster.as_ref().is_some_and(|cluster| !cluster.gate.is_zero()) => {
            "no other node is away"
        }
        StepName::Gate if config.cluster.is_none() => "nothing to wait for: no [cluster] is configured",
        StepName::Gate => "nothing to wait for: cluster.gate is 0s",
        StepName::Drain if config.hooks.is_none() => "nothing is called: no [hooks] are configured",
        StepName::Drain if !journal.was_configured() => "nothing is called: this instance was not configured yet",
        StepName::Drain => "nothing is called: the hook script does not define the function, or it was called",
        StepName::Unmount => "no volume is configured",
        StepName::Detach => "no volume has detach_on_terminate",
        _ => "CONTINUE was sent",
    }
}

fn already_so(step: StepName, because: &str) -> Planned {
    let (finding, because) = (Finding::AlreadySo, because.to_owned());
    Planned { step, volume: None, finding, because, remedy: None, exit_code: 0 }
}

/// Adds the steps of which nothing can be known yet.
fn complete(plan: &mut Vec<Planned>, config: &Config, journal: &Journal) {
    plan.sort_by_key(|planned| planned.step);
    let Some(open) = plan.iter().find(|planned| planned.finding != Finding::AlreadySo).map(|planned| planned.step)
    else {
        return once_per_instance(plan, config, journal);
    };
    // If a step's first part has nothing to do, its second part may still have.
    plan.retain(|planned| !planned.step.follows(open) || planned.finding != Finding::AlreadySo);
    // The identity step acts only if the instance is launched anew.
    let anew = plan.iter().any(|planned| planned.step == StepName::Identity && planned.finding == Finding::WouldDo);
    let launched = journal.is_set_up(config) && !anew;
    for &step in Sequence::Boot.steps().iter().filter(|step| step.follows(open)) {
        let configured = match step {
            StepName::Identity => true,
            StepName::Files | StepName::Complete => !launched,
            StepName::Configure | StepName::HealthCheck => !launched && config.hooks.is_some(),
            _ => !config.volumes.is_empty(),
        };
        if configured && plan.iter().all(|planned| planned.step != step) {
            let because = match open {
                StepName::Attach => "unknown until the volume is attached".to_owned(),
                open => format!("unknown until {open} is done"),
            };
            let finding = Finding::Unknown;
            plan.push(Planned { step, volume: None, finding, because, remedy: None, exit_code: 0 });
        }
    }
    plan.sort_by_key(|planned| planned.step);
}

/// Adds the once-per-instance steps of a completed launch.
fn once_per_instance(plan: &mut Vec<Planned>, config: &Config, journal: &Journal) {
    let Some(outcome) = journal.launch_outcome() else { return };
    let hooks = config.hooks.is_some();
    let steps = [
        (StepName::Files, !config.files.is_empty()),
        (StepName::Configure, hooks),
        (StepName::HealthCheck, hooks),
        (StepName::Complete, config.lifecycle.is_some()),
    ];
    for (step, configured) in steps {
        if !configured || plan.iter().any(|planned| planned.step == step) {
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

/// The exit code: the worst of all findings.
pub fn exit_code(plan: &[Planned]) -> u8 {
    plan.iter().map(|planned| planned.exit_code).max().unwrap_or_default()
}

/// The plan as text.
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
