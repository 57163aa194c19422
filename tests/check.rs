//! `node-agent check` says whether a node can come up, what to do where it cannot, and changes nothing.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use ec2_sim::{
    ActionResult, Fault, FaultRule, GroupSpec, HookSpec, InstanceSpec, SimConfig, Transition, VolumeId, VolumeSpec,
};
use serde_json::Value;
use support::{AGENT, CA, CONFIG_PATH, GROUP, HOOK, Instance, PROGRAM, World, config_with, volume_at};

/// A node on which every check passes.
struct Fixture {
    world: World,
    node: Instance,
    volume: VolumeId,
    config: String,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(&HookSpec::default(), "", |_| {})
    }

    fn with(hook: &HookSpec, lifecycle: &str, change: impl FnOnce(&mut SimConfig)) -> Fixture {
        let world = World::with_hook(hook, change);
        let volume = world.volume(2);
        let second = world.volume(1);
        world.sim.put_object("kafka-config", "node-00/log4j.properties", "rootLogger.level = info");
        let node = world.launch();
        let volumes = [volume_at("/mydata", &volume, "xfs"), volume_at("/mylogs", &second, "ext4")];
        let file = r#"
[[file]]
destination = "/etc/kafka/log4j.properties"
source = "s3://kafka-config/node-00/log4j.properties"
"#;
        let config = config_with(lifecycle, &volumes, file);
        Fixture { world, node, volume, config }
    }

    /// A node that is ready to leave, too: a termination hook, two groups with the cluster's tag, a volume to detach.
    fn leaving() -> Fixture {
        let lifecycle = format!("terminate_hook_name = \"{TERMINATE_HOOK}\"");
        let mut fixture = Fixture::with(&HookSpec::default(), &lifecycle, |_| {});
        fixture.terminate_hook(|_| {});
        fixture.world.sim.change_group(GROUP, |group| group.tags = tags("kafka")).unwrap();
        fixture.group("kafka-node-01", "kafka");
        fixture.config = fixture.config.replacen("file_system = ", "detach_on_terminate = true\nfile_system = ", 1);
        fixture.config.push_str(CLUSTER);
        fixture
    }

    /// Gives the group this termination hook.
    fn terminate_hook(&self, change: impl FnOnce(&mut HookSpec)) {
        let mut hook = HookSpec {
            name: TERMINATE_HOOK.to_owned(),
            transition: Transition::Terminating,
            heartbeat_timeout: Duration::from_mins(5),
            default_result: ActionResult::Continue,
        };
        change(&mut hook);
        let put = |group: &mut GroupSpec| {
            group.hooks.truncate(1);
            group.hooks.push(hook);
        };
        self.world.sim.change_group(GROUP, put).unwrap();
    }

    /// Another group, with this value of the cluster's tag.
    fn group(&self, name: &str, value: &str) {
        let spec = GroupSpec { name: name.to_owned(), tags: tags(value), ..GroupSpec::default() };
        self.world.sim.create_group(spec).unwrap();
    }

    fn deny(&self, actions: &[&str]) {
        let denied = actions.iter().map(|action| (*action).to_owned()).collect();
        self.world.sim.change_instance(&self.node.id, |spec| spec.denied = denied).unwrap();
    }

    fn check(&self) -> Checked {
        self.check_with(&[], &[])
    }

    fn check_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Checked {
        self.node.configure(self.config.clone());
        self.node.shell(&format!("chmod 0600 {CONFIG_PATH}"));
        self.check_as_is(arguments, environment)
    }

    fn check_as_is(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Checked {
        let json = self.run(&[&["--json"], arguments].concat(), environment);
        let said = String::from_utf8(json.stdout).unwrap();
        let value: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&json.stderr)));
        assert_eq!(value["schema"], 1);
        assert!(self.world.events().mutations().is_empty());
        Checked { code: json.status.code().unwrap(), lines: value["checks"].as_array().unwrap().clone() }
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        self.node
            .machine()
            .command(PROGRAM)
            .arg("check")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.world.sim.env(&self.node.id))
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    /// Exactly this needs attention, with this remedy.
    fn must_find(&self, name: &str, seen: &str, remedy: &str) -> Checked {
        let checked = self.check();
        checked.must_be_only(name, seen, remedy);
        checked
    }
}

const TERMINATE_HOOK: &str = "kafka-node-terminate-hook";
const CLUSTER: &str = "[cluster]\ntag = \"stateful-cluster=kafka\"\n";

fn tags(value: &str) -> std::collections::BTreeMap<String, String> {
    [("stateful-cluster".to_owned(), value.to_owned())].into()
}

struct Checked {
    code: i32,
    lines: Vec<Value>,
}

impl Checked {
    fn with(&self, result: &str) -> Vec<&str> {
        let lines = self.lines.iter().filter(|line| line["result"] == result);
        lines.map(|line| line["name"].as_str().unwrap()).collect()
    }

    fn line(&self, name: &str) -> &Value {
        let found = self.lines.iter().find(|line| line["name"] == name);
        found.unwrap_or_else(|| panic!("no line {name}: {:#?}", self.lines))
    }

    fn seen(&self, name: &str) -> &str {
        self.line(name)["seen"].as_str().unwrap()
    }

    fn must_be_only(&self, name: &str, seen: &str, remedy: &str) {
        assert_eq!(self.with("attention"), [name], "{:#?}", self.lines);
        assert_eq!(self.code, 1);
        assert!(self.seen(name).contains(seen), "{}", self.line(name));
        assert!(self.line(name)["remedy"].as_str().unwrap().contains(remedy), "{}", self.line(name));
    }
}

/// Actions that have neither a dry run nor a harmless read.
const UNTRIED: [&str; 2] =
    ["IAM autoscaling:CompleteLifecycleAction", "IAM autoscaling:RecordLifecycleActionHeartbeat"];

#[test]
fn a_good_node_is_ok_line_by_line_and_nothing_is_changed() {
    let fixture = Fixture::new();

    let checked = fixture.check();

    assert_eq!(checked.code, 0, "{:#?}", checked.lines);
    assert_eq!(checked.with("attention"), [""; 0]);
    assert_eq!(checked.with("unknown"), UNTRIED);
    let names: Vec<_> = checked.lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    let second = names.iter().filter(|name| name.starts_with("volume ")).nth(1).unwrap();
    let volume = format!("volume {}", fixture.volume);
    let expected = [
        "configuration",
        "permissions of /etc/node-agent/config.toml",
        "instance metadata",
        "node address",
        "bash",
        "blkid",
        "mount",
        "mkfs.xfs",
        "kernel's xfs",
        "mkfs.ext4",
        "e2fsck",
        "kernel's ext4",
        "EC2",
        "Auto Scaling",
        "S3 bucket kafka-config",
        "clock",
        "credentials",
        "IAM ec2:DescribeVolumes",
        "IAM ec2:AttachVolume",
        "IAM ec2:DescribeInstances",
        "IAM ec2:CreateTags",
        "IAM autoscaling:CompleteLifecycleAction",
        "IAM autoscaling:RecordLifecycleActionHeartbeat",
        "IAM autoscaling:DescribeAutoScalingInstances",
        "IAM autoscaling:DescribeLifecycleHooks",
        "IAM s3:GetObject s3://kafka-config/node-00/log4j.properties",
        &volume,
        second,
        "launch hook",
        "launch hook's default result",
        "launch hook's heartbeat timeout",
        "launch hook's time limit",
        "lifecycle state",
    ];
    assert_eq!(names, expected);
    assert!(checked.seen("credentials").contains("of the role node, from the instance profile"));
    // Dry runs are in the log as such, and none took effect.
    let events = fixture.world.events();
    // Both volumes; the tags on the instance, too.
    for (action, count) in [("ec2:AttachVolume", 2), ("ec2:CreateTags", 3)] {
        let tried = events.attempts(action);
        assert!(tried.len() == count && tried.iter().all(|call| call.dry_run && !call.done), "{tried:?}");
    }
    assert_eq!(events.attempts("autoscaling:*Lifecycle*Action*"), Vec::<&ec2_sim::ApiCall>::new());
    assert_eq!(fixture.node.shell("ls -d /var/lib/node-agent /mydata /etc/kafka 2>/dev/null || echo none"), "none");
}

#[test]
fn people_get_a_line_a_check_without_colours_and_the_count() {
    let fixture = Fixture::new();
    fixture.check();
    fixture.node.shell("rm /usr/sbin/mkfs.xfs");

    let output = fixture.run(&[], &[]);

    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("\nok    blkid: /usr/sbin/blkid\n"), "{text}");
    let fix =
        "\nFIX   mkfs.xfs: is not installed; to do: install the package xfsprogs in the image, or set install_tools";
    assert!(text.contains(fix), "{text}");
    assert!(
        text.contains("\n?     IAM autoscaling:CompleteLifecycleAction: cannot be tried without doing it"),
        "{text}"
    );
    assert!(text.ends_with("30 ok, 1 needs attention, 2 unknown\n"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_denied_action_is_named_with_the_statement_that_allows_it() {
    let fixture = Fixture::new();
    let volume = format!("arn:aws:ec2:eu-west-1:123456789012:volume/{}", fixture.volume);
    let of_group = r#"{"StringEquals":{"aws:ResourceTag/aws:autoscaling:groupName":"kafka-node-00"}}"#;
    let object = "arn:aws:s3:::kafka-config/node-00/log4j.properties";
    let everything = r#""Resource":"*""#;
    let cases = [
        ("ec2:DescribeVolumes", "", vec![everything]),
        ("ec2:AttachVolume", "", vec![&volume, "arn:aws:ec2:eu-west-1:123456789012:instance/*", of_group]),
        ("ec2:DescribeInstances", "", vec![everything]),
        ("ec2:CreateTags", "", vec![&volume, r#"{"ForAllValues:StringLike":{"aws:TagKeys":"node-agent:*"}}"#]),
        ("autoscaling:DescribeAutoScalingInstances", "", vec![everything]),
        ("autoscaling:DescribeLifecycleHooks", "", vec![everything]),
        ("s3:GetObject", " s3://kafka-config/node-00/log4j.properties", vec![object]),
    ];
    for (action, of, parts) in cases {
        fixture.world.sim.change_instance(&fixture.node.id, |spec| spec.denied = vec![action.to_owned()]).unwrap();

        let name = format!("IAM {action}{of}");
        let checked = fixture.must_find(&name, action, &format!(r#""Action":"{action}""#));

        let remedy = checked.line(&name)["remedy"].as_str().unwrap();
        assert!(parts.iter().all(|part| remedy.contains(part)), "{remedy}");
        // The statement can be pasted: it is JSON.
        let statement = remedy.strip_prefix("add to the role's policy ").unwrap();
        serde_json::from_str::<Value>(statement).unwrap();
    }
    let untried = fixture.check().line(UNTRIED[0])["remedy"].as_str().unwrap().to_owned();
    let group = "arn:aws:autoscaling:eu-west-1:123456789012:autoScalingGroup:*:autoScalingGroupName/kafka-node-00";
    assert!(untried.contains(group), "{untried}");
}

#[test]
fn an_object_that_is_not_there_is_found() {
    let mut fixture = Fixture::new();
    fixture.config = fixture.config.replace("s3://kafka-config/node-00/", "s3://kafka-config/node-01/");
    let name = "IAM s3:GetObject s3://kafka-config/node-01/log4j.properties";
    fixture.must_find(name, "NoSuchKey", "put the object there");
}

#[test]
fn a_hook_that_may_not_be_read_is_no_finding_where_its_timeout_is_configured() {
    let fixture = Fixture::with(&HookSpec::default(), "heartbeat_timeout = \"1h\"", |_| {});
    let deny = vec!["autoscaling:DescribeLifecycleHooks".to_owned()];
    fixture.world.sim.change_instance(&fixture.node.id, |spec| spec.denied = deny).unwrap();

    let checked = fixture.check();

    assert_eq!((checked.code, checked.with("attention")), (0, vec![]), "{:#?}", checked.lines);
    assert_eq!(checked.seen("launch hook's heartbeat timeout"), "1h");
}

#[test]
fn a_clock_that_is_off_is_the_finding_not_what_follows_from_it() {
    let fixture = Fixture::with(&HookSpec::default(), "", |config| config.clock_ahead_seconds = 360);
    let checked = fixture.must_find("clock", " behind EC2's", "chrony");
    // A second may begin between EC2's answer and its arrival; several, on a busy machine.
    let (off, _) = checked.seen("clock").split_once(" behind EC2's").unwrap();
    let off = humantime::parse_duration(off.trim_start_matches("this machine's clock is "))
        .unwrap_or_else(|error| panic!("{off}: {error}"));
    assert!((355..=365).contains(&off.as_secs()), "{off:?}");

    let fixture = Fixture::with(&HookSpec::default(), "", |config| config.clock_ahead_seconds = -180);
    let checked = fixture.check();
    assert_eq!((checked.code, checked.with("attention")), (0, vec![]), "{:#?}", checked.lines);
}

#[test]
fn missing_programs_are_named_with_their_package() {
    let fixture = Fixture::new();
    fixture.node.shell("rm /usr/sbin/e2fsck");
    fixture.must_find("e2fsck", "is not installed", "e2fsprogs");

    let fixture = Fixture::new();
    fixture.node.shell("rm /usr/bin/mount");
    fixture.must_find("mount", "is not installed", "util-linux");

    let mut fixture = Fixture::new();
    fixture.node.shell("rm /usr/sbin/mkfs.xfs");
    fixture.must_find("mkfs.xfs", "is not installed", "xfsprogs");
    fixture.config = fixture.config.replace("file_system = \"xfs\"", "file_system = \"xfs\"\ninstall_tools = true");
    let checked = fixture.check();
    assert_eq!((checked.code, checked.with("attention")), (0, vec![]), "{:#?}", checked.lines);
    assert!(checked.seen("mkfs.xfs").contains("apt-get will install xfsprogs"), "{}", checked.seen("mkfs.xfs"));
    // Without a package manager the missing program cannot be installed.
    fixture.node.shell("rm /usr/bin/apt-get");
    fixture.must_find("mkfs.xfs", "neither dnf, yum nor apt-get", "xfsprogs");
}

#[test]
fn a_kernel_without_the_filesystem_is_found() {
    let fixture = Fixture::new();
    fixture
        .node
        .shell("grep -v xfs /proc/filesystems > /tmp/filesystems; mount --bind /tmp/filesystems /proc/filesystems");
    fixture.must_find("kernel's xfs", "has no xfs", "kernel-modules-extra");
    let modules = "/lib/modules/$(uname -r)";
    fixture.node.shell(&format!("mkdir -p {modules}; echo 'kernel/fs/xfs/xfs.ko.zst:' > {modules}/modules.dep"));
    assert_eq!(fixture.check().seen("kernel's xfs"), "a module of the running kernel");
}

#[test]
fn a_configuration_that_others_can_read_or_write_is_found_and_so_is_its_override() {
    let fixture = Fixture::new();
    fixture.check();
    fixture.node.shell(&format!("chmod 0644 {CONFIG_PATH}"));
    let name = format!("permissions of {CONFIG_PATH}");
    fixture.check_as_is(&[], &[]).must_be_only(&name, "mode 0644", &format!("chmod 0600 {CONFIG_PATH}"));

    fixture.node.write("/etc/node-agent/override.toml", "[timeouts]\nhooks = \"20m\"\n");
    let name = "permissions of /etc/node-agent/override.toml";
    let checked = fixture.must_find(name, "mode 0644", "chmod 0600 /etc/node-agent/override.toml");
    assert!(checked.seen("configuration").contains("with override.toml in force"), "{}", checked.seen("configuration"));
    fixture.node.shell("chmod 0600 /etc/node-agent/override.toml; chown daemon /etc/node-agent/override.toml");
    fixture.must_find(name, "belongs to user", "chown root:root");
}

#[test]
fn an_address_that_is_not_this_instances_is_found() {
    let mut fixture = Fixture::new();
    fixture.config = fixture.config.replace("10.0.1.10", "10.0.1.99");
    fixture.must_find("node address", "10.0.1.99 is not an address of", "correct node.ip");
}

#[test]
fn a_launch_hook_that_does_not_fit_is_found() {
    let hook = |heartbeat: u64| HookSpec { heartbeat_timeout: Duration::from_secs(heartbeat), ..HookSpec::default() };

    let mut fixture = Fixture::new();
    fixture.config = fixture.config.replace(HOOK, "kafka-hook");
    fixture.must_find("launch hook", &format!("it has only {HOOK}"), "aws autoscaling put-lifecycle-hook");

    let mut fixture = Fixture::new();
    fixture.config = fixture.config.replace(&format!("asg_name = \"{GROUP}\""), "asg_name = \"kafka-node-01\"");
    let checked = fixture.check();
    // The instance's own group tells it too.
    assert_eq!(checked.with("attention"), ["launch hook", "lifecycle state"], "{:#?}", checked.lines);
    assert!(checked.seen("lifecycle state").contains("is in the group kafka-node-00"), "{:#?}", checked.lines);

    let lenient = HookSpec { default_result: ActionResult::Continue, ..HookSpec::default() };
    let name = "launch hook's default result";
    Fixture::with(&lenient, "", |_| {}).must_find(name, "would count as healthy", "--default-result ABANDON");

    let terminating = HookSpec { transition: Transition::Terminating, ..HookSpec::default() };
    Fixture::with(&terminating, "", |_| {}).must_find("launch hook", "EC2_INSTANCE_TERMINATING", "lifecycle.hook_name");

    let name = "launch hook's heartbeat timeout";
    let other = "heartbeat_timeout = \"15m\"";
    Fixture::with(&hook(1800), other, |_| {}).must_find(name, "is 30m, but", "write \"30m\"");
    let same = Fixture::with(&hook(1800), "heartbeat_timeout = \"30m\"", |_| {}).check();
    assert_eq!((same.code, same.seen(name)), (0, "30m"));
    let short = "hold_for = \"10m\"\non_failure = \"hold\"";
    let fixture = Fixture::with(&hook(50), short, |_| {});
    let checked = fixture.check();
    assert_eq!(checked.with("attention"), [name], "{:#?}", checked.lines);

    // 100 × 60 s are 1 h 40 min, and an hour of timeouts.complete comes on top of the hold.
    let long = Fixture::with(&hook(60), "hold_for = \"50m\"", |_| {});
    let name = "launch hook's time limit";
    let checked = long.must_find(name, "does not fit into 1h 40m", "raise the hook's heartbeat timeout to 66 s");
    assert!(checked.seen(name).starts_with("lifecycle.hold_for 50m + timeouts.complete 1h"), "{}", checked.seen(name));
    let abandons = Fixture::with(&hook(60), "hold_for = \"50m\"\non_failure = \"abandon\"", |_| {}).check();
    assert_eq!((abandons.code, abandons.with("attention")), (0, vec![]), "{:#?}", abandons.lines);
}

#[test]
fn a_volume_that_cannot_be_attached_is_found() {
    let mut fixture = Fixture::new();
    let good = fixture.volume.clone();
    let elsewhere = VolumeSpec { zone: Some("eu-west-1b".to_owned()), ..VolumeSpec::default() };
    let elsewhere = fixture.world.sim.create_volume(elsewhere).unwrap();
    let shared = VolumeSpec { multi_attach: true, ..VolumeSpec::default() };
    let shared = fixture.world.sim.create_volume(shared).unwrap();
    let mut current = good.to_string();
    let cases = [
        (
            elsewhere.to_string(),
            "is in eu-west-1b, this instance in eu-west-1a",
            "launch the node in the volume's zone",
        ),
        (shared.to_string(), "Multi-Attach", "--no-multi-attach-enabled"),
        ("vol-0123456789abcdef0".to_owned(), "does not exist", "correct volume.id"),
    ];
    for (id, seen, remedy) in cases {
        fixture.config = fixture.config.replace(&current, &id);
        current = id;
        fixture.must_find(&format!("volume {current}"), seen, remedy);
    }
    fixture.config = fixture.config.replace(&current, good.as_str());

    // A volume held by a running instance needs attention; one held by a terminating instance, or attached here, does not.
    let other = fixture.world.launch_as(InstanceSpec::default());
    fixture.world.sim.attach(&good, &other.id, "/dev/sdf").unwrap();
    let name = format!("volume {good}");
    fixture.must_find(&name, &format!("to {} (running)", other.id), "the agent never detaches it");
    let terminating = fixture.world.sim.set_instance_state(&other.id, ec2_sim::InstanceState::ShuttingDown);
    terminating.unwrap();
    assert_eq!(fixture.check().code, 0);
    support::wait_until(
        || fixture.world.sim.volume_state(&good).unwrap().attachments.is_empty(),
        || "the volume never came free".to_owned(),
    );
    fixture.world.sim.attach(&good, &fixture.node.id, "/dev/sdf").unwrap();
    let checked = fixture.check();
    assert_eq!(checked.code, 0, "{:#?}", checked.lines);
    assert!(checked.seen(&name).contains("here as /dev/sdf"), "{}", checked.seen(&name));
}

#[test]
fn without_instance_metadata_the_rest_is_still_checked() {
    let fixture = Fixture::new();
    fixture.world.sim.change_instance(&fixture.node.id, |spec| spec.imds = false).unwrap();
    let checked = fixture.must_find("instance metadata", "switched off", "--http-endpoint enabled");
    assert_eq!(checked.with("unknown"), ["AWS"]);
    assert_eq!(checked.line("mkfs.xfs")["result"], "ok");
}

#[test]
fn an_instance_without_a_role_is_found_once() {
    let fixture = Fixture::new();
    fixture.world.sim.change_instance(&fixture.node.id, |spec| spec.role = None).unwrap();
    let checked = fixture.must_find("credentials", "no instance profile", "launch template");
    assert!(checked.seen("IAM ec2:AttachVolume").contains("there are no credentials"));
}

#[test]
fn the_way_to_the_services_is_checked_name_by_name() {
    let fixture = Fixture::new();
    let nowhere = [("AWS_ENDPOINT_URL", "http://ec2.nowhere.invalid")];
    let checked = fixture.check_with(&[], &nowhere);
    assert!(checked.with("attention").contains(&"DNS ec2.nowhere.invalid"), "{:#?}", checked.lines);
    assert_eq!(checked.line("EC2")["result"], "unknown");

    let api = fixture.world.sim.api_url().replace("127.0.0.1", "localhost");
    let checked = fixture.check_with(&[], &[("AWS_ENDPOINT_URL_EC2", &api)]);
    assert_eq!(checked.line("DNS localhost")["result"], "ok", "{:#?}", checked.lines);
    assert_eq!(checked.code, 0, "{:#?}", checked.lines);

    let refused = [("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")];
    fixture.check_with(&[], &refused).must_be_only("EC2", "http://127.0.0.1:1 does not answer", "VPC endpoints");
}

#[test]
fn an_image_without_ca_certificates_is_found_where_https_is_needed() {
    let mut fixture = Fixture::new();
    fixture.node.write("/etc/ssl/empty.pem", "");
    let without = [("SSL_CERT_FILE", "/etc/ssl/empty.pem")];
    let checked = fixture.check_with(&[], &without);
    assert!(!checked.lines.iter().any(|line| line["name"] == "CA certificates"), "{:#?}", checked.lines);

    let url = fixture.world.sim.put_page("/server.properties", "broker.id=00");
    fixture.config.push_str(&format!("[[file]]\ndestination = \"/etc/kafka/more.properties\"\nsource = {url:?}\n"));
    let checked = fixture.check_with(&[], &[("SSL_CERT_FILE", CA)]);
    assert_eq!((checked.code, checked.seen("CA certificates")), (0, "found"), "{:#?}", checked.lines);
    let checked = fixture.check_with(&[], &without);
    checked.must_be_only("CA certificates", "https cannot be used", "ca-certificates");
}

#[test]
fn mistakes_are_shown_in_full_and_checks_that_need_no_configuration_still_run() {
    let mut fixture = Fixture::new();
    fixture.config = "[node]\nid = 7\nip = \"10.0.1\"\n".to_owned();
    let checked = fixture.check();
    assert_eq!((checked.code, checked.with("attention")), (5, vec!["configuration"]), "{:#?}", checked.lines);
    for mistake in [":2:6: [node] id: is a number, not a string", ":3:6: [node] ip:"] {
        assert!(checked.seen("configuration").contains(mistake), "{}", checked.seen("configuration"));
    }
    assert_eq!(checked.line("clock")["result"], "ok");

    // A mistake that only this host has does not stop the other checks.
    let fixture = Fixture::new();
    fixture.node.shell("rm /usr/local/lib/node/hooks.sh");
    let checked = fixture.check();
    assert_eq!((checked.code, checked.with("attention")), (5, vec!["configuration"]), "{:#?}", checked.lines);
    assert_eq!(checked.line("launch hook")["result"], "ok");

    let checked = fixture.check_as_is(&["--config", "/nowhere.toml"], &[]);
    assert_eq!((checked.code, checked.with("attention")), (5, vec!["configuration"]), "{:#?}", checked.lines);
}

#[test]
fn user_data_is_checked_as_the_configuration() {
    let fixture = Fixture::new();
    let user_data = Some(fixture.config.clone().into_bytes());
    fixture.world.sim.change_instance(&fixture.node.id, |spec| spec.user_data = user_data).unwrap();
    let checked = fixture.check_as_is(&["--config", "imds"], &[]);
    assert_eq!((checked.code, checked.with("attention")), (0, vec![]), "{:#?}", checked.lines);
    assert!(checked.seen("configuration").starts_with("user data is valid"), "{:#?}", checked.lines);
}

#[test]
fn offline_a_configuration_is_checked_without_root_and_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let config = page.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    fs::write(path("good.toml"), config).unwrap();
    fs::write(path("bad.toml"), config.replace("file_system = \"xfs\"", "file_system = \"zfs\"")).unwrap();
    fs::write(path("elsewhere.toml"), "source = \"imds\"\n").unwrap();
    // A user who is not root may not look into root's build directory.
    fs::copy(AGENT.as_str(), path("node-agent")).unwrap();
    let offline = |config: &str| {
        Command::new("unshare")
            .args(["--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(path("node-agent"))
            .args(["check", "--offline", "--config"])
            .arg(path(config))
            .output()
            .unwrap()
    };

    let good = offline("good.toml");
    assert!(good.status.success(), "{good:?}");
    let said = String::from_utf8(good.stdout).unwrap();
    assert!(said.contains("good.toml is valid: node 00 at 10.0.1.10, 1 volume, 1 file, hooks, group"), "{said}");

    let bad = offline("bad.toml");
    assert_eq!(bad.status.code(), Some(5), "{bad:?}");
    let said = String::from_utf8(bad.stdout).unwrap();
    assert!(said.contains("to do: correct what the lines below name\n      ") && said.contains("\"zfs\""), "{said}");

    // Valid, but probably a mistake.
    fs::write(path("months.toml"), config.replace("[timeouts]\n", "[timeouts]\ncomplete = \"5M\"\n")).unwrap();
    let months = offline("months.toml");
    assert_eq!(months.status.code(), Some(1), "{months:?}");
    let said = String::from_utf8(months.stdout).unwrap();
    assert!(
        said.contains("[timeouts] complete: \"5M\" is 5 months; to do: if minutes are meant, write \"5m\""),
        "{said}"
    );

    let elsewhere = offline("elsewhere.toml");
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    assert!(String::from_utf8(elsewhere.stdout).unwrap().contains("save the user data to a file"));
}

#[test]
fn an_encrypted_volumes_key_is_named_with_what_it_needs_and_what_stays_unknown() {
    let mut fixture = Fixture::new();
    let key = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let spec = VolumeSpec { size_bytes: 1 << 30, kms_key_id: Some(key.to_owned()), ..VolumeSpec::default() };
    let volume = fixture.world.sim.create_volume(spec).unwrap();
    fixture.config = fixture.config.replace(fixture.volume.as_str(), volume.as_str());

    let checked = fixture.check();

    assert_eq!(checked.code, 0, "{:#?}", checked.lines);
    assert!(checked.seen(&format!("volume {volume}")).contains(", encrypted, free"));
    let name = format!("KMS key {key}");
    assert!(checked.seen(&name).contains("a dry run of ec2:AttachVolume does not ask KMS"));
    let remedy = checked.line(&name)["remedy"].as_str().unwrap();
    for part in
        ["kms:CreateGrant", "kms:GrantIsForAWSResource", "kms:ReEncrypt*", "ec2.eu-west-1.amazonaws.com", "aws/ebs"]
    {
        assert!(remedy.contains(part), "{part} is missing in {remedy}");
    }
}

#[test]
fn a_node_that_can_leave_is_ok_and_nothing_is_detached_or_completed() {
    let fixture = Fixture::leaving();
    fixture.world.sim.attach(&fixture.volume, &fixture.node.id, "/dev/sdf").unwrap();

    let checked = fixture.check();

    assert_eq!((checked.code, checked.with("attention")), (0, vec![]), "{:#?}", checked.lines);
    assert_eq!(checked.with("unknown"), UNTRIED);
    let expected = [
        ("IAM ec2:DetachVolume", "allowed"),
        ("IAM autoscaling:DescribeAutoScalingGroups", "allowed"),
        ("termination hook", "kafka-node-terminate-hook of kafka-node-00"),
        ("termination hook's default result", "CONTINUE"),
        ("termination hook's heartbeat timeout", "5m, which is also how long a dead node keeps its network interface"),
        ("termination hook's time limit", "timeouts.drain 10m + timeouts.unmount 1m + 1m to detach fit into 8h 20m"),
        ("cluster", "stateful-cluster=kafka: kafka-node-00 and kafka-node-01"),
        (
            "drain",
            "drain_cluster_node is not defined by /usr/local/lib/node/hooks.sh: nothing is drained before termination",
        ),
    ];
    for (name, seen) in expected {
        assert_eq!(checked.seen(name), seen);
    }
    let events = fixture.world.events();
    let tried = events.attempts("ec2:DetachVolume");
    assert!(tried.len() == 1 && tried.iter().all(|call| call.dry_run && !call.done), "{tried:?}");
}

#[test]
fn a_termination_hook_that_does_not_fit_is_found_with_the_command_that_mends_it() {
    let fixture = Fixture::leaving();
    let put = "aws autoscaling put-lifecycle-hook --auto-scaling-group-name kafka-node-00 --lifecycle-hook-name \
               kafka-node-terminate-hook --lifecycle-transition autoscaling:EC2_INSTANCE_TERMINATING";
    let name = |of: &str| format!("termination hook{of}");

    fixture.terminate_hook(|hook| hook.name = "other-hook".to_owned());
    let make = format!("{put} --default-result CONTINUE --heartbeat-timeout 300");
    fixture.must_find(&name(""), "no termination hook kafka-node-terminate-hook, it has only other-hook", &make);
    fixture.terminate_hook(|hook| hook.transition = Transition::Launching);
    fixture.must_find(&name(""), "for autoscaling:EC2_INSTANCE_LAUNCHING, not for", "lifecycle.terminate_hook_name");

    fixture.terminate_hook(|hook| hook.heartbeat_timeout = Duration::from_secs(30));
    let change = format!("{put} --heartbeat-timeout 300");
    fixture.must_find(&name("'s heartbeat timeout"), "is 30s: a restart of the agent may take longer", &change);
}

#[test]
fn a_drain_that_is_longer_than_the_hook_can_ever_wait_is_found() {
    let mut fixture = Fixture::leaving();
    let name = "termination hook's time limit";
    // The heartbeat timeout is 5 min, and heartbeats carry the drain beyond it: 100 × 5 min.
    let timeouts = |drain: &str| format!("[timeouts]\ndrain = \"{drain}\"\n");
    let config = fixture.config.clone();
    fixture.config = config.clone() + &timeouts("8h");
    let checked = fixture.check();
    assert_eq!((checked.code, checked.with("attention")), (0, vec![]), "{:#?}", checked.lines);
    let shortened =
        "timeouts.drain 8h + timeouts.unmount 1m + 1m to detach fit into 8h 20m; cluster.gate 2h is shortened to 18m";
    assert_eq!(checked.seen(name), shortened);

    fixture.config = config.clone() + &timeouts("9h");
    let raise = "lower the two, or raise the hook's heartbeat timeout: aws autoscaling put-lifecycle-hook";
    let checked = fixture.must_find(name, "do not fit into 8h 20m", raise);
    // (9 h + 2 min) / 100
    assert!(checked.line(name)["remedy"].as_str().unwrap().contains("--heartbeat-timeout 326"), "{:#?}", checked.lines);

    fixture.config = config + &timeouts("2days");
    let remedy = fixture.must_find(name, "do not fit into 8h 20m", "lower the two");
    assert!(!remedy.line(name)["remedy"].as_str().unwrap().contains("raise"), "{:#?}", remedy.lines);
}

#[test]
fn an_abandoning_termination_hook_is_found_with_what_it_would_keep() {
    let fixture = Fixture::leaving();
    fixture.terminate_hook(|hook| hook.default_result = ActionResult::Abandon);
    let (name, remedy) = ("termination hook's default result", "--default-result CONTINUE");
    fixture.must_find(name, "ABANDON: an action that times out ends the group's other termination hooks", remedy);
    fixture.world.sim.change_group(GROUP, |group| group.retains = true).unwrap();
    let kept = "keeps the old instance in Terminating:Retained, its network interface is never free, and so the node stays \
                away for ever";
    fixture.must_find(name, &format!("policy retains: an action that is abandoned or times out {kept}"), remedy);

    fixture.deny(&["autoscaling:DescribeAutoScalingGroups"]);
    let checked = fixture.check();
    assert_eq!(checked.with("attention"), ["IAM autoscaling:DescribeAutoScalingGroups", name]);
    assert!(checked.seen(name).contains("not checked: autoscaling:DescribeAutoScalingGroups is not allowed"));
}

#[test]
fn a_termination_hook_that_nobody_completes_is_found() {
    let mut fixture = Fixture::new();
    fixture.terminate_hook(|_| {});
    let seen = "each termination waits 5m for its timeout, unless something else completes it";
    fixture.must_find(
        "termination hook",
        seen,
        "add to [lifecycle]: terminate_hook_name = \"kafka-node-terminate-hook\"",
    );

    // Without any termination hook nothing waits, which is a finding only where the configuration wants more.
    fixture.world.sim.change_group(GROUP, |group| group.hooks.truncate(1)).unwrap();
    assert_eq!(fixture.check().code, 0);
    fixture.world.sim.change_group(GROUP, |group| group.tags = tags("kafka")).unwrap();
    fixture.group("kafka-node-01", "kafka");
    fixture.config.push_str(CLUSTER);
    fixture.must_find(
        "termination hook",
        "[cluster] has no effect",
        "--lifecycle-hook-name kafka-node-00-terminate-hook",
    );
}

#[test]
fn a_cluster_without_other_nodes_or_without_this_one_is_found() {
    let mut fixture = Fixture::leaving();
    let tag = "aws autoscaling create-or-update-tags --tags 'ResourceId=";
    let config = fixture.config.clone();
    let mut must_find = |cluster: &str, seen: &str, remedy: &str| {
        fixture.config = config.replace("tag = \"stateful-cluster=kafka\"", cluster);
        fixture.must_find("cluster", seen, remedy);
    };
    must_find("tag = \"stateful-cluster=zoo\"", "no Auto Scaling group has the tag stateful-cluster=zoo", tag);
    must_find(
        "asg_names = [\"kafka-node-01\", \"kafka-node-02\"]",
        "there is no Auto Scaling group kafka-node-02 in eu-west-1",
        "correct cluster.asg_names",
    );
    must_find("asg_names = [\"kafka-node-00\"]", "names only this node's own group", "add the other nodes' groups");
    fixture.config = config.replace("tag = \"stateful-cluster=kafka\"", "asg_names = [\"kafka-node-01\"]");
    assert_eq!(fixture.check().seen("cluster"), "kafka-node-01");

    fixture.config = config;
    let change =
        |group: &str, value: &str| fixture.world.sim.change_group(group, |group| group.tags = tags(value)).unwrap();
    change("kafka-node-01", "other");
    fixture.must_find("cluster", "only this node's own group has the tag stateful-cluster=kafka", tag);
    change("kafka-node-01", "kafka");
    change(GROUP, "other");
    let seen = "kafka-node-00 does not have the tag stateful-cluster=kafka, which kafka-node-01 have";
    fixture.must_find(
        "cluster",
        seen,
        &format!("{tag}kafka-node-00,ResourceType=auto-scaling-group,Key=stateful-cluster,"),
    );
}

#[test]
fn the_actions_of_leaving_are_tried_and_a_denied_one_is_named_with_its_effect() {
    let mut fixture = Fixture::leaving();
    let volume = format!("arn:aws:ec2:eu-west-1:123456789012:volume/{}", fixture.volume);
    let both_wait = "two nodes that leave at once wait for each other until cluster.gate ends";
    let cases = [
        ("ec2:DetachVolume", "the replacement waits until this instance is terminated", volume.as_str()),
        ("ec2:DescribeInstances", both_wait, r#""Resource":"*""#),
        ("ec2:CreateTags", both_wait, r#""aws:TagKeys":"node-agent:*""#),
        ("autoscaling:DescribeAutoScalingGroups", "without knowing whether another one is away", r#""Resource":"*""#),
    ];
    for (action, effect, statement) in cases {
        fixture.deny(&[action]);
        let name = format!("IAM {action}");
        let checked = fixture.must_find(&name, effect, &format!(r#""Action":"{action}""#));
        let remedy = checked.line(&name)["remedy"].as_str().unwrap();
        assert!(remedy.contains(statement), "{remedy}");
        let statement = remedy.strip_prefix("add to the role's policy ").unwrap();
        serde_json::from_str::<Value>(statement).unwrap();
    }
    // Also without a volume.
    fixture.config = fixture.config.split("[[volume]]").next().unwrap().to_owned()
        + &format!("[[file]]{}", fixture.config.split_once("[[file]]").unwrap().1);
    for action in ["ec2:DescribeInstances", "ec2:CreateTags"] {
        fixture.deny(&[action]);
        fixture.must_find(&format!("IAM {action}"), both_wait, &format!(r#""Action":"{action}""#));
    }
}

#[test]
fn a_volume_that_is_not_attached_here_cannot_be_tried_for_detaching() {
    let fixture = Fixture::leaving();
    let refuse = Fault::Error { http: 400, code: "IncorrectState".to_owned(), message: "is 'available'".to_owned() };
    fixture.world.sim.add_fault(FaultRule::once("ec2:DetachVolume", refuse)).unwrap();
    let checked = fixture.check();
    assert_eq!(checked.code, 0, "{:#?}", checked.lines);
    let name = "IAM ec2:DetachVolume";
    assert_eq!(checked.line(name)["result"], "unknown");
    assert_eq!(checked.seen(name), format!("not tried: {} is not attached here", fixture.volume));
}

#[test]
fn the_drain_function_is_looked_for_in_the_script() {
    let fixture = Fixture::leaving();
    let with = |more: &str| {
        fixture.node.hooks(format!("{}{more}\n", support::HOOKS));
        fixture.check().seen("drain").to_owned()
    };
    assert_eq!(with("drain_cluster_node() { :; }"), "drain_cluster_node is defined by /usr/local/lib/node/hooks.sh");
    assert!(with("source /opt/drain.sh").contains("is not visibly defined by /usr/local/lib/node/hooks.sh"));
}
