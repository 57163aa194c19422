//! Scene 5: three nodes are rolled by `node-agent roll`; one fails, is repaired, and the roll goes on.

use std::time::Duration;

use ec2_sim::sandbox::Sandbox;
use ec2_sim::{ActKind, Gap, InstanceId};

use crate::Result;
use crate::checks::Checks;
use crate::cluster::{CLUSTER, Cluster, Member, NODES, group};
use crate::data::Data;
use crate::terminal::{Ended, exit, follow, show, type_in};

/// A roll that lasts longer is stuck.
const STUCK: Duration = Duration::from_mins(6);
/// How the first roll and the second one are called.
const ROLL: [&str; 7] = ["--cluster", CLUSTER, "--check", "./brokers.sh", "--timeout", "1m", "--yes"];
/// What release 2 wants, on the node's volume.
const LICENCE: &str = "/mydata/kafka/licence";
/// What the release's hook says where it is missing.
const MISSING: &str = "release 2 needs a licence: /mydata/kafka/licence is missing";
/// What the node's status tag says then, and with it the roll.
const STATUS: &str = "configure: configure_cluster_node ended with exit status: 1";

pub(crate) fn play(sandbox: &Sandbox, checks: &mut Checks) -> Result<()> {
    println!(
        "\n== 5. Three nodes are rolled; one fails, is repaired, and the roll goes on ==\n\n\
         A cluster of three: groups of one instance, each with a network interface and a volume that stay. They run version 1\n\
         of their launch templates. Version 2 brings a release that needs a licence on the data volume. It was put on the\n\
         volumes of 00 and 02, and forgotten on that of 01. On the operator's machine:\n"
    );
    let cluster = Cluster::new(sandbox)?;
    for node in ["00", "02"] {
        license(&cluster, node)?;
    }
    let before = NODES.iter().map(|node| cluster.data(node)).collect::<Result<Vec<_>>>()?;
    cluster.publish(2)?;
    dry_run(&cluster, checks)?;
    let held = first_roll(&cluster, checks)?;
    repair(&cluster, &held, checks)?;
    second_roll(&cluster, checks)?;
    tell(&cluster, &held, &before, checks)
}

/// What the roll would do: the difference key by key, and nothing is changed.
fn dry_run(cluster: &Cluster, checks: &mut Checks) -> Result<()> {
    let ended = roll(cluster, &["--cluster", CLUSTER])?;
    checks.equal("the dry run's exit code", &ended.code, &Some(0));
    for node in NODES {
        checks.holds(format_args!("the dry run names {node}"), says(&ended, &[node, "to version 2: runs version 1"]));
        for key in ["image: ", "hooks.script_base64: ", "timeouts.hooks: "] {
            let text = format!("{node}:    {key}");
            checks.holds(format_args!("the dry run shows {text}"), says(&ended, &[&text, " -> "]));
        }
    }
    checks.holds("the dry run ends with how it is done", says(&ended, &["nothing was done", "--yes"]));
    let events = cluster.sim.events();
    let is_operators = |caller: &Option<String>| caller.as_deref().is_some_and(|name| name.starts_with("operator"));
    let changes = events.mutations().into_iter().filter(|call| is_operators(&call.caller)).count();
    checks.equal("changes by the dry run", &changes, &0);
    Ok(())
}

/// 00 is replaced, 01 fails and is held, and the roll stops. Returns the held instance.
fn first_roll(cluster: &Cluster, checks: &mut Checks) -> Result<InstanceId> {
    println!(
        "\nThat is wanted. brokers.sh asks whether all three brokers run, before and after each node. A node may take a minute\n\
         here; by default it is an hour.\n"
    );
    let old: Vec<Member> = NODES.iter().map(|node| cluster.member(node)).collect::<Result<_>>()?;
    let ended = roll(cluster, &ROLL)?;
    let [new, held, untouched] = NODES.map(|node| cluster.member(node));
    let (new, held, untouched) = (new?, held?, untouched?);
    let in_service = |version| ("InService".to_owned(), Some(version));
    checks.equal("the first roll's exit code", &ended.code, &Some(1));
    checks.equal("what became of 00", &(new.state, new.version), &in_service(2));
    checks.holds("00 has another instance", new.instance != old[0].instance);
    checks.equal("what became of 01", &(held.state, held.version), &("Pending:Wait".to_owned(), Some(2)));
    checks.equal("02", &untouched, &old[2]);
    let id = held.instance.as_str();
    checks.holds(
        "the roll says that 01 is held, and why",
        says(&ended, &["01: ", id, "has failed and is held", STATUS]),
    );
    let last = ended.lines.last().map(String::as_str).unwrap_or_default();
    checks.holds(
        format_args!("the last line names the node, its status and what to do: {last}"),
        ["01 (kafka-node-01)", id, STATUS, "node-agent retry"].iter().all(|part| last.contains(part)),
    );
    checks.equal("flags left by the first roll", &flags(cluster)?, &Vec::new());
    println!(
        "\n  result    exit {}: 00 runs version 2, 02 was not touched, and 01 is held by its agent, with all that it had when it failed",
        exit(ended.code)
    );
    Ok(held.instance)
}

/// What an operator does on the held node.
fn repair(cluster: &Cluster, held: &InstanceId, checks: &mut Checks) -> Result<()> {
    println!("\nSomebody opens a session on {held}, which is 01 (shortened):\n\n  # echo A1B2 > {LICENCE}");
    license(cluster, "01")?;
    let arguments = ["retry"];
    let retried = cluster.session(held, &arguments, |command| type_in(&arguments, command))??;
    // What was done before is done already, and scene 4 shows it.
    let from = retried.find("configure: start").and_then(|at| retried[..at].rfind('\n')).unwrap_or_default();
    println!("  …{}", if from == 0 { "\n" } else { "" });
    show(retried[from..].trim_start_matches('\n'));
    checks.holds("retry ends with success", retried.ends_with("node-agent: result=done\n"));
    cluster.wait_until_in_service("01", Some(held))
}

/// The same command finishes what the first roll has begun.
fn second_roll(cluster: &Cluster, checks: &mut Checks) -> Result<()> {
    println!("01 is in service. On the operator's machine the same command goes on:\n");
    let ended = roll(cluster, &ROLL)?;
    checks.equal("the second roll's exit code", &ended.code, &Some(0));
    checks.holds("it touches 02 alone", says(&ended, &["02: 1. to version 2: runs version 1"]));
    for node in ["00", "01"] {
        checks.holds(format_args!("{node} stays"), says(&ended, &[&format!("{node}: runs version 2, stays")]));
    }
    checks.holds("it says where the time went", says(&ended, &["02: out for ", "drain ", "hooks "]));
    checks.holds("it says that all is done", says(&ended, &["every node that may be touched runs the target"]));
    checks.equal("flags left by the second roll", &flags(cluster)?, &Vec::new());
    Ok(())
}

/// The end: what runs, what was out, what is on the volumes.
fn tell(cluster: &Cluster, held: &InstanceId, before: &[Data], checks: &mut Checks) -> Result<()> {
    println!("\nWhat is left of it:\n");
    let events = cluster.sim.events();
    let mut gaps = Vec::new();
    for (node, before) in NODES.iter().zip(before) {
        let member = cluster.member(node)?;
        let (state, version) = (member.state.clone(), member.version);
        checks.equal(format_args!("how {node} ends"), &(state, version), &("InService".to_owned(), Some(2)));
        checks.equal(format_args!("what the group of {node} is set to"), &cluster.set_to(node)?, &Some("2".to_owned()));
        let out = events.gaps(&group(node));
        checks.equal(format_args!("how often {node} was out"), &out.len(), &1);
        let seconds = out.iter().map(length).sum::<f64>();
        let data = cluster.data(node)?;
        let same = kept(before, &data);
        checks.holds(format_args!("the data of {node} is as before"), same);
        println!(
            "  {node}        version 2 on {}, out for {seconds:.1} s; {}: {}",
            member.instance,
            data.in_words,
            if same { "all that was there, byte for byte" } else { "NOT the same" }
        );
        gaps.push(out);
    }
    checks.equal("the repaired instance", &cluster.member("01")?.instance, held);
    let two_out = longest_overlap(&gaps);
    let in_words = if two_out > 0.0 { format!("{two_out:.1} s") } else { "never".to_owned() };
    println!("  two out   {in_words}");
    checks.holds(format_args!("two nodes were never out at once: {in_words}"), two_out <= 0.0);
    let acts = events.acts();
    let done = |wanted: &ActKind| acts.iter().filter(|act| act.done && act.kind == *wanted).count();
    let (terminated, abandoned) = (done(&ActKind::Terminate), done(&ActKind::Abandon));
    println!("  sent      {terminated} terminations, one a node; {abandoned} ABANDON");
    checks.equal("terminations", &terminated, &NODES.len());
    checks.equal("instances that were given up", &abandoned, &0);
    Ok(())
}

/// Shows `node-agent roll` with these arguments as it is typed, and what it says, as it comes.
fn roll(cluster: &Cluster, arguments: &[&str]) -> Result<Ended> {
    println!("  $ node-agent roll {}\n", arguments.join(" "));
    follow("roll", &mut cluster.roll(arguments), STUCK)
}

/// Whether a line has all these parts.
fn says(ended: &Ended, parts: &[&str]) -> bool {
    ended.lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

/// Puts the licence on the node's volume.
fn license(cluster: &Cluster, node: &str) -> Result<()> {
    let member = cluster.member(node)?;
    Ok(cluster.on(&member.instance, |machine| machine.write(LICENCE, "A1B2\n"))??)
}

/// The groups on which a roll has left its flag.
fn flags(cluster: &Cluster) -> Result<Vec<&'static str>> {
    let mut left = Vec::new();
    for node in NODES {
        if cluster.tags(node)?.iter().any(|key| key == "node-agent:roll") {
            left.push(node);
        }
    }
    Ok(left)
}

/// Whether all that was on a volume is on it still.
fn kept(before: &Data, after: &Data) -> bool {
    before.uuid == after.uuid && before.files.iter().all(|(path, sum)| after.files.get(path) == Some(sum))
}

fn length(gap: &Gap) -> f64 {
    gap.to.unwrap_or(f64::INFINITY) - gap.from
}

/// The longest time, in seconds, in which two of the nodes were out.
fn longest_overlap(nodes: &[Vec<Gap>]) -> f64 {
    let mut longest = 0.0_f64;
    for (at, ones) in nodes.iter().enumerate() {
        for other in nodes.iter().skip(at + 1).flatten() {
            for one in ones {
                let to = one.to.unwrap_or(f64::INFINITY).min(other.to.unwrap_or(f64::INFINITY));
                longest = longest.max(to - one.from.max(other.from));
            }
        }
    }
    longest
}
