//! Follows a node that is out until it is back: its phases, its group's launches, the snapshot of its volume. It tells people and
//! decides nothing, but for launches that fail again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::judge;
use super::marks::AwsTime;
use super::node::{self, Condition, Node};
use super::report::About;
use super::{Roll, is_passing};
use crate::aws::ec2::{VolumeState, tag};
use crate::aws::fleet::Activity;
use crate::aws::machines::Machine;
use crate::failure::{Code, Failure};
use crate::log::Level;

/// How many of a group's activities are read: more than it can begin between two looks.
const ACTIVITIES: i32 = 20;
/// A launch that fails for the same reason this often will not succeed by itself (docs/rolling.md, R9).
const SAME_FAILURE: usize = 3;

/// Where a replacement has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Milestone {
    /// The roll told the old instance to go, or took the node up.
    Told,
    /// The old instance has left its termination hook.
    Drained,
    /// The old instance is terminated.
    Ended,
    /// Its network interface is free.
    InterfaceFree,
    /// The new instance was launched.
    Launched,
    /// The new instance began to attach the volume.
    Attaching,
    /// The volume is attached.
    Attached,
    /// The new instance is in service.
    InService,
}

/// One node's replacement.
#[derive(Clone, Debug, Default)]
pub(super) struct Replacement {
    pub(super) group: String,
    victim: Option<String>,
    pub(super) reached: BTreeMap<Milestone, AwsTime>,
    /// Whether the old instance was seen in its termination hook.
    was_held_by_hook: bool,
    /// What it said of its unmount; a failure means that the filesystem is not clean.
    not_unmounted: bool,
    interface: Option<String>,
    /// The instance that has the interface, as of the last look.
    holder: Option<String>,
    volumes: BTreeSet<String>,
    /// The volumes of which a snapshot was taken.
    snapshots: BTreeSet<String>,
    /// The activities that were seen, by start and text.
    activities: BTreeSet<(AwsTime, String)>,
    /// How often each reason has failed a launch.
    pub(super) failed: BTreeMap<String, usize>,
    /// How many launches failed because the old instance still had the interface.
    pub(super) tries: usize,
    said_held: bool,
}

/// The replacements of this roll.
#[derive(Debug, Default)]
pub(super) struct Follower {
    pub(super) at_work: Option<Replacement>,
    pub(super) past: Vec<Replacement>,
}

impl Follower {
    /// Begins to follow a node, at this time of AWS's. `machine` is the victim's by the last look before it was told to go: by the
    /// next one it may have left its volumes already.
    pub(super) fn begin(&mut self, group: &str, victim: Option<&str>, machine: Option<&Machine>, now: Option<AwsTime>) {
        let victim = victim.map(str::to_owned);
        let mut replacement = Replacement { group: group.to_owned(), victim, ..Replacement::default() };
        replacement.reach(Milestone::Told, now);
        if let Some(machine) = machine {
            replacement.note_machine(machine);
        }
        self.at_work = Some(replacement);
    }

    /// The node is back. Returns what there is to say of its snapshots, where one was not taken.
    pub(super) fn arrived(&mut self, group: &str) -> Option<String> {
        let done = self.at_work.take_if(|replacement| replacement.group == group)?;
        let missed: Vec<&str> = done.volumes.difference(&done.snapshots).map(String::as_str).collect();
        let text = match missed[..] {
            [] if done.snapshots.is_empty() => {
                Some("no snapshot was taken: no volume of the old instance was ever seen".to_owned())
            }
            [] => None,
            _ => Some(format!("no snapshot of {} was taken: it was never seen detached", missed.join(", "))),
        };
        self.past.push(done);
        text
    }
}

impl Follower {
    /// Since when the node at work is out.
    pub(super) fn out_since(&self, group: &str) -> Option<AwsTime> {
        let replacement = self.at_work.as_ref().filter(|replacement| replacement.group == group)?;
        replacement.reached.get(&Milestone::Told).copied()
    }
}

impl Replacement {
    /// How long the node is, or was, out.
    pub(super) fn out_for(&self, now: Option<AwsTime>) -> Duration {
        let back = self.reached.get(&Milestone::InService).copied().or(now);
        let out = self.reached.get(&Milestone::Told).zip(back).map(|(told, back)| back - told);
        Duration::from_secs(out.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default())
    }

    fn reach(&mut self, milestone: Milestone, at: Option<AwsTime>) {
        if let Some(at) = at {
            self.reached.entry(milestone).or_insert(at);
        }
    }

    /// Notes what the old instance has.
    fn note_machine(&mut self, machine: &Machine) {
        self.interface = self.interface.take().or_else(|| machine.interface.clone());
        self.volumes.extend(machine.volumes.iter().map(|volume| volume.id.clone()));
    }

    /// Takes over what the last look shows of the old instance.
    fn see_old(&mut self, node: &Node, machine: Option<&Machine>, now: Option<AwsTime>) {
        let Some(victim) = &self.victim else { return };
        let state =
            node.going.iter().find(|member| member.instance_id == *victim).map(|member| member.state.to_string());
        let is_member = state.is_some() || node.condition.instance() == Some(victim.as_str());
        if state.as_deref() == Some("Terminating:Wait") {
            self.was_held_by_hook = true;
        }
        if let Some(machine) = machine {
            self.note_machine(machine);
            self.not_unmounted |= node::status(machine).is_some_and(|status| status.starts_with("unmount"));
        }
        let has_ended = machine.is_none_or(|machine| machine.state.as_str() == "terminated");
        if !is_member || matches!(state.as_deref(), Some("Terminating:Proceed" | "Terminated")) {
            self.reach(Milestone::Drained, now);
        }
        if !is_member && has_ended {
            self.reach(Milestone::Ended, now);
        }
    }

    /// Takes over what the last look shows of the new instance.
    fn see_new(&mut self, node: &Node, machine: Option<&Machine>, now: Option<AwsTime>) {
        let Some(machine) = machine else { return };
        self.reach(Milestone::Launched, Some(machine.launched));
        // Launched means that it has the interface.
        let free = self.reached.get(&Milestone::InterfaceFree).copied().unwrap_or(machine.launched);
        self.reach(Milestone::InterfaceFree, Some(free.min(machine.launched)));
        if let Some(volume) = machine.volumes.iter().max_by_key(|volume| volume.attached) {
            self.reach(Milestone::Attaching, Some(volume.attached));
            if machine.volumes.iter().all(|volume| volume.is_attached) {
                self.reach(Milestone::Attached, now);
            }
        }
        if node.is_serving() {
            self.reach(Milestone::InService, now);
        }
    }
}

impl Roll {
    /// Follows the node at work.
    pub(super) async fn follow(&mut self, nodes: &[Node]) -> Result<(), Failure> {
        let Some(mut replacement) = self.follower.at_work.take() else { return Ok(()) };
        let Some(node) = nodes.iter().find(|node| node.group == replacement.group) else { return Ok(()) };
        let now = self.aws.clock.now();
        let machine = |id: Option<&str>| self.fleet.machine(id?);
        replacement.see_old(node, machine(replacement.victim.as_deref()), now);
        let is_new = node.condition.instance().is_some() && node.condition.instance() != replacement.victim.as_deref();
        if is_new {
            replacement.see_new(node, machine(node.condition.instance()), now);
        }
        if let Condition::Coming { held: Some(why), instance, .. } = &node.condition
            && !replacement.said_held
        {
            replacement.said_held = true;
            self.report_about(
                &replacement.group,
                Level::Warning,
                "held",
                &format!("{instance} has failed and is held: {why}"),
            );
        }
        if !is_new {
            self.watch_interface(&mut replacement, now).await;
        }
        self.take_snapshots(&mut replacement).await;
        let result = self.watch_launches(&mut replacement, is_new).await;
        self.follower.at_work = Some(replacement);
        result
    }

    /// Notes who has the node's network interface, and when the old instance has it no longer.
    async fn watch_interface(&mut self, replacement: &mut Replacement, now: Option<AwsTime>) {
        let Some(interface) = replacement.interface.clone() else { return };
        match self.aws.ec2.interface(&interface).await {
            Ok(used) => {
                let used = used.filter(|used| used.instance_id.is_none() || used.instance_id != replacement.victim);
                if let Some(used) = used {
                    replacement.reach(Milestone::InterfaceFree, now);
                    replacement.holder = used.instance_id;
                }
            }
            Err(failure) => self.note_unread("the network interface", &failure),
        }
    }

    /// Takes a snapshot of each of the node's volumes while it is detached.
    async fn take_snapshots(&mut self, replacement: &mut Replacement) {
        if !self.options.snapshot || replacement.reached.contains_key(&Milestone::Attaching) {
            return;
        }
        let open: Vec<String> = replacement.volumes.difference(&replacement.snapshots).cloned().collect();
        for volume in open {
            match self.aws.ec2.volume(&volume).await {
                Ok(view) if view.state == VolumeState::Available => {}
                Ok(_) => continue,
                Err(failure) => {
                    self.note_unread("the volume", &failure);
                    continue;
                }
            }
            // Whatever becomes of the call, it is not sent again: a snapshot costs, and the window is short.
            replacement.snapshots.insert(volume.clone());
            let is_clean = replacement.was_held_by_hook && !replacement.not_unmounted;
            let clean = if is_clean { ", clean: its node has left through its termination hook" } else { "" };
            let run = self.flag.mark.run.clone();
            let tags = [("Name", replacement.group.as_str()), ("node-agent:roll-run", run.as_str())];
            let description = format!("node-agent roll {run}: {} before its node was replaced", replacement.group);
            match self.aws.ec2.snapshot(&volume, &description, &tags).await {
                Ok(snapshot) => self.report_about(
                    &replacement.group,
                    Level::Info,
                    "snapshot",
                    &format!("{snapshot} of {volume} is being taken{clean}"),
                ),
                Err(failure) => self.report_about(
                    &replacement.group,
                    Level::Warning,
                    "snapshot",
                    &format!("no snapshot of {volume} was taken: {failure}"),
                ),
            }
        }
    }

    /// Shows launches that fail, in AWS's own words. The same failure again and again stops the roll.
    async fn watch_launches(&mut self, replacement: &mut Replacement, is_new: bool) -> Result<(), Failure> {
        if is_new {
            return Ok(());
        }
        let activities = match self.aws.autoscaling.activities(&replacement.group, ACTIVITIES).await {
            Ok(activities) => activities,
            Err(failure) => {
                self.note_unread("the group's activities", &failure);
                return Ok(());
            }
        };
        let is_foreign = replacement.holder.as_ref().is_some_and(|holder| !names_instance(&activities, holder));
        let told = replacement.reached.get(&Milestone::Told).copied().unwrap_or_default();
        let new: Vec<Activity> =
            activities.into_iter().rev().filter(|activity| is_failure(activity) && activity.started >= told).collect();
        for activity in new {
            let key = (activity.started, activity.message.clone());
            if !replacement.activities.insert(key) {
                continue;
            }
            // The old instance has it, or a new one that was given up; it comes free by itself.
            if names_interface(&activity.message) && !is_foreign {
                replacement.tries += 1;
                if replacement.tries == 1 {
                    let text = format!(
                        "launches fail until the old instance's network interface is free, as expected: {}",
                        activity.message
                    );
                    self.report_about(&replacement.group, Level::Info, "interface", &text);
                }
                continue;
            }
            let count = replacement.failed.entry(without_tokens(&activity.message)).or_default();
            *count += 1;
            let (count, text) = (*count, format!("a launch has failed: {}", activity.message));
            self.report_about(&replacement.group, Level::Warning, "launch-failed", &text);
            if count >= SAME_FAILURE {
                let text = format!(
                    "{}: {count} launches have failed for the same reason: {}",
                    replacement.group, activity.message
                );
                let remedy = "repair what the message names; the group goes on trying by itself; then roll again";
                return Err(self.stopped(Some(&replacement.group), text, remedy.to_owned()).await);
            }
        }
        Ok(())
    }

    fn note_unread(&mut self, what: &str, failure: &Failure) {
        if !is_passing(failure) {
            self.report.once(Level::Warning, "unread", About::default(), &format!("{what} cannot be read: {failure}"));
        }
    }

    /// The failure of a roll that must not go on, with what is known of the node.
    pub(super) async fn stopped(&mut self, group: Option<&str>, reason: String, remedy: String) -> Failure {
        let mut text = reason;
        if let Some(group) = group {
            // Each thing once.
            for known in self.evidence(group).await {
                if !text.contains(&known) {
                    text = format!("{text}; {known}");
                }
            }
        }
        Failure::new(Code::RollStopped, text).remedy(remedy)
    }

    /// What AWS knows of a node that does not come back: its own word, the group's last activity, the console's last line.
    async fn evidence(&self, group: &str) -> Vec<String> {
        let Some(node) = self.node(group) else { return Vec::new() };
        let mut known = vec![judge::phase(&node)];
        let instance = node.condition.instance().map(str::to_owned);
        let status = instance.as_ref().and_then(|id| node::status(self.fleet.machine(id)?));
        // Of a held node the phase says it already.
        if let Some(status) = status.filter(|status| !known[0].contains(*status)) {
            known.push(format!("{}: {status}", tag::STATUS));
        }
        if let Ok(activities) = self.aws.autoscaling.activities(group, 1).await
            && let Some(last) = activities.first()
        {
            let message = if last.message.is_empty() { &last.description } else { &last.message };
            known.push(format!("the group's last activity: {} ({message})", last.status));
        }
        if let Some(id) = &instance
            && let Ok(Some(console)) = self.aws.ec2.console(id).await
            && let Some(line) = console.lines().rev().find(|line| !line.trim().is_empty())
        {
            known.push(format!("the console's last line: {}", line.trim()));
        }
        known
    }

    /// What to do about a node that did not come back in time.
    pub(super) fn remedy_of(&self, group: &str) -> String {
        match self.node(group).map(|node| node.condition) {
            Some(Condition::Coming { instance, held: Some(_), .. }) => format!(
                "repair {instance} and run node-agent retry on it, or publish a mended version and roll again with --replace-held"
            ),
            _ => "repair what keeps the node, then roll again: the roll goes on where it stopped".to_owned(),
        }
    }
}

fn is_failure(activity: &Activity) -> bool {
    matches!(activity.status.as_str(), "Failed" | "Cancelled") && activity.description.starts_with("Launching")
}

/// Whether the group has launched or terminated this instance: its interface comes free by itself.
fn names_instance(activities: &[Activity], instance: &str) -> bool {
    activities.iter().any(|activity| activity.description.contains(instance))
}

/// A message without the tokens of lifecycle actions, which differ from launch to launch.
fn without_tokens(message: &str) -> String {
    let is_token = |word: &&str| {
        let parts: Vec<&str> = word.split('-').collect();
        let is_hex = |part: &&str| part.chars().all(|digit| digit.is_ascii_hexdigit());
        parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(is_hex)
    };
    message.split_whitespace().filter(|word| !is_token(word)).collect::<Vec<_>>().join(" ")
}

/// AWS's words for a network interface that is still in use (docs/facts.md, "Rolling").
fn names_interface(message: &str) -> bool {
    message.contains("InvalidNetworkInterface.InUse") || message.contains("eni-") && message.contains("in use")
}
