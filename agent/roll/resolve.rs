//! The target, resolved to numbers once; and what the launch templates' versions say.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::begin::AT_ONCE;
use super::marks::LastMark;
use super::node::{self, Setting};
use super::report::About;
use super::target::{GroupTarget, To, floating, resolve};
use super::{Roll, inspect};
use crate::aws::fleet::FleetGroup;
use crate::aws::templates::TemplateVersion;
use crate::failure::{Code, Failure};
use crate::log::Level;

impl Roll {
    /// Reads the launch templates, and of each group the versions that it runs, would launch and could get: they tell the node's id.
    pub(super) async fn read_templates(&mut self, groups: &[FleetGroup]) -> Result<(), Failure> {
        let of_groups = groups.iter().flat_map(|group| group.template.choices()).map(|choice| choice.id.clone());
        let members = || groups.iter().flat_map(|group| &group.members).filter_map(|member| member.template.as_ref());
        let ids: BTreeSet<String> =
            of_groups.chain(members().map(|runs| runs.id.clone())).filter(|id| !id.is_empty()).collect();
        let ids: Vec<String> = ids.into_iter().collect();
        self.templates = if ids.is_empty() { BTreeMap::new() } else { self.aws.ec2.templates(&ids).await? };
        let mut wanted = BTreeSet::new();
        for group in groups {
            let choices = group.template.choices();
            let Some(first) = choices.first() else { continue };
            // A member may run another template than the base's: an override's.
            let running = group.members.iter().filter_map(|member| member.template.as_ref());
            wanted.extend(running.filter_map(|runs| Some((runs.id.clone(), runs.version.parse().ok()?))));
            let latest = self.templates.get(&first.id).map(|template| template.latest);
            let numbers = resolve(first, &self.templates).into_iter().chain(latest);
            wanted.extend(numbers.map(|number| (first.id.clone(), number)));
        }
        self.read_versions(wanted).await?;
        for group in groups {
            let choices = group.template.choices();
            let version =
                choices.first().and_then(|choice| self.version_of(&choice.id, resolve(choice, &self.templates)?));
            let id = version.and_then(inspect::node_id).unwrap_or_else(|| node::id_of(&group.name));
            self.settings.insert(group.name.clone(), Setting { id, target: GroupTarget::default(), left_out: None });
        }
        Ok(())
    }

    /// Reads the targets' own versions, and from them the images that the nodes shall run.
    pub(super) async fn read_targets(&mut self, groups: &[FleetGroup]) -> Result<(), Failure> {
        let targets = |this: &Roll| -> Vec<(String, u64)> {
            let versions = this.settings.values().flat_map(|setting| &setting.target.versions);
            versions.map(|(id, number)| (id.clone(), *number)).collect()
        };
        let wanted = targets(self).into_iter().filter(|(id, number)| self.version_of(id, *number).is_none()).collect();
        self.read_versions(wanted).await?;
        for (id, number) in targets(self) {
            if self.version_of(&id, number).is_none() {
                let name = self.templates.get(&id).map_or(id.as_str(), |template| &template.name);
                let group = groups.iter().find(|group| group.template.choices().iter().any(|choice| choice.id == id));
                let text = format!(
                    "{}: its launch template {name} ({id}) has no version {number}",
                    group.map(|group| group.name.as_str()).unwrap_or_default()
                );
                let remedy = "correct --to; a template whose numbers differ from the others' takes --to NODE=NUMBER";
                return Err(Failure::new(Code::RollRefused, text).remedy(remedy));
            }
        }
        let versions = std::mem::take(&mut self.versions);
        for setting in self.settings.values_mut() {
            let image = |(id, number): (&String, &u64)| {
                Some((id.clone(), versions.get(&(id.clone(), *number))?.image_id.clone()?))
            };
            setting.target.images = setting.target.versions.iter().filter_map(image).collect();
        }
        self.versions = versions;
        Ok(())
    }

    /// Reads versions of launch templates, one call a template.
    pub(super) async fn read_versions(&mut self, wanted: BTreeSet<(String, u64)>) -> Result<(), Failure> {
        let mut by_template: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (id, number) in wanted {
            by_template.entry(id).or_default().push(number);
        }
        let ec2 = &self.aws.ec2;
        let calls = by_template.iter().map(|(id, numbers)| ec2.template_versions(id, numbers));
        let read: Vec<Vec<TemplateVersion>> = stream::iter(calls).buffer_unordered(AT_ONCE).try_collect().await?;
        let read = read.into_iter().flatten().map(|version| ((version.template_id.clone(), version.number), version));
        self.versions.extend(read);
        Ok(())
    }

    /// A version that was read.
    pub(super) fn version_of(&self, template: &str, number: u64) -> Option<&TemplateVersion> {
        self.versions.get(&(template.to_owned(), number))
    }

    /// Resolves the target to numbers, once.
    pub(super) fn resolve_target(&mut self, groups: &[FleetGroup]) -> Result<(), Failure> {
        let goes_back = self.options.to.contains(&To::Previous);
        let any_last = groups.iter().any(|group| LastMark::of(&group.tags).is_some_and(|last| last.from.is_some()));
        for group in groups {
            let to = self.to_of(&group.name);
            let choices = group.template.choices();
            let Some(first) = choices.first() else {
                return Err(cannot_resolve(group, "it has no launch template"));
            };
            let now = resolve(first, &self.templates);
            let number = match to {
                To::Latest => self.templates.get(&first.id).map(|template| template.latest),
                To::Number(number) | To::Node(_, number) => Some(number),
                To::Previous if !any_last => now.map(|now| now.saturating_sub(1)).filter(|number| *number > 0),
                // A group that no roll has changed stays.
                To::Previous => LastMark::of(&group.tags).and_then(|last| last.from).or(now),
            };
            let Some(number) = number else {
                return Err(cannot_resolve(group, &format!("its launch template {} cannot be resolved", first.id)));
            };
            let versions = choices.iter().filter_map(|choice| {
                let version = match &to {
                    // Another template of a mixed instances policy keeps its own version where a number is named.
                    _ if choice.id == first.id => Some(number),
                    To::Latest => self.templates.get(&choice.id).map(|template| template.latest),
                    _ => resolve(choice, &self.templates),
                };
                Some((choice.id.clone(), version?))
            });
            let target = GroupTarget {
                versions: versions.collect(),
                images: BTreeMap::new(),
                override_images: group.template.images().into_iter().map(str::to_owned).collect(),
                number,
            };
            if let Some(setting) = self.settings.get_mut(&group.name) {
                setting.target = target;
            }
        }
        if goes_back {
            let text = "rolls back: a data format that the new version has written may not be readable by the old one";
            self.report.event(Level::Warning, "rolls-back", About::default(), text);
        }
        self.report_floating(groups);
        Ok(())
    }

    /// Groups whose version moves by itself cannot be staged: said once.
    fn report_floating(&mut self, groups: &[FleetGroup]) {
        for group in groups {
            let Some(word) = group.template.choices().into_iter().find_map(floating) else { continue };
            let text = format!(
                "its launch template's version is {word}: it cannot be staged, and whatever dies comes back with the newest version; set a \
                 number there"
            );
            self.report.once(
                Level::Warning,
                "not-staged",
                About { group: Some(&group.name), ..About::default() },
                &text,
            );
        }
    }

    /// The target of a group: `--to NODE=N` before the others.
    pub(super) fn to_of(&self, group: &str) -> To {
        let id = self.settings.get(group).map(|setting| setting.id.as_str());
        let own = |to: &&To| matches!(to, To::Node(node, _) if *node == group || Some(node.as_str()) == id);
        let options = &self.options.to;
        let general = || options.iter().find(|to| !matches!(to, To::Node(..)));
        options.iter().find(own).or_else(general).cloned().unwrap_or(To::Latest)
    }
}

fn cannot_resolve(group: &FleetGroup, why: &str) -> Failure {
    let text = format!("{}: {why}, so its target is not known", group.name);
    Failure::new(Code::RollRefused, text).remedy("give the group a launch template, or leave it out of the list")
}
