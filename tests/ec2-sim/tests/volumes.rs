//! Volumes are real devices that come, grow and go as EC2's do.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{PATIENCE, Reply, World, block_on};
use ec2_sim::{InstanceId, InstanceSpec, InstanceState, Sim, VolumeId, VolumeSpec, What};

fn attach(world: &World, volume: &VolumeId, instance: &InstanceId, device: &str) -> Reply {
    let parameters = [("VolumeId", volume.as_str()), ("InstanceId", instance.as_str()), ("Device", device)];
    world.client().call("ec2", "AttachVolume", &parameters).unwrap()
}

fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.element("Code").unwrap_or_default())
}

fn error(http: u16, code: &str) -> (u16, String) {
    (http, code.to_owned())
}

fn device(world: &World, instance: &InstanceId) -> std::path::PathBuf {
    block_on(world.sim.wait_for_device(&world.volume, instance, PATIENCE)).expect("a device")
}

fn wait_free(world: &World) {
    let free = |event: &ec2_sim::Event| matches!(&event.what, What::Volume(change) if change.attachment.as_deref() == Some("detached"));
    world.sim.wait_for_blocking(free, PATIENCE).expect("free");
}

/// Whether a loop device stands over the file, by the kernel's own account.
fn is_behind_a_loop_device(file: &Path) -> bool {
    let output = Command::new("losetup").arg("-j").arg(file).output().unwrap();
    !output.stdout.is_empty()
}

#[test]
fn the_device_comes_with_its_link_keeps_its_bytes_and_goes() {
    let world = World::with(|config| config.latencies.shutting_down = Duration::from_secs(3), |_| {});
    let (sim, volume) = (&world.sim, &world.volume);
    let link = world.dir.path().join("by-id").join(Sim::link_name(volume));
    assert_eq!(attach(&world, volume, &world.instance, "/dev/sdf").status, 200);
    let path = device(&world, &world.instance);
    assert_eq!(fs::read_link(&link).unwrap(), path);
    OpenOptions::new().write(true).open(&link).unwrap().write_all(b"kept").unwrap();

    sim.terminate(&world.instance).unwrap();
    assert_eq!(sim.instance_state(&world.instance).unwrap(), InstanceState::ShuttingDown);
    assert_eq!(sim.volume_state(volume).unwrap().status, "in-use");
    wait_free(&world);
    assert_eq!(sim.volume_state(volume).unwrap().status, "available");
    assert!(fs::symlink_metadata(&link).is_err());

    let second = world.second_instance();
    assert_eq!(attach(&world, volume, &second, "/dev/sdf").status, 200);
    let mut first = [0; 4];
    File::open(device(&world, &second)).unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"kept");
}

#[test]
fn refusals_are_worded_as_aws_words_them() {
    let world = World::new();
    let (volume, instance) = (&world.volume, &world.instance);
    let elsewhere = world.sim.launch(InstanceSpec {
        by_id_dir: world.dir.path().join("elsewhere"),
        zone: Some("eu-west-1b".to_owned()),
        ..InstanceSpec::default()
    });
    let zone = attach(&world, volume, &elsewhere.unwrap(), "/dev/sdf");
    assert_eq!(code(&zone), error(400, "InvalidVolume.ZoneMismatch"));
    let nowhere = attach(&world, &"vol-0badbadbadbadbad0".into(), instance, "/dev/sdf");
    assert_eq!(code(&nowhere), error(400, "InvalidVolume.NotFound"));
    let nobody = attach(&world, volume, &"i-0badbadbadbadbad0".into(), "/dev/sdf");
    assert_eq!(code(&nobody), error(400, "InvalidInstanceID.NotFound"));

    world.sim.set_instance_state(instance, InstanceState::Pending).unwrap();
    let pending = attach(&world, volume, instance, "/dev/sdf");
    assert_eq!(code(&pending), error(400, "IncorrectState"));
    assert_eq!(pending.element("Message").unwrap(), format!("Instance '{instance}' is not 'running'."));
    world.sim.set_instance_state(instance, InstanceState::Running).unwrap();

    assert_eq!(attach(&world, volume, instance, "/dev/sdf").status, 200);
    let in_use = attach(&world, volume, &world.second_instance(), "/dev/sdf");
    assert_eq!(code(&in_use), error(400, "VolumeInUse"));
    let message = format!("{volume} is already attached to an instance");
    assert_eq!(in_use.element("Message").unwrap(), message);

    let other = world.sim.create_volume(VolumeSpec::default()).unwrap();
    let taken = attach(&world, &other, instance, "/dev/sdf");
    assert_eq!(code(&taken), error(400, "InvalidParameterValue"));
    let message = "Invalid value '/dev/sdf' for unixDevice. Attachment point /dev/sdf is already in use";
    assert_eq!(taken.element("Message").unwrap(), message);

    let missing = world.client().call("ec2", "AttachVolume", &[]).unwrap();
    assert_eq!(code(&missing), error(400, "MissingParameter"));
    let unknown = world.client().call("ec2", "AttachVolumes", &[]).unwrap();
    assert_eq!(code(&unknown), error(400, "InvalidAction"));
    let filter = [("Filter.1.Name", "nonsense"), ("Filter.1.Value.1", "x")];
    let filtered = world.client().call("ec2", "DescribeVolumes", &filter).unwrap();
    assert_eq!(code(&filtered), error(400, "InvalidParameterValue"));
    let dry = world.client().call("ec2", "DescribeVolumes", &[("DryRun", "true")]).unwrap();
    assert_eq!(code(&dry), error(412, "DryRunOperation"));
}

#[test]
fn a_volume_grows_under_its_device() {
    let world = World::new();
    attach(&world, &world.volume, &world.instance, "/dev/sdf");
    let mut device = File::open(device(&world, &world.instance)).unwrap();
    assert_eq!(device.seek(SeekFrom::End(0)).unwrap(), 64 << 20);
    let parameters = [("VolumeId", world.volume.as_str()), ("Size", "2")];
    assert_eq!(world.client().call("ec2", "ModifyVolume", &parameters).unwrap().status, 200);
    assert_eq!(device.seek(SeekFrom::End(0)).unwrap(), 2 << 30);
    let described = world.client().call("ec2", "DescribeVolumes", &[]).unwrap();
    assert_eq!(described.element("size").unwrap(), "2");
    let smaller = world.sim.grow_volume(&world.volume, 1 << 30);
    assert_eq!(smaller.unwrap_err().code, "InvalidParameterValue");
}

#[test]
fn a_device_that_is_held_open_keeps_its_volume() {
    let world = World::new();
    attach(&world, &world.volume, &world.instance, "/dev/sdf");
    let held = File::open(device(&world, &world.instance)).unwrap();
    world.sim.detach(&world.volume, &world.instance).unwrap();
    let busy = |event: &ec2_sim::Event| matches!(&event.what, What::Volume(change) if change.attachment.as_deref() == Some("busy"));
    world.sim.wait_for_blocking(busy, PATIENCE).expect("busy");
    let refused = attach(&world, &world.volume, &world.second_instance(), "/dev/sdf");
    assert_eq!(code(&refused), error(400, "IncorrectState"));
    drop(held);
    wait_free(&world);
    assert_eq!(world.sim.volume_state(&world.volume).unwrap().status, "available");
}

#[test]
fn two_instances_share_only_a_multi_attach_volume() {
    let world = World::new();
    let spec = VolumeSpec { multi_attach: true, ..VolumeSpec::default() };
    let shared = world.sim.create_volume(spec).unwrap();
    let second = world.second_instance();
    assert_eq!(attach(&world, &shared, &world.instance, "/dev/sdf").status, 200);
    assert_eq!(attach(&world, &shared, &second, "/dev/sdf").status, 200);
    for instance in [&world.instance, &second] {
        block_on(world.sim.wait_for_device(&shared, instance, PATIENCE)).expect("a device each");
    }
}

#[test]
fn nothing_is_left_behind_also_after_a_panic() {
    let world = World::new();
    attach(&world, &world.volume, &world.instance, "/dev/sdf");
    device(&world, &world.instance);
    let file = world.sim.volume_state(&world.volume).unwrap().backing_file;
    assert!(is_behind_a_loop_device(&file));
    let World { sim, dir, .. } = world;
    let clone = sim.clone();
    let crashed = std::thread::spawn(move || {
        let _held = (sim, clone);
        panic!("a test fails here on purpose");
    });
    assert!(crashed.join().is_err());
    assert!(!is_behind_a_loop_device(&file));
    assert_eq!(fs::read_dir(dir.path().join("by-id")).unwrap().count(), 0);
}
