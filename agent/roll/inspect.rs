//! The new version of a node, looked at before the node goes: whether an instance of it can come up, with the interface and the volume
//! that the old one has.

use std::collections::BTreeMap;

use super::Roll;
use super::finding::{Inspected, broken, unless_denied};
use super::marks::LastMark;
use super::offers::Offers;
use super::report::About;
use super::rules::{self, Rule};
use crate::aws::fleet::FleetGroup;
use crate::aws::templates::TemplateVersion;
use crate::config::{self, Change};
use crate::failure::Failure;
use crate::log::Level;

/// A node's id by its user data.
pub(super) fn node_id(version: &TemplateVersion) -> Option<String> {
    config::node(version.user_data.as_deref()?).map(|node| node.id)
}

impl Roll {
    /// Looks at the target's version of a group. What the caller may not read is noted, and refuses nothing.
    pub(super) async fn look_at_version(&self, group: &str, offers: &Offers) -> Result<Inspected, Failure> {
        let mut found = Inspected::default();
        let Some(seen) = self.fleet.group(group) else { return Ok(found) };
        let Some(setting) = self.settings.get(group) else { return Ok(found) };
        self.ask_hooks(seen, &mut found).await?;
        self.ask_refresh(seen, &mut found).await?;
        if seen.zonal_shift && seen.ignores_unhealthy {
            found.notes.push("zonal shift is enabled, and unhealthy instances are ignored meanwhile: in a zone that is shifted away nothing is replaced".to_owned());
        }
        let choices = seen.template.choices();
        let old = self.running_version(seen);
        // Any template of a mixed instances policy may be the one that is launched.
        for new in self.targets(group) {
            offers.judge_images(seen, new, &mut found);
            self.compare_interface(seen, new, old, &mut found);
            compare_volumes(seen, new, old, &mut found);
            check_configuration(seen, new, &mut found);
        }
        let Some(new) = choices.first().and_then(|choice| self.version_of(&choice.id, setting.target.number)) else {
            return Ok(found);
        };
        offers.judge_type(seen, new, &mut found);
        found.changes = changes(old, new);
        Ok(found)
    }

    /// The target's version of each template of a group.
    pub(super) fn targets(&self, group: &str) -> impl Iterator<Item = &TemplateVersion> {
        let versions = self.settings.get(group).map(|setting| &setting.target.versions);
        versions.into_iter().flatten().filter_map(|(id, number)| self.version_of(id, *number))
    }

    /// The version that the group's instance runs, or ran last.
    fn running_version(&self, group: &FleetGroup) -> Option<&TemplateVersion> {
        let member = group.members.iter().find_map(|member| member.template.as_ref());
        let of_member = || self.version_of(&member?.id, member?.version.parse().ok()?);
        let of_tag = || self.version_of(&group.template.choices().first()?.id, LastMark::of(&group.tags)?.from?);
        of_member().or_else(of_tag)
    }

    async fn ask_hooks(&self, group: &FleetGroup, found: &mut Inspected) -> Result<(), Failure> {
        match unless_denied(self.aws.autoscaling.hooks(&group.name).await)? {
            Ok(hooks) => found.broken.extend(rules::of_hooks(&group.name, &hooks.unwrap_or_default())),
            Err(denied) => found.note_unread("its lifecycle hooks", &denied),
        }
        Ok(())
    }

    async fn ask_refresh(&self, group: &FleetGroup, found: &mut Inspected) -> Result<(), Failure> {
        match unless_denied(self.aws.autoscaling.refresh_at_work(&group.name).await)? {
            Ok(status) => found.broken.extend(rules::of_refresh(&group.name, status.as_deref())),
            Err(denied) => found.note_unread("its instance refreshes", &denied),
        }
        Ok(())
    }

    /// The new instance must have the interface that the old one has: with it the node's address goes.
    fn compare_interface(
        &self,
        group: &FleetGroup,
        new: &TemplateVersion,
        old: Option<&TemplateVersion>,
        found: &mut Inspected,
    ) {
        let of_machine =
            || group.members.iter().find_map(|member| self.fleet.machine(&member.instance_id)?.interface.clone());
        let of_version = || old.and_then(|old| old.interface.clone());
        let Some(has) = of_machine().or_else(of_version) else { return };
        let what = match &new.interface {
            Some(interface) if *interface == has => return,
            Some(interface) => {
                format!("version {} has the network interface {interface}, the node has {has}", new.number)
            }
            None => format!(
                "version {} names no network interface, the node has {has}: its address would change",
                new.number
            ),
        };
        found.broken.push(broken(
            Some(Rule::Interface),
            group,
            what,
            "name the node's interface in the launch template",
        ));
    }
}

/// The node's data is on the volume that its configuration names.
fn compare_volumes(group: &FleetGroup, new: &TemplateVersion, old: Option<&TemplateVersion>, found: &mut Inspected) {
    let volumes = |version: &TemplateVersion| -> Option<BTreeMap<String, String>> {
        Some(config::node(version.user_data.as_deref()?)?.volumes)
    };
    let (Some(new_ones), Some(old_ones)) = (volumes(new), old.and_then(volumes)) else { return };
    for (path, volume) in old_ones {
        let what = match new_ones.get(&path) {
            Some(same) if *same == volume => continue,
            Some(other) => format!("version {} mounts {other} at {path}, the node has {volume} there", new.number),
            None => format!("version {} mounts nothing at {path}, the node has {volume} there", new.number),
        };
        found.broken.push(broken(Some(Rule::Volume), group, what, "name the node's volume in its configuration"));
    }
}

/// What `node-agent check --offline` would say of the new configuration.
fn check_configuration(group: &FleetGroup, new: &TemplateVersion, found: &mut Inspected) {
    let Some(checked) = new.user_data.as_deref().and_then(config::review) else { return };
    found.notes.extend(checked.warnings.iter().map(|warning| format!("the new configuration: {warning}")));
    if !checked.errors.is_empty() {
        let what = format!("the configuration of version {} is invalid: {}", new.number, checked.errors.join("; "));
        found.broken.push(broken(
            Some(Rule::Config),
            group,
            what,
            "correct the configuration (node-agent check --offline --config FILE), and publish a version with it",
        ));
    }
}

/// What differs, key by key.
fn changes(old: Option<&TemplateVersion>, new: &TemplateVersion) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut compare = |key: &str, before: Option<&String>, after: Option<&String>| {
        if before != after {
            changes.push(Change { key: key.to_owned(), old: before.cloned(), new: after.cloned() });
        }
    };
    compare("image", old.and_then(|old| old.image_id.as_ref()), new.image_id.as_ref());
    compare("instance type", old.and_then(|old| old.instance_type.as_ref()), new.instance_type.as_ref());
    compare("network interface", old.and_then(|old| old.interface.as_ref()), new.interface.as_ref());
    compare("instance profile", old.and_then(|old| old.instance_profile.as_ref()), new.instance_profile.as_ref());
    changes.extend(config::difference(old.and_then(|old| old.user_data.as_deref()), new.user_data.as_deref()));
    changes
}

impl Roll {
    pub(super) fn say_inspected(&mut self, group: &str, inspected: &Inspected) {
        let id = self.settings.get(group).map(|setting| setting.id.clone());
        for note in &inspected.notes {
            self.report.once(
                Level::Warning,
                "note",
                About { node: id.as_deref(), group: Some(group), instance: None },
                note,
            );
        }
    }
}
