//! A simulated region in which boots are measured.

use std::path::PathBuf;
use std::time::Duration;

use ec2_sim::sandbox::{Node, Sandbox};
use ec2_sim::{Event, GroupSpec, InstanceId, InstanceSpec, Latencies, Sim, SimConfig, VolumeId, What};

use crate::Result;
use crate::config::{BUCKET, file_name, launch_hook};

/// An answer that takes longer never comes.
pub(crate) const STUCK: Duration = Duration::from_mins(1);
/// How large each file from S3 is.
const FILE_BYTES: usize = 4096;
/// The most files that a row has.
const FILES: usize = 200;

/// A region with a group, files in S3, and an instance on which bare commands get their disks.
pub(crate) struct Lab<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) sim: Sim,
    pub(crate) latencies: Latencies,
    /// Has the disks while the bare commands are measured.
    pub(crate) other: InstanceId,
}

/// The group of the nodes that are measured.
pub(crate) const GROUP: &str = "bench";

impl Lab<'_> {
    pub(crate) fn new<'a>(sandbox: &'a Sandbox, name: &str, latencies: Latencies) -> Result<Lab<'a>> {
        let config =
            SimConfig { work_dir: sandbox.dir().join(name), latencies: latencies.clone(), ..SimConfig::default() };
        let sim = Sim::start_blocking(config)?;
        sim.create_group(GroupSpec { name: GROUP.to_owned(), hooks: vec![launch_hook()], ..GroupSpec::default() })?;
        for number in 0..FILES {
            sim.put_object(BUCKET, &file_name(number), format!("{number:04}\n").repeat(FILE_BYTES / 5));
        }
        let other = sim.launch(InstanceSpec { by_id_dir: sandbox.dir().join("other"), ..InstanceSpec::default() })?;
        Ok(Lab { sandbox, sim, latencies, other })
    }

    /// Launches an instance of this group, and waits until its hook holds it.
    pub(crate) fn launch(&self, group: &str) -> Result<Node> {
        let spec = InstanceSpec { group: Some(group.to_owned()), ..InstanceSpec::default() };
        let node = self.sandbox.launch(&self.sim, spec)?;
        self.wait("Pending:Wait", |what| {
            matches!(what, What::Lifecycle(change) if change.instance == node.id.as_str() && change.to == "Pending:Wait")
        })?;
        Ok(node)
    }

    /// The first event that matches, past ones included.
    pub(crate) fn wait(&self, for_what: &str, wanted: impl Fn(&What) -> bool) -> Result<Event> {
        let event = self.sim.wait_for_blocking(|event| wanted(&event.what), STUCK);
        event.ok_or_else(|| format!("no {for_what} within {} s", STUCK.as_secs()).into())
    }

    /// The volume's device on this instance, once it has appeared.
    pub(crate) fn device(&self, volume: &VolumeId, instance: &InstanceId) -> Result<PathBuf> {
        self.wait("device", |what| {
            matches!(what, What::Device(change) if change.id == volume.as_str()
                && change.instance == instance.as_str() && change.state == "appeared")
        })?;
        Ok(self.sim.device(volume, instance).ok_or("the device went away")?)
    }

    /// Waits until EC2 calls the volume attached to this instance, and tells when.
    pub(crate) fn attached(&self, volume: &VolumeId, instance: &InstanceId) -> Result<f64> {
        let event = self.wait("attached volume", |what| {
            matches!(what, What::Volume(change) if change.id == volume.as_str()
                && change.attachment.as_deref() == Some("attached")
                && change.instance.as_deref() == Some(instance.as_str()))
        })?;
        Ok(event.t)
    }

    /// Waits until the volume has been detached, and tells when.
    pub(crate) fn free(&self, volume: &VolumeId) -> Result<f64> {
        let event = self.wait("free volume", |what| {
            matches!(what, What::Volume(change) if change.id == volume.as_str()
                && change.attachment.as_deref() == Some("detached"))
        })?;
        Ok(event.t)
    }
}
