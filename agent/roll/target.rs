//! What the nodes shall run: each group's launch template at a version, resolved to a number once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::aws::fleet::FleetMember;
use crate::aws::fleet::{TemplateChoice, TemplateSource};
use crate::aws::machines::Machine;
use crate::aws::templates::Template;

/// AWS's words for versions that move by themselves.
pub(crate) const LATEST: &str = "$Latest";
pub(crate) const DEFAULT: &str = "$Default";

/// `--to`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Each template's newest version.
    Latest,
    /// What each group ran before its last roll.
    Previous,
    Number(u64),
    /// This node's own.
    Node(String, u64),
}

impl std::str::FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.parse().map_err(|_| format!("{text:?}: latest, previous, a number or NODE=NUMBER"));
        match text.rsplit_once('=') {
            _ if text == "latest" => Ok(To::Latest),
            _ if text == "previous" => Ok(To::Previous),
            Some((node, version)) => Ok(To::Node(node.to_owned(), number(version)?)),
            None => number(text).map(To::Number),
        }
    }
}

/// What one group's node shall run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupTarget {
    /// The version of each launch template that the group names, by the template's id; a mixed instances policy may name several.
    pub(crate) versions: BTreeMap<String, u64>,
    /// The image of each, where it is known.
    pub(crate) images: BTreeMap<String, String>,
    /// Those that overrides of a mixed instances policy name, in the place of the templates'.
    pub(crate) override_images: BTreeSet<String>,
    /// The template's own version: the one of a group without a mixed instances policy.
    pub(crate) number: u64,
}

/// How the running instance differs from the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outdated {
    /// It was not launched from a launch template.
    NoTemplate,
    /// From another one.
    Template(String),
    /// From this version of it.
    Version(String),
    /// Its image is another than the version's: its root volume was replaced.
    Image { runs: String, wanted: String },
}

impl fmt::Display for Outdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outdated::NoTemplate => f.write_str("was launched without a launch template"),
            Outdated::Template(id) => write!(f, "runs launch template {id}"),
            Outdated::Version(version) => write!(f, "runs version {version}"),
            Outdated::Image { runs, wanted } => write!(f, "runs image {runs} instead of {wanted}"),
        }
    }
}

/// What a group would launch now, against the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Staged {
    /// The target.
    Target,
    /// Another version.
    Other,
    /// A version that moves by itself, and is the target now.
    Floating(&'static str),
    /// A version that moves by itself, and is not the target.
    Astray(&'static str, u64),
    /// The group has no launch template.
    Nothing,
}

/// The word of a version that moves by itself.
pub(crate) fn floating(choice: &TemplateChoice) -> Option<&'static str> {
    match choice.version.as_deref() {
        Some(LATEST) => Some(LATEST),
        // Auto Scaling API reference, `LaunchTemplateSpecification`: without a version it is the default one.
        Some(DEFAULT) | None => Some(DEFAULT),
        Some(_) => None,
    }
}

/// The number that a group's choice stands for now.
pub(crate) fn resolve(choice: &TemplateChoice, templates: &BTreeMap<String, Template>) -> Option<u64> {
    let template = || templates.get(&choice.id);
    match floating(choice) {
        Some(LATEST) => Some(template()?.latest),
        Some(_) => Some(template()?.default),
        None => choice.version.as_deref()?.parse().ok(),
    }
}

impl GroupTarget {
    /// How this member differs from the target; none where it is current.
    pub(crate) fn outdated(&self, member: &FleetMember, machine: Option<&Machine>) -> Option<Outdated> {
        let Some(runs) = &member.template else { return Some(Outdated::NoTemplate) };
        let Some(wanted) = self.versions.get(&runs.id) else { return Some(Outdated::Template(runs.id.clone())) };
        // A version that is no number is not known, and never taken for current.
        if runs.version.parse() != Ok(*wanted) {
            return Some(Outdated::Version(runs.version.clone()));
        }
        let (image, machine) = (self.images.get(&runs.id)?, machine?);
        let is_wanted = machine.image_id == *image || self.override_images.contains(&machine.image_id);
        (!is_wanted).then(|| Outdated::Image { runs: machine.image_id.clone(), wanted: image.clone() })
    }

    /// What the group would launch now.
    pub(crate) fn staged(&self, source: &TemplateSource, templates: &BTreeMap<String, Template>) -> Staged {
        let choices = source.choices();
        if choices.is_empty() {
            return Staged::Nothing;
        }
        let is_target = |choice: &TemplateChoice| resolve(choice, templates) == self.versions.get(&choice.id).copied();
        let moving = choices.iter().find_map(|choice| Some((floating(choice)?, *choice)));
        match moving {
            Some((word, _)) if choices.iter().all(|choice| is_target(choice)) => Staged::Floating(word),
            Some((word, choice)) => Staged::Astray(word, resolve(choice, templates).unwrap_or_default()),
            None if choices.iter().all(|choice| is_target(choice)) => Staged::Target,
            None => Staged::Other,
        }
    }

    /// The group's source, set to the target.
    pub(crate) fn source(&self, source: &TemplateSource) -> TemplateSource {
        source.with_versions(|choice| self.versions.get(&choice.id).map(ToString::to_string))
    }
}
