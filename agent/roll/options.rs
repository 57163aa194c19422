//! The command line of `node-agent roll`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::rules::Rule;
use super::target::To;
use crate::config::Groups;

/// `node-agent roll`
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(group(ArgGroup::new("list").required(true).args(["asg", "cluster"])))]
pub(crate) struct Options {
    /// The cluster's Auto Scaling groups; may be repeated
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) asg: Vec<String>,
    /// The cluster's Auto Scaling groups by a tag of theirs
    #[arg(long, value_name = "TAG=VALUE")]
    pub(crate) cluster: Option<String>,
    /// The target: latest, previous, a version's number, or NODE=NUMBER (may be repeated)
    #[arg(long, value_name = "VERSION", default_value = "latest")]
    pub(crate) to: Vec<To>,
    /// Do it; without it the roll only says what it would do
    #[arg(long)]
    pub(crate) yes: bool,
    /// A command that succeeds while one node more may go; run by bash
    #[arg(long, value_name = "COMMAND", conflicts_with = "hooks")]
    pub(crate) check: Option<String>,
    /// A command that prints the leader's node id or group; the leader goes last
    #[arg(long, value_name = "COMMAND", conflicts_with = "hooks")]
    pub(crate) leader: Option<String>,
    /// The nodes' hook script, with the functions `check_cluster` and `leader_node`
    #[arg(long, value_name = "FILE")]
    pub(crate) hooks: Option<PathBuf>,
    /// How long each node may take, without the old instance's time in Terminating:Wait
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// How long to watch after each node
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) bake: Duration,
    /// Replace this node first, then pause
    #[arg(long, value_name = "NODE")]
    pub(crate) canary: Option<String>,
    /// Pause after this many nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_nodes: Option<u64>,
    /// Go on after a pause by --canary or --max-nodes
    #[arg(long = "continue")]
    pub(crate) resume: bool,
    /// Leave this node alone; may be repeated
    #[arg(long, value_name = "NODE")]
    pub(crate) skip: Vec<String>,
    /// Leave all nodes but this one alone; may be repeated
    #[arg(long, value_name = "NODE", conflicts_with = "skip")]
    pub(crate) only: Vec<String>,
    /// Give up a node that is held: its instance is terminated, and another one launched
    #[arg(long)]
    pub(crate) replace_held: bool,
    /// Take a snapshot of each node's volume while it is detached
    #[arg(long)]
    pub(crate) snapshot: bool,
    /// Roll although this rule does not hold; may be repeated
    #[arg(long = "override", value_name = "NAME", value_enum)]
    pub(crate) overrides: Vec<Rule>,
    /// Print one JSON object a line on the standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a picture (SVG) of where the time went into this file when the roll ends
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// The region; the environment's or the profile's where absent
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
}

impl Options {
    /// The groups of the list.
    pub(crate) fn groups(&self) -> Result<Groups, String> {
        groups(&self.asg, self.cluster.as_deref())
    }

    /// The overridden rules.
    pub(crate) fn overridden(&self) -> BTreeSet<Rule> {
        self.overrides.iter().copied().collect()
    }
}

/// The list that `--asg` or `--cluster` means.
pub(crate) fn groups(asg: &[String], cluster: Option<&str>) -> Result<Groups, String> {
    let Some(tag) = cluster else {
        // A group that is named twice is one.
        let names: BTreeSet<String> = asg.iter().cloned().collect();
        return Ok(Groups::Named(names.into_iter().collect()));
    };
    match tag.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Groups::Tagged { key: key.to_owned(), value: value.to_owned() }),
        _ => Err(format!("--cluster {tag}: it takes TAG=VALUE, as in stateful-cluster=kafka")),
    }
}
