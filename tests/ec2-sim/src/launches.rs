//! What a group launches in the place of an instance that it has lost.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Launches;
use crate::core::Core;
use crate::events::{Activity, What};
use crate::ids::InstanceId;
use crate::instances;
use crate::world::{InstanceState, Kept, World};

/// The longest pause between two launches that fail.
const LONGEST: Duration = Duration::from_mins(15);

/// Begins to launch where the group has fewer instances than it wants and launches by itself. An instance on its way out
/// does not count, and is not waited for.
pub(crate) fn check(core: &Arc<Core>, world: &mut World, name: &str) {
    let lacks = lacks(world, name);
    let Some(group) = world.groups.get_mut(name) else { return };
    let Some(launches) = group.spec.launches.clone().filter(|_| lacks && !group.launching) else { return };
    group.launching = true;
    let (core, name) = (Arc::clone(core), name.to_owned());
    core.runtime.clone().spawn(async move {
        tokio::time::sleep(core.draw(launches.after)).await;
        let mut pause = core.draw(launches.retry);
        while lacks_now(&core, &name) && !launch(&core, &name, &launches) {
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

fn lacks_now(core: &Core, name: &str) -> bool {
    lacks(&core.world(), name)
}

fn lacks(world: &World, name: &str) -> bool {
    let Some(group) = world.groups.get(name) else { return false };
    let counts = |state: &str| !state.starts_with("Terminating") && state != "Standby";
    let members = world.members.values().map(Kept::get);
    let there = members.filter(|member| member.group == name && counts(&member.state)).count();
    !group.spec.deleting && there < group.spec.wants
}

/// Tries to launch one instance.
fn launch(core: &Arc<Core>, name: &str, launches: &Launches) -> bool {
    let mut spec = launches.instance.clone();
    spec.group = Some(name.to_owned());
    let user = interface_user(&core.world(), &spec.private_ips);
    let result = match user {
        Some(user) => Err(format!("Interface: [eni-{}] in use. Launching EC2 instance failed.", &user["i-".len()..])),
        None => instances::launch(core, spec).map_err(|error| error.to_string()),
    };
    let (instance, status) = match result {
        Ok(id) => (Some(id.to_string()), format!("Launching a new EC2 instance: {id}")),
        Err(why) => (None, why),
    };
    let done = instance.is_some();
    core.log.push(What::Activity(Activity { group: name.to_owned(), instance, status }));
    done
}

/// The instance that still has the network interface with this primary address.
fn interface_user(world: &World, addresses: &[String]) -> Option<InstanceId> {
    let mut there = world.instances.values().map(Kept::get);
    let has = |spec: &[String]| spec.first() == addresses.first();
    let user = there.find(|there| there.state != InstanceState::Terminated && has(&there.spec.private_ips));
    user.map(|user| user.id.clone())
}
