//! A plan of `node-agent roll` for many groups, each of which is behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Instant;

use ec2_sim::sandbox::Sandbox;
use ec2_sim::{
    GroupSpec, InterfaceSpec, Launches, LightNode, Quota, Sim, SimConfig, TemplateChoice, TemplateSpec,
    TemplateVersion, What,
};

use crate::Result;
use crate::config::both_hooks;
use crate::lab::STUCK;
use crate::quotas;
use crate::results::RollResult;

/// The tag of the groups.
const CLUSTER: (&str, &str) = ("stateful-cluster", "bench");

/// A dry run over so many groups, without and with an account's quotas.
pub(crate) fn measure(sandbox: &Sandbox, groups: usize) -> Result<Vec<RollResult>> {
    let mut results = Vec::new();
    for (name, quotas) in [("roll", Vec::new()), ("roll-quotas", quotas::account())] {
        eprintln!("roll: {groups} groups");
        results.push(plan(sandbox, name, groups, quotas)?);
    }
    Ok(results)
}

fn plan(sandbox: &Sandbox, name: &str, groups: usize, quotas: Vec<Quota>) -> Result<RollResult> {
    let (dir, has_quotas) = (sandbox.dir().join(name), !quotas.is_empty());
    let sim = Sim::start_blocking(SimConfig { work_dir: dir.clone(), quotas, ..SimConfig::default() })?;
    for number in 0..groups {
        add(&sim, number)?;
    }
    for number in 0..groups {
        let in_service = |what: &What| matches!(what, What::Lifecycle(change) if change.group == group(number) && change.to == "InService");
        sim.wait_for_blocking(|event| in_service(&event.what), STUCK).ok_or("a group has nothing in service")?;
        sim.add_template_version(&group(number), version(number, "ami-2"))?;
    }
    let before = sim.events().len();
    let (log, cluster) = (dir.join("roll.log"), format!("{}={}", CLUSTER.0, CLUSTER.1));
    let mut roll = Command::new(sandbox.binary());
    roll.args(["roll", "--cluster", &cluster]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    roll.env("HOME", &dir).env("USER", "bench").envs(sim.operator_env(&[])).stdin(Stdio::null());
    roll.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
    let began = Instant::now();
    let status = roll.status()?;
    let seconds = began.elapsed().as_secs_f64();
    let printed = fs::read_to_string(&log)?;
    let planned = printed.matches("to version 2: runs version 1").count();
    if !status.success() || planned != groups {
        return Err(format!("the plan ended with {status} and names {planned} groups:\n{printed}").into());
    }
    let (mut answered, mut throttled) = (BTreeMap::new(), 0);
    for event in &sim.events()[before..] {
        match &event.what {
            What::Api(call) if call.fault.is_none() => *answered.entry(call.action.clone()).or_insert(0) += 1,
            What::Api(_) => throttled += 1,
            _ => {}
        }
    }
    let floor = if has_quotas { quotas::floor(&answered).0 } else { 0.0 };
    let ratio = if floor > 0.0 { seconds / floor } else { 1.0 };
    let answered = answered.values().sum();
    Ok(RollResult { groups, quotas: has_quotas, seconds, floor, ratio, answered, throttled })
}

fn group(number: usize) -> String {
    format!("bench-node-{number:04}")
}

fn interface(number: usize) -> String {
    format!("eni-{number:017x}")
}

fn version(number: usize, image: &str) -> TemplateVersion {
    TemplateVersion {
        image: image.to_owned(),
        interface: Some(interface(number)),
        launch: Some(LightNode::default()),
        ..TemplateVersion::default()
    }
}

/// A group with a node that the simulator plays.
fn add(sim: &Sim, number: usize) -> Result<()> {
    let address = format!("10.0.{}.{}", 1 + number / 200, 10 + number % 200);
    sim.create_interface(InterfaceSpec { id: Some(interface(number)), private_ips: vec![address.clone()] })?;
    let versions = vec![version(number, "ami-1")];
    sim.create_template(TemplateSpec { name: group(number), id: None, versions })?;
    let mut launches = Launches::default();
    launches.instance.private_ips = vec![address];
    sim.create_group(GroupSpec {
        name: group(number),
        hooks: both_hooks(),
        tags: BTreeMap::from([(CLUSTER.0.to_owned(), CLUSTER.1.to_owned())]),
        maintenance_policy: Some((0, 100)),
        template: Some(TemplateChoice::new(&group(number), "1")),
        launches: Some(launches),
        ..GroupSpec::default()
    })?;
    Ok(())
}
