//! Scenes 1 to 4: one node is launched, replaced, given up and repaired.

use ec2_sim::sandbox::Sandbox;

use crate::Result;
use crate::checks::Checks;
use crate::world::{BROKEN, HOOKS, World};

pub(crate) fn play(sandbox: &Sandbox, checks: &mut Checks) -> Result<()> {
    let world = World::new(sandbox)?;
    println!(
        "\n== 1. First boot, while another instance still holds the volume ==\n\n\
         Auto Scaling launches an instance and holds it in Pending:Wait until the node is healthy. The node's volume is new\n\
         and blank, but still attached to {}, which failed and is shutting down. On the new instance runs:\n\
         node-agent run --once\n",
        world.first_holder
    );
    let first = world.boot(HOOKS)?;
    first.must_have_come_up(&world, checks)?;
    first.tell(&world, checks)?;
    first.tell_disk()?;
    checks.holds("the blank disk was formatted", first.formatted());
    let data = first.data()?;
    println!("  data      {}", data.in_words);

    println!(
        "\n== 2. The instance is replaced, the data stays ==\n\n\
         That instance is terminated. Auto Scaling launches another one, with an empty root disk; the volume comes free when\n\
         the old instance is gone.\n"
    );
    let gone = first.node.terminate()?;
    let second = world.boot(HOOKS)?;
    gone.wait()?;
    second.must_have_come_up(&world, checks)?;
    second.tell(&world, checks)?;
    checks.holds("the second instance formatted nothing", !second.formatted());
    let found = second.data()?;
    let found_again = if found == data { "the same, byte for byte; nothing was formatted" } else { "NOT the same" };
    println!("  data      {}: {found_again}", found.in_words);
    checks.equal("the data found by the second instance", &found, &data);

    println!(
        "\n== 3. A node that does not get healthy ==\n\n\
         The next instance gets a release whose broker never answers. It is told to give up at once: on_failure = \"abandon\".\n"
    );
    let gone = second.node.terminate()?;
    let third = world.boot(&[HOOKS, BROKEN].concat())?;
    gone.wait()?;
    third.must_have_failed(&world, checks);
    let found = third.data()?;
    println!("  data      {}: {}", found.in_words, if found == data { "untouched" } else { "NOT the same" });
    checks.equal("the data after the failed launch", &found, &data);

    println!(
        "\n== 4. A node is held, repaired and reported ==\n\n\
         The next instance runs the resident service, with on_failure = \"hold\" as it is by default. Its configure hook misses\n\
         a file. Somebody opens a session on it:\n"
    );
    let gone = third.node.terminate()?;
    let held = world.hold(checks)?;
    gone.wait()?;
    // The devices are free before the world ends, so that nothing is left to the kernel.
    held.terminate()?.wait()?;
    Ok(())
}
