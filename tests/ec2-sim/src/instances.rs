//! The life of instances: launched, terminated.

use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
use crate::events::{InstanceChange, What};
use crate::ids::{InstanceId, VolumeId};
use crate::lifecycle;
use crate::volumes;
use crate::world::{Attachment, Instance, InstanceState, Kept, World};

/// How often an instance that shuts down looks whether its volumes are free.
const FREE_POLL: Duration = Duration::from_millis(5);

/// Adds a launched instance and, where it has one, has its group take it in.
pub(crate) fn enter(core: &Arc<Core>, instance: Instance) {
    let mut world = core.world();
    tell(core, &instance.id, None, instance.state, "launch");
    let (id, group) = (instance.id.clone(), instance.spec.group.clone());
    world.instances.insert(id.clone(), Kept::new(instance));
    if let Some(group) = group {
        lifecycle::enroll(core, &mut world, &id, &group);
    }
}

/// Puts an instance into a state. The ending states take the same way as a termination by the API.
pub(crate) fn set_state(core: &Arc<Core>, world: &mut World, id: &InstanceId, to: InstanceState, cause: &str) {
    let Some(kept) = world.instances.get_mut(id) else {
        return;
    };
    let from = kept.get().state;
    if from == to || from.is_ending() {
        return;
    }
    if to.is_ending() {
        kept.change(|instance| instance.state = InstanceState::ShuttingDown);
        tell(core, id, Some(from), InstanceState::ShuttingDown, cause);
        lifecycle::instance_ends(core, world, id);
        let after = match to {
            InstanceState::Terminated => Duration::ZERO,
            _ => core.config.latencies.shutting_down,
        };
        let (core, id) = (Arc::clone(core), id.clone());
        core.runtime.clone().spawn(async move {
            tokio::time::sleep(after).await;
            end(&core, &id).await;
        });
    } else {
        kept.change(|instance| instance.state = to);
        tell(core, id, Some(from), to, cause);
    }
}

/// Frees the volumes, then the instance is terminated.
async fn end(core: &Arc<Core>, id: &InstanceId) {
    let held: Vec<(VolumeId, Attachment)> = core
        .world()
        .attached_to(id)
        .filter(|(_, attachment)| !attachment.status.is_leaving())
        .map(|(volume, attachment)| (volume.id.clone(), attachment.clone()))
        .collect();
    for (volume, attachment) in held {
        let core = Arc::clone(core);
        core.runtime.clone().spawn(async move { volumes::free(&core, &volume, &attachment).await });
    }
    // Includes those that were being detached before.
    while core.world().attached_to(id).next().is_some() {
        tokio::time::sleep(FREE_POLL).await;
    }
    let mut world = core.world();
    if let Some(kept) = world.instances.get_mut(id) {
        kept.change(|instance| instance.state = InstanceState::Terminated);
        tell(core, id, Some(InstanceState::ShuttingDown), InstanceState::Terminated, "shut down");
    }
    lifecycle::leave(core, &mut world, id);
}

fn tell(core: &Core, id: &InstanceId, from: Option<InstanceState>, to: InstanceState, cause: &str) {
    core.log.push(What::Instance(InstanceChange {
        id: id.to_string(),
        from: from.map(|state| state.name().to_owned()),
        to: to.name().to_owned(),
        cause: cause.to_owned(),
    }));
}
