//! `node-agent roll`: replaces the nodes of a cluster that are behind, one at a time, from an operator's machine.
//!
//! ```text
//! look    fleet.rs   what AWS shows, proven by two looks      node.rs, target.rs: each node against its target
//! judge   judge.rs   a pure function: who goes next, or why nobody does     rules.rs: what must hold at every look
//! act     act.rs     stage, tag, terminate                    flag.rs, marks.rs: the tags that other rolls read
//! ```
//!
//! One loop, and no progress of its own: a roll that is killed anywhere is started again, reads everything anew and goes on. What it
//! remembers ([`decision::Memory`]) only says what to do next where AWS's answers leave a choice.

mod act;
mod begin;
mod commands;
mod course;
mod decision;
mod finding;
pub(crate) mod flag;
pub(crate) mod fleet;
mod follow;
mod inspect;
pub(crate) mod judge;
mod marks;
pub(crate) mod node;
mod offers;
pub(crate) mod options;
mod plan;
mod plot;
mod report;
mod resolve;
pub(crate) mod rules;
pub(crate) mod status;
mod table;
pub(crate) mod target;
mod timeline;

pub(crate) use plan::ending;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::aws::operator::Operator;
use crate::aws::templates::{Template, TemplateVersion};
use crate::config::Groups;
use crate::failure::{Class, Code, Failure};
use crate::host::since_boot;
use crate::log::Level;
use course::Course;
use decision::{Decision, End, Memory, Wait, Wish};
use flag::{Flag, Standing};
use fleet::{Fleet, Look};
use follow::Follower;
use judge::judge;
use marks::{PausedMark, key};
use node::{Node, Setting};
use options::Options;
use plot::Picture;
use report::{About, Report};
use rules::{Broken, Rule};
use table::Table;
use target::To;

/// The pause before a check that failed is asked again (docs/rolling.md).
const CHECK_AGAIN: Duration = Duration::from_secs(10);

/// A roll.
pub(crate) struct Roll {
    aws: Operator,
    options: Options,
    cluster: Groups,
    overrides: BTreeSet<Rule>,
    wish: Wish,
    fleet: Fleet,
    /// The groups of the list, with what does not change.
    settings: BTreeMap<String, Setting>,
    /// The launch templates, as of the last look.
    templates: BTreeMap<String, Template>,
    /// The versions that were read, by template and number: they never change.
    versions: BTreeMap<(String, u64), TemplateVersion>,
    account_launches_first: bool,
    memory: Memory,
    flag: Flag,
    report: Report,
    follower: Follower,
    clocks: Clocks,
    last_check: Option<commands::Failed>,
    table: Table,
    course: Course,
    picture: Option<Picture>,
    stop: watch::Receiver<bool>,
}

/// How long each node was waited for, by this machine's clock, sleep included.
#[derive(Debug, Default)]
struct Clocks {
    spent: BTreeMap<String, Duration>,
    last: Duration,
    /// Until when `--bake` lasts.
    bake_until: Option<Duration>,
    /// The check is not asked again before.
    check_from: Duration,
}

impl Roll {
    /// Rolls, from the first look to the end; the flag never stays behind.
    pub(crate) async fn run(options: Options, stop: watch::Receiver<bool>) -> Result<End, Failure> {
        let mut roll = Roll::begin(options, stop).await?;
        let result = match roll.prepared().await {
            Ok(None) => Box::pin(roll.go()).await,
            Ok(Some(end)) => Ok(end),
            Err(failure) => Err(failure),
        };
        roll.end(result).await
    }

    /// Prepares, anew where time can mend what has failed: nothing was done yet.
    async fn prepared(&mut self) -> Result<Option<End>, Failure> {
        loop {
            match Box::pin(self.prepare()).await {
                Err(failure) if is_passing(&failure) => self.cannot_look(failure).await?,
                prepared => return prepared,
            }
        }
    }

    /// The loop: look, judge, act.
    async fn go(&mut self) -> Result<End, Failure> {
        loop {
            if !self.look().await? {
                continue;
            }
            self.hold_rules()?;
            if !self.keep_flag().await? {
                self.spend("", true)?;
                continue;
            }
            let nodes = self.nodes();
            self.follow(&nodes).await?;
            if let Some(end) = Box::pin(self.act(&nodes)).await? {
                return Ok(end);
            }
        }
    }

    /// Does what the last look allows, until another look is needed. Some end where the roll is over.
    async fn act(&mut self, nodes: &[Node]) -> Result<Option<End>, Failure> {
        loop {
            self.recall();
            let decision = judge(nodes, &self.memory, &self.wish);
            self.watch_time(&decision).await?;
            self.draw(nodes, &decision);
            let needs_look = decision.needs_look();
            match decision {
                Decision::Wait(wait) => self.wait(&wait),
                Decision::TakeUp { group } => self.take_up(&group),
                Decision::AskLeader => self.ask_leader().await?,
                Decision::Check { group, after } => {
                    // What follows a check that has passed often enough needs no look by itself.
                    if self.check(&group, after).await? {
                        continue;
                    }
                }
                Decision::Inspect { group } => self.inspect(&group).await?,
                Decision::Take { group, victim } => self.take(&group, &victim).await?,
                Decision::Stage { group } => self.stage(&group).await?,
                Decision::SetBack { group } => self.set_back(&group).await?,
                Decision::Abandon { group, instance } => self.abandon(&group, &instance).await?,
                Decision::Arrived { group, instance } => self.arrived(&group, &instance),
                Decision::Finished { group } => self.finished(&group),
                Decision::End(end) => return Ok(Some(end)),
                Decision::Stop { group, reason, remedy } => {
                    return Err(self.stopped(group.as_deref(), reason, remedy).await);
                }
            }
            if needs_look {
                return Ok(None);
            }
        }
    }

    /// Looks, as soon as another look can prove something. False where AWS could not be asked: nothing follows from an old look.
    async fn look(&mut self) -> Result<bool, Failure> {
        self.pause(self.fleet.next_look_in()).await?;
        let work = Look::take(&self.aws, &self.cluster, self.fleet.last());
        match unless_stopped(&mut self.stop, work).await? {
            Ok(look) => self.fleet.add(look),
            Err(failure) => return self.cannot_look(failure).await.map(|()| false),
        }
        if self.templates.is_empty() {
            return Ok(true);
        }
        let ids: Vec<String> = self.templates.keys().cloned().collect();
        match unless_stopped(&mut self.stop, self.aws.ec2.templates(&ids)).await? {
            Ok(templates) => self.templates = templates,
            Err(failure) => return self.cannot_look(failure).await.map(|()| false),
        }
        Ok(true)
    }

    /// What fails for a while is tried again. Credentials that were never good are not waited for.
    async fn cannot_look(&mut self, failure: Failure) -> Result<(), Failure> {
        let never_good = failure.code == Code::Credentials && self.fleet.last().is_none();
        if never_good || !is_passing(&failure) {
            return Err(failure);
        }
        self.wait_for_all(&format!("AWS cannot be asked: {failure}"));
        self.pause(fleet::APART).await?;
        self.spend("", true)
    }

    /// The nodes by the last look.
    fn nodes(&self) -> Vec<Node> {
        let seen = |(name, setting): (&String, &Setting)| Node::seen(&self.fleet, name, setting, &self.templates);
        self.settings.iter().filter_map(seen).collect()
    }

    /// One node by the last look.
    fn node(&self, group: &str) -> Option<Node> {
        Node::seen(&self.fleet, group, self.settings.get(group)?, &self.templates)
    }

    /// What may not change while the roll is at work: the list, what lets a node come back, and the target.
    fn hold_rules(&mut self) -> Result<(), Failure> {
        let missing = self.settings.keys().filter(|name| self.fleet.lacks(name)).map(|name| rules::of_missing(name));
        let proven = self.fleet.groups().filter(|group| self.fleet.doubt(&group.name).is_none());
        let of_groups = proven.flat_map(|group| rules::of_group(group, self.account_launches_first));
        let broken = missing.chain(of_groups).collect();
        self.refuse(broken)?;
        self.hold_target()
    }

    /// A target that changes on the way stops the roll. A smaller number is an old answer: numbers only grow.
    fn hold_target(&self) -> Result<(), Failure> {
        for (group, setting) in self.settings.iter().filter(|(group, _)| self.to_of(group) == To::Latest) {
            for (id, number) in &setting.target.versions {
                let Some(template) = self.templates.get(id).filter(|template| template.latest > *number) else {
                    continue;
                };
                let text = format!(
                    "{group}: its launch template {} has a version {} by now, and this roll's target is {number}: a cluster of both is not \
                     wanted",
                    template.name, template.latest
                );
                let remedy =
                    "roll again: the nodes that were not touched yet, and those of this roll, then get the new version";
                return Err(Failure::new(Code::RollStopped, text).remedy(remedy));
            }
        }
        Ok(())
    }

    /// Fails if a rule does not hold and is not overridden.
    fn refuse(&mut self, broken: Vec<Broken>) -> Result<(), Failure> {
        let (refused, overridden) = rules::divide(broken, &self.overrides);
        for broken in &overridden {
            let text = format!(
                "overridden{}: {}",
                broken.rule.map(|rule| format!(" ({rule})")).unwrap_or_default(),
                broken.what
            );
            self.report.once(
                Level::Warning,
                "overridden",
                About { group: Some(&broken.group), ..About::default() },
                &text,
            );
        }
        let Some(first) = refused.first() else { return Ok(()) };
        let override_by =
            first.rule.map(|rule| format!("; or, if it is meant so: --override {rule}")).unwrap_or_default();
        let all = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(Failure::new(Code::RollRefused, all).remedy(format!("{}{override_by}", first.remedy)))
    }

    /// Keeps the own flag up and reads it back. True if it is proven: only then may anything be done.
    async fn keep_flag(&mut self) -> Result<bool, Failure> {
        let Some(look) = self.fleet.last() else { return Ok(false) };
        let standing = self.flag.judge(look, since_boot(), self.aws.clock.now());
        let is_proven = match standing {
            Standing::Proven => true,
            Standing::Write => {
                self.write_flag().await?;
                false
            }
            Standing::Wait(why) => {
                self.wait_for_all(&why);
                false
            }
            Standing::Withdraw(other) => {
                let text = format!("another roll is at work: {}", flag::describe(&other));
                return Err(Failure::new(Code::AnotherRoll, text));
            }
        };
        if is_proven {
            self.beat().await?;
        }
        Ok(is_proven)
    }

    /// Takes over what the last look and the clocks tell.
    fn recall(&mut self) {
        if self.fleet.last().is_some_and(|look| look.machines.is_none()) {
            let text = "the instances cannot be read (ec2:DescribeInstances): held nodes are not recognised, images are not compared, \
                        and no snapshot is taken";
            self.report.once(Level::Warning, "unread", About::default(), text);
        }
        let tags = |key: &'static str| {
            self.fleet.groups().filter_map(move |group| Some((group.name.clone(), group.tags.get(key)?.clone())))
        };
        let pause = tags(key::PAUSE).next().map(|(group, reason)| format!("{} on {group}: {reason}", key::PAUSE));
        let paused = tags(key::PAUSED).find_map(|(_, text)| PausedMark::parse(&text));
        self.memory.pause = pause;
        self.memory.paused =
            paused.map(|mark| format!("run {} has paused by --{} at {}", mark.run, mark.by, marks::shown(mark.at)));
        self.memory.now = self.aws.clock.now();
        self.memory.bakes = self.clocks.bake_until.is_some_and(|until| since_boot() < until);
        if let Some(turn) = &mut self.memory.turn {
            turn.looked = turn.inspected_at.is_some_and(|at| self.fleet.both_began_after(at));
        }
    }

    /// Counts the time since the last round against `--timeout` of the node that is waited for.
    fn spend(&mut self, group: &str, counts: bool) -> Result<(), Failure> {
        let now = since_boot();
        let passed = now.saturating_sub(std::mem::replace(&mut self.clocks.last, now));
        if !counts {
            return Ok(());
        }
        let spent = self.clocks.spent.entry(group.to_owned()).or_default();
        *spent += passed;
        if *spent < self.options.timeout {
            return Ok(());
        }
        let text = format!("nothing was proven within {}", humantime::format_duration(self.options.timeout));
        Err(Failure::new(Code::RollStopped, text)
            .remedy("see whether AWS answers (https://health.aws.amazon.com), then roll again"))
    }

    async fn watch_time(&mut self, decision: &Decision) -> Result<(), Failure> {
        let (group, counts) = match decision {
            Decision::Wait(Wait { group, counts, .. }) => (group.as_str(), *counts),
            Decision::Check { group, .. } | Decision::Inspect { group } => (group.as_str(), true),
            _ => ("", false),
        };
        let over = self.spend(group, counts);
        if over.is_ok() || !self.settings.contains_key(group) {
            return over;
        }
        // What the node waits for says more than that its time is over.
        let why = match (decision, &self.last_check) {
            (Decision::Check { .. }, Some(failed)) => format!("the check has not passed: {failed}"),
            (Decision::Wait(wait), _) => {
                self.node(group).filter(Node::is_held).map_or_else(|| wait.why.clone(), |node| judge::phase(&node))
            }
            _ => "its turn did not come".to_owned(),
        };
        let since = self.follower.out_since(group).map(|at| format!(", out since {}", marks::shown(at)));
        let (id, waited) = (&self.settings[group].id, humantime::format_duration(self.options.timeout));
        let reason = format!("{id} ({group}){}: gave up after {waited} (--timeout): {why}", since.unwrap_or_default());
        let remedy = self.remedy_of(group);
        Err(self.stopped(Some(group), reason, remedy).await)
    }

    /// Pauses, unless a stop signal comes first.
    async fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        unless_stopped(&mut self.stop, sleep(time)).await
    }
}

/// Whether time can mend a failure: the roll looks again.
fn is_passing(failure: &Failure) -> bool {
    matches!(failure.class(), Class::Outage | Class::Waiting) || failure.code == Code::Credentials
}

/// Awaits the work, unless a stop signal comes first. For work that changes nothing.
async fn unless_stopped<T>(stop: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        // The sender lives as long as the process.
        _ = stop.wait_for(|stop| *stop) => {
            let remedy = "the node at work goes on by itself; to go on with the others, roll again";
            Err(Failure::new(Code::Stopped, "told to stop").remedy(remedy))
        }
        done = work => Ok(done),
    }
}
