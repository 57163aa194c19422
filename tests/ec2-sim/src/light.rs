//! Light nodes: instances without a machine, whose agent the simulator plays. They have no metadata service and no block
//! device, so that hundreds cost nothing but a timer each.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::config::{ActionResult, Spread};
use crate::core::Core;
use crate::error::SimError;
use crate::ids::InstanceId;
use crate::instances;
use crate::lifecycle;
use crate::volumes;
use crate::world::{InstanceState, World};

/// The tag in which an agent tells how it is.
const STATUS: &str = "node-agent:status";
/// Where a light node attaches its volume.
const DEVICE: &str = "/dev/sdf";
/// How often it tries to attach a volume that is not free, and looks whether one is.
const VOLUME_POLL: Duration = Duration::from_millis(50);

/// How a light node behaves. It acts only while a hook of its group holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LightNode {
    /// From `Pending:Wait` until it attaches its volume.
    pub boot: Spread,
    /// The volume that it attaches, waiting until it is free.
    pub volume: Option<String>,
    /// From then until its outcome.
    pub hooks: Spread,
    /// What becomes of its launch.
    pub outcome: Outcome,
    /// From `InService` until EC2 ends it.
    pub dies: Option<Spread>,
    /// From `Terminating:Wait` until it is drained.
    pub drain: Spread,
    /// Whether it detaches its volume then.
    pub detaches: bool,
    /// Whether it never ends its departure, so that the hook times out.
    pub hangs: bool,
}

/// What becomes of the launch of a light node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It sends CONTINUE.
    #[default]
    Healthy,
    /// It says `health-check: …` in its status tag, heartbeats, and sends CONTINUE only after [`crate::Sim::repair`].
    Held,
    /// It sends ABANDON.
    Abandons,
    /// It sends nothing, not even a heartbeat.
    TimesOut,
}

/// A member is in another lifecycle state: a light node acts on it.
pub(crate) fn act(core: &Arc<Core>, world: &World, id: &InstanceId, state: &str) {
    let Some(node) = world.instance(id).ok().and_then(|instance| instance.spec.light.clone()) else { return };
    let (shared, id) = (Arc::clone(core), id.clone());
    match state {
        "Pending:Wait" => drop(core.runtime.spawn(async move { arrive(&shared, &id, &node).await })),
        "Terminating:Wait" if !node.hangs => drop(core.runtime.spawn(async move { depart(&shared, &id, &node).await })),
        "InService" => {
            if let Some(dies) = node.dies {
                core.later(core.draw(dies), move |core| {
                    instances::set_state(core, &mut core.world(), &id, InstanceState::ShuttingDown, "died");
                });
            }
        }
        _ => {}
    }
}

async fn arrive(core: &Arc<Core>, id: &InstanceId, node: &LightNode) {
    tokio::time::sleep(core.draw(node.boot)).await;
    if let Some(volume) = &node.volume {
        while is_in(core, id, "Pending:Wait") && volumes::attach(core, volume, id, DEVICE).is_err() {
            tokio::time::sleep(VOLUME_POLL).await;
        }
    }
    tokio::time::sleep(core.draw(node.hooks)).await;
    match node.outcome {
        Outcome::Healthy => {
            complete(core, id);
        }
        Outcome::Held => {
            let mut world = core.world();
            tag(&mut world, id, "health-check: the cluster is not healthy");
            lifecycle::hold_open(&mut world, id);
        }
        Outcome::Abandons => {
            let mut world = core.world();
            lifecycle::finish_all(core, &mut world, id, "Pending:Wait", ActionResult::Abandon, "light node ABANDON");
        }
        Outcome::TimesOut => {}
    }
}

async fn depart(core: &Arc<Core>, id: &InstanceId, node: &LightNode) {
    tokio::time::sleep(core.draw(node.drain)).await;
    if let Some(volume) = node.volume.as_ref().filter(|_| node.detaches) {
        // It may not be attached at all.
        let _ = volumes::detach(core, volume, Some(id));
        while is_in(core, id, "Terminating:Wait") && core.world().attached_to(id).next().is_some() {
            tokio::time::sleep(VOLUME_POLL).await;
        }
    }
    let mut world = core.world();
    lifecycle::finish_all(core, &mut world, id, "Terminating:Wait", ActionResult::Continue, "light node CONTINUE");
}

fn is_in(core: &Core, id: &InstanceId, state: &str) -> bool {
    core.world().members.get(id).is_some_and(|member| member.get().state == state)
}

fn tag(world: &mut World, id: &InstanceId, status: &str) {
    if let Ok(kept) = world.instance_mut(id) {
        kept.change(|instance| instance.spec.tags.insert(STATUS.to_owned(), status.to_owned()));
    }
}

/// Sends CONTINUE for a launch that waits, and says so in the status tag. Tells whether the launch waited.
fn complete(core: &Arc<Core>, id: &InstanceId) -> bool {
    let mut world = core.world();
    let waited =
        lifecycle::finish_all(core, &mut world, id, "Pending:Wait", ActionResult::Continue, "light node CONTINUE");
    if waited {
        tag(&mut world, id, "done");
    }
    waited
}

/// A held node is mended.
pub(crate) fn repair(core: &Arc<Core>, id: &InstanceId) -> Result<(), SimError> {
    if core.world().instance(id)?.spec.light.is_none() {
        return Err(SimError::Invalid(format!("{id} is not a light node")));
    }
    if complete(core, id) { Ok(()) } else { Err(SimError::Invalid(format!("{id} is not in Pending:Wait"))) }
}
