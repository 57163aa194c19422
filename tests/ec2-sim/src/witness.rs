//! What a witness of a rolling update asks the event log: how long groups were without a node, and who did what.

use std::collections::{BTreeMap, BTreeSet};

use crate::events::{ApiCall, Event, Events, What};

/// A time in which a group had no member that is in service, healthy, and running.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// When it began, in seconds of the event log.
    pub from: f64,
    /// When it ended; none where it has not.
    pub to: Option<f64>,
}

/// A call that acts on a group or on a member of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActKind {
    /// `TerminateInstanceInAutoScalingGroup`, or `TerminateInstances`.
    Terminate,
    /// `CompleteLifecycleAction` with ABANDON.
    Abandon,
    /// `UpdateAutoScalingGroup`.
    Update,
    /// `CreateOrUpdateTags`; an act for each tag.
    Tag {
        /// The tag.
        key: String,
        /// Its new value.
        value: String,
    },
    /// `DeleteTags`; an act for each tag.
    Untag {
        /// The tag.
        key: String,
    },
}

/// A call that acts on a group or on a member of one, dry runs excluded.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// When, in seconds of the event log.
    pub t: f64,
    /// Its place in the event log.
    pub seq: u64,
    /// What it does.
    pub kind: ActKind,
    /// Who called, as in [`ApiCall::caller`].
    pub caller: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// The instance: the one that is named, or the group's member that was not on its way out then.
    pub instance: Option<String>,
    /// The version of the launch template that this instance was launched from.
    pub version: Option<u64>,
    /// Whether it took effect, whatever became of the answer.
    pub done: bool,
    /// The parameters as sent.
    pub parameters: BTreeMap<String, String>,
}

/// A member as the log has told of it so far.
struct Seen {
    group: String,
    state: String,
    version: Option<u64>,
}

/// The members of all groups as the log has told of them so far.
#[derive(Default)]
struct Members {
    /// Those that have left stay, so that late calls find them.
    seen: BTreeMap<String, Seen>,
    unhealthy: BTreeSet<String>,
    /// Those that are not running any more.
    down: BTreeSet<String>,
}

impl Members {
    fn follow(&mut self, what: &What) {
        match what {
            What::Lifecycle(change) => {
                let seen = Seen { group: change.group.clone(), state: change.to.clone(), version: change.version };
                self.seen.insert(change.instance.clone(), seen);
            }
            What::Health(change) if change.healthy => drop(self.unhealthy.remove(&change.instance)),
            What::Health(change) => drop(self.unhealthy.insert(change.instance.clone())),
            What::Instance(change) if change.to == "running" => drop(self.down.remove(&change.id)),
            What::Instance(change) if change.to != "pending" => drop(self.down.insert(change.id.clone())),
            _ => {}
        }
    }

    fn serves(&self, group: &str) -> bool {
        let fit = |id: &String| !self.unhealthy.contains(id) && !self.down.contains(id);
        self.seen.iter().any(|(id, seen)| seen.group == group && seen.state == "InService" && fit(id))
    }

    /// The group's member that is not on its way out.
    fn of_group(&self, group: &str) -> Option<String> {
        let stays = |seen: &Seen| seen.group == group && !seen.state.starts_with("Terminat");
        self.seen.iter().find(|(_, seen)| stays(seen)).map(|(id, _)| id.clone())
    }

    fn act(&self, event: &Event, call: &ApiCall, kind: ActKind, group: Option<&str>, instance: Option<&str>) -> Act {
        let instance = instance.map(str::to_owned).or_else(|| self.of_group(group?));
        let seen = instance.as_ref().and_then(|instance| self.seen.get(instance));
        Act {
            t: event.t,
            seq: event.seq,
            kind,
            caller: call.caller.clone(),
            group: group.map(str::to_owned).or_else(|| seen.map(|seen| seen.group.clone())),
            version: seen.and_then(|seen| seen.version),
            instance,
            done: call.done,
            parameters: call.parameters.clone(),
        }
    }
}

impl Events {
    /// When the group had no member that was in service, healthy and running, from its first one on. What counts is the
    /// world, not what anybody was told of it.
    pub fn gaps(&self, group: &str) -> Vec<Gap> {
        let mut members = Members::default();
        let mut gaps: Vec<Gap> = Vec::new();
        let mut served = None;
        for event in self.iter() {
            members.follow(&event.what);
            let serves_now = members.serves(group);
            match (served, serves_now) {
                (None | Some(false), true) => {
                    if let Some(gap) = gaps.last_mut() {
                        gap.to = Some(event.t);
                    }
                    served = Some(true);
                }
                (Some(true), false) => {
                    gaps.push(Gap { from: event.t, to: None });
                    served = Some(false);
                }
                _ => {}
            }
        }
        gaps
    }

    /// The calls that acted on groups and their members, or were refused, in their order.
    pub fn acts(&self) -> Vec<Act> {
        let mut members = Members::default();
        let mut acts = Vec::new();
        for event in self.iter() {
            members.follow(&event.what);
            let What::Api(call) = &event.what else { continue };
            if call.dry_run {
                continue;
            }
            let value = |name: &str| call.parameters.get(name).map(String::as_str);
            let instance = value("InstanceId");
            let mut push = |kind, group, instance| acts.push(members.act(event, call, kind, group, instance));
            match call.action.as_str() {
                "autoscaling:TerminateInstanceInAutoScalingGroup" => push(ActKind::Terminate, None, instance),
                "ec2:TerminateInstances" => {
                    for (_, instance) in call.parameters.iter().filter(|(name, _)| name.starts_with("InstanceId.")) {
                        push(ActKind::Terminate, None, Some(instance));
                    }
                }
                "autoscaling:CompleteLifecycleAction" if value("LifecycleActionResult") == Some("ABANDON") => {
                    push(ActKind::Abandon, value("AutoScalingGroupName"), instance);
                }
                "autoscaling:UpdateAutoScalingGroup" => push(ActKind::Update, value("AutoScalingGroupName"), None),
                "autoscaling:CreateOrUpdateTags" | "autoscaling:DeleteTags" => {
                    for (prefix, key) in
                        call.parameters.iter().filter_map(|(name, key)| Some((name.strip_suffix(".Key")?, key)))
                    {
                        let key = key.clone();
                        let kind = if call.action.ends_with("DeleteTags") {
                            ActKind::Untag { key }
                        } else {
                            let value = value(&format!("{prefix}.Value")).unwrap_or_default().to_owned();
                            ActKind::Tag { key, value }
                        };
                        push(kind, value(&format!("{prefix}.ResourceId")), None);
                    }
                }
                _ => {}
            }
        }
        acts
    }
}
