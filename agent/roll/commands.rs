//! The operator's commands: the check of the cluster, and the question for its leader.

use std::fmt;
use std::time::Duration;

use serde_json::json;

use super::decision::{Leader, Turn};
use super::judge::PASSES;
use super::node::Setting;
use super::report::About;
use super::{CHECK_AGAIN, Roll, unless_stopped};
use crate::failure::Failure;
use crate::host::ask::{self, Answer, Command, Outcome, Streams};
use crate::host::since_boot;
use crate::log::Level;

/// How long one call of a command may take (docs/rolling.md).
const LIMIT: Duration = Duration::from_mins(1);
/// The functions of a hook script (docs/rolling.md).
const CHECK: &str = "check_cluster";
const LEADER: &str = "leader_node";
/// The variable that tells a command the nodes.
const NODES: &str = "ROLL_NODES";

/// A check that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    how: String,
    output: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.how, self.output)
    }
}

impl Roll {
    fn command(&self, own: Option<&String>, function: &str) -> Option<Command> {
        let of_hooks = || Some(Command::Function { file: self.options.hooks.clone()?, name: function.to_owned() });
        own.map(|text| Command::Shell(text.clone())).or_else(of_hooks)
    }

    /// Runs the check once. It has to pass twice in a row, and then this is true; after a failure it is asked again a while later.
    pub(super) async fn check(&mut self, group: &str, after: bool) -> Result<bool, Failure> {
        let Some(command) = self.command(self.options.check.as_ref(), CHECK) else { return Ok(false) };
        if since_boot() < self.clocks.check_from {
            return Ok(false);
        }
        let answer = self.ask(&command, Streams::Joined).await?;
        let failed = failure_of(&answer);
        let in_a_row = match (after, &mut self.memory.work, &mut self.memory.turn) {
            (true, Some(work), _) => &mut work.passes,
            (false, _, Some(turn)) if turn.group == group => &mut turn.passes,
            (_, _, turn) => &mut turn.insert(Turn::of(group)).passes,
        };
        let before = std::mem::take(in_a_row);
        match failed {
            None => {
                *in_a_row = before + 1;
                let is_enough = *in_a_row >= PASSES;
                // One pass between failures is no end of them.
                self.last_check.take_if(|_| is_enough);
                self.report_about(group, Level::Info, "check", "the check has passed");
                Ok(is_enough)
            }
            Some(failed) => {
                self.clocks.check_from = since_boot() + CHECK_AGAIN;
                if before > 0 || self.last_check.as_ref() != Some(&failed) {
                    self.report_about(group, Level::Warning, "check", &format!("the check has not passed: {failed}"));
                }
                self.last_check = Some(failed);
                Ok(false)
            }
        }
    }

    /// Asks who the leader is. Without an answer the nodes go by name, and that is said.
    pub(super) async fn ask_leader(&mut self) -> Result<(), Failure> {
        self.memory.leader = Leader::Unknown;
        let Some(command) = self.command(self.options.leader.as_ref(), LEADER) else { return Ok(()) };
        let answer = self.ask(&command, Streams::Apart).await?;
        let said = answer.stdout.trim();
        let found = self.settings.iter().find(|(group, setting)| group.as_str() == said || setting.id == said);
        match (failure_of(&answer), found) {
            (None, Some((group, setting))) => {
                let about = About { node: Some(&setting.id), group: Some(group), instance: None };
                self.report.once(Level::Info, "leader", about, "is the leader: it goes last");
                self.memory.leader = Leader::Is(group.clone());
            }
            (failed, _) => {
                let why = failed.map_or_else(|| format!("it printed {said:?}"), |failed| failed.to_string());
                let text = format!("the leader is not known, so the nodes go by name: {why}");
                self.report.once(Level::Warning, "leader", About::default(), &text);
            }
        }
        Ok(())
    }

    /// Runs a command. It is over before the roll's flag would be taken for dead.
    async fn ask(&mut self, command: &Command, streams: Streams) -> Result<Answer, Failure> {
        let environment = [(NODES, self.nodes_for_commands())];
        let work = ask::ask(command, &environment, LIMIT, streams);
        unless_stopped(&mut self.stop, work).await
    }

    /// The nodes, for a command: id, address, group, instance.
    fn nodes_for_commands(&self) -> String {
        let node = |(group, setting): (&String, &Setting)| {
            let members = self.fleet.group(group).map(|group| group.members.as_slice()).unwrap_or_default();
            let member = members.iter().find(|member| !super::node::is_going(member)).or(members.first());
            let instance = member.map(|member| member.instance_id.as_str());
            let ip = instance.and_then(|instance| self.fleet.machine(instance)?.ip.clone());
            json!({ "id": setting.id, "ip": ip, "group": group, "instance": instance })
        };
        serde_json::Value::from(self.settings.iter().map(node).collect::<Vec<_>>()).to_string()
    }
}

/// Why a command did not succeed.
fn failure_of(answer: &Answer) -> Option<Failed> {
    let how = match &answer.outcome {
        Outcome::Exited(0) => return None,
        Outcome::Exited(code) => format!("it exited with {code}"),
        Outcome::Killed(signal) => format!("signal {signal} ended it"),
        Outcome::TimedOut => format!("it was still running after {}, and was ended", humantime::format_duration(LIMIT)),
        Outcome::NotStarted(why) => format!("it cannot be started: {why}"),
    };
    let lines: Vec<&str> = answer.output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join(" | ");
    let output = if last.is_empty() { "it printed nothing".to_owned() } else { format!("its last lines: {last}") };
    Some(Failed { how, output })
}
