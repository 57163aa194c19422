//! What a roll refuses before it takes anything: each with its reason, and lifted by its own word alone.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use cluster::witness::changes;
use cluster::{Behaviour, Cluster, Healthy, Rolling, group};
use ec2_sim::{ImageState, TemplateVersion};

/// The override of a list of one group: all of these groups are of one cluster.
const ALONE: &str = "partial-list";
const ZONE: &str = "eu-west-1a";
/// AWS's reason where a group's launches have failed for a day.
const ADMINISTRATIVE: &str = "Administrative suspension: Launch has failed for over 24 hours";

/// How a group breaks a rule, what the refusal says, and the override; none where there is none.
type Defect = (fn(&Cluster, usize), &'static str, Option<&'static str>);

fn suspend(cluster: &Cluster, number: usize, process: &str, reason: &str) {
    cluster.change(number, |spec| drop(spec.suspended.insert(process.to_owned(), reason.to_owned())));
}

/// Publishes another version for one node.
fn publish(cluster: &Cluster, number: usize, change: impl FnOnce(&mut TemplateVersion)) {
    let mut version = cluster.version(number, "ami-2", Healthy);
    change(&mut version);
    cluster.publish_for(number, version);
}

/// A node's configuration, with its data on this volume.
fn config(number: usize, volume: &str) -> String {
    format!(
        "[node]\nid = \"{number:02}\"\nip = \"10.0.1.{}\"\n\n[lifecycle]\nasg_name = \"{}\"\nhook_name = \"launch-hook\"\n\n[[volume]]\n\
         id = \"{volume}\"\nmount_path = \"/mydata\"\nfile_system = \"xfs\"\n\n[hooks]\nscript = \"/opt/hooks.sh\"\n",
        10 + number,
        group(number)
    )
}

const OWN_VOLUME: &str = "vol-0aaaaaaaaaaaaaaaa";
const OTHER_VOLUME: &str = "vol-0bbbbbbbbbbbbbbbb";

fn another_volume(cluster: &Cluster, number: usize) {
    let mut runs = cluster.version(number, "ami-1", Healthy);
    runs.user_data = Some(config(number, OWN_VOLUME).into());
    cluster.run_version(number, runs);
    publish(cluster, number, |version| version.user_data = Some(config(number, OTHER_VOLUME).into()));
}

fn invalid_configuration(cluster: &Cluster, number: usize) {
    let text = config(number, OWN_VOLUME).replace("xfs", "btrfs");
    publish(cluster, number, |version| version.user_data = Some(text.into()));
}

const DEFECTS: [Defect; 13] = [
    (|cluster, at| suspend(cluster, at, "Launch", ADMINISTRATIVE), ADMINISTRATIVE, Some("suspended-process")),
    (|c, at| suspend(c, at, "Launch", ""), "the process Launch is suspended", Some("suspended-process")),
    (|c, at| suspend(c, at, "Terminate", ""), "the process Terminate is suspended", Some("suspended-process")),
    (|c, at| suspend(c, at, "HealthCheck", ""), "the process HealthCheck is suspended", Some("suspended-process")),
    (
        |c, at| suspend(c, at, "ReplaceUnhealthy", ""),
        "the process ReplaceUnhealthy is suspended",
        Some("suspended-process"),
    ),
    (
        |c, at| c.change(at, |spec| spec.refresh = Some("InProgress".to_owned())),
        "an instance refresh is at work (InProgress)",
        Some("refresh"),
    ),
    (
        |c, at| publish(c, at, |version| version.image = "ami-gone".to_owned()),
        "the image ami-gone of version 3 does not exist",
        Some("image"),
    ),
    (
        |c, at| publish(c, at, |version| version.image = "ami-new".to_owned()),
        "the image ami-new of version 3 is pending",
        Some("image"),
    ),
    (
        |c, at| publish(c, at, |version| version.image = "resolve:ssm:/images/gone".to_owned()),
        "the image ami-gone of version 3 does not exist",
        Some("image"),
    ),
    (
        |c, at| publish(c, at, |version| version.instance_type = "m9i.large".to_owned()),
        "the instance type m9i.large of version 3 is not offered in eu-west-1a",
        None,
    ),
    (
        |c, at| publish(c, at, |version| version.interface = None),
        "version 3 names no network interface, the node has eni-",
        Some("interface"),
    ),
    (another_volume, "mounts vol-0bbbbbbbbbbbbbbbb at /mydata, the node has vol-0aaaaaaaaaaaaaaaa", Some("volume")),
    (invalid_configuration, "the configuration of version 3 is invalid: ", Some("config")),
];

/// Rolls one group, a list of its own.
fn roll(cluster: &Cluster, number: usize, more: &[&str]) -> Rolling {
    let name = group(number);
    cluster.start(&[], &[&["--asg", name.as_str(), "--override", ALONE], more].concat())
}

/// A refusal with this reason and this word, and a dry run with the override.
fn must_refuse(cluster: &Cluster, cases: &[(usize, &str, Option<&str>)]) {
    let both = |(number, _, word): &(usize, &str, Option<&str>)| {
        let lifted = word.map(|word| roll(cluster, *number, &["--override", word]));
        (roll(cluster, *number, &["--yes"]), lifted)
    };
    // All at once: they mostly wait.
    let rolls: Vec<_> = cases.iter().map(both).collect();
    for ((number, says, word), (refused, lifted)) in cases.iter().zip(rolls) {
        let log = refused.must_end(6);
        assert!(log.contains(&format!("{}: ", group(*number))) && log.contains(says), "{says:?} is missing:\n{log}");
        match (word, lifted) {
            (Some(word), Some(lifted)) => {
                assert!(log.contains(&format!("--override {word}")), "{log}");
                let log = lifted.must_end(0);
                assert!(log.contains(&format!("overridden ({word}): ")) && log.contains(says), "{log}");
                assert!(log.contains("1. to version"), "{log}");
            }
            _ => assert!(!log.contains("--override "), "{log}"),
        }
    }
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());
}

#[test]
fn what_keeps_a_node_from_coming_back_is_refused_and_each_override_lifts_its_own() {
    let cluster = Cluster::new(&Behaviour { nodes: DEFECTS.len(), ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster.sim.set_image("ami-gone", ImageState::Absent);
    cluster.sim.set_image("ami-new", ImageState::Pending);
    cluster.sim.set_parameter("/images/gone", "ami-gone");
    cluster.sim.set_offered("m9i.large", ZONE, false);
    for (number, (breaks, ..)) in DEFECTS.iter().enumerate() {
        breaks(&cluster, number);
    }
    let cases: Vec<_> = DEFECTS.iter().enumerate().map(|(number, (_, says, word))| (number, *says, *word)).collect();
    must_refuse(&cluster, &cases);
}

#[test]
fn an_account_that_launches_first_is_refused_but_where_the_group_has_its_policy() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    cluster.sim.set_launch_before_terminate(true);
    cluster.change(1, |spec| spec.maintenance_policy = None);
    let harmless = roll(&cluster, 0, &[]);
    must_refuse(&cluster, &[(1, "the account's setting launchBeforeTerminate is on", Some("maintenance-policy"))]);
    let log = harmless.must_end(0);
    assert!(!log.contains("launchBeforeTerminate"), "{log}");
}

#[test]
fn what_is_only_worth_knowing_is_said_and_refuses_nothing() {
    let cluster = Cluster::new(&Behaviour { nodes: 4, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let newer = config(0, OWN_VOLUME).replace("[node]", "[node]\ncolour = \"red\"");
    publish(&cluster, 0, |version| version.user_data = Some(newer.into()));
    cluster.change(1, |spec| spec.zonal_shift = Some("IgnoreUnhealthy".to_owned()));
    cluster.change(2, |spec| spec.zonal_shift = Some("ReplaceUnhealthy".to_owned()));
    cluster.sim.set_parameter("/images/golden", "ami-golden");
    publish(&cluster, 3, |version| version.image = "resolve:ssm:/images/golden".to_owned());
    let rolls: Vec<_> = (0..4).map(|number| roll(&cluster, number, &[])).collect();
    let logs: Vec<String> = rolls.into_iter().map(|roll| roll.must_end(0)).collect();
    assert!(logs[0].contains("the new configuration: ") && logs[0].contains("colour"), "{}", logs[0]);
    assert!(logs[1].contains("zonal shift is enabled, and unhealthy instances are ignored"), "{}", logs[1]);
    assert!(!logs[2].contains("zonal shift"), "{}", logs[2]);
    assert!(logs[3].contains("image: ami-1 -> ami-golden"), "{}", logs[3]);
}

#[test]
fn a_version_that_does_not_exist_is_refused_by_its_number() {
    let cluster = Cluster::new(&Behaviour::default());
    cluster.publish("ami-2", Healthy);
    let all = cluster.roll(&["--to", "9"]).must_end(6);
    assert!(all.contains("has no version 9") && all.contains("--to NODE=NUMBER"), "{all}");
    let one = cluster.roll(&["--to", "01=9", "--to", "2"]).must_end(6);
    assert!(one.contains(&format!("{}: its launch template", group(1))) && one.contains("has no version 9"), "{one}");
    assert_eq!(changes(&cluster.sim), Vec::<String>::new());
}

#[test]
fn a_node_whose_version_has_been_deleted_since_is_outdated() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let node = cluster.in_service(0);
    cluster.sim.change_instance(&node, |spec| spec.template.as_mut().unwrap().version = 99).unwrap();
    let log = cluster.roll(&[]).must_end(0);
    assert!(log.contains("00: 1. to version 2: runs version 99"), "{log}");
    cluster.all_run("2");
}
