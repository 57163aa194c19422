//! What a group launches boots a machine with the real agent, and is replaced by another one.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::fleet::Fleet as Group;
use common::{GROUP, HOOK, hook};
use ec2_sim::fleet::{Fleet, FleetSettings};
use ec2_sim::machine::Machine;
use ec2_sim::{GroupSpec, InstanceId, TemplateVersion, Transition, VolumeSpec, What};

/// Longer than a boot takes on a busy machine.
const STUCK: Duration = Duration::from_mins(2);

/// The health check leaves a process behind, as a cluster's own daemon would be.
const HOOKS: &str = r#"
configure_cluster_node() { echo "version VERSION of $1" > /mydata/version; }
wait_for_healthy_cluster() { cat /mydata/version; setsid sleep 1000 < /dev/null > /dev/null 2>&1 & }
drain_cluster_node() { echo draining; }
"#;

/// The agent that `NODE_AGENT` names, or else the one that was built beside this test.
fn agent() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let beside = test.ancestors().nth(2).unwrap().join("node-agent");
    let agent = std::env::var_os("NODE_AGENT").map_or(beside, PathBuf::from);
    assert!(agent.exists(), "{} is not there: build the workspace", agent.display());
    agent
}

fn user_data(volume: &str, version: u64) -> Vec<u8> {
    let text = format!(
        r#"
[node]
id = "00"
ip = "10.0.1.20"

[lifecycle]
asg_name = "{GROUP}"
hook_name = "{HOOK}"
terminate_hook_name = "terminate-hook"

[[volume]]
id = "{volume}"
mount_path = "/mydata"
file_system = "ext4"

[hooks]
script = "/usr/local/lib/hooks-{version}.sh"
drain = "drain_cluster_node"
"#
    );
    text.into_bytes()
}

fn prepare(_: &InstanceId, machine: &mut Machine) -> std::io::Result<()> {
    machine.inside(|| {
        std::fs::create_dir_all("/usr/local/lib")?;
        (3..=4).try_for_each(|version| {
            let hooks = HOOKS.replace("VERSION", &version.to_string());
            std::fs::write(format!("/usr/local/lib/hooks-{version}.sh"), hooks)
        })
    })?
}

#[test]
fn a_group_runs_the_real_agent_and_its_replacement_has_the_new_version() {
    let group = Group::new(|group| {
        group.wants = 0;
        group.hooks = vec![hook(Transition::Launching), hook(Transition::Terminating)];
        group.launches.as_mut().unwrap().instance.by_id_dir = PathBuf::new();
    });
    let volume = group.sim.create_volume(VolumeSpec::default()).unwrap();
    for number in [3, 4] {
        let user_data = Some(user_data(&volume, number));
        let version = TemplateVersion { user_data, interface: Some("eni-0a".to_owned()), ..TemplateVersion::default() };
        assert_eq!(group.sim.add_template_version("kafka", version).unwrap(), number);
    }
    let settings =
        FleetSettings { prepare: Box::new(prepare), ..FleetSettings::new(agent(), group.dir.path().join("fleet")) };
    let fleet = Fleet::start(&group.sim, settings).unwrap();

    group.update(&[("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "3")]);
    group.sim.change_group(GROUP, |spec: &mut GroupSpec| spec.wants = 1).unwrap();
    let first = in_service(&group, &fleet, None);
    assert!(fleet.log(&first).contains("version 3 of 00"), "{}", fleet.log(&first));
    assert_eq!(fleet.on(&first, |machine| machine.read("/etc/fstab").unwrap().contains("/mydata")), Some(true));

    group.update(&[("LaunchTemplate.LaunchTemplateName", "kafka"), ("LaunchTemplate.Version", "4")]);
    group.terminate(&first);
    let second = in_service(&group, &fleet, Some(&first));
    assert!(fleet.log(&first).contains("draining"), "{}", fleet.log(&first));
    assert!(fleet.log(&second).contains("version 4 of 00"), "{}", fleet.log(&second));
    assert_eq!(fleet.instances(), [second]);
}

/// The member that came into service and is not the old one.
fn in_service(group: &Group, fleet: &Fleet, old: Option<&InstanceId>) -> InstanceId {
    let begun = Instant::now();
    loop {
        let events = group.sim.events();
        let came = events.iter().filter_map(|event| match &event.what {
            What::Lifecycle(change) if change.to == "InService" => Some(InstanceId::from(change.instance.as_str())),
            _ => None,
        });
        if let Some(new) = came.into_iter().find(|id| Some(id) != old) {
            return new;
        }
        assert!(begun.elapsed() < STUCK, "{}", story(group, fleet));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the groups and the agents did, for a test that fails.
fn story(group: &Group, fleet: &Fleet) -> String {
    let mut story = String::new();
    for event in group.sim.events().iter() {
        match &event.what {
            What::Lifecycle(change) => writeln!(story, "{:.1} {}: {}", event.t, change.instance, change.to).unwrap(),
            What::Activity(activity) => writeln!(story, "{:.1} {}", event.t, activity.status).unwrap(),
            What::Instance(change) => {
                writeln!(
                    story,
                    "{:.1} {}: {}\n{}",
                    event.t,
                    change.id,
                    change.to,
                    fleet.log(&change.id.as_str().into())
                )
                .unwrap();
            }
            _ => {}
        }
    }
    story
}
