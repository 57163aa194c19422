//! What a group launches from: a launch template, or a mixed instances policy, which names several.

use aws_sdk_autoscaling::types::{LaunchTemplateSpecification, MixedInstancesPolicy};

/// What a group launches from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSource {
    /// A launch configuration, or nothing.
    None,
    /// One version of a launch template.
    Template(TemplateChoice),
    /// A mixed instances policy.
    Mixed(MixedPolicy),
}

/// A launch template and which version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateChoice {
    /// `lt-…`
    pub id: String,
    /// The template's name.
    pub name: String,
    /// `7`, `$Latest` or `$Default`; where it is missing, AWS takes the default version.
    pub version: Option<String>,
}

/// A mixed instances policy.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedPolicy {
    /// The template of all instance types whose override names none.
    pub base: TemplateChoice,
    /// What differs for single instance types, in the policy's order.
    pub overrides: Vec<Override>,
    /// The whole policy: it is sent back with nothing lost.
    raw: Box<MixedInstancesPolicy>,
}

/// The SDK omits it because the policy holds fractions; AWS sends none that is not a number.
impl Eq for MixedPolicy {}

/// What a mixed instances policy changes for one instance type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The instance type, where the override names one (and not requirements).
    pub instance_type: Option<String>,
    /// Its own template.
    pub template: Option<TemplateChoice>,
    /// The image in the place of the template's.
    pub image: Option<String>,
}

impl TemplateSource {
    /// What a group launches from, by both parts of its description.
    pub fn new(template: Option<LaunchTemplateSpecification>, mixed: Option<MixedInstancesPolicy>) -> Self {
        match (mixed, template) {
            (Some(policy), _) => TemplateSource::Mixed(MixedPolicy::new(policy)),
            (None, Some(template)) => TemplateSource::Template(TemplateChoice::new(&template)),
            (None, None) => TemplateSource::None,
        }
    }

    /// The same with other versions: `number` names the one of each template, or `None` where it stays. A mixed instances policy
    /// keeps everything else.
    #[must_use]
    pub fn with_versions(&self, number: impl Fn(&TemplateChoice) -> Option<String>) -> TemplateSource {
        match self {
            TemplateSource::None => TemplateSource::None,
            TemplateSource::Template(choice) => TemplateSource::Template(TemplateChoice {
                version: number(choice).or_else(|| choice.version.clone()),
                ..choice.clone()
            }),
            TemplateSource::Mixed(policy) => {
                let mut raw = MixedInstancesPolicy::clone(&policy.raw);
                for template in specifications(&mut raw) {
                    template.version = number(&TemplateChoice::new(template)).or_else(|| template.version.take());
                }
                TemplateSource::Mixed(MixedPolicy::new(raw))
            }
        }
    }

    /// The instance types that the overrides of a mixed instances policy name, in the place of its templates'.
    pub fn instance_types(&self) -> Vec<&str> {
        self.overrides().iter().filter_map(|change| change.instance_type.as_deref()).collect()
    }

    /// The images that the overrides of a mixed instances policy name, in the place of its templates'.
    pub fn images(&self) -> Vec<&str> {
        self.overrides().iter().filter_map(|change| change.image.as_deref()).collect()
    }

    fn overrides(&self) -> &[Override] {
        match self {
            TemplateSource::None | TemplateSource::Template(_) => &[],
            TemplateSource::Mixed(policy) => &policy.overrides,
        }
    }

    /// All templates that it names: the base's, then those of the overrides.
    pub fn choices(&self) -> Vec<&TemplateChoice> {
        match self {
            TemplateSource::None => Vec::new(),
            TemplateSource::Template(choice) => vec![choice],
            TemplateSource::Mixed(policy) => {
                let overrides = policy.overrides.iter().filter_map(|change| change.template.as_ref());
                [&policy.base].into_iter().chain(overrides).collect()
            }
        }
    }
}

impl TemplateChoice {
    fn new(template: &LaunchTemplateSpecification) -> Self {
        TemplateChoice {
            id: template.launch_template_id().unwrap_or_default().to_owned(),
            name: template.launch_template_name().unwrap_or_default().to_owned(),
            version: template.version().map(str::to_owned),
        }
    }

    /// The template as a request names it.
    pub(super) fn specification(&self) -> LaunchTemplateSpecification {
        let template = LaunchTemplateSpecification::builder()
            .launch_template_id(&self.id)
            .launch_template_name(&self.name)
            .set_version(self.version.clone());
        named_once(template.build())
    }
}

impl MixedPolicy {
    fn new(raw: MixedInstancesPolicy) -> Self {
        let template = raw.launch_template();
        let base = template.and_then(|template| template.launch_template_specification());
        let base = base.cloned().unwrap_or_else(|| LaunchTemplateSpecification::builder().build());
        let overrides =
            template.map(aws_sdk_autoscaling::types::LaunchTemplate::overrides).unwrap_or_default().iter().map(
                |change| Override {
                    instance_type: change.instance_type().map(str::to_owned),
                    template: change.launch_template_specification().map(TemplateChoice::new),
                    image: change.image_id().map(str::to_owned),
                },
            );
        MixedPolicy { base: TemplateChoice::new(&base), overrides: overrides.collect(), raw: Box::new(raw) }
    }

    /// The policy as a request holds it.
    pub(super) fn request(&self) -> MixedInstancesPolicy {
        let mut policy = MixedInstancesPolicy::clone(&self.raw);
        for template in specifications(&mut policy) {
            *template = named_once(template.clone());
        }
        policy
    }
}

/// Auto Scaling describes a template by id and name, and accepts only one of them.
fn named_once(mut template: LaunchTemplateSpecification) -> LaunchTemplateSpecification {
    let has_id = template.launch_template_id().is_some_and(|id| !id.is_empty());
    if has_id {
        template.launch_template_name = None;
    } else {
        template.launch_template_id = None;
    }
    template
}

/// Every place where the policy names a template.
fn specifications(policy: &mut MixedInstancesPolicy) -> impl Iterator<Item = &mut LaunchTemplateSpecification> {
    let template = policy.launch_template.as_mut();
    template.into_iter().flat_map(|template| {
        let overrides = template.overrides.iter_mut().flatten();
        let of_overrides = overrides.filter_map(|change| change.launch_template_specification.as_mut());
        template.launch_template_specification.iter_mut().chain(of_overrides)
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_autoscaling::types::{
        InstanceRequirements, InstancesDistribution, LaunchTemplate, LaunchTemplateOverrides, VCpuCountRequest,
    };

    use super::*;

    fn named(id: &str, name: &str, version: &str) -> LaunchTemplateSpecification {
        let template = LaunchTemplateSpecification::builder().launch_template_id(id).launch_template_name(name);
        template.version(version).build()
    }

    /// A policy with what AWS allows in one: requirements, weights, an override's own template and image, a distribution.
    fn policy(base: LaunchTemplateSpecification, arm: LaunchTemplateSpecification) -> MixedInstancesPolicy {
        let overrides = [
            LaunchTemplateOverrides::builder().instance_type("m6i.large").weighted_capacity("2").build(),
            LaunchTemplateOverrides::builder().instance_type("m7g.large").launch_template_specification(arm).build(),
            LaunchTemplateOverrides::builder()
                .instance_requirements(
                    InstanceRequirements::builder().v_cpu_count(VCpuCountRequest::builder().min(2).build()).build(),
                )
                .image_id("ami-1")
                .build(),
        ];
        let distribution = InstancesDistribution::builder().on_demand_base_capacity(1).spot_max_price("0.1").build();
        let template =
            LaunchTemplate::builder().launch_template_specification(base).set_overrides(Some(overrides.into()));
        MixedInstancesPolicy::builder().launch_template(template.build()).instances_distribution(distribution).build()
    }

    #[test]
    fn a_mixed_policy_is_sent_back_whole_but_for_its_versions() {
        let before = policy(named("lt-1", "x86", "3"), named("lt-2", "arm", "$Latest"));
        let source = TemplateSource::new(None, Some(before));
        let next = |choice: &TemplateChoice| Some(if choice.id == "lt-1" { "4" } else { "8" }.to_owned());
        let TemplateSource::Mixed(after) = source.with_versions(next) else { panic!("another kind") };
        assert_eq!(*after.raw, policy(named("lt-1", "x86", "4"), named("lt-2", "arm", "8")));
        assert_eq!(after.base.version.as_deref(), Some("4"));
        // A request names each template by its id alone.
        let by_id = |id: &str, version: &str| {
            LaunchTemplateSpecification::builder().launch_template_id(id).version(version).build()
        };
        assert_eq!(after.request(), policy(by_id("lt-1", "4"), by_id("lt-2", "8")));
    }

    #[test]
    fn a_version_that_is_not_named_anew_stays() {
        let mixed = policy(named("lt-1", "x86", "3"), named("lt-2", "arm", "$Latest"));
        for source in [
            TemplateSource::new(None, Some(mixed)),
            TemplateSource::new(Some(named("lt-1", "x86", "3")), None),
            TemplateSource::new(None, None),
        ] {
            assert_eq!(source.with_versions(|_| None), source);
        }
    }

    #[test]
    fn all_templates_of_a_group_are_listed() {
        let mixed = TemplateSource::new(None, Some(policy(named("lt-1", "x86", "3"), named("lt-2", "arm", "$Latest"))));
        let listed: Vec<_> =
            mixed.choices().iter().map(|choice| (choice.id.as_str(), choice.version.as_deref())).collect();
        assert_eq!(listed, [("lt-1", Some("3")), ("lt-2", Some("$Latest"))]);
        let without_version = LaunchTemplateSpecification::builder().launch_template_name("one").build();
        let one = TemplateSource::new(Some(without_version), None);
        let [choice] = one.choices()[..] else { panic!("not one") };
        assert_eq!((choice.name.as_str(), &choice.version), ("one", &None));
        assert_eq!(choice.specification().launch_template_id(), None);
        assert_eq!(TemplateSource::None.choices(), Vec::<&TemplateChoice>::new());
    }
}
