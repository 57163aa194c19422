//! `gate`: no other node of the cluster is away. The application still serves meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::aws::autoscaling::{LifecycleState, Member};
use crate::aws::ec2::{Ec2, tag};
use crate::config::Cluster;
use crate::failure::{Class, Code, Failure, without_retry};
use crate::lifecycle::Launch;
use crate::lifecycle::cluster::{Away, Own, Seen, Verdict, Word, judge};
use crate::runner::allowance::Allowance;
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::{Journal, Reason};
use crate::time::rough;

/// How often the groups are asked for.
const EVERY: Duration = Duration::from_secs(10);

/// How far apart the two looks are that open the gate, at least: descriptions lag behind.
const APART: Duration = Duration::from_secs(5);

/// How long a node waits whose group calls it Unhealthy: it is hardly of use to the cluster.
const UNHEALTHY: Duration = Duration::from_mins(10);

/// How long IAM may take to allow the groups to be read.
const DENIED: Duration = Duration::from_mins(1);

/// How long writing the status tag may take.
const TAGGING: Duration = Duration::from_secs(5);

/// Waits until no other node of the cluster is away.
pub struct Gate<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) ec2: &'a Ec2,
    pub(crate) cluster: &'a Cluster,
    pub(crate) group: &'a str,
    pub(crate) passage: Passage<'a>,
    /// How long it waits at most.
    pub(crate) deadline: Duration,
    pub(crate) began: Instant,
    pub(crate) looks: &'a Looks,
}

/// Who passes the gate.
#[derive(Clone, Copy)]
pub enum Passage<'a> {
    /// A node that leaves.
    Departure {
        /// What has to be left of the departure for its later steps.
        reserve: Duration,
        /// Whether Auto Scaling takes heartbeats.
        allowance: &'a Allowance,
    },
    /// A held node at its hold's end, which is about to be given up.
    HoldOver,
    /// Nobody: a plan looks, and writes nothing.
    Plan,
}

/// What earlier looks have shown.
#[derive(Default)]
pub struct Looks {
    /// When the last one was made, and why it did not open the gate.
    last: RefCell<Option<(Instant, String)>>,
    /// When the first of the looks in a row was made that would open it.
    open_since: Cell<Option<Instant>>,
    /// When the first of the looks in a row was made that IAM denied.
    denied_since: Cell<Option<Instant>>,
    /// What was last written into the status tag.
    written: RefCell<Written>,
}

/// What is known to stand in the status tag.
#[derive(Default, PartialEq)]
enum Written {
    /// Perhaps a word that this node wrote before it was started again.
    #[default]
    Unknown,
    /// No word.
    None,
    Word(Word),
}

impl Looks {
    /// Whether a word of this node may stand in its status tag.
    pub fn may_have_word(&self) -> bool {
        *self.written.borrow() != Written::None
    }
}

impl Step for Gate<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header {
            outlasts: &[Class::Outage, Class::Settling],
            observes_only: true,
            ..Header::of(StepName::Gate, self.deadline)
        }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if let Some(why) = self.ends_early() {
            self.warn(&why);
            return Ok(Observed::Done(()));
        }
        if let Some(waits) = self.waits_for_next_look() {
            return Ok(Observed::NotYet(Failure::new(Code::ClusterAway, waits)));
        }
        let waits = match self.look().await {
            Ok(None) => return Ok(Observed::Done(())),
            Ok(Some(waits)) => waits,
            Err(failure) => {
                self.looks.open_since.set(None);
                let since = self.looks.denied_since.get().unwrap_or_else(Instant::now);
                self.looks.denied_since.set((failure.code == Code::AccessDenied).then_some(since));
                if failure.code == Code::AccessDenied && since.elapsed() >= DENIED {
                    self.warn(&format!("{failure}; {}", without_retry(failure.what_to_do())));
                    return Ok(Observed::Done(()));
                }
                return Err(failure);
            }
        };
        self.looks.denied_since.set(None);
        self.looks.last.replace(Some((Instant::now(), waits.clone())));
        Ok(Observed::NotYet(Failure::new(Code::ClusterAway, waits)))
    }
}

impl Gate<'_> {
    /// Why the node does not wait any longer, whatever the other nodes do.
    fn ends_early(&self) -> Option<String> {
        let Passage::Departure { reserve, allowance } = self.passage else { return None };
        if self.journal.departure_reason() == Some(Reason::Spot) {
            return Some("EC2 takes this spot instance".to_owned());
        }
        if allowance.is_over.get() {
            return Some("Auto Scaling does not wait for this instance any more".to_owned());
        }
        if self.journal.departure_left().is_some_and(|left| left <= reserve) {
            let last = self.looks.last.borrow().as_ref().map(|(_, waits)| format!("; {waits}"));
            let waited = rough(self.began.elapsed());
            return Some(format!("its time at the gate is over, after {waited}{}", last.unwrap_or_default()));
        }
        let (left, whole) = allowance.left_without_heartbeats()?;
        // Where the rest does not fit into the timeout anyway, it gets half of it.
        let needed = if reserve < whole { reserve } else { whole / 2 };
        (left <= needed)
            .then(|| format!("Auto Scaling takes no heartbeat, and ends the wait in {} by itself", rough(left)))
    }

    fn warn(&self, why: &str) {
        let text = format!("the node leaves without knowing that no other node is away: {why}");
        self.journal.warn(StepName::Gate, None, text);
    }

    /// What the last look has shown, while it is too early for the next one.
    fn waits_for_next_look(&self) -> Option<String> {
        let pause = if self.looks.open_since.get().is_some() { APART } else { EVERY };
        let last = self.looks.last.borrow();
        last.as_ref().filter(|(at, _)| at.elapsed() < pause).map(|(_, waits)| waits.clone())
    }

    /// Looks once: none if the gate is open, or else what it waits for.
    async fn look(&self) -> Result<Option<String>, Failure> {
        let began = Instant::now();
        let groups = self.launch.autoscaling.groups(&self.cluster.groups, self.group).await?;
        // Only those that are away may have written a word.
        let waits = |member: &&Member| member.state != LifecycleState::InService;
        let away = groups.iter().flat_map(|group| &group.members).filter(waits).map(|member| &*member.instance_id);
        let ids: Vec<_> = away.chain([self.instance_id()]).collect();
        // Tags help where two wait for each other. Where they cannot be read, both wait to the end.
        let tags = self.ec2.instance_tags(&ids, tag::STATUS).await;
        let tags = tags.inspect_err(|failure| tracing::debug!("the status tags cannot be read: {failure}")).ok();
        let words = tags.iter().flatten().filter_map(|(id, text)| Some((id.clone(), Word::parse(text)?)));
        let seen = Seen { words: words.collect(), groups };
        if tags.is_some() && !seen.words.contains_key(self.instance_id()) {
            let mut written = self.looks.written.borrow_mut();
            if *written == Written::Unknown {
                *written = Written::None;
            }
        }

        let hold_over = matches!(self.passage, Passage::HoldOver);
        let own = Own { group: self.group, instance_id: self.instance_id(), hold_over };
        match judge(own, &seen) {
            Verdict::TornDown => Ok(None),
            Verdict::Wait { away, word } => {
                self.looks.open_since.set(None);
                self.write(word, tags.is_some().then_some(&seen.words)).await;
                if self.is_unhealthy(&seen) && self.began.elapsed() >= UNHEALTHY {
                    self.warn(&format!("its own group calls it Unhealthy, and {}", listed(&away)));
                    return Ok(None);
                }
                Ok(Some(format!("another node of the cluster is away: {}", listed(&away))))
            }
            Verdict::Go if matches!(self.passage, Passage::Plan) => Ok(None),
            Verdict::Go if !hold_over && !self.is_terminating(&seen) => {
                self.looks.open_since.set(None);
                Ok(Some(format!("{} does not show yet that this instance is terminating", self.group)))
            }
            Verdict::Go => match self.looks.open_since.get() {
                Some(since) if began - since >= APART => Ok(None),
                since => {
                    self.looks.open_since.set(Some(since.unwrap_or_else(Instant::now)));
                    Ok(Some("no other node is away; asked once more, because descriptions lag behind".to_owned()))
                }
            },
        }
    }

    /// Writes this node's word: `seen` are the words that the tags show, where they can be read.
    async fn write(&self, word: Word, seen: Option<&BTreeMap<String, Word>>) {
        let shown = seen.and_then(|seen| seen.get(self.instance_id()));
        let may_have_word = matches!(&*self.looks.written.borrow(), Written::Word(_)) || shown.is_some();
        // A node that leaves and has said nothing goes first, for all that the others know.
        let is_understood = word == Word::first(false) && !may_have_word;
        // Where the tags cannot be read, what was written counts.
        let stands =
            *self.looks.written.borrow() == Written::Word(word.clone()) && (seen.is_none() || shown == Some(&word));
        if is_understood || stands || matches!(self.passage, Passage::Plan) {
            return;
        }
        // The call may have had its effect although its answer was lost.
        self.looks.written.replace(Written::Unknown);
        if tell(self.ec2, self.instance_id(), &word.to_string()).await {
            self.looks.written.replace(Written::Word(word));
        }
    }

    fn instance_id(&self) -> &str {
        &self.launch.instance.instance_id
    }

    fn own<'s>(&self, seen: &'s Seen) -> Option<&'s Member> {
        let group = seen.groups.iter().find(|group| group.name == self.group)?;
        group.members.iter().find(|member| member.instance_id == self.instance_id())
    }

    fn is_terminating(&self, seen: &Seen) -> bool {
        let goes =
            |state: &LifecycleState| matches!(state, LifecycleState::Terminating(_)) || state.replaces_root_volume();
        self.own(seen).is_some_and(|own| goes(&own.state))
    }

    fn is_unhealthy(&self, seen: &Seen) -> bool {
        self.own(seen).is_some_and(|own| !own.is_healthy)
    }
}

/// Writes the status tag. Returns whether it is written, or never can be.
pub async fn tell(ec2: &Ec2, instance_id: &str, text: &str) -> bool {
    match timeout(TAGGING, Box::pin(ec2.tag(instance_id, &[(tag::STATUS, text)]))).await {
        Ok(Ok(_)) => true,
        Ok(Err(failure)) => {
            tracing::debug!("the instance cannot be tagged: {failure}");
            false
        }
        Err(_) => {
            tracing::debug!("the instance cannot be tagged: EC2 does not answer");
            false
        }
    }
}

fn listed(away: &[Away]) -> String {
    let away: Vec<_> = away.iter().map(ToString::to_string).collect();
    away.join("; ")
}
