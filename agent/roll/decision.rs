//! What the judge goes by and what it decides: the wishes, the roll's own memory, and the decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::marks::AwsTime;

/// What the operator wants.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Wish {
    /// `--replace-held`
    pub(crate) replace_held: bool,
    /// The group that `--canary` names.
    pub(crate) canary: Option<String>,
    /// `--max-nodes`
    pub(crate) max_nodes: Option<usize>,
    /// `--continue`
    pub(crate) resume: bool,
    /// Whether there is a check, and whether a leader is asked for.
    pub(crate) has_check: bool,
    pub(crate) has_leader: bool,
}

/// What this roll has done and learnt, and AWS does not show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The node that is out because of this roll, until it is back and checked.
    pub(crate) work: Option<Work>,
    /// The node whose turn it is.
    pub(crate) turn: Option<Turn>,
    /// Who the leader is, as asked for this turn.
    pub(crate) leader: Leader,
    /// How often this roll has taken each group's node.
    pub(crate) taken: BTreeMap<String, u8>,
    /// The groups whose nodes this roll has brought to the target.
    pub(crate) done: BTreeSet<String>,
    /// The instances that were held when the roll began: `--replace-held` gives them up, even if they run the target.
    pub(crate) held_at_first: BTreeSet<String>,
    /// Whether the time of `--bake` after the last node is not over yet.
    pub(crate) bakes: bool,
    /// A person's pause, and another roll's, as the last look shows them.
    pub(crate) pause: Option<String>,
    pub(crate) paused: Option<String>,
    /// The instance whose terminate Auto Scaling has refused for now: none is under way.
    pub(crate) refused: Option<String>,
    /// AWS's time.
    pub(crate) now: Option<AwsTime>,
}

impl Wish {
    /// The canary's group, unless the roll goes on behind it.
    pub(crate) fn canary(&self) -> Option<&str> {
        self.canary.as_deref().filter(|_| !self.resume)
    }
}

/// Who the leader is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leader {
    /// Not asked for this turn yet.
    #[default]
    NotAsked,
    /// The command gave no answer.
    Unknown,
    /// The node of this group.
    Is(String),
}

impl Leader {
    /// Whether this group's node is known to be the leader.
    pub(crate) fn is(&self, group: &str) -> bool {
        matches!(self, Leader::Is(leader) if leader == group)
    }
}

/// A node that is out because of this roll, or was taken up by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) group: String,
    /// The instance that was terminated; none where the node was out already.
    pub(crate) victim: Option<String>,
    /// Whether the new one is in service; the check is what is left.
    pub(crate) arrived: bool,
    /// How often the check has passed since.
    pub(crate) passes: u8,
}

/// The preparation of a node's turn. Whatever fails, it begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) group: String,
    pub(crate) passes: u8,
    /// When the new version was looked at, since the boot of this machine.
    pub(crate) inspected_at: Option<Duration>,
    /// Whether both looks of the proof were taken after that.
    pub(crate) looked: bool,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Look again.
    Wait(Wait),
    /// A node is out already, and is the next one to finish.
    TakeUp { group: String },
    /// Ask who the leader is.
    AskLeader,
    /// Run the check; `after` the node is back, or before it goes.
    Check { group: String, after: bool },
    /// Look at the new version, and ask for the victim's hooks and refreshes once more.
    Inspect { group: String },
    /// Stage the group, tag it, and terminate the instance.
    Take { group: String, victim: String },
    /// Set the group of a node that is out to the target.
    Stage { group: String },
    /// Set the group of a node that another one precedes back to what the node runs.
    SetBack { group: String },
    /// Give a held node up.
    Abandon { group: String, instance: String },
    /// The node is in service with the target.
    Arrived { group: String, instance: String },
    /// The node is back, and its check has passed.
    Finished { group: String },
    /// The roll is over.
    End(End),
    /// The roll cannot go on.
    Stop { group: Option<String>, reason: String, remedy: String },
}

impl Decision {
    /// Whether the next decision needs another look: something was done, waited for or asked.
    pub(crate) fn needs_look(&self) -> bool {
        !matches!(
            self,
            Decision::TakeUp { .. } | Decision::AskLeader | Decision::Arrived { .. } | Decision::Finished { .. }
        )
    }
}

/// Why nothing is done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) group: String,
    pub(crate) why: String,
    /// Whether the time counts against `--timeout`.
    pub(crate) counts: bool,
}

/// How a roll ends well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Only what would be done was said.
    Planned,
    /// Every node that may be touched runs the target.
    Done,
    /// A person's tag.
    PausedByTag(String),
    /// An earlier roll's `--canary` or `--max-nodes`.
    PausedBefore(String),
    /// This roll's own: `canary` or `max-nodes`.
    PausedNow(&'static str),
}

impl Turn {
    /// A turn that begins.
    pub(crate) fn of(group: &str) -> Self {
        Turn { group: group.to_owned(), passes: 0, inspected_at: None, looked: false }
    }
}
