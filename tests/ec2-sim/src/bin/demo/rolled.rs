//! Scene 5: three nodes are rolled by `node-agent roll`; one fails, is repaired, and the roll goes on.

use std::time::Duration;

use ec2_sim::sandbox::Sandbox;
use ec2_sim::{ActKind, Gap, InstanceId};

use crate::Result;
use crate::checks::Checks;
use crate::cluster::{CLUSTER, Cluster, Member, NODES, group};
use crate::data::Data;
use crate::terminal::{Ended, exit, follow, show};

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
        "\n== 5. Three nodes are rolled: one fails, is repaired, and the roll goes on ==\n\n\
         A cluster of three nodes, each a group of one instance with a network interface and a volume of its own, runs version\n\
         1 of its launch templates. Version 2 brings a release that needs a licence on the data volume. The volumes of 00 and\n\
         02 have it; 01 was forgotten. On the operator's machine:\n"
    );
    let cluster = Cluster::new(sandbox)?;
    for node in ["00", "02"] {
        license(&cluster, node)?;
    }
    let before = NODES.iter().map(|node| Before::see(&cluster, node)).collect::<Result<Vec<_>>>()?;
    cluster.publish(2)?;
    dry_run(&cluster, checks)?;
    let held = first_roll(&cluster, &before, checks)?;
    repair(&cluster, &held, checks)?;
    second_roll(&cluster, checks)?;
    for (node, before) in NODES.iter().zip(&before) {
        tell_node(&cluster, node, before, checks)?;
    }
    checks.equal("the repaired instance", &cluster.member("01")?.instance, &held);
    tell_cluster(&cluster, checks);
    Ok(())
}

/// A node before the roll.
struct Before {
    member: Member,
    data: Data,
}

impl Before {
    fn see(cluster: &Cluster, node: &str) -> Result<Before> {
        Ok(Before { member: cluster.member(node)?, data: cluster.data(node)? })
    }
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
fn first_roll(cluster: &Cluster, before: &[Before], checks: &mut Checks) -> Result<InstanceId> {
    println!(
        "\nThat is the difference that is wanted. Before and after each node, brokers.sh checks that all three brokers run. The\n\
         roll waits one minute for a node here; the default is an hour.\n"
    );
    let ended = roll(cluster, &ROLL)?;
    let [new, held, untouched] = NODES.map(|node| cluster.member(node));
    let (new, held, untouched) = (new?, held?, untouched?);
    let in_service = |version| ("InService".to_owned(), Some(version));
    checks.equal("the first roll's exit code", &ended.code, &Some(1));
    checks.equal("what became of 00", &(new.state, new.version), &in_service(2));
    checks.holds("00 has another instance", new.instance != before[0].member.instance);
    checks.equal("what became of 01", &(held.state, held.version), &("Pending:Wait".to_owned(), Some(2)));
    checks.equal("02", &untouched, &before[2].member);
    let id = held.instance.as_str();
    checks
        .holds("the roll says that 01 is held, and why", says(&ended, &["01: ", id, "has failed and is held", STATUS]));
    let last = ended.lines.last().map(String::as_str).unwrap_or_default();
    checks.holds(
        format_args!("the last line names the node, its status and what to do: {last}"),
        ["01 (kafka-node-01)", id, STATUS, "node-agent retry"].iter().all(|part| last.contains(part)),
    );
    checks.equal("flags left by the first roll", &flags(cluster)?, &Vec::new());
    println!(
        "\n  result    exit {}: 00 runs version 2, 01 is held as it has failed, and 02 was not touched",
        exit(ended.code)
    );
    Ok(held.instance)
}

/// What an operator does on the held node.
fn repair(cluster: &Cluster, held: &InstanceId, checks: &mut Checks) -> Result<()> {
    println!("\nSomebody opens a session on 01 (shortened):\n");
    let status = cluster.type_in(held, &["status"])?;
    show_some(&status, |line| line.contains("HELD") || line.contains("FAIL") || line.starts_with("        "));
    checks.holds(
        "status says held, and why",
        ["HELD", "FAIL  configure", MISSING].iter().all(|text| status.contains(text)),
    );
    println!("  # echo A1B2 > {LICENCE}");
    license(cluster, "01")?;
    let retried = cluster.type_in(held, &["retry"])?;
    show_some(&retried, |line| {
        ["configure: ", "health-check: ", "complete: ", "result="].iter().any(|part| line.contains(part))
    });
    checks.holds("retry ends with success", retried.ends_with("node-agent: result=done\n"));
    cluster.wait_until_in_service("01", Some(held))
}

/// The same command finishes what the first roll has begun.
fn second_roll(cluster: &Cluster, checks: &mut Checks) -> Result<()> {
    println!("01 comes into service. On the operator's machine, the same command goes on with 02:\n");
    let ended = roll(cluster, &ROLL)?;
    println!("\n  result    exit {}\n\nIn the end:\n", exit(ended.code));
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

/// The end of a node: what runs, how long it was out, what is on its volume.
fn tell_node(cluster: &Cluster, node: &str, before: &Before, checks: &mut Checks) -> Result<()> {
    let Member { instance, state, version } = cluster.member(node)?;
    let gaps = cluster.sim.events().gaps(&group(node));
    let out = gaps.iter().fold(0.0, |sum, gap| sum + end(gap) - gap.from);
    let data = cluster.data(node)?;
    let same = kept(&before.data, &data);
    println!("  {node}        {instance} runs version 2; the node was out for {out:.1} s");
    println!("            {}: {same}", data.in_words);
    checks.equal(format_args!("how {node} ends"), &(state, version), &("InService".to_owned(), Some(2)));
    checks.equal(format_args!("what the group of {node} is set to"), &cluster.set_to(node)?, &Some("2".to_owned()));
    checks.equal(format_args!("how often {node} was out of service"), &gaps.len(), &1);
    checks.holds(format_args!("the data of {node}: {same}"), same.starts_with("the same"));
    let left = cluster.log(&before.member.instance);
    let steps = ["drain: done", "unmount vol-", "detach vol-"];
    let all = steps.iter().all(|step| left.lines().any(|line| line.contains(step) && line.contains(": done")));
    checks.holds(format_args!("the old instance of {node} has drained, unmounted and detached:\n{left}"), all);
    Ok(())
}

/// The end of the cluster: what was sent, and whether two nodes were ever out at once.
fn tell_cluster(cluster: &Cluster, checks: &mut Checks) {
    let events = cluster.sim.events();
    let gaps: Vec<_> = NODES.iter().map(|node| events.gaps(&group(node))).collect();
    let longest = longest_overlap(&gaps);
    let in_words =
        if longest > 0.0 { format!("for {longest:.1} s") } else { "never: one node at a time was out".to_owned() };
    let acts = events.acts();
    let done = |wanted: &ActKind| acts.iter().filter(|act| act.done && act.kind == *wanted).count();
    let (terminated, given_up) = (done(&ActKind::Terminate), done(&ActKind::Abandon));
    println!("  left      the old instances, each drained, unmounted and detached by its agent");
    println!("  two out   {in_words}");
    println!("  sent      {terminated} terminations, one a node; {given_up} ABANDON");
    checks.holds(format_args!("two nodes out at once: {in_words}"), longest <= 0.0);
    checks.equal("terminations", &terminated, &NODES.len());
    checks.equal("instances that were given up", &given_up, &0);
}

/// Shows `node-agent roll` with these arguments as it is typed, and what it says, as it comes.
fn roll(cluster: &Cluster, arguments: &[&str]) -> Result<Ended> {
    println!("  $ node-agent roll {}\n", arguments.join(" "));
    follow("roll", &mut cluster.roll(arguments), STUCK)
}

/// Shows some lines of what a command has printed.
fn show_some(text: &str, is_shown: impl Fn(&str) -> bool) {
    show(&text.lines().filter(|line| is_shown(line)).collect::<Vec<_>>().join("\n"));
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

/// What became of a volume's data, in words.
fn kept(before: &Data, after: &Data) -> String {
    let stays = |(path, sum): (&String, &String)| after.files.get(path) == Some(sum);
    if before.uuid != after.uuid || !before.files.iter().all(stays) {
        return "NOT the same".to_owned();
    }
    let new = after.files.keys().filter(|path| !before.files.contains_key(*path));
    new.fold("the same, byte for byte".to_owned(), |text, path| format!("{text}, and {path}"))
}

/// When a gap ended; one that has not lasts for ever.
fn end(gap: &Gap) -> f64 {
    gap.to.unwrap_or(f64::INFINITY)
}

/// The longest time, in seconds, in which two of the nodes were out.
fn longest_overlap(nodes: &[Vec<Gap>]) -> f64 {
    let mut longest = 0.0_f64;
    for (at, gaps) in nodes.iter().enumerate() {
        for (one, other) in gaps.iter().flat_map(|one| nodes[at + 1..].iter().flatten().map(move |other| (one, other)))
        {
            longest = longest.max(end(one).min(end(other)) - one.from.max(other.from));
        }
    }
    longest
}
