//! `gate`: no other node of the cluster is away. The application still serves meanwhile.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::autoscaling::LifecycleState;
use crate::aws::ec2::{Ec2, tag};
use crate::config::Cluster;
use crate::failure::{Class, Code, Failure};
use crate::lifecycle::Launch;
use crate::lifecycle::cluster::{Away, Own, Seen, Verdict, Word, judge};
use crate::runner::{Acted, Header, Observed, Step};
use crate::sequence::StepName;
use crate::state::Journal;

/// How far apart the two looks are that open the gate, at least: descriptions lag behind.
const APART: Duration = Duration::from_secs(5);

/// How long a node waits whose group calls it Unhealthy: it is hardly of use to the cluster.
const UNHEALTHY: Duration = Duration::from_mins(10);

/// How long IAM may take to allow the groups to be read.
const DENIED: Duration = Duration::from_mins(1);

/// Waits until no other node of the cluster is away.
pub struct Gate<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) ec2: &'a Ec2,
    pub(crate) cluster: &'a Cluster,
    pub(crate) group: &'a str,
    /// Whether this is a held node at its hold's end, rather than one that is terminated.
    pub(crate) hold_over: bool,
    /// How long it waits at most.
    pub(crate) deadline: Duration,
    pub(crate) began: Instant,
    /// When the first of the looks in a row was made that would open the gate.
    pub(crate) open_since: Cell<Option<Instant>>,
    /// The word that stands in the status tag.
    pub(crate) written: RefCell<Option<Word>>,
}

impl Step for Gate<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        Header { outlasts: &[Class::Outage], observes_only: true, ..Header::of(StepName::Gate, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        let seen = match self.look().await {
            Err(failure) if failure.code == Code::AccessDenied && self.began.elapsed() >= DENIED => {
                let text = format!(
                    "the node leaves without knowing whether another one is away: {failure}; {}",
                    failure.what_to_do()
                );
                self.journal.warn(StepName::Gate, None, text);
                return Ok(Observed::Done(()));
            }
            seen => seen?,
        };
        let instance_id = self.launch.instance.instance_id.as_str();
        let own = Own { group: self.group, instance_id, hold_over: self.hold_over };
        match judge(own, &seen) {
            Verdict::TornDown => Ok(Observed::Done(())),
            Verdict::Wait { away, word } => {
                self.open_since.set(None);
                self.write(word).await;
                if self.is_unhealthy(&seen) && self.began.elapsed() >= UNHEALTHY {
                    return Ok(Observed::Done(()));
                }
                Ok(Observed::NotYet(waits(&away)))
            }
            Verdict::Go if !self.hold_over && !self.is_terminating(&seen) => {
                Ok(Observed::NotYet(Failure::new(Code::ClusterAway, "the group does not show yet that this instance goes")))
            }
            Verdict::Go => {
                let since = self.open_since.get().unwrap_or_else(Instant::now);
                self.open_since.set(Some(since));
                if since.elapsed() < APART {
                    let text = "nobody is away; asked once more, because descriptions lag behind";
                    return Ok(Observed::NotYet(Failure::new(Code::ClusterAway, text)));
                }
                Ok(Observed::Done(()))
            }
        }
    }

    async fn act(&self) -> Result<Acted, Failure> {
        Ok(Acted::Changed)
    }
}

impl Gate<'_> {
    async fn look(&self) -> Result<Seen, Failure> {
        let groups = self.launch.autoscaling.groups(&self.cluster.groups, self.group).await?;
        let ids: Vec<_> = groups.iter().flat_map(|group| &group.members).map(|member| member.instance_id.as_str()).collect();
        // Tags help where two wait for each other. Where they cannot be read, both wait to the end.
        let tags = self.ec2.instance_tags(&ids, tag::STATUS).await.unwrap_or_else(|failure| {
            tracing::debug!("{failure}");
            Default::default()
        });
        let words = tags.into_iter().filter_map(|(id, text)| Some((id, Word::parse(&text)?)));
        Ok(Seen { words: words.collect(), groups })
    }

    /// Writes for whom this node waits, or takes its word back.
    async fn write(&self, word: Option<Word>) {
        if *self.written.borrow() == word {
            return;
        }
        let text = word.as_ref().map_or_else(|| "gate".to_owned(), ToString::to_string);
        match self.ec2.tag(&self.launch.instance.instance_id, &[(tag::STATUS, &text)]).await {
            Ok(_) => drop(self.written.replace(word)),
            Err(failure) => tracing::debug!("{failure}"),
        }
    }

    fn own<'s>(&self, seen: &'s Seen) -> Option<&'s crate::aws::autoscaling::Member> {
        let group = seen.groups.iter().find(|group| group.name == self.group)?;
        group.members.iter().find(|member| member.instance_id == self.launch.instance.instance_id)
    }

    fn is_terminating(&self, seen: &Seen) -> bool {
        self.own(seen).is_some_and(|own| matches!(own.state, LifecycleState::Terminating(_)))
    }

    fn is_unhealthy(&self, seen: &Seen) -> bool {
        self.own(seen).is_some_and(|own| !own.is_healthy)
    }
}

fn waits(away: &[Away]) -> Failure {
    let away: Vec<_> = away.iter().map(ToString::to_string).collect();
    Failure::new(Code::ClusterAway, format!("another node is away: {}", away.join("; ")))
}
