//! What EC2 has of what new versions name: their images, and their instance types in the nodes' zones. Asked for many groups at
//! once, because the whole account shares a quota.

use std::collections::{BTreeMap, BTreeSet};

use super::Roll;
use super::finding::{Inspected, broken};
use super::rules::Rule;
use crate::aws::fleet::FleetGroup;
use crate::aws::templates::TemplateVersion;
use crate::failure::{Code, Failure};

/// What EC2 has. What the caller may not read is the failure that says so.
pub(super) struct Offers {
    images: Result<BTreeMap<String, String>, Failure>,
    types: Result<BTreeSet<(String, String)>, Failure>,
}

impl Roll {
    /// Asks for what the targets of these groups name.
    pub(super) async fn ask_offers(&self, groups: &[&str]) -> Result<Offers, Failure> {
        let seen = groups.iter().filter_map(|name| self.fleet.group(name));
        let zones: BTreeSet<String> = seen.flat_map(zones).map(str::to_owned).collect();
        let versions: Vec<&TemplateVersion> = groups.iter().flat_map(|name| self.targets(name)).collect();
        let images: BTreeSet<String> = versions.iter().filter_map(|version| version.image_id.clone()).collect();
        let types: BTreeSet<String> = versions.iter().filter_map(|version| version.instance_type.clone()).collect();
        let (images, types) = tokio::join!(self.aws.ec2.images(&images), self.aws.ec2.offered(&types, &zones));
        Ok(Offers { images: readable(images)?, types: readable(types)? })
    }
}

impl Offers {
    /// Judges a new version's image.
    pub(super) fn judge_image(&self, group: &FleetGroup, version: &TemplateVersion, found: &mut Inspected) {
        let Some(image) = &version.image_id else { return };
        let images = match &self.images {
            Ok(images) => images,
            Err(failure) => return found.note_unread("its new image", failure),
        };
        let what = match images.get(image).map(String::as_str) {
            Some("available") => return,
            Some(state) => format!("the image {image} of version {} is {state}", version.number),
            None => format!("the image {image} of version {} does not exist", version.number),
        };
        let remedy = "publish a version with an image that is available, or roll --to another one";
        found.broken.push(broken(Some(Rule::Image), group, what, remedy));
    }

    /// Judges a new version's instance type.
    pub(super) fn judge_type(&self, group: &FleetGroup, version: &TemplateVersion, found: &mut Inspected) {
        let Some(instance_type) = &version.instance_type else { return };
        let types = match &self.types {
            Ok(types) => types,
            Err(failure) => return found.note_unread("the instance types of its zone", failure),
        };
        for zone in
            zones(group).into_iter().filter(|zone| !types.contains(&(instance_type.clone(), (*zone).to_owned())))
        {
            let what =
                format!("the instance type {instance_type} of version {} is not offered in {zone}", version.number);
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

/// What was read, or may not be.
fn readable<T>(answer: Result<T, Failure>) -> Result<Result<T, Failure>, Failure> {
    match answer {
        Err(failure) if failure.code != Code::AccessDenied => Err(failure),
        answer => Ok(answer),
    }
}
