//! What a roll does to a cluster: it stages a group, tags it, terminates an instance or gives a held one up, and keeps its flag. Each
//! is sent once: where an answer is lost, only looking again tells what has happened.

use tokio::time::timeout;

use super::decision::{End, Leader, Turn, Work};
use super::flag::BEAT;
use super::fleet::FRESH;
use super::marks::{LastMark, PausedMark, key};
use super::report::About;
use super::target::Staged;
use super::{Roll, flag, is_passing, timeline};
use crate::aws::autoscaling::Completion;
use crate::aws::fleet::{Sent, TemplateSource};
use crate::failure::{Code, Failure};
use crate::host::since_boot;
use crate::log::Level;

/// How long taking the flag away may last: a roll that ends does not wait for an outage to end.
const LAST_CALLS: std::time::Duration = std::time::Duration::from_secs(20);

impl Roll {
    pub(super) fn report_about(&mut self, group: &str, level: Level, event: &str, text: &str) {
        let id = self.settings.get(group).map(|setting| setting.id.clone());
        let instance = self.node(group).and_then(|node| node.condition.instance().map(str::to_owned));
        let about = About { node: id.as_deref(), group: Some(group), instance: instance.as_deref() };
        self.report.event(level, event, about, text);
    }

    /// Looks at the new version once more, right before the node goes.
    pub(super) async fn inspect(&mut self, group: &str) -> Result<(), Failure> {
        let found = async { self.look_at_version(group, &self.ask_offers(&[group]).await?).await }.await;
        let Some(inspected) = self.unless_passing(group, found)? else { return Ok(()) };
        let found = self.left_out().await;
        let Some(left_out) = self.unless_passing(group, found)? else { return Ok(()) };
        self.refuse(inspected.broken.into_iter().chain(left_out).collect())?;
        // The leader may have moved while the check was asked.
        if self.wish.has_leader && self.memory.leader != Leader::NotAsked {
            self.ask_leader().await?;
        }
        let turn = self.memory.turn.get_or_insert_with(|| Turn::of(group));
        if turn.group != group {
            *turn = Turn::of(group);
        }
        turn.inspected_at = Some(since_boot());
        Ok(())
    }

    /// What a call has brought on the way to the act. None where time can mend its failure: the turn begins anew.
    fn unless_passing<T>(&mut self, group: &str, result: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(failure) if is_passing(&failure) => {
                self.begin_anew(group, &failure.to_string());
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Something has failed on the way to the act: back to the beginning of the turn.
    fn begin_anew(&mut self, group: &str, why: &str) {
        self.memory.turn = None;
        self.report_about(group, Level::Warning, "anew", &format!("nothing was done, it is looked at anew: {why}"));
    }

    /// Whether the last look is fresh enough to act on; otherwise the turn begins anew.
    fn is_fresh(&mut self, group: &str) -> bool {
        let is_fresh = self.fleet.is_fresh();
        if !is_fresh {
            self.begin_anew(group, &format!("the last look is more than {} old", humantime::format_duration(FRESH)));
        }
        is_fresh
    }

    /// Takes a node: its group is staged and tagged, and its instance terminated.
    pub(super) async fn take(&mut self, group: &str, victim: &str) -> Result<(), Failure> {
        if let Some(source) = self.source_to_stage(group)
            && !(self.is_fresh(group) && self.set_template(group, &source, "staged").await?)
        {
            return Ok(());
        }
        if !(self.is_fresh(group) && self.tag(group, Some(victim)).await? && self.is_fresh(group)) {
            return Ok(());
        }
        self.memory.refused = None;
        let sent = self.aws.autoscaling.terminate(victim).await;
        let work = Work { group: group.to_owned(), victim: Some(victim.to_owned()), arrived: false, passes: 0 };
        let target = self.settings.get(group).map(|setting| setting.target.number).unwrap_or_default();
        match sent {
            Ok(Sent::Accepted) => self.report_about(
                group,
                Level::Info,
                "taken",
                &format!("{victim} is terminated; its successor comes with version {target}"),
            ),
            Ok(Sent::Busy(said)) => {
                self.memory.refused = Some(victim.to_owned());
                self.begin_anew(group, &format!("Auto Scaling is busy: {said}"));
                return Ok(());
            }
            Ok(Sent::Gone(said)) => {
                self.begin_anew(group, &format!("{victim} has gone already: {said}"));
                return Ok(());
            }
            Err(failure) if is_passing(&failure) => {
                let text = format!("whether {victim} is terminated is not known, looks again: {failure}");
                self.report_about(group, Level::Warning, "taken", &text);
            }
            Err(failure) => return Err(failure),
        }
        self.memory.turn = None;
        self.memory.leader = Leader::NotAsked;
        self.clocks.bake_until = None;
        self.follower.begin(group, Some(victim), self.fleet.machine(victim), self.aws.clock.now());
        self.memory.work = Some(work);
        *self.memory.taken.entry(group.to_owned()).or_default() += 1;
        Ok(())
    }

    /// What the group is to be set to before its node goes; none where it is set already.
    fn source_to_stage(&self, group: &str) -> Option<TemplateSource> {
        let seen = self.fleet.group(group)?;
        let target = &self.settings.get(group)?.target;
        (target.staged(&seen.template, &self.templates) == Staged::Other).then(|| target.source(&seen.template))
    }

    /// Sets a group's launch template. False where the answer was lost, or AWS cannot be reached: it is looked at anew.
    async fn set_template(&mut self, group: &str, source: &TemplateSource, event: &str) -> Result<bool, Failure> {
        let answer = self.aws.autoscaling.set_template(group, source).await;
        if self.unless_passing(group, answer)?.is_none() {
            return Ok(false);
        }
        let versions: Vec<&str> = source.choices().iter().filter_map(|choice| choice.version.as_deref()).collect();
        let text = format!("its group is set to version {}", versions.join(", "));
        self.report_about(group, Level::Info, event, &text);
        Ok(true)
    }

    /// Writes what is done to a group.
    async fn tag(&mut self, group: &str, victim: Option<&str>) -> Result<bool, Failure> {
        let Some(seen) = self.fleet.group(group) else { return Ok(false) };
        let Some(setting) = self.settings.get(group) else { return Ok(false) };
        let before = LastMark::of(&seen.tags);
        let running = victim.and_then(|victim| {
            let member = seen.members.iter().find(|member| member.instance_id == victim)?;
            member.template.as_ref()?.version.parse().ok()
        });
        // A node that was out never ran what its group was set to: what it ran before is where it goes back to.
        let from = running.or_else(|| before.and_then(|last| last.from));
        let Some(at) = self.aws.clock.now() else { return Ok(false) };
        let (run, to) = (self.flag.mark.run.clone(), setting.target.number);
        let mark = LastMark { run, victim: victim.map(str::to_owned), from, to, at };
        self.flag.mark.node = Some(setting.id.clone());
        let last = mark.to_string();
        let answer = self.aws.autoscaling.write_tags(&[(group, key::LAST, &last)]).await;
        Ok(self.unless_passing(group, answer)?.is_some())
    }

    /// A node is out already: it is the one to finish first.
    pub(super) fn take_up(&mut self, group: &str) {
        let work = Work { group: group.to_owned(), victim: None, arrived: false, passes: 0 };
        self.follower.begin(group, None, None, self.aws.clock.now());
        self.memory.work = Some(work);
        self.memory.turn = None;
        self.report_about(group, Level::Info, "taken-up", "it is out of service already, and is finished first");
    }

    /// Sets the group of a node that is out to the target.
    pub(super) async fn stage(&mut self, group: &str) -> Result<(), Failure> {
        let Some(source) = self.source_to_stage(group) else { return Ok(()) };
        if self.is_fresh(group) && self.set_template(group, &source, "staged").await? {
            self.tag(group, None).await?;
        }
        Ok(())
    }

    /// Sets a staged group back to what its node runs, because another one goes first.
    pub(super) async fn set_back(&mut self, group: &str) -> Result<(), Failure> {
        let Some(version) = self.node(group).and_then(|node| node.set_back_to()) else { return Ok(()) };
        let Some(seen) = self.fleet.group(group) else { return Ok(()) };
        let source = seen.template.with_versions(|_| Some(version.to_string()));
        if self.is_fresh(group) {
            self.set_template(group, &source, "set-back").await?;
        }
        Ok(())
    }

    /// Gives a held node up.
    pub(super) async fn abandon(&mut self, group: &str, instance: &str) -> Result<(), Failure> {
        let hooks = match self.aws.autoscaling.hooks(group).await {
            Ok(hooks) => hooks.unwrap_or_default(),
            Err(failure) if is_passing(&failure) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        for hook in hooks.iter().filter(|hook| hook.is_for_launches()) {
            if !self.is_fresh(group) {
                return Ok(());
            }
            match self.aws.autoscaling.complete(group, &hook.name, instance, "ABANDON").await {
                Ok(Completion::Accepted) => {
                    self.memory.held_at_first.remove(instance);
                    let machine = self.fleet.machine(instance);
                    self.follower.begin(group, Some(instance), machine, self.aws.clock.now());
                    self.report_about(
                        group,
                        Level::Info,
                        "abandoned",
                        &format!("{instance} was held and is given up (ABANDON)"),
                    );
                    return Ok(());
                }
                Ok(Completion::NoActiveAction(_)) => {}
                // Whether it was heard, the next looks tell.
                Err(failure) if is_passing(&failure) => {
                    let text = format!("whether {instance} is given up is not known, looks again: {failure}");
                    self.report_about(group, Level::Warning, "abandoned", &text);
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
        }
        self.memory.held_at_first.remove(instance);
        Ok(())
    }

    /// The new instance is in service, healthy, and of the target version.
    pub(super) fn arrived(&mut self, group: &str, instance: &str) {
        if let Some(work) = &mut self.memory.work {
            work.arrived = true;
        }
        let missed = self.follower.arrived(group);
        self.report_about(group, Level::Info, "arrived", &format!("{instance} is in service and healthy"));
        if let Some(text) = missed.filter(|_| self.options.snapshot) {
            self.report_about(group, Level::Warning, "snapshot", &text);
        }
    }

    /// The node is back and checked; now it is watched for a while.
    pub(super) fn finished(&mut self, group: &str) {
        self.memory.work = None;
        self.memory.leader = Leader::NotAsked;
        self.memory.done.insert(group.to_owned());
        // Its own time goes on: a node that dies again and again must not keep the roll for ever.
        self.clocks.spent.retain(|waited_for, _| waited_for == group);
        self.flag.mark.node = None;
        if !self.options.bake.is_zero() {
            self.clocks.bake_until = Some(since_boot() + self.options.bake);
        }
        self.report_about(group, Level::Info, "finished", "is done");
    }

    /// Writes the flag on all groups. A denial refuses: a roll that nobody sees must not act.
    pub(super) async fn write_flag(&mut self) -> Result<(), Failure> {
        let is_first = self.flag.written.is_none();
        let Some(now) = self.aws.clock.now() else { return Ok(()) };
        self.flag.mark.beat = now;
        let value = self.flag.mark.to_string();
        let tags: Vec<(&str, &str, &str)> =
            self.settings.keys().map(|group| (group.as_str(), key::FLAG, value.as_str())).collect();
        match self.aws.autoscaling.write_tags(&tags).await {
            Ok(()) => self.flag.written = Some(since_boot()),
            Err(failure) if is_passing(&failure) => {
                self.wait_for_all(&format!("the roll's flag cannot be written: {failure}"));
                return Ok(());
            }
            Err(failure) if failure.code == Code::AccessDenied => {
                let text = format!("the groups' tags may not be written, by which two rolls see each other: {failure}");
                let remedy = "allow autoscaling:CreateOrUpdateTags and autoscaling:DeleteTags on the groups";
                return Err(Failure::new(Code::RollRefused, text).remedy(remedy));
            }
            Err(failure) => return Err(failure),
        }
        if is_first && self.options.resume {
            self.delete_tags(key::PAUSED).await;
        }
        Ok(())
    }

    /// Says that this roll is alive, if that is due.
    pub(super) async fn beat(&mut self) -> Result<(), Failure> {
        let is_due = self.flag.written.is_none_or(|written| since_boot().saturating_sub(written) >= BEAT);
        if is_due { self.write_flag().await } else { Ok(()) }
    }

    async fn delete_tags(&mut self, key: &'static str) {
        let has = |name: &&String| self.fleet.group(name).is_some_and(|group| group.tags.contains_key(key));
        let tags: Vec<(&str, &str)> = self.settings.keys().filter(has).map(|group| (group.as_str(), key)).collect();
        if tags.is_empty() {
            return;
        }
        if let Err(failure) = self.aws.autoscaling.delete_tags(&tags).await {
            self.report.once(
                Level::Warning,
                "tags",
                About::default(),
                &format!("the tag {key} was not taken away: {failure}"),
            );
        }
    }

    /// Ends the roll: the flag is taken away, a pause is written, and the times are told.
    pub(super) async fn end(mut self, result: Result<End, Failure>) -> Result<End, Failure> {
        let last = async {
            self.lower_flag(matches!(result, Ok(End::Done))).await;
            match &result {
                Ok(End::Done) => self.delete_tags(key::PAUSED).await,
                Ok(End::PausedNow(by)) => self.write_paused(by).await,
                _ => {}
            }
        };
        if timeout(LAST_CALLS, Box::pin(last)).await.is_err() {
            self.report.event(
                Level::Warning,
                "tags",
                About::default(),
                "AWS does not answer: the roll's tags are left; another roll takes them for dead in two minutes",
            );
        }
        timeline::show(&mut self.report, &self.follower.past, &self.settings);
        self.write_picture(&result);
        self.report.end(&result);
        result
    }

    /// Takes the own flag away; where everything is done, also those of rolls that were killed.
    async fn lower_flag(&mut self, is_done: bool) {
        let now = self.aws.clock.now();
        let is_ours = |look: &super::Look| -> Vec<String> {
            let dead = if is_done { flag::dead_on(look, now) } else { Vec::new() };
            self.flag.stands_on(look).into_iter().chain(dead).map(str::to_owned).collect()
        };
        if self.flag.written.is_none() && self.fleet.last().is_none_or(|look| is_ours(look).is_empty()) {
            return;
        }
        // What was read last may be old: a flag that another roll has written since is not taken away.
        let seen = super::Look::take(&self.aws, &self.cluster, None).await;
        let ours = seen.as_ref().map(is_ours).unwrap_or_default();
        let ours: Vec<(&str, &str)> = ours.iter().map(|group| (group.as_str(), key::FLAG)).collect();
        let taken = if ours.is_empty() { Ok(()) } else { self.aws.autoscaling.delete_tags(&ours).await };
        if let Err(failure) = seen.map(drop).and(taken) {
            self.report.once(
                Level::Warning,
                "tags",
                About::default(),
                &format!("the roll's flag was not taken away: {failure}"),
            );
        }
    }

    async fn write_paused(&mut self, by: &str) {
        let Some(at) = self.aws.clock.now() else { return };
        let value = PausedMark { run: self.flag.mark.run.clone(), by: by.to_owned(), at }.to_string();
        let tags: Vec<(&str, &str, &str)> =
            self.settings.keys().map(|group| (group.as_str(), key::PAUSED, value.as_str())).collect();
        if let Err(failure) = self.aws.autoscaling.write_tags(&tags).await {
            let text = format!("the pause is not written, so that a roll without --continue goes on: {failure}");
            self.report.once(Level::Warning, "tags", About::default(), &text);
        }
    }
}
