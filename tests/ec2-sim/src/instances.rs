//! The life of instances: launched, terminated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::InstanceSpec;
use crate::core::Core;
use crate::error::SimError;
use crate::events::{InstanceChange, What};
use crate::ids::{InstanceId, VolumeId};
use crate::imds::Imds;
use crate::interfaces::no_interface;
use crate::lifecycle;
use crate::volumes;
use crate::wire;
use crate::world::{Attachment, Instance, InstanceState, Kept, World};

/// How often an instance that shuts down looks whether its volumes are free.
const FREE_POLL: Duration = Duration::from_millis(5);

/// Launches an instance with a metadata service of its own, which a light node does not have.
pub(crate) fn launch(core: &Arc<Core>, mut spec: InstanceSpec) -> Result<InstanceId, SimError> {
    let id = spec.id.take().map_or_else(InstanceId::random, InstanceId::from);
    let has_links = spec.slots.is_none() && spec.light.is_none();
    if has_links && spec.by_id_dir.as_os_str().is_empty() {
        spec.by_id_dir = core.work_dir.join("by-id").join(id.as_str());
    }
    if core.world().instances.contains_key(&id) {
        return Err(SimError::Invalid(format!("the instance {id} exists already")));
    }
    if let Some(interface) = &spec.interface {
        let world = core.world();
        let made = world.interfaces.get(interface);
        spec.private_ips.clone_from(&made.ok_or_else(|| no_interface(interface))?.private_ips);
    }
    if let Some(group) = spec.group.as_ref().filter(|group| !core.world().groups.contains_key(*group)) {
        return Err(SimError::Invalid(format!("there is no group {group:?}")));
    }
    if has_links {
        let made = format!("create {}", spec.by_id_dir.display());
        std::fs::create_dir_all(&spec.by_id_dir).map_err(SimError::io(made))?;
    }
    let service = if spec.light.is_none() { Some(wire::bind(core.config.address)?) } else { None };
    if let Some((listener, _)) = &service {
        wire::set_hop_limit(listener, spec.hop_limit)?;
    }
    let instance = Instance {
        id: id.clone(),
        state: spec.state,
        zone: spec.zone.clone().unwrap_or_else(|| core.config.zone.clone()),
        mac: spec.mac.clone().unwrap_or_else(random_mac),
        launched: core.clock.now(),
        imds: service.as_ref().map(|(_, address)| *address),
        tokens_since: Instant::now(),
        holds_interface: !spec.state.is_ending(),
        spec,
    };
    enter(core, instance);
    if let Some((listener, _)) = service {
        wire::serve(&core.runtime, listener, None, Imds::new(Arc::clone(core), id.clone()));
    }
    Ok(id)
}

/// A locally administered address, as EC2's interfaces have them.
fn random_mac() -> String {
    let rest: Vec<String> = (0..5).map(|_| format!("{:02x}", fastrand::u8(..))).collect();
    format!("02:{}", rest.join(":"))
}

/// Adds a launched instance and, where it has one, has its group take it in.
fn enter(core: &Arc<Core>, instance: Instance) {
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
        if let Some(interface) = core.config.latencies.interface {
            let id = id.clone();
            core.later(core.draw(interface), move |core| free_interface(&mut core.world(), &id));
        }
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
        if matches!(to, InstanceState::Stopping | InstanceState::Stopped) {
            lifecycle::instance_stops(core, world, id);
        }
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
    if core.config.latencies.interface.is_none() {
        free_interface(&mut world, id);
    }
    lifecycle::leave(core, &mut world, id);
}

/// Another instance can have the network interface from now on.
fn free_interface(world: &mut World, id: &InstanceId) {
    if let Some(kept) = world.instances.get_mut(id) {
        kept.prepare(|instance| instance.holds_interface = false);
    }
}

fn tell(core: &Core, id: &InstanceId, from: Option<InstanceState>, to: InstanceState, cause: &str) {
    core.log.push(What::Instance(InstanceChange {
        id: id.to_string(),
        from: from.map(|state| state.name().to_owned()),
        to: to.name().to_owned(),
        cause: cause.to_owned(),
    }));
}
