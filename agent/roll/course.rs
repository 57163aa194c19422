//! What a roll does and waits for, one thing after the other: shown while it happens, and recorded for its picture.

use std::time::Duration;

use super::decision::{Decision, Wait};
use super::judge::BAKES;
use super::node::Node;
use super::report::About;
use super::{Roll, since_boot};
use crate::time;

/// How many stretches are recorded. A roll of a day has fewer; those that follow lengthen the last one.
const MOST: usize = 5_000;

/// What the roll has done so far.
#[derive(Debug)]
pub(super) struct Course {
    /// When it began, RFC 3339.
    pub(super) began_at: String,
    /// The same, since the boot of this machine.
    pub(super) began: Duration,
    /// In the order of time; the last one lasts.
    pub(super) stretches: Vec<Stretch>,
    /// The group of the node that was finished last.
    finished: Option<String>,
}

/// A time in which the roll did one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The node's group; empty for what is about all of them.
    pub(super) group: String,
    pub(super) activity: Activity,
    /// What it waits for.
    pub(super) why: String,
    /// Since the boot of this machine.
    pub(super) from: Duration,
}

/// What a roll does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Looks, and makes its plan.
    Prepares,
    /// Looks at the node's new version, and acts.
    Turn,
    /// Runs the check.
    Checks,
    /// Waits after a check that has not passed.
    ChecksAgain,
    /// Waits for what is not the node's replacement.
    Waits,
    /// Waits for a node that is out.
    Follows,
    /// Waits for a repair.
    Held,
    /// Watches after a node.
    Bakes,
}

impl Course {
    /// A roll that begins now.
    pub(super) fn begin() -> Self {
        let began = since_boot();
        let first = Stretch { group: String::new(), activity: Activity::Prepares, why: String::new(), from: began };
        Course { began_at: time::now(), began, stretches: vec![first], finished: None }
    }

    /// The roll does this from now on.
    pub(super) fn turn_to(&mut self, group: &str, activity: Activity, why: &str) {
        let last = self.stretches.last();
        let is_same = last.is_some_and(|last| last.group == group && last.activity == activity && last.why == why);
        if !is_same && self.stretches.len() < MOST {
            let (group, why) = (group.to_owned(), why.to_owned());
            self.stretches.push(Stretch { group, activity, why, from: since_boot() });
        }
    }
}

impl Roll {
    /// Shows and records what was decided.
    pub(super) fn draw(&mut self, nodes: &[Node], decision: &Decision) {
        let waits = match decision {
            Decision::Wait(wait) => Some((wait.group.as_str(), wait.why.as_str())),
            Decision::Check { group, .. } => Some((group.as_str(), "the check")),
            _ => None,
        };
        self.table.show(nodes, &self.settings, waits);
        match decision {
            Decision::Wait(wait) => self.record_wait(nodes, wait),
            Decision::Check { group, .. } => match &self.last_check {
                Some(failed) => {
                    self.course.turn_to(group, Activity::ChecksAgain, &format!("the check has not passed: {failed}"));
                }
                None => self.course.turn_to(group, Activity::Checks, ""),
            },
            Decision::Inspect { group }
            | Decision::Take { group, .. }
            | Decision::Stage { group }
            | Decision::SetBack { group } => {
                self.course.turn_to(group, Activity::Turn, "");
            }
            Decision::Finished { group } => self.course.finished = Some(group.clone()),
            _ => {}
        }
    }

    fn record_wait(&mut self, nodes: &[Node], wait: &Wait) {
        let node = nodes.iter().find(|node| node.group == wait.group);
        let is_at_work = self.memory.work.as_ref().is_some_and(|work| work.group == wait.group && !work.arrived);
        let (group, activity) = match node {
            _ if wait.why == BAKES => (self.course.finished.clone().unwrap_or_default(), Activity::Bakes),
            Some(node) if node.is_held() => (wait.group.clone(), Activity::Held),
            _ if is_at_work => (wait.group.clone(), Activity::Follows),
            _ => (wait.group.clone(), Activity::Waits),
        };
        self.course.turn_to(&group, activity, &wait.why);
    }

    /// Says what the roll waits for, where the wait is about all nodes.
    pub(super) fn wait_for_all(&mut self, why: &str) {
        self.report.wait(About::default(), why);
        self.course.turn_to("", Activity::Waits, why);
    }

    /// Says what a node is waited for.
    pub(super) fn wait(&mut self, wait: &Wait) {
        let id = self.settings.get(&wait.group).map(|setting| setting.id.as_str());
        self.report.wait(About { node: id, group: Some(&wait.group), instance: None }, &wait.why);
    }
}
