//! EC2's launch templates and their versions.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{LaunchTemplate, LaunchTemplateVersion};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::ec2::Ec2;
use super::error::CallError;
use crate::failure::Failure;

/// A launch template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `lt-…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// The number of its default version.
    pub default: u64,
    /// The number of its latest version.
    pub latest: u64,
}

/// One version of a launch template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateVersion {
    /// `lt-…`
    pub template_id: String,
    /// The version's number.
    pub number: u64,
    /// The image; an alias (`resolve:ssm:…`) resolved.
    pub image_id: Option<String>,
    /// `m6i.large`
    pub instance_type: Option<String>,
    /// The user data, decoded.
    pub user_data: Option<Vec<u8>>,
    /// The existing network interface that becomes the instance's primary one.
    pub interface: Option<String>,
    /// The instance profile's name or ARN.
    pub instance_profile: Option<String>,
}

/// How many templates, or versions, one call may name.
const MOST: usize = 200;

impl Ec2 {
    /// These launch templates, by id. One that does not exist is missing from the answer.
    pub async fn templates(&self, ids: &[String]) -> Result<BTreeMap<String, Template>, Failure> {
        let describe = async |part: &[String]| {
            let call = self.client.describe_launch_templates().set_launch_template_ids(Some(part.to_vec()));
            let answer = call.send().await;
            let answer = answer.map_err(|error| self.caller.read("ec2:DescribeLaunchTemplates", &error))?;
            Ok(answer.launch_templates().iter().map(template).map(|one| (one.id.clone(), one)).collect())
        };
        let unknown = ["InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.Malformed"];
        Ok(known_of(ids, &unknown, describe).await.map_err(|error| error.failure)?.into_iter().collect())
    }

    /// These versions of a launch template, by number. One that does not exist, or not any more, is missing.
    pub async fn template_versions(&self, id: &str, numbers: &[u64]) -> Result<Vec<TemplateVersion>, Failure> {
        let describe = async |part: &[u64]| {
            let call = self.client.describe_launch_template_versions().launch_template_id(id).resolve_alias(true);
            let call = call.set_versions(Some(part.iter().map(ToString::to_string).collect()));
            let answer = call.send().await;
            let answer = answer.map_err(|error| self.caller.read("ec2:DescribeLaunchTemplateVersions", &error))?;
            Ok(answer.launch_template_versions().iter().map(version).collect())
        };
        let versions = known_of(numbers, &["InvalidLaunchTemplateId.VersionNotFound"], describe).await;
        let mut versions: Vec<TemplateVersion> = versions.map_err(|error| {
            let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            error.about(format_args!("launch template {id}, version {}", numbers.join(", ")))
        })?;
        versions.sort_by_key(|version| version.number);
        Ok(versions)
    }
}

/// What `describe` tells of all of these that there are. One that is unknown fails a whole call, with one of these codes: it is found
/// by halves, and is missing.
async fn known_of<K, T>(
    all: &[K],
    unknown: &[&str],
    describe: impl AsyncFn(&[K]) -> Result<Vec<T>, CallError>,
) -> Result<Vec<T>, CallError> {
    let mut known = Vec::new();
    let mut parts: Vec<&[K]> = all.chunks(MOST).collect();
    while let Some(part) = parts.pop() {
        match describe(part).await {
            Ok(told) => known.extend(told),
            Err(error) if !unknown.iter().any(|code| error.is(code)) => return Err(error),
            Err(_) if part.len() > 1 => parts.extend(<[_; 2]>::from(part.split_at(part.len() / 2))),
            Err(_) => {}
        }
    }
    Ok(known)
}

fn template(template: &LaunchTemplate) -> Template {
    Template {
        id: template.launch_template_id().unwrap_or_default().to_owned(),
        name: template.launch_template_name().unwrap_or_default().to_owned(),
        default: number(template.default_version_number()),
        latest: number(template.latest_version_number()),
    }
}

fn number(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}

fn version(version: &LaunchTemplateVersion) -> TemplateVersion {
    let data = version.launch_template_data();
    let text = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
    let interface = data.and_then(|data| data.network_interfaces().iter().find(|one| one.device_index() == Some(0)));
    let profile = data.and_then(|data| data.iam_instance_profile());
    TemplateVersion {
        template_id: version.launch_template_id().unwrap_or_default().to_owned(),
        number: number(version.version_number()),
        image_id: text(data.and_then(|data| data.image_id())),
        instance_type: data.and_then(|data| data.instance_type()).map(ToString::to_string),
        user_data: text(data.and_then(|data| data.user_data())).map(decoded),
        interface: text(interface.and_then(|interface| interface.network_interface_id())),
        instance_profile: text(profile.and_then(|profile| profile.arn().or_else(|| profile.name()))),
    }
}

/// Decodes base64; what is none stays as it is.
pub(super) fn decoded(text: String) -> Vec<u8> {
    // EC2 wraps console output.
    let packed: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(packed).unwrap_or_else(|_| text.into_bytes())
}
