//! Deaths that nobody ordered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::Spread;
use crate::core::Core;
use crate::faults::glob;
use crate::ids::InstanceId;
use crate::instances;
use crate::lifecycle;
use crate::world::InstanceState;

/// Kills a member that is in service now and then: EC2 ends it, or, where its group replaces what is unhealthy, it may be
/// marked so instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomDeaths {
    /// What is drawn by.
    pub seed: u64,
    /// From one death to the next.
    pub every: Spread,
    /// Patterns of the groups concerned.
    pub groups: Vec<String>,
}

/// Counts the settings, so that the deaths of an earlier one end.
#[derive(Default)]
pub(crate) struct Deaths(AtomicU64);

/// Begins, or ends, in the place of what was set before.
pub(crate) fn set(core: &Arc<Core>, deaths: Option<RandomDeaths>) {
    let number = core.deaths.0.fetch_add(1, Ordering::SeqCst) + 1;
    let Some(deaths) = deaths else { return };
    let core = Arc::clone(core);
    core.runtime.clone().spawn(async move {
        let mut random = fastrand::Rng::with_seed(deaths.seed);
        loop {
            tokio::time::sleep(deaths.every.draw(&mut random)).await;
            if core.deaths.0.load(Ordering::SeqCst) != number {
                return;
            }
            strike(&core, &deaths, &mut random);
        }
    });
}

fn strike(core: &Arc<Core>, deaths: &RandomDeaths, random: &mut fastrand::Rng) {
    let mut world = core.world();
    let concerned = |group: &str| deaths.groups.iter().any(|pattern| glob(pattern, group));
    let serving = world.members.iter().filter(|(_, kept)| {
        let member = kept.get();
        member.state == "InService" && member.healthy && concerned(&member.group)
    });
    let serving: Vec<(InstanceId, String)> = serving.map(|(id, kept)| (id.clone(), kept.get().group.clone())).collect();
    let Some((victim, group)) = random.choice(serving) else { return };
    let replaces = world.group(&group).is_ok_and(|group| group.spec().replaces_unhealthy.is_some());
    if random.bool() && replaces {
        lifecycle::mark(core, &mut world, &victim, false);
    } else {
        instances::set_state(core, &mut world, &victim, InstanceState::ShuttingDown, "died");
    }
}
