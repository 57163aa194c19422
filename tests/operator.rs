//! The AWS calls of an operator's machine, against the simulated EC2: what is sent and read, what is sent once, and which
//! credentials are found.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ec2_sim::{
    Event, Fault, FaultRule, GroupSpec, HookSpec, ImageState, InterfaceSpec, Launches, MixedPolicy, Sim, SimConfig,
    Spread, TemplateChoice, TemplateSpec, TemplateVersion, VolumeSpec, What,
};
use node_agent::aws::autoscaling::LifecycleState;
use node_agent::aws::fleet::{Sent, TemplateSource};
use node_agent::aws::operator::Operator;
use node_agent::config::Groups;
use node_agent::failure::{Code, Failure};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const GROUP: &str = "kafka-00";
const TEMPLATE: &str = "lt-0123456789abcdef0";
const INTERFACE: &str = "eni-0123456789abcdef0";
const PATIENCE: Duration = Duration::from_secs(60);

/// A group of one that launches from version 1 of a template that has two, and an operator beside it.
struct World {
    sim: Sim,
    dir: TempDir,
    runtime: Runtime,
}

impl World {
    fn new() -> World {
        World::with(|_| {}, |_| {})
    }

    fn with(config: impl FnOnce(&mut SimConfig), group: impl FnOnce(&mut GroupSpec)) -> World {
        let dir = TempDir::new().unwrap();
        let mut settings = SimConfig { work_dir: dir.path().join("aws"), ..SimConfig::default() };
        config(&mut settings);
        let sim = Sim::start_blocking(settings).unwrap();
        let interface = InterfaceSpec { id: Some(INTERFACE.to_owned()), private_ips: vec!["10.0.1.20".to_owned()] };
        sim.create_interface(interface).unwrap();
        sim.create_template(TemplateSpec {
            name: "kafka".to_owned(),
            id: Some(TEMPLATE.to_owned()),
            versions: vec![version("one"), version("two")],
        })
        .unwrap();
        let mut launches = Launches { retry: Spread::from(Duration::from_millis(50)), ..Launches::default() };
        launches.instance.by_id_dir = dir.path().join("by-id");
        let mut spec = GroupSpec {
            name: GROUP.to_owned(),
            template: Some(TemplateChoice::new(TEMPLATE, "1")),
            launches: Some(launches),
            tags: [("cluster".to_owned(), "kafka".to_owned())].into(),
            ..GroupSpec::default()
        };
        group(&mut spec);
        sim.create_group(spec).unwrap();
        World { sim, dir, runtime: Runtime::new().unwrap() }
    }

    /// An operator whose credentials permit everything but these actions.
    fn operator(&self, denied: &[&str]) -> Operator {
        set(self.sim.operator_env(denied));
        self.runtime.block_on(Operator::connect(None)).unwrap()
    }

    fn run<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// The id of the group's first instance, once it is in service.
    fn in_service(&self) -> String {
        let came = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.to == "InService");
        match self.sim.wait_for_blocking(came, PATIENCE).expect("an instance in service").what {
            What::Lifecycle(change) => change.instance.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn fault(&self, rule: FaultRule) {
        self.sim.add_fault(rule).unwrap();
    }

    fn attempts(&self, action: &str) -> usize {
        self.sim.events().attempts(action).len()
    }
}

fn version(text: &str) -> TemplateVersion {
    TemplateVersion {
        image: format!("ami-{text}"),
        user_data: Some(text.as_bytes().to_vec()),
        interface: Some(INTERFACE.to_owned()),
        ..TemplateVersion::default()
    }
}

fn named() -> Groups {
    Groups::Named(vec![GROUP.to_owned(), "of-nobody".to_owned()])
}

/// Sets this process's environment as an operator's shell has it.
fn set(variables: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) {
    for (name, value) in variables {
        // SAFETY: the test runner gives each test a process of its own, in which the test's thread alone changes variables, and all
        // others read them by Rust's standard library, which locks them.
        unsafe { std::env::set_var(name.as_ref(), value.as_ref()) };
    }
}

fn is_without_the_nodes_remedy(failure: &Failure) {
    assert!(!failure.what_to_do().contains("node-agent"), "{failure}: {}", failure.what_to_do());
}

#[test]
fn a_group_and_its_node_are_shown_alike_by_both_describes() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);

    let tagged = Groups::Tagged { key: "cluster".to_owned(), value: "kafka".to_owned() };
    let [group] = &world.run(aws.autoscaling.fleet(&tagged)).unwrap()[..] else { panic!("not one group") };
    let [member] = &group.members[..] else { panic!("not one member") };

    assert_eq!((group.name.as_str(), group.min, group.max, group.desired), (GROUP, 1, 1, 1));
    assert_eq!(group.tags["cluster"], "kafka");
    assert!(!group.is_being_deleted && !group.retains && group.suspended.is_empty());
    assert_eq!(
        (member.instance_id.as_str(), &member.state, member.is_healthy),
        (id.as_str(), &LifecycleState::InService, true)
    );
    let template = member.template.clone().unwrap();
    assert_eq!((template.id.as_str(), template.name.as_str(), template.version.as_str()), (TEMPLATE, "kafka", "1"));
    let ids = [id.clone(), "i-00000000000000000".to_owned()];
    let members = world.run(aws.autoscaling.fleet_members(&ids)).unwrap();
    assert_eq!(members.into_iter().collect::<Vec<_>>(), [(id, (GROUP.to_owned(), member.clone()))]);
    assert_eq!(world.run(aws.autoscaling.fleet(&named())).unwrap()[0], *group);
}

#[test]
fn templates_interfaces_and_instances_are_described() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);

    // Unknown ones, first, last and in between, fail no call.
    let unknown = |number: u32| format!("lt-{number:017}");
    let ids = [unknown(1), unknown(2), TEMPLATE.to_owned(), unknown(3), unknown(4)];
    let templates = world.run(aws.ec2.templates(&ids)).unwrap();
    let shown: Vec<_> =
        templates.values().map(|one| (one.id.as_str(), one.name.as_str(), one.default, one.latest)).collect();
    assert_eq!(shown, [(TEMPLATE, "kafka", 1, 2)]);

    world.sim.set_parameter("/images/kafka", "ami-three");
    let alias = TemplateVersion { image: "resolve:ssm:/images/kafka".to_owned(), ..version("three") };
    world.sim.add_template_version(TEMPLATE, alias).unwrap();
    let versions = world.run(aws.ec2.template_versions(TEMPLATE, &[7, 3, 8, 1, 9])).unwrap();
    let shown: Vec<_> =
        versions.iter().map(|one| (one.number, one.image_id.as_deref(), one.user_data.as_deref())).collect();
    assert_eq!(shown, [(1, Some("ami-one"), Some(&b"one"[..])), (3, Some("ami-three"), Some(b"three"))]);
    assert_eq!(versions[0].interface.as_deref(), Some(INTERFACE));
    let failure = world.run(aws.ec2.template_versions(&unknown(1), &[9])).unwrap_err().to_string();
    assert!(failure.contains(&unknown(1)) && failure.contains('9'), "{failure}");

    let machines = world.run(aws.ec2.machines(&[id.clone(), "i-00000000000000000".to_owned()])).unwrap();
    let [machine] = &machines.into_values().collect::<Vec<_>>()[..] else { panic!("not one instance") };
    assert_eq!(
        (machine.id.as_str(), machine.state.as_str(), machine.image_id.as_str()),
        (id.as_str(), "running", "ami-one")
    );
    assert_eq!((machine.interface.as_deref(), machine.ip.as_deref()), (Some(INTERFACE), Some("10.0.1.20")));
    assert!(machine.launched > 0 && machine.volumes.is_empty(), "{machine:?}");
    let interface = world.run(aws.ec2.interface(INTERFACE)).unwrap().unwrap();
    assert_eq!((interface.status.as_str(), interface.instance_id), ("in-use", Some(id)));
    assert_eq!(world.run(aws.ec2.interface("eni-00000000000000000")).unwrap(), None);
}

#[test]
fn a_group_is_staged_tagged_and_its_node_terminated() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);
    let group = || world.run(aws.autoscaling.fleet(&named())).unwrap().remove(0);

    let to_two = group().template.with_versions(|_| Some("2".to_owned()));
    world.run(aws.autoscaling.set_template(GROUP, &to_two)).unwrap();
    assert_eq!(group().template, to_two);

    let tags = [(GROUP, "node-agent:roll", "mine"), (GROUP, "node-agent:roll-last", "old new")];
    world.run(aws.autoscaling.write_tags(&tags)).unwrap();
    world.run(aws.autoscaling.delete_tags(&[(GROUP, "node-agent:roll")])).unwrap();
    let tags: Vec<_> = group().tags.into_iter().collect();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(tags, [pair("cluster", "kafka"), pair("node-agent:roll-last", "old new")]);

    assert_eq!(world.run(aws.autoscaling.terminate(&id)).unwrap(), Sent::Accepted);
    let gone = world.run(aws.autoscaling.terminate("i-00000000000000000")).unwrap();
    assert!(matches!(gone, Sent::Gone(_)), "{gone:?}");
}

#[test]
fn a_mixed_policy_passes_through_the_wire_whole() {
    let world = World::with(
        |_| {},
        |group| {
            group.template = None;
            group.mixed = Some(MixedPolicy {
                base: TemplateChoice::new(TEMPLATE, "1"),
                overrides: vec![
                    ec2_sim::Override {
                        instance_type: Some("m6i.large".to_owned()),
                        weighted_capacity: Some("1".to_owned()),
                        ..ec2_sim::Override::default()
                    },
                    ec2_sim::Override {
                        instance_type: Some("m7g.large".to_owned()),
                        template: Some(TemplateChoice::new(TEMPLATE, "$Latest")),
                        ..ec2_sim::Override::default()
                    },
                ],
                distribution: [("OnDemandBaseCapacity".to_owned(), "1".to_owned())].into(),
                launches: 0,
            });
        },
    );
    world.in_service();
    let aws = world.operator(&[]);
    let read = || world.run(aws.autoscaling.fleet(&named())).unwrap().remove(0).template;

    let staged = read().with_versions(|_| Some("2".to_owned()));
    world.run(aws.autoscaling.set_template(GROUP, &staged)).unwrap();

    assert_eq!(read(), staged);
    assert!(staged.choices().iter().all(|choice| choice.version.as_deref() == Some("2")), "{staged:?}");
    assert_eq!(staged.choices().len(), 2);
}

#[test]
fn what_changes_a_cluster_is_sent_once() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);
    let template = world.run(aws.autoscaling.fleet(&named())).unwrap().remove(0).template;
    let (terminate, update, complete) = (
        "autoscaling:TerminateInstanceInAutoScalingGroup",
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:CompleteLifecycleAction",
    );

    for fault in [Fault::Throttling, Fault::ServerError, Fault::Reset] {
        for action in [update, terminate, complete] {
            world.fault(FaultRule::once(action, fault.clone()));
        }
        is_without_the_nodes_remedy(&world.run(aws.autoscaling.set_template(GROUP, &template)).unwrap_err());
        is_without_the_nodes_remedy(&world.run(aws.autoscaling.terminate(&id)).unwrap_err());
        let failure = world.run(aws.autoscaling.complete(GROUP, "hook", &id, "ABANDON")).err().unwrap();
        is_without_the_nodes_remedy(&failure);
    }
    assert_eq!([update, terminate, complete].map(|action| world.attempts(action)), [3; 3]);

    // Its effect is seen, its answer is not.
    world.fault(FaultRule::once(terminate, Fault::LostReply));
    assert_eq!(world.run(aws.autoscaling.terminate(&id)).unwrap_err().code, Code::ApiUnreachable);
    assert_eq!(world.attempts(terminate), 4);
}

#[test]
fn a_throttled_look_is_repeated() {
    let world = World::new();
    world.in_service();
    let aws = world.operator(&[]);
    let action = "autoscaling:DescribeAutoScalingGroups";

    world.fault(FaultRule::times(action, 3, Fault::Throttling));
    assert_eq!(world.run(aws.autoscaling.fleet(&named())).unwrap().len(), 1);
    assert_eq!(world.attempts(action), 4);
}

#[test]
fn a_busy_group_is_told_apart_from_a_refusal() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);
    let action = "autoscaling:TerminateInstanceInAutoScalingGroup";

    for (code, http) in [("ScalingActivityInProgress", 400), ("ResourceContention", 500)] {
        let message = format!("{code} says so");
        let fault = Fault::Error { http, code: code.to_owned(), message: message.clone() };
        world.fault(FaultRule::once(action, fault));
        assert_eq!(world.run(aws.autoscaling.terminate(&id)).unwrap(), Sent::Busy(message));
    }
    let fault =
        Fault::Error { http: 400, code: "ValidationError".to_owned(), message: "1 validation error".to_owned() };
    world.fault(FaultRule::once(action, fault));
    let failure = world.run(aws.autoscaling.terminate(&id)).unwrap_err();
    assert_eq!(failure.code, Code::ApiRefused);
    assert!(failure.to_string().contains(&id), "{failure}");
}

#[test]
fn a_denied_call_names_what_to_allow_to_whom() {
    let world = World::new();
    world.in_service();
    let aws = world.operator(&["autoscaling:UpdateAutoScalingGroup", "ec2:DescribeInstances"]);
    let template = world.run(aws.autoscaling.fleet(&named())).unwrap().remove(0).template;

    let failure = world.run(aws.ec2.machines(&["i-00000000000000000".to_owned()])).unwrap_err();
    assert_eq!(failure.code, Code::AccessDenied);
    assert!(
        failure.what_to_do().starts_with("allow ec2:DescribeInstances to these credentials"),
        "{}",
        failure.what_to_do()
    );
    is_without_the_nodes_remedy(&failure);
    let failure = world.run(aws.autoscaling.set_template(GROUP, &template)).unwrap_err();
    for needed in ["autoscaling:UpdateAutoScalingGroup", "ec2:RunInstances", "iam:PassRole", "ec2:CreateTags"] {
        assert!(failure.what_to_do().contains(needed), "{}", failure.what_to_do());
    }
    let failure = world.run(aws.autoscaling.set_template(GROUP, &TemplateSource::None)).unwrap_err();
    is_without_the_nodes_remedy(&failure);
}

#[test]
fn a_time_is_awss_and_not_this_machines() {
    let world = World::with(|config| config.clock_ahead_seconds = 200, |_| {});
    let aws = world.operator(&[]);
    assert_eq!(aws.clock.now(), None);

    world.run(aws.autoscaling.fleet(&named())).unwrap();
    let here = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let ahead = aws.clock.now().unwrap() - here;
    assert!((100..300).contains(&ahead), "{ahead} s ahead");
}

/// An AWS configuration with this profile, and none of the variables that go before it.
fn profile(dir: &Path, sim: &Sim, lines: &str) {
    let config = dir.join("config");
    fs::write(&config, format!("[profile ops]\nregion = eu-west-1\n{lines}\n")).unwrap();
    let (config, none) = (config.to_str().unwrap(), dir.join("none"));
    let endpoint = sim.api_url();
    set([
        ("AWS_CONFIG_FILE", config),
        ("AWS_SHARED_CREDENTIALS_FILE", none.to_str().unwrap()),
        ("AWS_PROFILE", "ops"),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("HOME", dir.to_str().unwrap()),
    ]);
}

#[test]
fn a_profiles_program_is_asked_anew_when_aws_refuses_its_credentials() {
    let world = World::new();
    world.in_service();
    let credentials = world.sim.static_credentials();
    let (program, runs) = (world.dir.path().join("credentials"), world.dir.path().join("runs"));
    let answer = format!(
        r#"{{"Version": 1, "AccessKeyId": "{}", "SecretAccessKey": "{}"}}"#,
        credentials.access_key_id, credentials.secret_access_key
    );
    fs::write(&program, format!("#!/bin/sh\necho run >> {}\ncat <<'E'\n{answer}\nE\n", runs.display())).unwrap();
    profile(world.dir.path(), &world.sim, &format!("credential_process = sh {}", program.display()));
    let runs = || fs::read_to_string(&runs).unwrap().lines().count();

    let aws = world.run(Operator::connect(None)).unwrap();
    assert_eq!((aws.region.as_str(), runs()), ("eu-west-1", 1));
    let fault = Fault::Error { http: 403, code: "ExpiredToken".to_owned(), message: "expired".to_owned() };
    world.fault(FaultRule::once("autoscaling:DescribeAutoScalingGroups", fault));
    // Credentials that were loaded less than a second before are not loaded anew.
    std::thread::sleep(Duration::from_millis(1_100));
    let failure = world.run(aws.autoscaling.fleet(&named())).unwrap_err();
    assert_eq!(failure.code, Code::Credentials);
    is_without_the_nodes_remedy(&failure);
    assert_eq!(world.run(aws.autoscaling.fleet(&named())).unwrap().len(), 1);
    assert_eq!(runs(), 2);
}

#[test]
fn a_missing_sign_in_or_region_is_told_before_anything_is_called() {
    let world = World::new();
    let lines = "sso_session = us\nsso_account_id = 123456789012\nsso_role_name = ops\n\n[sso-session us]\n\
                 sso_region = eu-west-1\nsso_start_url = https://example.awsapps.com/start";
    profile(world.dir.path(), &world.sim, lines);

    let failure = world.run(Operator::connect(None)).err().unwrap();
    assert_eq!(failure.code, Code::Credentials);
    // Without its support for SSO the SDK would speak of a feature.
    let text = failure.to_string();
    assert!(text.to_lowercase().contains("sso") && !text.contains("feature"), "{text}");
    for way in ["aws sts get-caller-identity", "AWS_PROFILE", "aws sso login"] {
        assert!(failure.what_to_do().contains(way), "{}", failure.what_to_do());
    }

    set([("AWS_PROFILE", "of-nobody")]);
    let failure = world.run(Operator::connect(None)).err().unwrap();
    assert!(failure.to_string().contains("AWS_REGION") && failure.what_to_do().contains("AWS_PROFILE"), "{failure}");
    assert_eq!(world.run(Operator::connect(Some("eu-west-1"))).err().unwrap().code, Code::Credentials);
    assert!(world.sim.events().attempts("*").is_empty());
}

#[test]
fn a_hook_of_a_held_node_is_read_and_abandoned() {
    let hook = HookSpec { name: "launch".to_owned(), ..HookSpec::default() };
    let world = World::with(|_| {}, |group| group.hooks = vec![hook]);
    let aws = world.operator(&[]);
    let waits = |event: &Event| matches!(&event.what, What::Lifecycle(change) if change.to == "Pending:Wait");
    let What::Lifecycle(change) = world.sim.wait_for_blocking(waits, PATIENCE).unwrap().what else {
        panic!("no change")
    };

    let hook = world.run(aws.autoscaling.hook(GROUP, "launch")).unwrap().unwrap();
    assert!(hook.is_for_launches());
    drop(world.run(aws.autoscaling.complete(GROUP, "launch", &change.instance.to_string(), "ABANDON")).unwrap());
    assert_eq!(world.attempts("autoscaling:CompleteLifecycleAction"), 1);
}

#[test]
fn what_keeps_a_group_from_replacing_its_node_is_read() {
    let world = World::with(
        |_| {},
        |group| {
            group.suspended = [("Terminate".to_owned(), "User suspended at 2026-01-02T03:04:05Z".to_owned())].into();
            group.maintenance_policy = Some((100, 110));
            group.zonal_shift = Some("IgnoreUnhealthy".to_owned());
            group.refresh = Some("InProgress".to_owned());
            group.retains = true;
        },
    );
    let id = world.in_service();
    world.sim.set_protection(&id.as_str().into(), true).unwrap();
    let aws = world.operator(&[]);

    let group = world.run(aws.autoscaling.fleet(&named())).unwrap().remove(0);
    assert_eq!(group.suspended["Terminate"], "User suspended at 2026-01-02T03:04:05Z");
    assert_eq!(group.maintenance_policy, Some((Some(100), Some(110))));
    assert!(
        group.zonal_shift && group.ignores_unhealthy && group.retains && group.members[0].is_protected,
        "{group:?}"
    );
    assert_eq!(group.zones, ["eu-west-1a"]);
    let refresh = || world.run(aws.autoscaling.refresh_at_work(GROUP)).unwrap();
    assert_eq!(refresh().as_deref(), Some("InProgress"));
    for over in [Some("Successful".to_owned()), Some("RollbackFailed".to_owned()), None] {
        world.sim.change_group(GROUP, |group| group.refresh = over).unwrap();
        assert_eq!(refresh(), None);
    }
    let launches_first = || world.run(aws.autoscaling.launches_before_terminate()).unwrap();
    assert_eq!(launches_first(), Some(false));
    world.sim.set_launch_before_terminate(true);
    assert_eq!(launches_first(), Some(true));
}

#[test]
fn a_failed_launch_is_told_in_awss_words_and_the_newest_first() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);

    assert_eq!(world.run(aws.autoscaling.terminate(&id)).unwrap(), Sent::Accepted);
    let fails = |event: &Event| matches!(&event.what, What::Activity(activity) if activity.instance.is_none());
    world.sim.wait_for_blocking(fails, PATIENCE).unwrap();
    let activities = world.run(aws.autoscaling.activities(GROUP, 100)).unwrap();

    let failed = activities.iter().find(|activity| activity.status == "Failed").unwrap();
    assert_eq!(failed.message, format!("Interface: [{INTERFACE}] in use. Launching EC2 instance failed."));
    assert!(failed.ended.unwrap() >= failed.started && failed.started > 0, "{failed:?}");
    assert!(activities.is_sorted_by(|newer, older| newer.started >= older.started), "{activities:#?}");
    let first = activities.last().unwrap();
    assert!(first.description.contains(&id) && !first.cause.is_empty(), "{first:?}");
    assert_eq!(world.run(aws.autoscaling.activities(GROUP, 1)).unwrap().len(), 1);
}

#[test]
fn images_offerings_and_consoles_are_read_and_snapshots_taken_once() {
    let world = World::new();
    let id = world.in_service();
    let aws = world.operator(&[]);

    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let images = || world.run(aws.ec2.images(&named(&["ami-one", "ami-two", "one"]))).unwrap();
    let available = |name: &str| (name.to_owned(), "available".to_owned());
    world.sim.set_image("ami-one", ImageState::Available);
    world.sim.set_image("ami-two", ImageState::Available);
    assert_eq!(images(), [available("ami-one"), available("ami-two")].into());
    world.sim.set_image("ami-one", ImageState::Pending);
    assert_eq!(images()["ami-one"], "pending");
    world.sim.set_image("ami-one", ImageState::Absent);
    assert_eq!(images(), [available("ami-two")].into());

    let offered = || world.run(aws.ec2.offered(&named(&["m6i.large", "c5.large"]), &named(&["eu-west-1a"]))).unwrap();
    let both = offered();
    assert_eq!(both.len(), 2, "{both:?}");
    world.sim.set_offered("m6i.large", "eu-west-1a", false);
    assert_eq!(offered(), [("c5.large".to_owned(), "eu-west-1a".to_owned())].into());

    assert_eq!(world.run(aws.ec2.console(&id)).unwrap(), None);
    world.sim.set_console(&id.as_str().into(), "booting\nnode-agent: held\n");
    assert_eq!(world.run(aws.ec2.console(&id)).unwrap().as_deref(), Some("booting\nnode-agent: held\n"));
    assert_eq!(world.run(aws.ec2.console("i-00000000000000000")).unwrap(), None);

    let volume = world.sim.create_volume(VolumeSpec { size_bytes: 1 << 20, ..VolumeSpec::default() }).unwrap();
    let take = || world.run(aws.ec2.snapshot(&volume, "before the roll", &[("node-agent:run", "r1")]));
    world.fault(FaultRule::once("ec2:CreateSnapshot", Fault::LostReply));
    assert_eq!(take().unwrap_err().code, Code::ApiUnreachable);
    assert_eq!(world.sim.snapshots().len(), 1);
    let snapshot = take().unwrap();
    let taken = world.sim.snapshots();
    assert_eq!((&taken[1].id, taken[1].tags["node-agent:run"].as_str()), (&snapshot, "r1"));
    let aws = world.operator(&["ec2:CreateTags"]);
    let failure = world.run(aws.ec2.snapshot(&volume, "", &[("node-agent:run", "r1")])).unwrap_err();
    assert!(failure.what_to_do().contains("ec2:CreateTags"), "{}", failure.what_to_do());
}
