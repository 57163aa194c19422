//! The AWS CLI, an independent client, works with the simulator as with AWS.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{GROUP, HOOK, PATIENCE, World, block_on};
use ec2_sim::{Sim, WrongRegion};
use serde_json::Value;

/// The CLI given by `EC2_SIM_AWS_CLI`, or one from `PyPI`, installed once into a cache that all runs share.
fn aws() -> PathBuf {
    if let Some(given) = std::env::var_os("EC2_SIM_AWS_CLI") {
        return given.into();
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or(home.join(".cache"), PathBuf::from).join("node-agent");
    fs::create_dir_all(&cache).unwrap();
    let guard = File::create(cache.join("awscli.lock")).unwrap();
    guard.lock().unwrap();
    let venv = cache.join("awscli");
    let aws = venv.join("bin/aws");
    if !aws.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "awscli"]));
    }
    aws
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The CLI as a process on the instance: its credentials can only come from the metadata service.
struct Cli<'a> {
    world: &'a World,
    aws: PathBuf,
}

impl Cli<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let nowhere = Path::new("/nonexistent");
        let mut command = Command::new(&self.aws);
        command
            .args(arguments)
            .args(["--output", "json"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.world.dir.path())
            .env("AWS_CONFIG_FILE", nowhere)
            .env("AWS_SHARED_CREDENTIALS_FILE", nowhere)
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_MAX_ATTEMPTS", "1")
            // Its defaults, one attempt of one second, are not for a busy machine.
            .env("AWS_METADATA_SERVICE_TIMEOUT", "20")
            .env("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "3")
            .envs(self.world.sim.env(&self.world.instance));
        command
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        let output = run(&mut self.command(arguments));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn error(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn the_aws_cli_can_describe_attach_and_complete() {
    let world = World::new();
    let cli = Cli { world: &world, aws: aws() };
    attach(&world, &cli);
    describe(&world, &cli);
    complete(&world, &cli);
    fetch(&world, &cli);
}

fn attach(world: &World, cli: &Cli<'_>) {
    let (volume, instance) = (world.volume.as_str(), world.instance.as_str());
    let described = cli.ok(&["ec2", "describe-volumes", "--volume-ids", volume]);
    assert_eq!(described["Volumes"][0]["State"], "available");
    assert_eq!(described["Volumes"][0]["Size"], 1);
    assert_eq!(described["Volumes"][0]["AvailabilityZone"], "eu-west-1a");

    let place = ["--volume-id", volume, "--instance-id", instance, "--device", "/dev/sdf"];
    let attach = [&["ec2", "attach-volume"], &place[..]].concat();
    let dry = cli.error(&[&attach[..], &["--dry-run"]].concat());
    assert!(dry.contains("(DryRunOperation)"), "{dry}");
    assert_eq!(cli.ok(&attach)["State"], "attaching");
    let again = cli.error(&attach);
    assert!(again.contains("(VolumeInUse)"), "{again}");
    assert!(again.contains(&format!("{volume} is already attached to an instance")), "{again}");

    let appears = world.sim.wait_for_device(&world.volume, &world.instance, PATIENCE);
    block_on(appears).expect("the device appears");
    let link = world.dir.path().join("by-id").join(Sim::link_name(&world.volume));
    let mut first = [1; 4096];
    File::open(link).unwrap().read_exact(&mut first).unwrap();
    assert!(first.iter().all(|byte| *byte == 0));
    let filter = format!("Name=attachment.instance-id,Values={instance}");
    let described = cli.ok(&["ec2", "describe-volumes", "--filters", &filter]);
    let attachment = &described["Volumes"][0]["Attachments"][0];
    assert_eq!(attachment["State"], "attached");
    assert_eq!(attachment["InstanceId"], instance);
    assert_eq!(attachment["Device"], "/dev/sdf");
}

fn describe(world: &World, cli: &Cli<'_>) {
    let instance = world.instance.as_str();
    let described = cli.ok(&["ec2", "describe-instances", "--instance-ids", instance]);
    let shown = &described["Reservations"][0]["Instances"][0];
    assert_eq!(shown["State"]["Name"], "running");
    assert_eq!(shown["PrivateIpAddress"], "10.0.1.10");
    let tag = "Key=node-agent:status,Value=a <b> & c";
    cli.ok(&["ec2", "create-tags", "--resources", instance, "--tags", tag]);
    let tags = cli.ok(&["ec2", "describe-tags", "--filters", "Name=key,Values=node-agent:*"]);
    assert_eq!(tags["Tags"][0]["Value"], "a <b> & c");
}

fn complete(world: &World, cli: &Cli<'_>) {
    let instance = world.instance.as_str();
    world.wait_lifecycle(&world.instance, "Pending:Wait");
    let ask = ["describe-auto-scaling-instances", "--instance-ids", instance];
    let member = &cli.ok(&autoscaling(&ask))["AutoScalingInstances"][0];
    assert_eq!(member["LifecycleState"], "Pending:Wait");
    assert_eq!(member["AutoScalingGroupName"], GROUP);
    let ask = ["describe-auto-scaling-groups", "--auto-scaling-group-names", GROUP];
    let group = &cli.ok(&autoscaling(&ask))["AutoScalingGroups"][0];
    assert_eq!(group["Instances"][0]["InstanceId"], instance);
    let ask = ["describe-lifecycle-hooks", "--auto-scaling-group-name", GROUP];
    let described = &cli.ok(&autoscaling(&ask))["LifecycleHooks"][0];
    assert_eq!(described["LifecycleHookName"], HOOK);
    assert_eq!(described["HeartbeatTimeout"], 3600);

    let names = ["--lifecycle-hook-name", HOOK, "--auto-scaling-group-name", GROUP];
    let action = [&names[..], &["--instance-id", instance]].concat();
    cli.ok(&autoscaling(&[&["record-lifecycle-action-heartbeat"], &action[..]].concat()));
    let result = ["complete-lifecycle-action", "--lifecycle-action-result", "CONTINUE"];
    let complete = autoscaling(&[&result[..], &action].concat());
    cli.ok(&complete);
    world.wait_lifecycle(&world.instance, "InService");
    let again = cli.error(&complete);
    assert!(again.contains("(ValidationError)"), "{again}");
    let message = format!("No active Lifecycle Action found with instance ID {instance}");
    assert!(again.contains(&message), "{again}");

    let events = world.sim.events();
    let completed = events.calls("autoscaling:CompleteLifecycleAction");
    assert_eq!(completed.len(), 1);
    assert_eq!(completed[0].caller.as_deref(), Some(instance));
}

fn fetch(world: &World, cli: &Cli<'_>) {
    world.sim.put_object("config", "node/server.properties", "broker.id=0\n");
    let file = world.dir.path().join("object");
    let get = ["s3api", "get-object", "--bucket", "config", "--key"];
    cli.ok(&[&get[..], &["node/server.properties", file.to_str().unwrap()]].concat());
    assert_eq!(fs::read_to_string(&file).unwrap(), "broker.id=0\n");
    let missing = cli.error(&[&get[..], &["nothing", "/dev/null"]].concat());
    assert!(missing.contains("(NoSuchKey)"), "{missing}");
    // The CLI signs anew for the region that the answer names.
    for (bucket, answer) in [("moved", WrongRegion::Redirect), ("strict", WrongRegion::Malformed)] {
        world.sim.put_object(bucket, "key", bucket);
        world.sim.place_bucket(bucket, "us-west-2", answer);
        cli.ok(&["s3api", "get-object", "--bucket", bucket, "--key", "key", file.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&file).unwrap(), bucket);
        assert_eq!(
            cli.ok(&["s3api", "head-object", "--bucket", bucket, "--key", "key"])["ContentLength"],
            5 + i64::from(bucket == "strict")
        );
    }
}

fn autoscaling<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["autoscaling"], arguments].concat()
}
