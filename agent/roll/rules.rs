//! The rules on the groups' own settings: the list is the cluster, and what is taken can come back. They hold at every look.

use std::collections::BTreeSet;
use std::fmt;

use super::node::is_going;
use crate::aws::autoscaling::{Hook, LifecycleState};
use crate::aws::fleet::FleetGroup;

/// The rules that `--override NAME` overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[allow(clippy::doc_markdown, reason = "the command line shows these comments")]
pub(crate) enum Rule {
    /// Launch, Terminate, HealthCheck or ReplaceUnhealthy is suspended in a group
    SuspendedProcess,
    /// An instance refresh is at work in a group
    Refresh,
    /// A group launches the new instance before it terminates the old one
    MaintenancePolicy,
    /// A group keeps an instance that was to be terminated
    Retained,
    /// A group has no launch hook, or one that continues by default
    LaunchHook,
    /// The list leaves out a group of the same cluster
    PartialList,
    /// The new version's image does not exist or is not available
    Image,
    /// The new version names another network interface than the old instance has
    Interface,
    /// The new version's configuration names another data volume
    Volume,
    /// The new version's configuration is invalid
    Config,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(clap::ValueEnum::to_possible_value(self).as_ref().map_or("", |value| value.get_name()))
    }
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// None for one that cannot be overridden.
    pub(crate) rule: Option<Rule>,
    pub(crate) group: String,
    /// What was seen, with the word that decides.
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.group, self.what)
    }
}

/// Without one of these a group does not replace an instance, or not well (docs/facts.md, "Rolling").
const PROCESSES: [&str; 4] = ["Launch", "Terminate", "HealthCheck", "ReplaceUnhealthy"];

/// The state of an instance that a retain policy keeps.
const RETAINED: &str = "Terminating:Retained";

/// What is wrong with one group. `account_launches_first` is the account's setting, which counts where the group has no policy.
pub(crate) fn of_group(group: &FleetGroup, account_launches_first: bool) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut add = |rule: Option<Rule>, what: String, remedy: String| {
        broken.push(Broken { rule, group: group.name.clone(), what, remedy });
    };
    let name = &group.name;
    if group.is_being_deleted {
        add(None, "it is being deleted (Delete in progress)".to_owned(), "leave it out of the list".to_owned());
    }
    if (group.min, group.max, group.desired) != (1, 1, 1) {
        let (min, max, desired) = (group.min, group.max, group.desired);
        add(
            None,
            format!("min = {min}, max = {max}, desired = {desired}; a node's group has 1 of each"),
            format!(
                "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {name} --min-size 1 --max-size 1 --desired-capacity 1"
            ),
        );
    }
    let staying: Vec<&str> =
        group.members.iter().filter(|member| !is_going(member)).map(|member| member.instance_id.as_str()).collect();
    if staying.len() > 1 {
        add(
            None,
            format!("it has {} instances: {}", staying.len(), staying.join(", ")),
            "find out which of them is the node, and detach the other (aws autoscaling detach-instances)".to_owned(),
        );
    }
    for process in PROCESSES {
        if let Some(reason) = group.suspended.get(process) {
            let reason = Some(reason.trim()).filter(|reason| !reason.is_empty()).map(|why| format!(" ({why})"));
            add(
                Some(Rule::SuspendedProcess),
                format!("the process {process} is suspended{}", reason.unwrap_or_default()),
                format!(
                    "aws autoscaling resume-processes --auto-scaling-group-name {name} --scaling-processes {process}"
                ),
            );
        }
    }
    broken.extend(launches_first(group, account_launches_first));
    for member in group.members.iter().filter(|member| is_retained(&member.state)) {
        let id = &member.instance_id;
        broken.push(Broken {
            rule: Some(Rule::Retained),
            group: name.clone(),
            what: format!("{id} is {RETAINED}: it keeps the node's network interface"),
            remedy: format!("save what is needed of it, then: aws ec2 terminate-instances --instance-ids {id}"),
        });
    }
    broken
}

fn is_retained(state: &LifecycleState) -> bool {
    matches!(state, LifecycleState::Terminating(state) if state.as_str() == RETAINED)
}

/// A replacement that is launched first can never have the network interface that the old instance still has.
fn launches_first(group: &FleetGroup, account_launches_first: bool) -> Option<Broken> {
    let what = match group.maintenance_policy {
        Some((_, Some(most))) if most > 100 => format!("its instance maintenance policy launches first (max {most} %)"),
        None | Some((_, None)) if account_launches_first => {
            "it has no instance maintenance policy, and the account's setting launchBeforeTerminate is on".to_owned()
        }
        _ => return None,
    };
    Some(Broken {
        rule: Some(Rule::MaintenancePolicy),
        group: group.name.clone(),
        what: format!("{what}: a new instance can never have the interface that the old one has"),
        remedy: format!(
            "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {} --instance-maintenance-policy \
             MinHealthyPercentage=0,MaxHealthyPercentage=100",
            group.name
        ),
    })
}

/// What is wrong with a group's launch hooks: one must hold a new instance back until its node is healthy.
pub(crate) fn of_hooks(group: &str, hooks: &[Hook]) -> Option<Broken> {
    let launch: Vec<&Hook> = hooks.iter().filter(|hook| hook.is_for_launches()).collect();
    let what = match launch.as_slice() {
        [] => "it has no launch lifecycle hook: an instance is in service before its node is up".to_owned(),
        hooks if hooks.iter().all(|hook| hook.default_result == "CONTINUE") => {
            format!(
                "its launch hook {} has the default result CONTINUE: a node that hangs goes into service",
                hooks[0].name
            )
        }
        _ => return None,
    };
    let name = launch.first().map_or("HOOK", |hook| &hook.name);
    Some(Broken {
        rule: Some(Rule::LaunchHook),
        group: group.to_owned(),
        what,
        remedy: format!(
            "aws autoscaling put-lifecycle-hook --auto-scaling-group-name {group} --lifecycle-hook-name {name} --lifecycle-transition \
             autoscaling:EC2_INSTANCE_LAUNCHING --default-result ABANDON --heartbeat-timeout 3600"
        ),
    })
}

/// An instance refresh at work.
pub(crate) fn of_refresh(group: &str, status: Option<&str>) -> Option<Broken> {
    let status = status?;
    Some(Broken {
        rule: Some(Rule::Refresh),
        group: group.to_owned(),
        what: format!("an instance refresh is at work ({status}): it replaces nodes without regard to the others"),
        remedy: format!(
            "wait until it ends, or: aws autoscaling cancel-instance-refresh --auto-scaling-group-name {group}"
        ),
    })
}

/// A group with the same cluster tag as a listed one, but not in the list.
pub(crate) fn of_left_out(group: &str, cluster: &str) -> Broken {
    Broken {
        rule: Some(Rule::PartialList),
        group: group.to_owned(),
        what: format!(
            "it has the tag {cluster} of the listed groups, but is not listed: what is not listed is not watched"
        ),
        remedy: format!("list it, too (--asg {group}), or the whole cluster: --cluster {cluster}"),
    }
}

/// A listed group that does not exist.
pub(crate) fn of_missing(name: &str) -> Broken {
    Broken {
        rule: None,
        group: name.to_owned(),
        what: "there is no such Auto Scaling group".to_owned(),
        remedy: "correct --asg, or the region (AWS_REGION, --region)".to_owned(),
    }
}

/// Those that nothing overrides, and those that were overridden.
pub(crate) fn divide(broken: Vec<Broken>, overrides: &BTreeSet<Rule>) -> (Vec<Broken>, Vec<Broken>) {
    broken.into_iter().partition(|broken| broken.rule.is_none_or(|rule| !overrides.contains(&rule)))
}
