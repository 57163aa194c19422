//! How the agent handles EC2's answers to AttachVolume.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::{Fault, FaultRule, VolumeId, VolumeSpec};
use support::{Instance, World, config, config_for, config_with, volume_at};

fn error(code: &str, message: &str) -> Fault {
    Fault::Error { http: 400, code: code.to_owned(), message: message.to_owned() }
}

#[test]
fn codes_that_will_not_change_fail_at_once_and_say_what_to_do() {
    let permanent = [
        ("InvalidParameterValue", "Value (/dev/zzz) for parameter device is invalid.", "api-refused"),
        ("InvalidVolume.ZoneMismatch", "The volume is not in the same zone.", "zone-mismatch"),
        ("InvalidVolumeID.ZoneMismatch", "The volume is not in the same zone.", "zone-mismatch"),
        ("AttachmentLimitExceeded", "28 volumes are attached.", "attachment-limit"),
        ("CustomerKeyHasBeenRevoked", "The key was revoked.", "encryption-refused"),
        ("EncryptedVolumesNotSupported", "m1.small", "encryption-refused"),
        ("IncorrectInstanceState", "The instance is in a wrong state.", "api-refused"),
    ];
    for (code, message, name) in permanent {
        let world = World::new();
        let (node, volume) = world.node();
        world.sim.add_fault(FaultRule::always("ec2:AttachVolume", error(code, message))).unwrap();

        let outcome = node.run(&config_for(&volume));

        outcome.must_fail(1, &[&format!("step=attach code={name}"), message, "remedy="]);
        assert_eq!(world.events().attempts("ec2:AttachVolume").len(), 1, "{code}");
    }
}

#[test]
fn a_missing_permission_is_given_time_and_then_named() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch_without(&["ec2:AttachVolume"]);
    // A missing permission is retried for a minute; the volume's own deadline is shorter here.
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"8s\"");

    let outcome = node.run(&config);

    outcome.must_fail(1, &["code=access-denied", "allow ec2:AttachVolume in the instance role's policy"]);
    assert!(world.events().attempts("ec2:AttachVolume").len() > 2);
}

#[test]
fn a_volume_that_does_not_exist_is_given_time_and_then_named() {
    let world = World::new();
    let (node, _) = world.node();
    let missing = "vol-0123456789abcdef0";
    let config = config_with("", &[volume_at("/mydata", missing, "xfs")], "[timeouts]\nvolume = \"8s\"");

    node.run(&config).must_fail(1, &["code=volume-not-found", "vol-0123456789abcdef0 does not exist"]);
}

#[test]
fn a_volume_that_ec2_says_is_in_use_elsewhere_is_looked_at_not_believed() {
    let world = World::new();
    let (node, volume) = world.node();
    let busy = error("VolumeInUse", "vol is already attached to an instance");
    world.sim.add_fault(FaultRule::times("ec2:AttachVolume", 3, busy)).unwrap();

    node.come_up(&config(&[volume_at("/mydata", &volume, "ext4")]));

    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_taken_device_name_gives_way_to_the_next() {
    let world = World::new();
    let (node, volume) = world.node();
    let other = world.volume(1);
    world.sim.attach(&other, &node.id, "/dev/sdf").unwrap();

    let outcome = node.come_up(&config_for(&volume));

    assert!(outcome.log.contains("device name /dev/sdf is taken"), "{}", outcome.log);
    assert_eq!(world.sim.volume_state(&volume).unwrap().attachments[0].device, "/dev/sdg");
    assert!(node.read("/etc/fstab").contains(volume.as_str()));
}

#[test]
fn a_volume_attached_before_the_agent_began_is_used_as_it_is() {
    let world = World::new();
    let (node, volume) = world.node();
    world.sim.attach(&volume, &node.id, "/dev/sdm").unwrap();

    node.come_up(&config_for(&volume));

    assert_eq!(world.events().calls("ec2:AttachVolume").len(), 0);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_device_that_never_appears_is_reported_with_what_is_there() {
    let world = World::with(|config| config.latencies.device = Duration::from_mins(10));
    let (node, volume) = world.node();
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"8s\"");

    node.run(&config).must_fail(
        1,
        &["step=filesystem code=device-missing", "EC2 says that volume", "has not appeared", "the disks here are: "],
    );
}

#[test]
fn of_two_agents_that_race_for_a_volume_one_wins_and_the_other_says_who_has_it() {
    let world = World::new();
    let (one, volume) = world.node();
    let two = world.launch();
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nvolume = \"10s\"");

    let (first, second) = (one.start(&config), two.start(&config));
    let (first, second) = (first.end(), second.end());

    let (winner, loser, loser_log) = match (first.code, second.code) {
        (Some(0), Some(6)) => (&one, &two, second),
        (Some(6), Some(0)) => (&two, &one, first),
        codes => panic!("{codes:?}\n{}\n{}", first.log, second.log),
    };
    loser_log.must_fail(6, &["code=volume-held", winner.id.as_str(), "(running)"]);
    assert_eq!(loser.shell("findmnt /mydata || echo none"), "none");
    assert_eq!(world.sim.volume_state(&volume).unwrap().attachments.len(), 1);
    assert!(world.events().attempts("ec2:DetachVolume").is_empty());
}

const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// A volume that is encrypted with [`KEY`], and an instance with a role that lacks these actions.
fn encrypted(world: &World, kms_key_disabled: bool, denied: &[&str]) -> (Instance, VolumeId) {
    let spec = VolumeSpec { kms_key_id: Some(KEY.to_owned()), kms_key_disabled, ..VolumeSpec::default() };
    let volume = world.sim.create_volume(spec).unwrap();
    (world.launch_without(denied), volume)
}

#[test]
fn a_key_that_the_role_may_not_grant_is_named_with_what_it_needs() {
    let world = World::new();
    let (node, volume) = encrypted(&world, false, &["kms:CreateGrant"]);

    let outcome = node.run(&config_for(&volume));

    outcome.must_fail(1, &["step=attach code=encryption-refused", "unable to access the KMS master key", KEY]);
    for needed in [
        "kms:CreateGrant (where kms:GrantIsForAWSResource is true)",
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncrypt*",
        "in its policy and in the key's own",
    ] {
        assert!(outcome.last().contains(needed), "{needed} is missing in {}", outcome.last());
    }
    assert_eq!(world.events().attempts("ec2:AttachVolume").len(), 1, "trying again gives the same");
}

#[test]
fn a_volume_that_ec2_drops_again_for_its_key_is_not_tried_for_ever() {
    let world = World::new();
    let (node, volume) = encrypted(&world, true, &[]);

    let outcome = node.run(&config_for(&volume));

    outcome.must_fail(1, &["step=attach code=encryption-refused", "accepted 3 requests", "available again", KEY]);
    assert_eq!(world.events().attempts("ec2:AttachVolume").len(), 3);
}

#[test]
fn a_volume_with_a_key_that_may_be_used_comes_up() {
    let world = World::new();
    let (node, volume) = encrypted(&world, false, &[]);

    node.come_up(&config_for(&volume));
}
