//! Launch templates, and what a group makes of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::config::{GroupSpec, text_bytes};
use crate::error::ApiError;
use crate::ids::random_hex;
use crate::light::LightNode;
use crate::world::{IMAGE, TYPE, World};

/// What an image begins with that is named by a parameter of Systems Manager.
const BY_PARAMETER: &str = "resolve:ssm:";

/// A launch template to make.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateSpec {
    /// Its name.
    pub name: String,
    /// The identifier, `lt-…`; random where absent.
    pub id: Option<String>,
    /// Its versions, from 1. The first one is the default.
    pub versions: Vec<TemplateVersion>,
}

/// A version of a launch template.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateVersion {
    /// `ami-…`, or `resolve:ssm:PARAMETER`, which [`crate::Sim::set_parameter`] has set.
    pub image: String,
    /// The instance type.
    pub instance_type: String,
    /// The user data, raw.
    #[serde(deserialize_with = "text_bytes")]
    pub user_data: Option<Vec<u8>>,
    /// The network interface that was made before, `eni-…`.
    pub interface: Option<String>,
    /// What is said of the tags of instances.
    pub tags: BTreeMap<String, String>,
    /// The instance profile, which is the role, too.
    pub instance_profile: Option<String>,
    /// How its instances behave, where the simulator plays their agent; no part of the template that EC2 shows.
    pub launch: Option<LightNode>,
}

impl Default for TemplateVersion {
    fn default() -> Self {
        Self {
            image: IMAGE.to_owned(),
            instance_type: TYPE.to_owned(),
            user_data: None,
            interface: None,
            tags: BTreeMap::new(),
            instance_profile: None,
            launch: None,
        }
    }
}

/// Which version of which template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateChoice {
    /// Its identifier or its name.
    pub template: String,
    /// A number, `$Latest` or `$Default`.
    pub version: String,
}

impl TemplateChoice {
    /// This version of this template.
    pub fn new(template: &str, version: &str) -> Self {
        Self { template: template.to_owned(), version: version.to_owned() }
    }
}

/// A group's mixed instances policy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedPolicy {
    /// The template of every override that has none of its own.
    pub base: TemplateChoice,
    /// The overrides.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// Its `InstancesDistribution`, by the names of its fields.
    #[serde(default)]
    pub distribution: BTreeMap<String, String>,
    /// Which override is launched.
    #[serde(default)]
    pub launches: usize,
}

/// An override of a mixed instances policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Override {
    /// The instance type in place of the template's.
    pub instance_type: Option<String>,
    /// How much of the capacity such an instance is.
    pub weighted_capacity: Option<String>,
    /// A template of its own.
    pub template: Option<TemplateChoice>,
    /// The image in place of the template's.
    pub image: Option<String>,
}

/// The version that an instance was launched from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchedFrom {
    /// The template's identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The number of the version.
    pub version: u64,
}

/// A launch template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) versions: Vec<TemplateVersion>,
    /// The number of the default version.
    pub(crate) default: u64,
    pub(crate) created: OffsetDateTime,
}

impl Template {
    pub(crate) fn new(spec: TemplateSpec, created: OffsetDateTime) -> Self {
        let id = spec.id.unwrap_or_else(|| format!("lt-{}", random_hex(17)));
        Self { id, name: spec.name, versions: spec.versions, default: 1, created }
    }

    pub(crate) fn latest(&self) -> u64 {
        self.versions.len() as u64
    }

    /// The number and the content of a version, by its number or by `$Latest` or `$Default`.
    pub(crate) fn version(&self, version: &str) -> Result<(u64, &TemplateVersion), ApiError> {
        let number = match version {
            "$Latest" => self.latest(),
            "$Default" => self.default,
            _ => version.parse().map_err(|_| {
                let message = format!("Invalid launch template version: '{version}' is not a valid version number.");
                ApiError::client("InvalidLaunchTemplateVersion.Malformed", message)
            })?,
        };
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let found = place.and_then(|place| self.versions.get(place)).ok_or_else(|| {
            let message =
                format!("Could not find the specified version {number} for the launch template with ID {}.", self.id);
            ApiError::client("InvalidLaunchTemplateId.VersionNotFound", message)
        })?;
        Ok((number, found))
    }
}

/// What a group would launch now.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) from: LaunchedFrom,
    /// With its image resolved, and type and image of the override in force.
    pub(crate) version: TemplateVersion,
    pub(crate) weighted_capacity: Option<String>,
}

/// The version that the group launches; none where it has no template. An error is the text of the failed activity.
pub(crate) fn in_force(world: &World, group: &GroupSpec) -> Option<Result<Resolved, String>> {
    let mixed = group.mixed.as_ref();
    let chosen = mixed.and_then(|mixed| mixed.overrides.get(mixed.launches)).cloned().unwrap_or_default();
    let choice =
        chosen.template.or_else(|| mixed.map(|mixed| mixed.base.clone())).or_else(|| group.template.clone())?;
    let resolve = || {
        let template = world.template(&choice.template).ok_or_else(|| {
            format!("The launch template '{}' does not exist. Launching EC2 instance failed.", choice.template)
        })?;
        let (number, version) = template
            .version(&choice.version)
            .map_err(|error| format!("{} Launching EC2 instance failed.", error.message))?;
        let mut version = version.clone();
        version.instance_type = chosen.instance_type.unwrap_or(version.instance_type);
        version.image = image(world, &chosen.image.unwrap_or(version.image))?;
        let from = LaunchedFrom { id: template.id.clone(), name: template.name.clone(), version: number };
        Ok(Resolved { from, version, weighted_capacity: chosen.weighted_capacity })
    };
    Some(resolve())
}

/// The image's identifier.
pub(crate) fn image(world: &World, image: &str) -> Result<String, String> {
    let Some(parameter) = image.strip_prefix(BY_PARAMETER) else { return Ok(image.to_owned()) };
    world.parameters.get(parameter).cloned().ok_or_else(|| {
        format!("The SSM parameter '{parameter}' that the launch template names was not found. Launching EC2 instance failed.")
    })
}
