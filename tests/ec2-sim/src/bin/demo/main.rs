//! `make demo`: the agent brings up a node of a cluster on the simulated EC2, `node-agent roll` replaces three nodes, and the story
//! of it is told.
//!
//! What is told is checked: the demo ends with 0 only if everything was so.
//!
//! ```text
//! launches   scenes 1 to 4: one node        world    its region, and the launches there
//!                                           boot     what a run of the agent did, told and checked
//! rolled     scene 5: three nodes           cluster  their region and their machines, and the operator's
//! both                                      checks   what was told, compared with what was seen
//!                                           data     what is on a volume
//!                                           image    what the machine image brings
//!                                           terminal commands as they are typed, and what they print
//! ```

mod boot;
mod checks;
mod cluster;
mod data;
mod image;
mod launches;
mod rolled;
mod terminal;
mod world;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use ec2_sim::sandbox::{self, Sandbox};

use checks::Checks;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    sandbox::enter(|sandbox| match run(sandbox) {
        Ok(Checks { made, differing }) if differing.is_empty() => {
            println!("\nAll of this was checked while it was told: {made} checks, none differed.");
            ExitCode::SUCCESS
        }
        Ok(Checks { made, differing }) => {
            println!("\nNOT AS TOLD: {} of {made} checks differed.", differing.len());
            for line in differing {
                println!("  {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("\nThe demo could not be played to its end: {error}");
            ExitCode::FAILURE
        }
    })
}

fn run(sandbox: &Sandbox) -> Result<Checks> {
    let mut checks = Checks::default();
    println!(
        "node-agent brings up a node of a Kafka cluster, and rolls a cluster of three.\n\n\
         Simulated: EC2, Auto Scaling, S3 and the instance metadata, on this machine's loopback. Real: the agent, run as\n\
         root, and its disk, filesystem, mounts, files and hooks. Each instance has a root disk and mounts of its own.\n\n\
         Scenes 1 to 4 take half a minute. Scene 5, the roll, takes between three and four minutes."
    );
    let began = Instant::now();
    launches::play(sandbox, &mut checks)?;
    rolled::play(sandbox, &mut checks)?;
    let seconds = began.elapsed().as_secs();
    println!("\nFive scenes in {seconds} s. The simulated world, its disks and mounts are gone.");
    Ok(checks)
}
