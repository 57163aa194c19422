//! A group that launches from a launch template.

use std::collections::BTreeMap;

use ec2_sim::{
    Event, GroupSpec, InstanceId, InterfaceSpec, Launches, Sim, SimConfig, Spread, TemplateChoice, TemplateSpec,
    TemplateVersion, What,
};

use super::{Client, GROUP, PATIENCE, Reply, block_on, quick};

pub(crate) const TEMPLATE: &str = "lt-0123456789abcdef0";

/// A group of one that launches from a template with two versions, and whose first node is in service.
pub(crate) struct Fleet {
    pub(crate) sim: Sim,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Client,
}

impl Fleet {
    pub(crate) fn new(change: impl FnOnce(&mut GroupSpec)) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let config = SimConfig { work_dir: dir.path().join("world"), latencies: quick(), ..SimConfig::default() };
        let sim = Sim::start_blocking(config).unwrap();
        let client = Client { url: sim.api_url(), credentials: sim.static_credentials(), stamp: None };
        let interface = InterfaceSpec { id: Some("eni-0a".to_owned()), private_ips: vec!["10.0.1.20".to_owned()] };
        let interface = sim.create_interface(interface).unwrap();
        let version = |text: &str| TemplateVersion {
            image: format!("ami-{text}"),
            user_data: Some(text.as_bytes().to_vec()),
            interface: Some(interface.clone()),
            tags: BTreeMap::from([("version".to_owned(), text.to_owned())]),
            ..TemplateVersion::default()
        };
        sim.create_template(TemplateSpec {
            name: "kafka".to_owned(),
            id: Some(TEMPLATE.to_owned()),
            versions: vec![version("one")],
        })
        .unwrap();
        assert_eq!(sim.add_template_version("kafka", version("two")).unwrap(), 2);
        let mut launches =
            Launches { retry: Spread::from(std::time::Duration::from_millis(20)), ..Launches::default() };
        launches.instance.by_id_dir = dir.path().join("by-id");
        let mut group = GroupSpec {
            name: GROUP.to_owned(),
            template: Some(TemplateChoice::new(TEMPLATE, "1")),
            launches: Some(launches),
            ..GroupSpec::default()
        };
        change(&mut group);
        sim.create_group(group).unwrap();
        Self { sim, dir, client }
    }

    /// The instance that came into service as the n-th.
    pub(crate) fn in_service(&self, nth: usize) -> InstanceId {
        let mut seen = 0;
        let wanted = |event: &Event| {
            let came = matches!(&event.what, What::Lifecycle(change) if change.to == "InService");
            seen += usize::from(came);
            came && seen > nth
        };
        match block_on(self.sim.wait_for(wanted, PATIENCE)).expect("an instance in service").what {
            What::Lifecycle(change) => change.instance.into(),
            other => panic!("{other:?}"),
        }
    }

    /// The first event like this, past ones included.
    pub(crate) fn wait(&self, mut wanted: impl FnMut(&What) -> bool) -> What {
        block_on(self.sim.wait_for(|event: &Event| wanted(&event.what), PATIENCE)).expect("an event").what
    }

    pub(crate) fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Reply {
        let of_ec2 = ["Image", "DescribeInstances", "LaunchTemplate", "NetworkInterface", "Offering", "Console"];
        let service = if of_ec2.iter().any(|word| action.contains(word)) { "ec2" } else { "autoscaling" };
        self.client.call(service, action, parameters).unwrap()
    }

    pub(crate) fn group(&self) -> String {
        self.call("DescribeAutoScalingGroups", &[("AutoScalingGroupNames.member.1", GROUP)]).text()
    }

    pub(crate) fn update(&self, parameters: &[(&str, &str)]) -> Reply {
        self.call("UpdateAutoScalingGroup", &[&[("AutoScalingGroupName", GROUP)], parameters].concat())
    }

    pub(crate) fn terminate(&self, instance: &InstanceId) {
        let parameters = [("InstanceId", instance.as_str()), ("ShouldDecrementDesiredCapacity", "false")];
        assert_eq!(self.call("TerminateInstanceInAutoScalingGroup", &parameters).status, 200);
    }
}

pub(crate) fn must_have(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}
