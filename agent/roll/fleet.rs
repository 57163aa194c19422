//! What AWS shows of the cluster. Its descriptions lag behind and step backwards, so a fact counts only when both of Auto
//! Scaling's descriptions show it, in two looks some time apart.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::aws::fleet::{FleetGroup, FleetMember};
use crate::aws::machines::Machine;
use crate::aws::operator::Operator;
use crate::config::Groups;
use crate::failure::{Code, Failure};
use crate::host::since_boot;

/// How far apart the two looks are at least that prove a fact (docs/rolling.md, R5).
pub(crate) const APART: Duration = Duration::from_secs(5);
/// How old the later one may be when something is done on its strength.
pub(crate) const FRESH: Duration = Duration::from_secs(15);
/// How far apart they are at most: an older look proves nothing.
const SPAN: Duration = Duration::from_mins(1);

/// One look at the cluster. Times are since the boot of this machine and include its sleep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    /// By `DescribeAutoScalingGroups`, by name.
    pub(crate) groups: BTreeMap<String, FleetGroup>,
    /// By `DescribeAutoScalingInstances`: each member's group and state.
    pub(crate) members: BTreeMap<String, (String, FleetMember)>,
    /// By EC2; none where IAM denies it.
    pub(crate) machines: Option<BTreeMap<String, Machine>>,
}

impl Look {
    /// Looks once. The members that the look `before` has shown are asked for, too: one that a late description leaves out must
    /// not count as gone.
    pub(crate) async fn take(aws: &Operator, cluster: &Groups, before: Option<&Look>) -> Result<Look, Failure> {
        let began = since_boot();
        let groups = aws.autoscaling.fleet(cluster).await?;
        let mut ids: Vec<String> =
            groups.iter().flat_map(|group| &group.members).map(|member| member.instance_id.clone()).collect();
        ids.extend(before.into_iter().flat_map(|look| look.members.keys().cloned()));
        ids.sort_unstable();
        ids.dedup();
        let (members, machines) =
            futures_util::future::join(Box::pin(aws.autoscaling.fleet_members(&ids)), Box::pin(aws.ec2.machines(&ids)))
                .await;
        let machines = match machines {
            Ok(machines) => Some(machines),
            Err(failure) if failure.code == Code::AccessDenied => None,
            Err(failure) => return Err(failure),
        };
        let groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect();
        Ok(Look { began, ended: since_boot(), groups, members: members?, machines })
    }

    /// The group as both descriptions show it, without what may change from look to look; none where they disagree.
    fn agreed(&self, name: &str) -> Option<FleetGroup> {
        let group = self.groups.get(name)?;
        let same = |member: &FleetMember| {
            self.members.get(&member.instance_id).is_some_and(|(of, seen)| of == name && seen == member)
        };
        let is_in_group = |id: &String| group.members.iter().any(|member| member.instance_id == *id);
        let others = self.members.iter().filter(|(_, (of, _))| of == name);
        if !group.members.iter().all(same) || !others.map(|(id, _)| id).all(is_in_group) {
            return None;
        }
        // A member whose machine EC2 does not show yet is not known.
        let machines = self.machines.as_ref();
        if machines
            .is_some_and(|machines| group.members.iter().any(|member| !machines.contains_key(&member.instance_id)))
        {
            return None;
        }
        Some(FleetGroup { tags: BTreeMap::new(), ..group.clone() })
    }

    fn image(&self, instance: &str) -> Option<&str> {
        Some(self.machines.as_ref()?.get(instance)?.image_id.as_str())
    }
}

/// The last two looks, and what they do not prove.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    before: Option<Look>,
    last: Option<Look>,
    /// What is missing for the proof of a group, for people.
    doubts: BTreeMap<String, &'static str>,
}

impl Fleet {
    /// Adds a look.
    pub(crate) fn add(&mut self, look: Look) {
        let doubts =
            look.groups.keys().filter_map(|group| Some((group.clone(), doubt(self.last.as_ref(), &look, group)?)));
        self.doubts = doubts.collect();
        self.before = self.last.replace(look);
    }

    /// The newest look.
    pub(crate) fn last(&self) -> Option<&Look> {
        self.last.as_ref()
    }

    /// The groups that it has shown.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &FleetGroup> {
        self.last.iter().flat_map(|look| look.groups.values())
    }

    /// A group that it has shown.
    pub(crate) fn group(&self, name: &str) -> Option<&FleetGroup> {
        self.last.as_ref()?.groups.get(name)
    }

    /// An instance that it has shown.
    pub(crate) fn machine(&self, instance: &str) -> Option<&Machine> {
        self.last.as_ref()?.machines.as_ref()?.get(instance)
    }

    /// Whether what the two looks prove is fresh enough to act on.
    pub(crate) fn is_fresh(&self) -> bool {
        self.last.as_ref().is_some_and(|last| since_boot().saturating_sub(last.began) <= FRESH)
    }

    /// Whether there were two looks.
    pub(crate) fn has_two(&self) -> bool {
        self.before.is_some()
    }

    /// Whether both looks began after this time since boot.
    pub(crate) fn both_began_after(&self, time: Duration) -> bool {
        self.before.as_ref().is_some_and(|before| before.began >= time)
    }

    /// How long to wait until another look can prove something together with the last one.
    pub(crate) fn next_look_in(&self) -> Duration {
        let waited = self.last.as_ref().map(|last| since_boot().saturating_sub(last.ended));
        waited.map_or(Duration::ZERO, |waited| APART.saturating_sub(waited))
    }

    /// Whether the two looks prove that a group does not exist.
    pub(crate) fn lacks(&self, group: &str) -> bool {
        let (Some(before), Some(last)) = (&self.before, &self.last) else { return false };
        last.began.saturating_sub(before.ended) >= APART
            && !before.groups.contains_key(group)
            && !last.groups.contains_key(group)
    }

    /// What is missing for the two looks to prove what the last one shows of this group; none where they prove it.
    pub(crate) fn doubt(&self, group: &str) -> Option<&'static str> {
        self.doubts.get(group).copied()
    }
}

/// What is missing for these looks to prove what the `last` one shows of a group.
fn doubt(before: Option<&Look>, last: &Look, group: &str) -> Option<&'static str> {
    let Some(before) = before else { return Some("it was looked at only once") };
    let Some(agreed) = last.agreed(group) else { return Some("AWS's descriptions of it disagree") };
    let same_image = |member: &FleetMember| before.image(&member.instance_id) == last.image(&member.instance_id);
    if before.agreed(group).as_ref() != Some(&agreed) || !agreed.members.iter().all(same_image) {
        return Some("AWS's last two answers about it differ");
    }
    let apart = last.began.saturating_sub(before.ended);
    (!(APART..=SPAN).contains(&apart)).then_some("the last two looks are not the right time apart")
}
