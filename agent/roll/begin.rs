//! How a roll begins: the list is proven to be the cluster, the target is resolved to numbers once, and every node's new version is
//! looked at before anything is taken.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::course::Course;
use super::decision::{Decision, End, Leader, Memory, Wish};
use super::finding::Inspected;
use super::flag::Flag;
use super::follow::Follower;
use super::judge::judge;
use super::marks::{FlagMark, key};
use super::node::{self, Condition};
use super::options::Options;
use super::plot::Picture;
use super::report::{About, Report};
use super::rules::{self, Broken};
use super::table::Table;
use super::target::To;
use super::{Clocks, Fleet, Roll, plan};
use crate::aws::fleet::FleetGroup;
use crate::aws::operator::Operator;
use crate::config::Groups;
use crate::failure::{Code, Failure};
use crate::host::identity::Identity;
use crate::host::{random_uuid, since_boot};
use crate::log::Level;

/// How many calls run side by side where each group needs its own: the whole account shares a quota.
pub(super) const AT_ONCE: usize = 8;
/// A run's id: enough to tell the rolls of one cluster apart.
const RUN_ID: usize = 8;

impl Roll {
    /// Connects, and knows nothing of the cluster yet.
    pub(super) async fn begin(options: Options, stop: watch::Receiver<bool>) -> Result<Roll, Failure> {
        let usage = |what: String| Failure::new(Code::RollUsage, what);
        let cluster = options.groups().map_err(usage)?;
        let aws = Operator::connect(options.region.as_deref()).await?;
        let picture = options.plot.as_deref().filter(|_| options.yes).map(Picture::open).transpose()?;
        let run: String = random_uuid()?.chars().take(RUN_ID).collect();
        let mark =
            FlagMark { run: run.clone(), since: 0, beat: 0, node: None, by: caller(), process: Identity::own()? };
        let wish = Wish {
            replace_held: options.replace_held,
            max_nodes: options.max_nodes.and_then(|most| usize::try_from(most).ok()),
            resume: options.resume,
            has_check: options.check.is_some() || options.hooks.is_some(),
            has_leader: options.leader.is_some() || options.hooks.is_some(),
            ..Wish::default()
        };
        Ok(Roll {
            aws,
            cluster,
            overrides: options.overridden(),
            wish,
            fleet: Fleet::default(),
            settings: BTreeMap::new(),
            templates: BTreeMap::new(),
            versions: BTreeMap::new(),
            account_launches_first: false,
            memory: Memory::default(),
            flag: Flag::new(mark),
            report: Report::new(run, options.json),
            follower: Follower::default(),
            clocks: Clocks { last: since_boot(), ..Clocks::default() },
            last_check: None,
            table: Table::default(),
            course: Course::begin(),
            picture,
            options,
            stop,
        })
    }

    /// Everything before the first act. Some end where there is nothing to do, or where nothing may be done.
    pub(super) async fn prepare(&mut self) -> Result<Option<End>, Failure> {
        self.prove_list().await?;
        self.account_launches_first = self.read_account().await?;
        let groups: Vec<FleetGroup> = self.fleet.groups().cloned().collect();
        let mut broken: Vec<Broken> =
            groups.iter().flat_map(|group| rules::of_group(group, self.account_launches_first)).collect();
        broken.extend(self.left_out().await?);
        self.read_templates(&groups).await?;
        self.name_nodes(&groups)?;
        self.resolve_target(&groups)?;
        self.read_targets(&groups).await?;
        let nodes = self.nodes();
        let inspected = self.inspect_all(&nodes).await?;
        broken.extend(inspected.values().flat_map(|inspected| inspected.broken.iter().cloned()));
        broken.extend(nodes.iter().filter_map(plan::astray));
        self.recall();
        self.note_held(&nodes);
        if self.wish.has_leader && nodes.iter().filter(|node| node.outdated.is_some()).count() > 1 {
            self.ask_leader().await?;
        }
        plan::show(&mut self.report, &nodes, &inspected, &self.memory, &self.wish, &self.settings);
        self.refuse(broken)?;
        if !self.options.yes {
            return Ok(Some(End::Planned));
        }
        self.memory.leader = Leader::NotAsked;
        match judge(&nodes, &self.memory, &self.wish) {
            Decision::End(end) => Ok(Some(end)),
            _ => Ok(None),
        }
    }

    /// Looks until two looks prove each group of the list, or that it does not exist.
    async fn prove_list(&mut self) -> Result<(), Failure> {
        loop {
            if !self.look().await? {
                continue;
            }
            let names: BTreeSet<String> = match &self.cluster {
                Groups::Named(names) => names.iter().cloned().collect(),
                Groups::Tagged { .. } => self.fleet.groups().map(|group| group.name.clone()).collect(),
            };
            if names.is_empty() && self.fleet.has_two() {
                let text = format!(
                    "no Auto Scaling group has the tag {}",
                    self.options.cluster.as_deref().unwrap_or_default()
                );
                let remedy = "correct --cluster, or the region (AWS_REGION, --region)";
                return Err(Failure::new(Code::RollRefused, text).remedy(remedy));
            }
            let missing: Vec<Broken> =
                names.iter().filter(|name| self.fleet.lacks(name)).map(|name| rules::of_missing(name)).collect();
            self.refuse(missing)?;
            let doubtful = names.iter().find_map(|name| Some((name, self.fleet.doubt(name)?)));
            if doubtful.is_none() && names.iter().all(|name| self.fleet.group(name).is_some()) && !names.is_empty() {
                return Ok(());
            }
            if let Some((name, doubt)) = doubtful.filter(|_| self.fleet.has_two()) {
                let about = About { group: Some(name), ..About::default() };
                self.report.wait(about, &format!("not proven yet: {doubt}"));
            }
            self.spend("", true)?;
        }
    }

    /// Whether the account launches first. What the caller may not read is said and refuses nothing.
    async fn read_account(&mut self) -> Result<bool, Failure> {
        match self.aws.autoscaling.launches_before_terminate().await {
            Ok(setting) => Ok(setting.unwrap_or_default()),
            Err(failure) if failure.code == Code::AccessDenied || failure.code == Code::ApiRefused => {
                self.unread("the account's setting launchBeforeTerminate", &failure);
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn unread(&mut self, what: &str, failure: &Failure) {
        self.report.once(
            Level::Warning,
            "unread",
            About::default(),
            &format!("{what} cannot be read, and is not checked: {failure}"),
        );
    }

    /// The groups that have the cluster tag of a listed one and are not listed themselves.
    pub(super) async fn left_out(&self) -> Result<Vec<Broken>, Failure> {
        let names: BTreeSet<&str> = self.fleet.groups().map(|group| group.name.as_str()).collect();
        let clusters: BTreeSet<&String> =
            self.fleet.groups().filter_map(|group| group.tags.get(key::CLUSTER)).collect();
        let mut broken = Vec::new();
        for cluster in clusters {
            let by_tag = Groups::Tagged { key: key::CLUSTER.to_owned(), value: cluster.clone() };
            if by_tag == self.cluster {
                continue;
            }
            let all = self.aws.autoscaling.fleet(&by_tag).await?;
            let others = all.iter().filter(|group| !names.contains(group.name.as_str()));
            broken.extend(others.map(|group| rules::of_left_out(&group.name, &format!("{}={cluster}", key::CLUSTER))));
        }
        Ok(broken)
    }

    /// Resolves what the options say about nodes: each by its id or its group's name.
    pub(super) fn name_nodes(&mut self, groups: &[FleetGroup]) -> Result<(), Failure> {
        let find = |name: &String| -> Result<String, Failure> {
            let found = self.settings.iter().find(|(group, setting)| *group == name || setting.id == *name);
            found.map(|(group, _)| group.clone()).ok_or_else(|| {
                let all: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
                Failure::new(Code::RollUsage, format!("{name} is no node of the list: {}", all.join(", ")))
            })
        };
        let canary = self.options.canary.as_ref().map(find).transpose()?;
        let skip = self.options.skip.iter().map(find).collect::<Result<BTreeSet<_>, _>>()?;
        let only = self.options.only.iter().map(find).collect::<Result<BTreeSet<_>, _>>()?;
        for to in &self.options.to {
            if let To::Node(node, _) = to {
                find(node)?;
            }
        }
        self.wish.canary = canary;
        for (group, setting) in &mut self.settings {
            let not_only = !only.is_empty() && !only.contains(group);
            setting.left_out = match () {
                () if skip.contains(group) => Some("--skip names it".to_owned()),
                () if not_only => Some("--only names others".to_owned()),
                () => None,
            };
        }
        Ok(())
    }

    /// The instances that are held now: of those that run the target `--replace-held` gives up these only, each once.
    fn note_held(&mut self, nodes: &[node::Node]) {
        let held = nodes.iter().filter_map(|node| match &node.condition {
            Condition::Coming { instance, held: Some(_), .. } => Some(instance.clone()),
            _ => None,
        });
        self.memory.held_at_first = held.collect();
        if self.options.to.contains(&To::Previous)
            && !self.memory.held_at_first.is_empty()
            && !self.options.replace_held
        {
            let text = "a node is held: it goes back only with --replace-held";
            self.report.event(Level::Warning, "held", About::default(), text);
        }
    }

    /// Looks at the new version of each node that is behind.
    async fn inspect_all(&mut self, nodes: &[node::Node]) -> Result<BTreeMap<String, Inspected>, Failure> {
        let behind: Vec<String> =
            nodes.iter().filter(|node| plan::is_behind(node)).map(|node| node.group.clone()).collect();
        let names: Vec<&str> = behind.iter().map(String::as_str).collect();
        let offers = self.ask_offers(&names).await?;
        let work = stream::iter(behind.iter().map(|group| {
            let (this, offers) = (&*self, &offers);
            async move { Ok::<_, Failure>((group.clone(), this.look_at_version(group, offers).await?)) }
        }));
        let inspected: BTreeMap<String, Inspected> = work.buffer_unordered(AT_ONCE).try_collect().await?;
        for (group, inspected) in &inspected {
            self.say_inspected(group, inspected);
        }
        Ok(inspected)
    }
}

/// Who rolls, for people: user and machine.
fn caller() -> String {
    let from =
        |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty());
    let user = from(&["SUDO_USER", "USER", "LOGNAME"]).unwrap_or_else(|| format!("uid{}", nix::unistd::getuid()));
    let machine = nix::sys::utsname::uname().ok().and_then(|about| about.nodename().to_str().map(str::to_owned));
    format!("{user}@{}", machine.or_else(|| from(&["HOSTNAME"])).unwrap_or_else(|| "unknown".to_owned()))
}
