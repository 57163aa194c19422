//! What a group launches in the place of an instance that it has lost.

use std::sync::Arc;
use std::time::Duration;

use crate::activities;
use crate::config::{InstanceSpec, Launches};
use crate::core::Core;
use crate::events::{Activity, What};
use crate::faults::Times;
use crate::ids::InstanceId;
use crate::instances;
use crate::lifecycle;
use crate::templates;
use crate::world::{Group, IMAGE, Kept, Member, TYPE, World};

/// The longest pause between two launches that fail.
const LONGEST: Duration = Duration::from_mins(15);

/// Why EC2 does not launch an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchFailure {
    /// `InsufficientInstanceCapacity`.
    Capacity,
    /// Another reason, in EC2's words.
    Other(String),
}

impl LaunchFailure {
    fn text(&self, instance_type: &str, zone: &str) -> String {
        let why = match self {
            Self::Capacity => format!(
                "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). \
                 Our system will be working on provisioning additional capacity."
            ),
            Self::Other(why) => why.clone(),
        };
        format!("{why} Launching EC2 instance failed.")
    }
}

/// Begins to launch where the group has fewer instances than it wants and launches by itself. An instance on its way out
/// does not count, and is not waited for.
pub(crate) fn check(core: &Arc<Core>, world: &mut World, name: &str) {
    let lacks = lacks(world, name);
    let Some(group) = world.groups.get_mut(name) else { return };
    let Some(launches) = group.spec().launches.clone().filter(|_| lacks && !group.launching) else { return };
    group.launching = true;
    let (core, name) = (Arc::clone(core), name.to_owned());
    core.runtime.clone().spawn(async move {
        tokio::time::sleep(core.draw(launches.after)).await;
        let mut pause = core.draw(launches.retry);
        while lacks_now(&core, &name) && !launch(&core, &name) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
        let mut world = core.world();
        if let Some(group) = world.groups.get_mut(&name) {
            group.launching = false;
        }
        // Another one may have gone meanwhile.
        check(&core, &mut world, &name);
    });
}

/// Terminates members where the group has more than it wants, as a smaller desired capacity does. What is protected from it
/// stays.
pub(crate) fn shrink(core: &Arc<Core>, world: &mut World, name: &str) {
    let Some(wants) = world.groups.get(name).map(|group| group.spec().wants) else { return };
    let surplus = |(id, kept): (&InstanceId, &Kept<Member>)| {
        let member = kept.get();
        (member.group == name && counts(&member.state) && !member.protected).then(|| id.clone())
    };
    let there: Vec<InstanceId> = world.members.iter().filter_map(surplus).collect();
    for id in there.iter().skip(wants) {
        lifecycle::terminate(core, world, id, "a smaller desired capacity");
    }
}

fn counts(state: &str) -> bool {
    !state.starts_with("Terminating") && state != "Standby"
}

fn lacks_now(core: &Core, name: &str) -> bool {
    lacks(&core.world(), name)
}

fn lacks(world: &World, name: &str) -> bool {
    let Some(group) = world.groups.get(name) else { return false };
    let members = world.members.values().map(Kept::get);
    let there = members.filter(|member| member.group == name && counts(&member.state)).count();
    !group.spec().deleting && !group.spec().suspended.contains_key("Launch") && there < group.spec().wants
}

/// Tries to launch one instance.
fn launch(core: &Arc<Core>, name: &str) -> bool {
    let spec = instance(&mut core.world(), &core.config.zone, name);
    let result = spec.and_then(|spec| instances::launch(core, spec).map_err(|error| error.to_string()));
    let (instance, status) = match result {
        Ok(id) => (Some(id.to_string()), format!("Launching a new EC2 instance: {id}")),
        Err(why) => (None, why),
    };
    let done = instance.is_some();
    if !done {
        activities::launch_failed(core, &mut core.world(), name, &status);
    }
    core.log.push(What::Activity(Activity { group: name.to_owned(), instance, status }));
    done
}

/// The instance that the group launches now, or what its failed activity says.
fn instance(world: &mut World, zone: &str, name: &str) -> Result<InstanceSpec, String> {
    let failure = world.groups.get_mut(name).and_then(failure);
    let group = world.group(name).map_err(|error| error.message)?.spec();
    let Launches { instance: mut spec, .. } = group.launches.clone().unwrap_or_default();
    spec.group = Some(name.to_owned());
    spec.tags.extend(group.tags.iter().filter(|(key, _)| group.propagated.contains(*key)).map(owned));
    if let Some(resolved) = templates::in_force(world, group) {
        let templates::Resolved { from, version, weighted_capacity } = resolved?;
        spec.template = Some(from);
        spec.weighted_capacity = weighted_capacity;
        spec.image = Some(version.image);
        spec.instance_type = Some(version.instance_type);
        spec.user_data = version.user_data.or(spec.user_data);
        spec.interface = version.interface.or(spec.interface);
        spec.role = version.instance_profile.or(spec.role);
        spec.tags.extend(version.tags);
        spec.light = version.launch.or(spec.light);
    }
    if let Some(failure) = failure {
        let instance_type = spec.instance_type.as_deref().unwrap_or(TYPE);
        return Err(failure.text(instance_type, spec.zone.as_deref().unwrap_or(zone)));
    }
    refuse(world, zone, &spec)?;
    Ok(spec)
}

/// What the group's next launch fails by.
fn failure(group: &mut Group) -> Option<LaunchFailure> {
    let (failure, times) = group.failing.take()?;
    let left = match times {
        Times::Count(0) => return None,
        Times::Count(count) => Times::Count(count - 1),
        Times::Forever => Times::Forever,
    };
    group.failing = Some((failure.clone(), left));
    Some(failure)
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// Refuses a launch of what EC2 does not have, or whose network interface is not there or in use: the named one, or else the
/// one with the same primary address.
fn refuse(world: &World, zone: &str, spec: &InstanceSpec) -> Result<(), String> {
    let image = spec.image.as_deref().unwrap_or(IMAGE);
    let instance_type = spec.instance_type.as_deref().unwrap_or(TYPE);
    if let Some(why) = world.catalog.refusal(image, instance_type, spec.zone.as_deref().unwrap_or(zone)) {
        return Err(format!("{why}. Launching EC2 instance failed."));
    }
    let user = match &spec.interface {
        Some(interface) if !world.interfaces.contains_key(interface) => {
            return Err(format!(
                "The networkInterface ID '{interface}' does not exist. Launching EC2 instance failed."
            ));
        }
        Some(interface) => world.interface_user(interface),
        None => {
            let mut holders = world.instances.values().map(Kept::get).filter(|instance| instance.holds_interface);
            holders.find(|holder| holder.spec.private_ips.first() == spec.private_ips.first())
        }
    };
    match user {
        Some(user) => Err(format!("Interface: [{}] in use. Launching EC2 instance failed.", user.interface())),
        None => Ok(()),
    }
}
