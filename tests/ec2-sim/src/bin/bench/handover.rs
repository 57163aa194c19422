//! How soon a replacement has the volume of a node that goes.

use std::fs;
use std::time::Duration;

use ec2_sim::sandbox::{self, Sandbox};
use ec2_sim::{GroupSpec, InstanceSpec, Latencies, Sim, SimConfig, Spread, VolumeId, VolumeSpec, What};

use crate::Result;
use crate::config::{self, CONFIG, HOOKS, SCRIPT, both_hooks};
use crate::lab::STUCK;
use crate::measured::{Figure, Section};
use crate::service::Service;

/// What EC2 takes its time for. AWS documents none of these.
fn latencies(shutting_down: Duration) -> Latencies {
    Latencies {
        attach: Duration::from_secs(2),
        device: Duration::from_secs(2),
        detach: Duration::from_secs(3),
        shutting_down,
        interface: None,
        pending_to_wait: Duration::from_secs(1),
        proceed_to_in_service: Duration::from_secs(1),
        terminating_to_wait: Spread::from(Duration::from_secs(1)),
        notice: Spread::default(),
        target_state: Spread::from(Duration::from_secs(2)),
        api: Duration::from_millis(50),
    }
}

/// Seconds from the order to go: until a replacement that waits for the volume has it; until the network interface is free,
/// without which a group of one launches no replacement; until a replacement that is launched then has the volume.
#[derive(Clone, Copy)]
struct Handover {
    waiting: f64,
    interface: f64,
    launched: f64,
}

/// A departure from one node, and the arrival of its volume at another.
struct Departure<'a> {
    sandbox: &'a Sandbox,
    sim: &'a Sim,
    volume: VolumeId,
    detaches: bool,
}

/// Departures with and without `detach_on_terminate`, so many of each.
pub(crate) fn measure(sandbox: &Sandbox, departures: usize, shutting_down: Duration) -> Result<Vec<Section>> {
    let latencies = latencies(shutting_down);
    let about = format!(
        "in seconds from the order to go; EC2 attaches in {} s, detaches in {} s, shuts down in {} s",
        latencies.attach.as_secs(),
        latencies.detach.as_secs(),
        latencies.shutting_down.as_secs(),
    );
    let config = SimConfig { work_dir: sandbox.dir().join("handovers"), latencies, ..SimConfig::default() };
    let sim = Sim::start_blocking(config)?;
    let mut sections = Vec::new();
    for detaches in [true, false] {
        let mut measured = Vec::new();
        for number in 0..departures {
            let name = format!("handover-{detaches}-{number}");
            let departure = |waits, name: &str| -> Result<Handover> {
                let spec = VolumeSpec { size_bytes: 1 << 30, ..VolumeSpec::default() };
                let volume = sim.create_volume(spec)?;
                Departure { sandbox, sim: &sim, volume, detaches }.run(name, waits)
            };
            let waiting = departure(true, &name)?;
            let launched = departure(false, &format!("{name}-later"))?;
            measured.push(Handover { launched: launched.launched, ..waiting });
        }
        let values = |of: fn(&Handover) -> f64| measured.iter().map(of).collect::<Vec<_>>();
        sections.push(Section {
            title: format!("A handover with `detach_on_terminate = {detaches}`, {about}"),
            figures: vec![
                Figure::new("a replacement that waits has the volume", "s", values(|it| it.waiting)),
                Figure::new("the network interface is free", "s", values(|it| it.interface)),
                Figure::new("a replacement launched then has the volume", "s", values(|it| it.launched)),
            ],
        });
    }
    Ok(sections)
}

impl Departure<'_> {
    /// One handover. The replacement waits from the start, or is launched once the old instance's network interface is free. The
    /// groups stand for one: the simulator gives a replacement of the same group the old one's address only after its end.
    fn run(&self, group: &str, waits: bool) -> Result<Handover> {
        let old = self.place(group)?;
        let mut service = self.begin(&old, group)?;
        service.wait_for("result=done")?;
        let next = format!("{group}-next");
        let mut replacement = None;
        if waits {
            let node = self.place(&next)?;
            let waiting = self.begin(&node, &next)?;
            waiting.wait_for(&format!("is attached to {}", old.id))?;
            replacement = Some((node, waiting));
        }
        self.sim.terminate_in_group(&old.id)?;
        let ordered = self.found(|what| {
            matches!(what, What::Lifecycle(change) if change.instance == old.id.as_str() && change.to == "Terminating")
        })?;
        let gone = self.found(
            |what| matches!(what, What::Instance(change) if change.id == old.id.as_str() && change.to == "terminated"),
        )?;
        let (node, mut successor) = if let Some(replacement) = replacement {
            replacement
        } else {
            let node = self.place(&next)?;
            let successor = self.begin(&node, &next)?;
            (node, successor)
        };
        let has = self.found(|what| {
            matches!(what, What::Volume(change) if change.id == self.volume.as_str()
                && change.attachment.as_deref() == Some("attached")
                && change.instance.as_deref() == Some(node.id.as_str()))
        })?;
        successor.wait_for("result=done")?;
        let left = service.child.wait()?;
        if !left.success() {
            return Err(format!("the departure failed ({left}):\n{}", fs::read_to_string(&service.log)?).into());
        }
        successor.end()?;
        drop(old);
        node.terminate()?;
        let taken = has - ordered;
        Ok(Handover { waiting: taken, interface: gone - ordered, launched: taken })
    }

    fn place(&self, name: &str) -> Result<sandbox::Node> {
        self.sim.create_group(GroupSpec { name: name.to_owned(), hooks: both_hooks(), ..GroupSpec::default() })?;
        let spec = InstanceSpec { group: Some(name.to_owned()), ..InstanceSpec::default() };
        Ok(self.sandbox.launch(self.sim, spec)?)
    }

    fn begin(&self, node: &sandbox::Node, group: &str) -> Result<Service> {
        node.write(CONFIG, config::leaving(group, &self.volume, self.detaches))?;
        node.write(SCRIPT, HOOKS)?;
        Service::start(self.sandbox, node, group)
    }

    /// When this happened, which may be a while from now.
    fn found(&self, wanted: impl Fn(&What) -> bool) -> Result<f64> {
        let event = self.sim.wait_for_blocking(|event| wanted(&event.what), STUCK * 5);
        Ok(event.ok_or("it has not happened")?.t)
    }
}
