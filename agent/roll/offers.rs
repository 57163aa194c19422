//! What EC2 has of what new versions name: their images, and their instance types in the nodes' zones. Asked for many groups at
//! once, because the whole account shares a quota.

use std::collections::{BTreeMap, BTreeSet};

use super::Roll;
use super::finding::{Inspected, broken, unless_denied};
use super::rules::Rule;
use crate::aws::fleet::FleetGroup;
use crate::aws::templates::TemplateVersion;
use crate::failure::Failure;

/// What EC2 has. What the caller may not read is the failure that says so.
pub(super) struct Offers {
    images: Result<BTreeMap<String, String>, Failure>,
    types: Result<BTreeSet<(String, String)>, Failure>,
}

impl Roll {
    /// Asks for what the targets of these groups name.
    pub(super) async fn ask_offers(&self, groups: &[&str]) -> Result<Offers, Failure> {
        let seen = || groups.iter().filter_map(|name| self.fleet.group(name));
        let zones: BTreeSet<String> = seen().flat_map(zones).map(str::to_owned).collect();
        let versions: Vec<&TemplateVersion> = groups.iter().flat_map(|name| self.targets(name)).collect();
        let of_versions = versions.iter().filter_map(|version| version.image_id.clone());
        let of_overrides = seen().flat_map(|group| group.template.images()).map(str::to_owned);
        let images: BTreeSet<String> = of_versions.chain(of_overrides).collect();
        let of_versions = versions.iter().filter_map(|version| version.instance_type.clone());
        let of_overrides = seen().flat_map(|group| group.template.instance_types()).map(str::to_owned);
        let types: BTreeSet<String> = of_versions.chain(of_overrides).collect();
        let (images, types) = tokio::join!(self.aws.ec2.images(&images), self.aws.ec2.offered(&types, &zones));
        Ok(Offers { images: unless_denied(images)?, types: unless_denied(types)? })
    }
}

impl Offers {
    /// Judges the images that a group may launch with a new version: its own and the overrides'.
    pub(super) fn judge_images(&self, group: &FleetGroup, version: &TemplateVersion, found: &mut Inspected) {
        let named = version.image_id.as_deref().into_iter().chain(group.template.images());
        let images = match &self.images {
            Ok(images) => images,
            Err(failure) => return found.note_unread("its new image", failure),
        };
        for image in named {
            let what = match images.get(image).map(String::as_str) {
                Some("available") => continue,
                Some(state) => format!("the image {image} of version {} is {state}", version.number),
                None => format!("the image {image} of version {} does not exist", version.number),
            };
            let remedy = "publish a version with an image that is available, or roll --to another one";
            found.broken.push(broken(Some(Rule::Image), group, what, remedy));
        }
    }

    /// Judges the instance types that a group may launch with a new version: the overrides', or the version's own.
    pub(super) fn judge_type(&self, group: &FleetGroup, version: &TemplateVersion, found: &mut Inspected) {
        let of_overrides = group.template.instance_types();
        let types: Vec<&str> =
            if of_overrides.is_empty() { version.instance_type.as_deref().into_iter().collect() } else { of_overrides };
        if types.is_empty() {
            return;
        }
        let offered = match &self.types {
            Ok(offered) => offered,
            Err(failure) => return found.note_unread("the instance types of its zone", failure),
        };
        let is_offered = |one: &str, zone: &str| offered.contains(&(one.to_owned(), zone.to_owned()));
        for zone in zones(group).into_iter().filter(|zone| !types.iter().any(|one| is_offered(one, zone))) {
            let what = match types[..] {
                [one] => format!("the instance type {one} of version {} is not offered in {zone}", version.number),
                _ => format!("none of the instance types {} of its overrides is offered in {zone}", types.join(", ")),
            };
            found.broken.push(broken(None, group, what, "publish a version with a type that the zone has"));
        }
    }
}

/// Where the group's instance is, or may come.
fn zones(group: &FleetGroup) -> BTreeSet<&str> {
    match group.members.first() {
        Some(member) => [member.zone.as_str()].into(),
        None => group.zones.iter().map(String::as_str).collect(),
    }
}
