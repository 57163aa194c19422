//! Auto Scaling's lifecycle: members, hooks, and timeouts that really run out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::activities;
use crate::config::{ActionResult, Transition};
use crate::core::Core;
use crate::error::{ApiError, SimError};
use crate::events::{HealthChange, LifecycleChange, What};
use crate::ids::{InstanceId, random_uuid};
use crate::instances;
use crate::launches;
use crate::light;
use crate::world::{InstanceState, Kept, LifecycleAction, Member, World};

/// AWS's global limit: the smaller of 48 hours and 100 times the heartbeat timeout.
const GLOBAL_LIMIT: Duration = Duration::from_hours(48);
const GLOBAL_FACTOR: u32 = 100;

/// When an action ends whatever its heartbeats.
pub(crate) fn global_limit(heartbeat_timeout: Duration) -> Duration {
    heartbeat_timeout.saturating_mul(GLOBAL_FACTOR).min(GLOBAL_LIMIT)
}

/// How an action is named by a caller.
pub(crate) enum Which<'a> {
    Instance(&'a str),
    Token(&'a str),
}

/// Takes a launched instance into its group.
pub(crate) fn enroll(core: &Arc<Core>, world: &mut World, id: &InstanceId, group: &str) {
    let shown_from = Instant::now() + core.draw(core.config.latencies.target_state);
    let member = Member {
        group: group.to_owned(),
        state: "Pending".to_owned(),
        actions: Vec::new(),
        healthy: true,
        protected: false,
        shown_from,
    };
    tell(core, world, id, &member, None, "launch");
    activities::launched(core, world, group, id);
    world.members.insert(id.clone(), Kept::new(member));
    step_later(core, id, "Pending", core.config.latencies.pending_to_wait, |core, world, id| {
        hold(core, world, id, Transition::Launching, "Pending:Wait", "instance started");
    });
}

/// Does something to a member after a while if it still is in `state`.
fn step_later(
    core: &Arc<Core>,
    id: &InstanceId,
    state: &'static str,
    after: Duration,
    act: impl FnOnce(&Arc<Core>, &mut World, &InstanceId) + Send + 'static,
) {
    let id = id.clone();
    core.later(after, move |core| {
        let mut world = core.world();
        if world.members.get(&id).is_some_and(|member| member.get().state == state) {
            act(core, &mut world, &id);
        }
    });
}

/// Enters a waiting state with an action for every hook of the transition, or goes on where there is none.
fn hold(core: &Arc<Core>, world: &mut World, id: &InstanceId, transition: Transition, state: &str, cause: &str) {
    let actions = begin_actions(world, id, transition);
    let none = actions.is_empty();
    if none && transition == Transition::Launching {
        move_to(core, world, id, "InService", "no launching hook", Vec::new());
        return;
    }
    if none {
        proceed(core, world, id, "Terminating:Wait", "no terminating hook");
        return;
    }
    let hooks: Vec<String> = actions.iter().map(|action| action.token.clone()).collect();
    move_to(core, world, id, state, cause, actions);
    for token in hooks {
        watch_timeout(core, id, token);
    }
}

fn begin_actions(world: &World, id: &InstanceId, transition: Transition) -> Vec<LifecycleAction> {
    let Some(group) = world.members.get(id).and_then(|member| world.groups.get(&member.get().group)) else {
        return Vec::new();
    };
    let now = Instant::now();
    let begin = |hook: &crate::config::HookSpec| LifecycleAction {
        hook: hook.name.clone(),
        token: random_uuid(),
        timeout: hook.heartbeat_timeout,
        deadline: now + hook.heartbeat_timeout,
        limit: now + global_limit(hook.heartbeat_timeout),
        default_result: hook.default_result,
        completed: false,
    };
    group.hooks(transition).map(begin).collect()
}

/// Ends an action in its default result when its deadline passes; a heartbeat moves the deadline.
fn watch_timeout(core: &Arc<Core>, id: &InstanceId, token: String) {
    let (core, id) = (Arc::clone(core), id.clone());
    core.runtime.clone().spawn(async move {
        loop {
            let deadline = {
                let mut world = core.world();
                let Some(action) = open_action(&world, &id, |action| action.token == token) else {
                    return;
                };
                let now = Instant::now();
                if now >= action.deadline {
                    let (hook, result) = (action.hook.clone(), action.default_result);
                    let kind = if now >= action.limit { "global timeout" } else { "heartbeat timeout" };
                    let cause = format!("{kind} {}", result.name());
                    finish(&core, &mut world, &id, &hook, result, &cause);
                    return;
                }
                action.deadline
            };
            tokio::time::sleep_until(deadline.into()).await;
        }
    });
}

fn open_action<'a>(
    world: &'a World,
    id: &InstanceId,
    wanted: impl Fn(&LifecycleAction) -> bool,
) -> Option<&'a LifecycleAction> {
    let member = world.members.get(id)?.get();
    member.actions.iter().find(|action| !action.completed && wanted(action))
}

/// Finds the instance whose open action is meant.
fn find(world: &World, group: &str, hook: &str, which: &Which<'_>) -> Result<InstanceId, ApiError> {
    let open = |id: &&InstanceId| {
        let member = world.members.get(*id).is_some_and(|member| member.get().group == group);
        member
            && open_action(world, id, |action| {
                action.hook == hook
                    && match which {
                        Which::Instance(_) => true,
                        Which::Token(token) => action.token == *token,
                    }
            })
            .is_some()
    };
    let found = match which {
        Which::Instance(instance) => world.members.get_key_value(*instance).map(|(id, _)| id).filter(open),
        Which::Token(_) => world.members.keys().find(open),
    };
    found.cloned().ok_or_else(|| {
        let message = match which {
            Which::Instance(id) => {
                format!("No active Lifecycle Action found with instance ID {id}")
            }
            Which::Token(token) => format!("No active Lifecycle Action found with token {token}"),
        };
        ApiError::client("ValidationError", message)
    })
}

/// `CompleteLifecycleAction`.
pub(crate) fn complete(
    core: &Arc<Core>,
    group: &str,
    hook: &str,
    which: &Which<'_>,
    result: ActionResult,
) -> Result<(), ApiError> {
    let mut world = core.world();
    let id = find(&world, group, hook, which)?;
    let cause = format!("CompleteLifecycleAction {}", result.name());
    finish(core, &mut world, &id, hook, result, &cause);
    Ok(())
}

/// `RecordLifecycleActionHeartbeat`: the timeout starts again, it is not added to.
pub(crate) fn heartbeat(core: &Core, group: &str, hook: &str, which: &Which<'_>) -> Result<(), ApiError> {
    let mut world = core.world();
    let id = find(&world, group, hook, which)?;
    if let Some(kept) = world.members.get_mut(&id) {
        kept.adjust(|member| {
            for action in member.actions.iter_mut().filter(|action| action.hook == hook && !action.completed) {
                action.deadline = (Instant::now() + action.timeout).min(action.limit);
            }
        });
    }
    Ok(())
}

/// Ends one action. ABANDON ends the hold at once, CONTINUE when it was the last.
fn finish(core: &Arc<Core>, world: &mut World, id: &InstanceId, hook: &str, result: ActionResult, cause: &str) {
    let Some(kept) = world.members.get_mut(id) else {
        return;
    };
    let all_done = kept.adjust(|member| {
        for action in member.actions.iter_mut().filter(|action| action.hook == hook) {
            action.completed = true;
        }
        member.actions.iter().all(|action| action.completed)
    });
    let state = kept.get().state.clone();
    let launching = state.contains("Pending");
    let retains = world.groups.get(&kept.get().group).is_some_and(|group| group.spec().retains);
    if launching && result == ActionResult::Abandon {
        terminate(core, world, id, cause);
    } else if retains && result == ActionResult::Abandon {
        move_to(core, world, id, "Terminating:Retained", cause, Vec::new());
    } else if all_done || result == ActionResult::Abandon {
        proceed(core, world, id, &state, cause);
    }
}

/// Ends every open action of a member that is in this state; tells whether it was.
pub(crate) fn finish_all(
    core: &Arc<Core>,
    world: &mut World,
    id: &InstanceId,
    state: &str,
    result: ActionResult,
    cause: &str,
) -> bool {
    let Some(member) = world.members.get(id).map(Kept::get).filter(|member| member.state == state) else {
        return false;
    };
    let open = member.actions.iter().filter(|action| !action.completed);
    let hooks: Vec<String> = open.map(|action| action.hook.clone()).collect();
    for hook in hooks {
        // The first ABANDON ends the hold.
        if world.members.get(id).is_some_and(|member| member.get().state == state) {
            finish(core, world, id, &hook, result, cause);
        }
    }
    true
}

/// Heartbeats without end: the open actions last as long as AWS lets them.
pub(crate) fn hold_open(world: &mut World, id: &InstanceId) {
    if let Some(kept) = world.members.get_mut(id) {
        kept.adjust(|member| member.actions.iter_mut().for_each(|action| action.deadline = action.limit));
    }
}

/// Leaves a waiting state.
fn proceed(core: &Arc<Core>, world: &mut World, id: &InstanceId, waiting: &str, cause: &str) {
    let settle = core.config.latencies.proceed_to_in_service;
    match waiting {
        "Warmed:Pending:Wait" => {
            move_to(core, world, id, "Warmed:Pending:Proceed", cause, Vec::new());
            step_later(core, id, "Warmed:Pending:Proceed", settle, |core, world, id| {
                move_to(core, world, id, "Warmed:Stopped", "entered the warm pool", Vec::new());
            });
        }
        "ReplacingRootVolume:Wait" => move_to(core, world, id, "ReplacingRootVolume:Proceed", cause, Vec::new()),
        _ if waiting.contains("Terminating") => {
            move_to(core, world, id, "Terminating:Proceed", cause, Vec::new());
            instances::set_state(core, world, id, InstanceState::ShuttingDown, "terminated by its group");
        }
        _ => {
            move_to(core, world, id, "Pending:Proceed", cause, Vec::new());
            step_later(core, id, "Pending:Proceed", settle, |core, world, id| {
                move_to(core, world, id, "InService", "launched", Vec::new());
            });
        }
    }
}

/// The group begins to terminate a member, with its terminating hooks; once is enough.
pub(crate) fn terminate(core: &Arc<Core>, world: &mut World, id: &InstanceId, cause: &str) {
    let going = |member: &Kept<Member>| member.get().state.starts_with("Terminating");
    if world.members.get(id).is_some_and(going) {
        return;
    }
    move_to(core, world, id, "Terminating", cause, Vec::new());
    let begin = |core: &Arc<Core>, world: &mut World, id: &InstanceId| {
        hold(core, world, id, Transition::Terminating, "Terminating:Wait", "terminating hook");
    };
    match core.draw(core.config.latencies.terminating_to_wait) {
        Duration::ZERO => begin(core, world, id),
        after => step_later(core, id, "Terminating", after, begin),
    }
}

/// The instance ends by itself: its group can only follow, once it has noticed.
pub(crate) fn instance_ends(core: &Arc<Core>, world: &mut World, id: &InstanceId) {
    let follow = |core: &Arc<Core>, world: &mut World, id: &InstanceId| {
        let going = world.members.get(id).is_none_or(|member| member.get().state.starts_with("Terminating"));
        if !going {
            move_to(core, world, id, "Terminating", "an EC2 health check: the instance was terminated", Vec::new());
        }
    };
    match core.draw(core.config.latencies.notice) {
        Duration::ZERO => follow(core, world, id),
        after => {
            let id = id.clone();
            core.later(after, move |core| {
                let mut world = core.world();
                follow(core, &mut world, &id);
                if world.instance(&id).is_ok_and(|instance| instance.state == InstanceState::Terminated) {
                    leave(core, &mut world, &id);
                }
            });
        }
    }
}

/// The instance is terminated: its group forgets it, if it has noticed.
pub(crate) fn leave(core: &Arc<Core>, world: &mut World, id: &InstanceId) {
    if world.members.get(id).is_some_and(|member| !member.get().state.starts_with("Terminating")) {
        return;
    }
    if let Some(mut member) = world.depart(id) {
        let from = std::mem::replace(&mut member.state, "Terminated".to_owned());
        tell(core, world, id, &member, Some(from), "the instance is terminated");
        activities::follow(core, world, id, &member.group, "Terminated", "the instance is terminated");
        launches::check(core, world, &member.group);
    }
}

/// What its group thinks of the instance's health. A group that replaces what is unhealthy does so.
pub(crate) fn set_health(core: &Arc<Core>, id: &InstanceId, healthy: bool) -> Result<(), SimError> {
    let mut world = core.world();
    if !world.members.contains_key(id) {
        return Err(SimError::Invalid(format!("{id} is in no group")));
    }
    mark(core, &mut world, id, healthy);
    Ok(())
}

/// Marks a member healthy or not.
pub(crate) fn mark(core: &Arc<Core>, world: &mut World, id: &InstanceId, healthy: bool) {
    let Some(kept) = world.members.get_mut(id) else { return };
    kept.change(|member| member.healthy = healthy);
    let group = kept.get().group.clone();
    core.log.push(What::Health(HealthChange { instance: id.to_string(), group: group.clone(), healthy }));
    let after = world.groups.get(&group).and_then(|group| group.spec().replaces_unhealthy);
    let Some(after) = after.filter(|_| !healthy) else { return };
    step_later(core, id, "InService", core.draw(after), move |core, world, id| {
        let still = world.members.get(id).is_some_and(|member| !member.get().healthy);
        let suspended = world.groups.get(&group).is_some_and(|group| {
            ["ReplaceUnhealthy", "Terminate"].iter().any(|process| group.spec().suspended.contains_key(*process))
        });
        if still && !suspended {
            terminate(core, world, id, "a failed health check");
        }
    });
}

/// A member that is stopped is unhealthy at once, where its group replaces what is unhealthy.
pub(crate) fn instance_stops(core: &Arc<Core>, world: &mut World, id: &InstanceId) {
    let Some(member) = world.members.get(id).map(Kept::get) else { return };
    let replaces = world.groups.get(&member.group).is_some_and(|group| group.spec().replaces_unhealthy.is_some());
    if replaces && member.healthy && member.state == "InService" {
        mark(core, world, id, false);
    }
}

/// Whether a smaller desired capacity lets the member be.
pub(crate) fn set_protection(core: &Core, id: &InstanceId, protected: bool) -> Result<(), SimError> {
    let mut world = core.world();
    let kept = world.members.get_mut(id).ok_or_else(|| SimError::Invalid(format!("{id} is in no group")))?;
    kept.change(|member| member.protected = protected);
    Ok(())
}

/// Puts a member into any state, also ones the simulator does not reach by itself. A waiting state gets its actions.
pub(crate) fn set_state(core: &Arc<Core>, id: &InstanceId, state: &str) -> Result<(), SimError> {
    let mut world = core.world();
    if !world.members.contains_key(id) {
        return Err(SimError::Invalid(format!("{id} is in no group")));
    }
    let actions = match state {
        "Pending:Wait" | "Warmed:Pending:Wait" => begin_actions(&world, id, Transition::Launching),
        // A replacement of the root volume waits for the terminating hooks, too.
        "Terminating:Wait" | "Warmed:Terminating:Wait" | "ReplacingRootVolume:Wait" => {
            begin_actions(&world, id, Transition::Terminating)
        }
        _ => Vec::new(),
    };
    let tokens: Vec<String> = actions.iter().map(|action| action.token.clone()).collect();
    move_to(core, &mut world, id, state, "set by the scenario", actions);
    for token in tokens {
        watch_timeout(core, id, token);
    }
    Ok(())
}

fn move_to(
    core: &Arc<Core>,
    world: &mut World,
    id: &InstanceId,
    state: &str,
    cause: &str,
    actions: Vec<LifecycleAction>,
) {
    let Some(kept) = world.members.get_mut(id) else {
        return;
    };
    let from = kept.get().state.clone();
    let shown_from = Instant::now() + core.draw(core.config.latencies.target_state);
    let ended = kept.get().actions.iter().find(|action| action.completed).filter(|_| cause.contains("ABANDON"));
    let said = ended.map_or_else(|| cause.to_owned(), |action| activities::abandoned(&action.token, cause));
    kept.change(|member| {
        state.clone_into(&mut member.state);
        member.actions = actions;
        member.shown_from = shown_from;
    });
    let member = kept.get().clone();
    tell(core, world, id, &member, Some(from), cause);
    activities::follow(core, world, id, &member.group, state, &said);
    light::act(core, world, id, state);
    launches::check(core, world, &member.group);
}

fn tell(core: &Core, world: &World, id: &InstanceId, member: &Member, from: Option<String>, cause: &str) {
    let template = world.instance(id).ok().and_then(|instance| instance.spec.template.as_ref());
    core.log.push(What::Lifecycle(LifecycleChange {
        instance: id.to_string(),
        group: member.group.clone(),
        from,
        to: member.state.clone(),
        cause: cause.to_owned(),
        version: template.map(|template| template.version),
    }));
}

/// What the metadata service's `autoscaling/target-lifecycle-state` says for a member in this state.
pub(crate) fn target(state: &str) -> &'static str {
    match state {
        _ if state.starts_with("Warmed:Terminat") => "Warmed:Terminated",
        _ if state.starts_with("Warmed:Running") => "Warmed:Running",
        _ if state.starts_with("Warmed:Hibernated") => "Warmed:Hibernated",
        _ if state.starts_with("Warmed:") => "Warmed:Stopped",
        _ if state.starts_with("Terminat") => "Terminated",
        _ if state.contains("Standby") => "Standby",
        _ if state.starts_with("Detach") => "Detached",
        _ => "InService",
    }
}
