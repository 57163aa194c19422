//! What a group tells of its launches and terminations: scaling activities.

use time::OffsetDateTime;

use crate::clock::iso;
use crate::core::Core;
use crate::ids::{InstanceId, random_uuid};
use crate::world::World;

/// A scaling activity.
#[derive(Debug, Clone)]
pub(crate) struct ScalingActivity {
    pub(crate) id: String,
    pub(crate) group: String,
    pub(crate) kind: Kind,
    /// None of a launch that failed.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) description: String,
    pub(crate) cause: String,
    pub(crate) started: OffsetDateTime,
    pub(crate) ended: Option<OffsetDateTime>,
    pub(crate) status: &'static str,
    pub(crate) message: Option<String>,
}

/// What an activity does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Launch,
    Termination,
}

impl ScalingActivity {
    fn begin(core: &Core, group: &str, kind: Kind, cause: &str) -> Self {
        let started = core.clock.now();
        Self {
            id: random_uuid(),
            group: group.to_owned(),
            kind,
            instance: None,
            description: String::new(),
            cause: format!("At {} {cause}", iso(started)),
            started,
            ended: None,
            status: "InProgress",
            message: None,
        }
    }

    fn end(&mut self, core: &Core, status: &'static str) {
        self.status = status;
        self.ended = Some(core.clock.now());
    }
}

/// An instance was launched.
pub(crate) fn launched(core: &Core, world: &mut World, group: &str, id: &InstanceId) {
    let cause = "an instance was started in response to a difference between desired and actual capacity.";
    let activity = ScalingActivity::begin(core, group, Kind::Launch, cause);
    let description = format!("Launching a new EC2 instance: {id}");
    world.activities.push(ScalingActivity { instance: Some(id.clone()), description, ..activity });
}

/// No instance was launched, and why.
pub(crate) fn launch_failed(core: &Core, world: &mut World, group: &str, why: &str) {
    let cause = "an instance was started in response to a difference between desired and actual capacity.";
    let mut activity = ScalingActivity::begin(core, group, Kind::Launch, cause);
    activity.description = format!("Launching a new EC2 instance.  Status Reason: {why}");
    activity.message = Some(why.to_owned());
    activity.end(core, "Failed");
    world.activities.push(activity);
}

/// What Auto Scaling says of a launch that its hook has ended: each time another token.
pub(crate) fn abandoned(token: &str, cause: &str) -> String {
    let how =
        if cause.contains("timeout") { "Heartbeat Timeout" } else { "Lifecycle Action Completed with ABANDON Result" };
    format!("Lifecycle Action with token {token} was abandoned: {how}")
}

/// A member is in another lifecycle state: its activities follow.
pub(crate) fn follow(core: &Core, world: &mut World, id: &InstanceId, group: &str, state: &str, cause: &str) {
    let opens = state.starts_with("Terminating") && open(world, id, Kind::Termination).is_none();
    if let Some(launch) = open(world, id, Kind::Launch) {
        match state {
            "Pending:Wait" => launch.status = "MidLifecycleAction",
            "Pending:Proceed" => launch.status = "InProgress",
            "InService" => launch.end(core, "Successful"),
            _ if opens => {
                launch.message = Some(format!("Instance failed to complete user's Lifecycle Action: {cause}"));
                launch.end(core, "Cancelled");
            }
            _ => {}
        }
    }
    if opens {
        let cause = format!("instance {id} was taken out of service in response to: {cause}.");
        let activity = ScalingActivity::begin(core, group, Kind::Termination, &cause);
        let description = format!("Terminating EC2 instance: {id}");
        world.activities.push(ScalingActivity { instance: Some(id.clone()), description, ..activity });
    }
    if let Some(termination) = open(world, id, Kind::Termination) {
        match state {
            "Terminating:Wait" => termination.status = "MidLifecycleAction",
            "Terminating:Proceed" => termination.status = "InProgress",
            "Terminated" => termination.end(core, "Successful"),
            _ => {}
        }
    }
}

/// The member's activity of that kind that has not ended.
pub(crate) fn open<'a>(world: &'a mut World, id: &InstanceId, kind: Kind) -> Option<&'a mut ScalingActivity> {
    let is_it = |activity: &&mut ScalingActivity| {
        activity.ended.is_none() && activity.kind == kind && activity.instance.as_ref() == Some(id)
    };
    world.activities.iter_mut().rev().find(is_it)
}
