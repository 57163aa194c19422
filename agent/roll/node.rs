//! One node of the cluster, as the looks show it: its group's member, whether that is outdated, and what keeps a roll away.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::marks::{LastMark, key};
use super::target::{GroupTarget, Outdated, Staged};
use crate::aws::autoscaling::LifecycleState;
use crate::aws::ec2::tag;
use crate::aws::fleet::{FleetGroup, FleetMember};
use crate::aws::machines::Machine;
use crate::aws::templates::Template;

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its id, `00`.
    pub(crate) id: String,
    /// Its group's name.
    pub(crate) group: String,
    pub(crate) condition: Condition,
    /// The instances that are on their way out.
    pub(crate) going: Vec<FleetMember>,
    /// How the member that stays differs from the target.
    pub(crate) outdated: Option<Outdated>,
    /// What the group would launch now.
    pub(crate) staged: Staged,
    /// Why no roll may touch it.
    pub(crate) hands_off: Option<String>,
    /// What a roll did last to it.
    pub(crate) last: Option<LastMark>,
    /// Whether two looks prove all of this; what is missing for that.
    pub(crate) doubt: Option<&'static str>,
}

/// The member of a group that is not on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// In service and healthy.
    Serving(String),
    /// In service, and its group calls it unhealthy.
    Unhealthy(String),
    /// On its way into service. A held one has failed, and says why in its status tag.
    Coming { instance: String, state: LifecycleState, held: Option<String> },
    /// In standby, in a warm pool, or in a state that is not known.
    Elsewhere { instance: String, state: LifecycleState },
    /// None.
    Missing,
}

impl Condition {
    fn of(member: Option<&FleetMember>, machine: Option<&Machine>) -> Self {
        let Some(FleetMember { instance_id, state, is_healthy, .. }) = member else { return Condition::Missing };
        let instance = instance_id.clone();
        match state {
            LifecycleState::InService if *is_healthy => Condition::Serving(instance),
            LifecycleState::InService => Condition::Unhealthy(instance),
            LifecycleState::Pending | LifecycleState::PendingWait | LifecycleState::PendingProceed => {
                let held = machine.and_then(status).filter(|_| *state == LifecycleState::PendingWait);
                Condition::Coming { instance, state: state.clone(), held: held.map(str::to_owned) }
            }
            state => Condition::Elsewhere { instance, state: state.clone() },
        }
    }

    /// The instance's id.
    pub(crate) fn instance(&self) -> Option<&str> {
        match self {
            Condition::Serving(instance)
            | Condition::Unhealthy(instance)
            | Condition::Coming { instance, .. }
            | Condition::Elsewhere { instance, .. } => Some(instance),
            Condition::Missing => None,
        }
    }
}

/// What a node has written about its failure into its instance's tag; `done` after a repair.
pub(crate) fn status(machine: &Machine) -> Option<&str> {
    machine.tags.get(tag::STATUS).map(String::as_str).filter(|status| !status.is_empty() && *status != "done")
}

/// Whether a member is on its way out.
pub(crate) fn is_going(member: &FleetMember) -> bool {
    matches!(&member.state, LifecycleState::Terminating(_)) || member.state == LifecycleState::NoGroup
}

/// What does not change from look to look.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The node's id.
    pub(crate) id: String,
    pub(crate) target: GroupTarget,
    /// Left out by `--skip` or `--only`.
    pub(crate) left_out: Option<String>,
}

impl Node {
    /// The node of a group by the last look; none if that did not show the group.
    pub(crate) fn seen(
        fleet: &Fleet,
        name: &str,
        setting: &Setting,
        templates: &BTreeMap<String, Template>,
    ) -> Option<Node> {
        let group = fleet.group(name)?;
        let (going, staying): (Vec<_>, Vec<_>) = group.members.iter().partition(|member| is_going(member));
        let member = staying.first().copied();
        let machine = member.and_then(|member| fleet.machine(&member.instance_id));
        Some(Node {
            id: setting.id.clone(),
            group: name.to_owned(),
            condition: Condition::of(member, machine),
            going: going.into_iter().cloned().collect(),
            outdated: member.and_then(|member| setting.target.outdated(member, machine)),
            staged: setting.target.staged(&group.template, templates),
            hands_off: setting.left_out.clone().or_else(|| hands_off(group, member)),
            last: LastMark::of(&group.tags),
            doubt: fleet.doubt(name),
        })
    }

    /// Whether the node is in service and healthy.
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.condition, Condition::Serving(_))
    }

    /// Whether the node is out of service: nothing of it can be lost by another version.
    pub(crate) fn is_out(&self) -> bool {
        !matches!(self.condition, Condition::Serving(_) | Condition::Unhealthy(_))
    }

    /// Whether its instance has failed, and is held for a repair.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.condition, Condition::Coming { held: Some(_), .. })
    }

    /// Whether its next launch brings another version than the target, and the roll can set that.
    pub(crate) fn needs_staging(&self) -> bool {
        self.staged == Staged::Other && self.hands_off.is_none()
    }

    /// The version that the node runs and its group can be set back to.
    pub(crate) fn set_back_to(&self) -> Option<u64> {
        match &self.outdated {
            Some(Outdated::Version(version)) => version.parse().ok(),
            _ => None,
        }
    }

    /// The node in messages: `00 (kafka-node-00)`.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.id, self.group)
    }
}

/// A group that its tags or its member's protection keep from any roll.
fn hands_off(group: &FleetGroup, member: Option<&FleetMember>) -> Option<String> {
    if let Some(reason) = group.tags.get(key::DO_NOT_ROLL) {
        let reason = Some(reason.as_str()).filter(|reason| !reason.is_empty());
        return Some(format!(
            "its group has the tag {}{}",
            key::DO_NOT_ROLL,
            reason.map(|why| format!(": {why}")).unwrap_or_default()
        ));
    }
    let protected = member.filter(|member| member.is_protected)?;
    Some(format!("{} is protected from scale-in", protected.instance_id))
}

/// A node's id by its group's name, where its user data does not tell: what follows `-node-`.
pub(crate) fn id_of(group: &str) -> String {
    group.rsplit_once("-node-").map_or(group, |(_, id)| id).to_owned()
}
