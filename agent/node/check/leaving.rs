//! Leaving: the termination lifecycle hook, the other nodes of the cluster, and the drain function.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::join;

use super::hook::{SHORTEST, put_hook};
use super::{Context, Finding, ask};
use crate::aws::autoscaling::{Group, Hook, TERMINATING};
use crate::config::script::{Definition, defines};
use crate::config::{Groups, Lifecycle, Script};
use crate::failure::{Code, Failure};
use crate::host::read::{self, Pipes};
use crate::lifecycle::LaunchResult;
use crate::node::leave::DETACH;
use crate::readable::quoted;
use crate::time::rough;

const HOOK: &str = "termination hook";
const CLUSTER: &str = "cluster";

/// The limits of a hook's heartbeat timeout in seconds (docs/facts.md, "Lifecycle hooks").
const LEAST: u64 = 30;
const MOST: u64 = 7200;

/// A new hook's settings. The agent's heartbeats extend the timeout; a dead node sends none, and goes after it.
const NEW: &str = "--default-result CONTINUE --heartbeat-timeout 300";

/// What an instance lifecycle policy with `retain` does.
const RETAINED: &str = "an action that is abandoned or times out keeps the old instance in Terminating:Retained, its network \
                        interface is never free, and so the node stays away for ever";

/// Checks what a departure needs, as far as the configuration asks for one.
pub(super) async fn check(context: &Context<'_>) -> Vec<Finding> {
    let Some(lifecycle) = &context.config.lifecycle else {
        let unused = || {
            Finding::attention(CLUSTER, "has no effect without [lifecycle]", "write [lifecycle], or remove [cluster]")
        };
        return context.config.cluster.iter().map(|_| unused()).collect();
    };
    let (hook, cluster, drain) =
        join!(hook(context, lifecycle), cluster(context, lifecycle), drain(context, lifecycle));
    hook.into_iter().chain(cluster).chain(drain).collect()
}

async fn hook(context: &Context<'_>, lifecycle: &Lifecycle) -> Vec<Finding> {
    let (group, wanted) = (&lifecycle.asg_name, &lifecycle.terminate_hook_name);
    let answer = match &context.reachable.autoscaling {
        Ok(()) => match ask(async || context.services.autoscaling.hooks(group).await).await {
            Ok(Some(hooks)) => Ok(hooks),
            Ok(None) => Err(format!("there is no Auto Scaling group {group}")),
            Err(failure) if failure.code == Code::AccessDenied => {
                Err("autoscaling:DescribeLifecycleHooks is not allowed".to_owned())
            }
            Err(failure) => Err(failure.to_string()),
        },
        Err(why) => Err(why.clone()),
    };
    match (answer, wanted) {
        (Ok(hooks), Some(name)) => configured(context, lifecycle, name, &hooks).await,
        (Ok(hooks), None) => unconfigured(context, lifecycle, &hooks).into_iter().collect(),
        // The launch hook's finding says what to do.
        (Err(why), Some(name)) => vec![Finding::unknown(HOOK, format!("{name} was not checked: {why}"))],
        (Err(_), None) => Vec::new(),
    }
}

/// The findings of the hook that the configuration names.
async fn configured(context: &Context<'_>, lifecycle: &Lifecycle, name: &str, hooks: &[Hook]) -> Vec<Finding> {
    let group = &lifecycle.asg_name;
    let put = |change: &str| put_hook(group, name, TERMINATING, change);
    let Some(hook) = hooks.iter().find(|hook| hook.name == name) else {
        let others = terminations(hooks);
        let has = if others.is_empty() { "none".to_owned() } else { format!("only {}", names(&others)) };
        let seen = format!("{group} has no termination hook {name}, it has {has}");
        let remedy = format!("correct lifecycle.terminate_hook_name, or make the hook: {}", put(NEW));
        return vec![Finding::attention(HOOK, seen, remedy)];
    };
    if !hook.is_for_terminations() {
        let seen = format!("{name} of {group} is for {}, not for {TERMINATING}", hook.transition);
        return vec![Finding::attention(HOOK, seen, "set lifecycle.terminate_hook_name to a termination hook")];
    }
    vec![
        Finding::ok(HOOK, format!("{name} of {group}")),
        default_result(context, group, hook, &put).await,
        heartbeat(hook, &put),
        limit(context, hook, &put),
    ]
}

/// The finding where the configuration names no termination hook, if that is hardly intended.
fn unconfigured(context: &Context<'_>, lifecycle: &Lifecycle, hooks: &[Hook]) -> Option<Finding> {
    let group = &lifecycle.asg_name;
    let add = |name: &str| format!("add to [lifecycle]: terminate_hook_name = {name:?}");
    // If lifecycle.hook_name is a termination hook, the launch hook's finding says so.
    let unattended = terminations(hooks).into_iter().find(|hook| hook.name != lifecycle.hook_name);
    if let Some(hook) = unattended {
        let (name, timeout) = (&hook.name, rough(hook.heartbeat_timeout));
        let seen = format!(
            "{group} has the termination hook {name}, which the agent does not complete: each termination waits {timeout} for \
             its timeout, unless something else completes it"
        );
        return Some(Finding::attention(HOOK, seen, add(name)));
    }
    let cluster = context.config.cluster.is_some().then_some("[cluster]");
    let detaches = context.config.volumes.iter().any(|volume| volume.detach_on_terminate);
    let idle: Vec<_> = cluster.into_iter().chain(detaches.then_some("detach_on_terminate")).collect();
    if idle.is_empty() {
        return None;
    }
    let verb = if idle.len() == 1 { "has" } else { "have" };
    let seen = format!(
        "{group} has none: at a termination nothing waits for the node, and {} {verb} no effect",
        idle.join(" and ")
    );
    let name = format!("{group}-terminate-hook");
    let remedy = format!("make a hook: {}; {}", put_hook(group, &name, TERMINATING, NEW), add(&name));
    Some(Finding::attention(HOOK, seen, remedy))
}

async fn default_result(context: &Context<'_>, group: &str, hook: &Hook, put: &impl Fn(&str) -> String) -> Finding {
    let name = "termination hook's default result";
    let result = &hook.default_result;
    if *result == LaunchResult::Continue.to_string() {
        return Finding::ok(name, result);
    }
    let seen = match ask(async || context.services.autoscaling.retains(group).await).await {
        Ok(true) => format!("{result}, and the group's instance lifecycle policy retains: {RETAINED}"),
        Ok(false) => format!(
            "{result}: an action that times out ends the group's other termination hooks, and with an instance lifecycle policy \
             that retains it would keep the old instance and its network interface"
        ),
        Err(failure) => {
            let why = unread(&failure);
            format!("{result}: if the group's instance lifecycle policy retains (not checked: {why}), {RETAINED}")
        }
    };
    Finding::attention(name, seen, put("--default-result CONTINUE"))
}

fn heartbeat(hook: &Hook, put: &impl Fn(&str) -> String) -> Finding {
    let name = "termination hook's heartbeat timeout";
    let is = rough(hook.heartbeat_timeout);
    if hook.heartbeat_timeout >= SHORTEST {
        return Finding::ok(name, format!("{is}, which is also how long a dead node keeps its network interface"));
    }
    let seen = format!("is {is}: a restart of the agent may take longer, and the node would go before it is drained");
    Finding::attention(name, seen, put("--heartbeat-timeout 300"))
}

/// Whether drain, unmount and detach end before Auto Scaling ends the action. The gate is shortened, if need be.
fn limit(context: &Context<'_>, hook: &Hook, put: &impl Fn(&str) -> String) -> Finding {
    let name = "termination hook's time limit";
    let (timeouts, limit) = (&context.config.timeouts, hook.global_timeout);
    let need = timeouts.drain.saturating_add(timeouts.unmount).saturating_add(DETACH);
    let sum = format!(
        "timeouts.drain {} + timeouts.unmount {} + {} to detach",
        rough(timeouts.drain),
        rough(timeouts.unmount),
        rough(DETACH)
    );
    let Some(left) = limit.checked_sub(need) else {
        let enough = need.as_secs().div_ceil(100).max(LEAST);
        let raise =
            format!(", or raise the hook's heartbeat timeout: {}", put(&format!("--heartbeat-timeout {enough}")));
        let raise = if enough > MOST || need > Duration::from_hours(48) { String::new() } else { raise };
        let seen = format!("{sum} do not fit into {}", rough(limit));
        return Finding::attention(name, seen, format!("lower the two{raise}"));
    };
    let shortened = context.cluster().filter(|cluster| cluster.gate > left);
    let shortened =
        shortened.map(|cluster| format!("; cluster.gate {} is shortened to {}", rough(cluster.gate), rough(left)));
    Finding::ok(name, format!("{sum} fit into {}{}", rough(limit), shortened.unwrap_or_default()))
}

async fn cluster(context: &Context<'_>, lifecycle: &Lifecycle) -> Option<Finding> {
    let cluster = context.cluster()?;
    if let Err(why) = &context.reachable.autoscaling {
        return Some(Finding::unknown(CLUSTER, format!("not checked: {why}")));
    }
    let found = match ask(async || context.services.autoscaling.cluster(&cluster.groups).await).await {
        Ok(groups) => groups,
        // IAM has a finding of its own, and so has any other failure there.
        Err(failure) => return Some(Finding::unknown(CLUSTER, format!("not checked: {}", unread(&failure)))),
    };
    let own = lifecycle.asg_name.as_str();
    Some(match &cluster.groups {
        Groups::Tagged { key, value } => tagged(key, value, own, &found),
        Groups::Named(names) => named(names, own, &found, &context.instance.region),
    })
}

/// Why the groups were not read.
fn unread(failure: &Failure) -> String {
    match failure.code {
        Code::AccessDenied => "autoscaling:DescribeAutoScalingGroups is not allowed".to_owned(),
        _ => failure.to_string(),
    }
}

fn tagged(key: &str, value: &str, own: &str, found: &[Group]) -> Finding {
    let tag = format!("{key}={value}");
    let put = |group: &str| {
        let word = format!(
            "ResourceId={group},ResourceType=auto-scaling-group,Key={key},Value={value},PropagateAtLaunch=false"
        );
        format!("aws autoscaling create-or-update-tags --tags {}", quoted(&word))
    };
    let correct = || format!("correct cluster.tag, or tag every group of the cluster: {}", put("GROUP"));
    let others: Vec<_> = found.iter().map(|group| group.name.as_str()).filter(|name| *name != own).collect();
    match (others.len() < found.len(), &*others) {
        (false, []) => Finding::attention(CLUSTER, format!("no Auto Scaling group has the tag {tag}"), correct()),
        (true, []) => {
            let seen =
                format!("only this node's own group has the tag {tag}: the node would leave while another one is away");
            Finding::attention(CLUSTER, seen, correct())
        }
        (false, others) => {
            let seen = format!(
                "{own} does not have the tag {tag}, which {} have: those nodes would leave while this one is away",
                others.join(", ")
            );
            Finding::attention(CLUSTER, seen, format!("correct cluster.tag, or tag the group: {}", put(own)))
        }
        (true, others) => Finding::ok(CLUSTER, format!("{tag}: {own} and {}", others.join(", "))),
    }
}

fn named(names: &[String], own: &str, found: &[Group], region: &str) -> Finding {
    let found: BTreeSet<_> = found.iter().map(|group| group.name.as_str()).collect();
    let (there, missing): (Vec<&str>, Vec<&str>) =
        names.iter().map(String::as_str).partition(|name| found.contains(name));
    if !missing.is_empty() {
        let seen = format!("there is no Auto Scaling group {} in {region}", missing.join(", "));
        return Finding::attention(CLUSTER, seen, "correct cluster.asg_names");
    }
    if there.iter().all(|name| *name == own) {
        let seen = "names only this node's own group: the node would leave while another one is away";
        return Finding::attention(CLUSTER, seen, "add the other nodes' groups to cluster.asg_names");
    }
    Finding::ok(CLUSTER, there.join(", "))
}

/// Whether anything is drained. Both are fine.
async fn drain(context: &Context<'_>, lifecycle: &Lifecycle) -> Option<Finding> {
    let name = "drain";
    lifecycle.terminate_hook_name.as_ref()?;
    let hooks = context.config.hooks.as_ref()?;
    let function = &hooks.drain;
    let (script, text) = match &hooks.script {
        Script::Path(path) => match read::text_async(path.clone(), Pipes::Refused).await {
            Ok(text) => (path.display().to_string(), text),
            // The configuration's finding says what to do.
            Err(_) => return Some(Finding::unknown(name, format!("not checked: {} cannot be read", path.display()))),
        },
        Script::Inline(text) => ("hooks.script_base64".to_owned(), text.clone()),
        Script::Remote { source, .. } => {
            return Some(Finding::ok(name, format!("{function} runs before termination if {source} defines it")));
        }
    };
    Some(Finding::ok(
        name,
        match defines(&text, function) {
            Definition::Yes => format!("{function} is defined by {script}"),
            Definition::No => format!("{function} is not defined by {script}: nothing is drained before termination"),
            Definition::Unsure => {
                format!(
                    "{function} is not visibly defined by {script}; it runs if something defines it that the script sources"
                )
            }
        },
    ))
}

fn terminations(hooks: &[Hook]) -> Vec<&Hook> {
    hooks.iter().filter(|hook| hook.is_for_terminations()).collect()
}

fn names(hooks: &[&Hook]) -> String {
    hooks.iter().map(|hook| hook.name.as_str()).collect::<Vec<_>>().join(", ")
}
