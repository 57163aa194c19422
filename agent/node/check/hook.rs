//! The launch lifecycle hook: whether it exists, and whether the configuration's timeouts fit its own.

use std::time::Duration;

use humantime::format_duration;
use tokio::join;

use super::{Context, Finding, ask};
use crate::aws::autoscaling::{Hook, LAUNCHING, LifecycleState, global_limit};
use crate::config::{Lifecycle, OnFailure, Timeouts};
use crate::failure::{Code, Failure};
use crate::lifecycle::LaunchResult;
use crate::readable::quoted;
use crate::time::rough;

const HEARTBEAT: &str = "launch hook's heartbeat timeout";
/// A shorter timeout may end before a slow start of the agent.
pub(super) const SHORTEST: Duration = Duration::from_mins(1);

/// Checks the hook and this instance's lifecycle state.
pub(super) async fn check(context: &Context<'_>) -> Vec<Finding> {
    let Some(lifecycle) = &context.config.lifecycle else { return Vec::new() };
    if let Err(why) = &context.reachable.autoscaling {
        return vec![Finding::unknown("launch hook", format!("not checked: {why}"))];
    }
    let (mut findings, state) = join!(hook(context, lifecycle), state(context, lifecycle));
    findings.push(state);
    findings
}

async fn hook(context: &Context<'_>, lifecycle: &Lifecycle) -> Vec<Finding> {
    let name = "launch hook";
    let Lifecycle { asg_name: group, hook_name, .. } = lifecycle;
    let timeouts = &context.config.timeouts;
    let hooks = match ask(async || context.services.autoscaling.hooks(group).await).await {
        Ok(Some(hooks)) => hooks,
        Ok(None) => {
            let seen = format!("there is no Auto Scaling group {group} in {}", context.instance.region);
            return vec![Finding::attention(name, seen, "correct lifecycle.asg_name")];
        }
        Err(failure) if failure.code == Code::AccessDenied => {
            let denied = "autoscaling:DescribeLifecycleHooks is not allowed";
            let mut findings = vec![Finding::unknown(name, format!("{hook_name} was not checked: {denied}"))];
            if let Some(timeout) = lifecycle.heartbeat_timeout {
                findings.push(long_enough(lifecycle, timeout));
                findings.push(limit(lifecycle, timeouts, global_limit(timeout)));
            }
            return findings;
        }
        Err(failure) => return vec![Finding::failed(name, &failure)],
    };
    let Some(hook) = hooks.iter().find(|hook| hook.name == *hook_name) else {
        let names: Vec<_> = hooks.iter().map(|hook| hook.name.as_str()).collect();
        let has = if names.is_empty() { "no hook".to_owned() } else { format!("only {}", names.join(", ")) };
        let seen = format!("{group} has no lifecycle hook {hook_name}, it has {has}");
        let remedy = format!("correct lifecycle.hook_name, or make the hook: {}", put(lifecycle, None));
        return vec![Finding::attention(name, seen, remedy)];
    };
    if !hook.is_for_launches() {
        let seen = format!("{hook_name} of {group} is for {}, not for {LAUNCHING}", hook.transition);
        return vec![Finding::attention(name, seen, "set lifecycle.hook_name to a launch hook")];
    }
    vec![
        Finding::ok(name, format!("{hook_name} of {group}")),
        default_result(lifecycle, hook),
        heartbeat(lifecycle, hook),
        limit(lifecycle, timeouts, hook.global_timeout),
    ]
}

/// The command that makes or changes the hook.
fn put(lifecycle: &Lifecycle, change: Option<&str>) -> String {
    let change = change.unwrap_or("--default-result ABANDON --heartbeat-timeout 3600");
    put_hook(&lifecycle.asg_name, &lifecycle.hook_name, LAUNCHING, change)
}

/// The command that makes or changes a hook of this transition.
pub(super) fn put_hook(group: &str, hook: &str, transition: &str, change: &str) -> String {
    format!(
        "aws autoscaling put-lifecycle-hook --auto-scaling-group-name {} --lifecycle-hook-name {} \
         --lifecycle-transition {transition} {change}",
        quoted(group),
        quoted(hook)
    )
}

fn default_result(lifecycle: &Lifecycle, hook: &Hook) -> Finding {
    let name = "launch hook's default result";
    let abandon = LaunchResult::Abandon.to_string();
    if hook.default_result == abandon {
        return Finding::ok(name, abandon);
    }
    let seen = format!("{}: a node that never reports would count as healthy", hook.default_result);
    Finding::attention(name, seen, put(lifecycle, Some("--default-result ABANDON")))
}

fn heartbeat(lifecycle: &Lifecycle, hook: &Hook) -> Finding {
    match lifecycle.heartbeat_timeout {
        Some(told) if told != hook.heartbeat_timeout => {
            let (is, told) = (format_duration(hook.heartbeat_timeout), format_duration(told));
            let seen = format!("is {is}, but lifecycle.heartbeat_timeout says {told}");
            Finding::attention(HEARTBEAT, seen, format!("remove lifecycle.heartbeat_timeout, or write \"{is}\""))
        }
        _ => long_enough(lifecycle, hook.heartbeat_timeout),
    }
}

fn long_enough(lifecycle: &Lifecycle, timeout: Duration) -> Finding {
    let is = rough(timeout);
    if timeout >= SHORTEST {
        return Finding::ok(HEARTBEAT, is);
    }
    let seen = format!("is {is}: a slow boot may not reach its first heartbeat");
    Finding::attention(HEARTBEAT, seen, put(lifecycle, Some("--heartbeat-timeout 900")))
}

/// Whether the longest launch that the configuration allows, its longest step and then a hold, ends before Auto Scaling ends
/// it.
fn limit(lifecycle: &Lifecycle, timeouts: &Timeouts, limit: Duration) -> Finding {
    let name = "launch hook's time limit";
    let Timeouts { aws, volume, hooks, downloads, complete, drain: _, unmount: _ } = *timeouts;
    let steps = [
        ("timeouts.aws", aws),
        ("timeouts.volume", volume),
        ("timeouts.hooks", hooks),
        ("timeouts.downloads", downloads),
        ("timeouts.complete", complete),
    ];
    let (longest, step) = steps.into_iter().max_by_key(|(_, time)| *time).unwrap_or(("timeouts.hooks", hooks));
    let hold = if lifecycle.on_failure == OnFailure::Hold { lifecycle.hold_for } else { Duration::ZERO };
    let need = step.saturating_add(hold);
    let sum = if hold.is_zero() { String::new() } else { format!("lifecycle.hold_for {} + ", rough(hold)) };
    let sum = format!("{sum}{longest} {}", rough(step));
    if need <= limit {
        return Finding::ok(name, format!("{sum} fits into {}", rough(limit)));
    }
    let enough = need.as_secs().div_ceil(100);
    let raise = format!("raise the hook's heartbeat timeout to {enough} s or more");
    // The limit is 48 h at most, and a heartbeat timeout 7200 s.
    let raise = if need <= global_limit(Duration::from_hours(2)) { format!(", or {raise}") } else { String::new() };
    let seen = format!("{sum} does not fit into {}", rough(limit));
    Finding::attention(name, seen, format!("lower them{raise}"))
}

async fn state(context: &Context<'_>, lifecycle: &Lifecycle) -> Finding {
    let name = "lifecycle state";
    let id = &context.instance.instance_id;
    match ask(async || context.services.autoscaling.membership(id).await).await {
        Ok(None) => Finding::ok(name, format!("{id} is in no group: a run would have nothing to complete")),
        Ok(Some(here)) if here.group != lifecycle.asg_name => Finding::attention(
            name,
            format!("{id} is in the group {}, but lifecycle.asg_name is {}", here.group, lifecycle.asg_name),
            "correct lifecycle.asg_name",
        ),
        Ok(Some(here)) => match here.state {
            LifecycleState::Terminating(state) => {
                Finding::failed(name, &Failure::new(Code::Terminating, format!("{id} is {state}")))
            }
            state => Finding::ok(name, format!("{id} is {state}")),
        },
        Err(failure) if failure.code == Code::AccessDenied => {
            Finding::unknown(name, "not checked: autoscaling:DescribeAutoScalingInstances is not allowed")
        }
        Err(failure) => Finding::failed(name, &failure),
    }
}
