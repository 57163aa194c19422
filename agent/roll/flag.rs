//! The flag of the roll at work: a tag on every group of the list, by which a second roll sees it and withdraws.
//!
//! Tags have no compare-and-set and are read late, so a flag alone decides nothing. Of two rolls the one that began earlier stays,
//! by the flags' own times and ids: both decide alike, whoever wrote last. Nothing is done before two looks in a row have shown the
//! own flag on every group, and no other one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fleet::Look;
use super::marks::{self, AwsTime, FlagMark, key};

/// How often the flag says that its roll is alive.
pub(crate) const BEAT: Duration = Duration::from_secs(30);
/// A flag that has not said so for this long is dead (docs/rolling.md).
pub(crate) const DEAD_AFTER: Duration = Duration::from_mins(2);

/// The own flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) mark: FlagMark,
    /// When it was last written, since the boot of this machine; none before it was raised.
    pub(crate) written: Option<Duration>,
    /// How many looks in a row have shown it alone on every group.
    alone: u8,
    /// How many looks in a row have shown a roll that began earlier.
    later: u8,
}

/// What a look means for the own flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is to be raised, or written again: it is not seen everywhere, or a later roll has written over it.
    Write,
    /// It stands, but is not proven yet, or is read late.
    Wait(String),
    /// Two looks have shown it alone on every group.
    Proven,
    /// Another roll began earlier.
    Withdraw(FlagMark),
}

impl Flag {
    /// A flag that is not raised yet.
    pub(crate) fn new(mark: FlagMark) -> Self {
        Flag { mark, written: None, alone: 0, later: 0 }
    }

    /// Takes a look into account. `now` is the time since the boot of this machine, `aws_now` AWS's.
    pub(crate) fn judge(&mut self, look: &Look, now: Duration, aws_now: Option<AwsTime>) -> Standing {
        let flags: BTreeMap<&str, FlagMark> = look
            .groups
            .iter()
            .filter_map(|(group, seen)| Some((group.as_str(), FlagMark::parse(seen.tags.get(key::FLAG)?)?)))
            .collect();
        let rival = flags
            .values()
            .filter(|flag| flag.run != self.mark.run && is_alive(flag, aws_now))
            .min_by_key(|flag| rank(flag));
        let lapsed = self.written.is_some_and(|written| now.saturating_sub(written) > DEAD_AFTER);
        let is_everywhere =
            look.groups.keys().all(|group| flags.get(group.as_str()).is_some_and(|flag| flag.run == self.mark.run));
        let Some(rival) = rival else {
            self.later = 0;
            if lapsed || self.written.is_none() {
                // A roll that slept begins anew: it has no claim against one that began meanwhile.
                self.alone = 0;
                self.mark.since = aws_now.unwrap_or(self.mark.since);
                return Standing::Write;
            }
            self.alone = if is_everywhere { self.alone.saturating_add(1) } else { 0 };
            let is_old = self.written.is_some_and(|written| look.began > written + BEAT);
            return match self.alone {
                2.. => Standing::Proven,
                0 if is_old => Standing::Write,
                _ => Standing::Wait("the roll's own flag is not read back everywhere yet".to_owned()),
            };
        };
        self.alone = 0;
        let is_first = self.written.is_some() && !lapsed && rank(&self.mark) < rank(rival);
        if is_first {
            self.later = 0;
            return Standing::Write;
        }
        self.later += 1;
        match self.later {
            // A flag that has just been taken away may still be read.
            1 => Standing::Wait(format!("another roll is at work: {}", describe(rival))),
            _ => Standing::Withdraw(rival.clone()),
        }
    }

    /// The groups that a look shows with this flag.
    pub(crate) fn stands_on<'a>(&self, look: &'a Look) -> Vec<&'a str> {
        let own = |group: &&String| {
            let text = look.groups.get(*group).and_then(|seen| seen.tags.get(key::FLAG));
            text.and_then(|text| FlagMark::parse(text)).is_some_and(|flag| flag.run == self.mark.run)
        };
        look.groups.keys().filter(own).map(String::as_str).collect()
    }
}

/// The earlier roll first. Both sides compare the same values.
fn rank(flag: &FlagMark) -> (AwsTime, String) {
    (flag.since, flag.run.clone())
}

/// Whether the roll of a flag still runs: its heartbeat is recent and, where it is of this machine, its process is there.
pub(crate) fn is_alive(flag: &FlagMark, aws_now: Option<AwsTime>) -> bool {
    let dead_after = i64::try_from(DEAD_AFTER.as_secs()).unwrap_or(i64::MAX);
    if aws_now.is_some_and(|now| now - flag.beat > dead_after) {
        return false;
    }
    flag.process.is_running().unwrap_or(true)
}

/// The groups that a look shows with the flag of a roll that is gone.
pub(crate) fn dead_on(look: &Look, aws_now: Option<AwsTime>) -> Vec<&str> {
    let flag = |tags: &BTreeMap<String, String>| tags.get(key::FLAG).and_then(|text| FlagMark::parse(text));
    let is_dead = |tags: &BTreeMap<String, String>| flag(tags).is_some_and(|flag| !is_alive(&flag, aws_now));
    look.groups.iter().filter(|(_, seen)| is_dead(&seen.tags)).map(|(group, _)| group.as_str()).collect()
}

/// The other roll, for people.
pub(crate) fn describe(flag: &FlagMark) -> String {
    let node = flag.node.as_deref().map(|node| format!(", at node {node}")).unwrap_or_default();
    let (since, beat) = (marks::shown(flag.since), marks::shown(flag.beat));
    format!("run {} by {} since {since}{node}, last seen {beat}", flag.run, flag.by)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::aws::fleet::{FleetGroup, TemplateSource};
    use crate::host::identity::Identity;

    const NOW: AwsTime = 1_795_000_000;

    /// A flag of another machine.
    fn mark(run: &str, since: AwsTime, beat: AwsTime) -> FlagMark {
        let process = Identity { boot: "elsewhere".to_owned(), namespace: 1, pid: 1, started: 1 };
        FlagMark { run: run.to_owned(), since, beat, node: None, by: "ann@bastion".to_owned(), process }
    }

    /// A look at groups with these flags.
    fn look(at: u64, flags: &[Option<FlagMark>]) -> Look {
        let group = |(number, flag): (usize, &Option<FlagMark>)| {
            let name = format!("kafka-node-{number:02}");
            let tags: BTreeMap<_, _> = flag.iter().map(|flag| (key::FLAG.to_owned(), flag.to_string())).collect();
            let group = FleetGroup {
                name: name.clone(),
                min: 1,
                max: 1,
                desired: 1,
                is_being_deleted: false,
                template: TemplateSource::None,
                members: Vec::new(),
                suspended: BTreeMap::new(),
                maintenance_policy: None,
                retains: false,
                zonal_shift: false,
                ignores_unhealthy: false,
                zones: Vec::new(),
                tags,
            };
            (name, group)
        };
        let began = Duration::from_secs(at);
        Look { began, ended: began, groups: flags.iter().enumerate().map(group).collect(), ..Look::default() }
    }

    fn judge(flag: &mut Flag, at: u64, flags: &[Option<FlagMark>]) -> Standing {
        flag.judge(&look(at, flags), Duration::from_secs(at), Some(NOW + i64::try_from(at).unwrap()))
    }

    /// A flag that was raised at the first second.
    fn raised() -> Flag {
        Flag { written: Some(Duration::ZERO), ..Flag::new(mark("own", NOW, NOW)) }
    }

    #[test]
    fn nothing_is_done_before_two_looks_have_shown_the_own_flag_everywhere() {
        let mut flag = Flag::new(mark("own", NOW, NOW));
        assert_eq!(judge(&mut flag, 0, &[None, None]), Standing::Write);
        flag.written = Some(Duration::ZERO);
        let own = || Some(mark("own", NOW, NOW));
        assert!(matches!(judge(&mut flag, 5, &[own(), None]), Standing::Wait(_)));
        assert!(matches!(judge(&mut flag, 10, &[own(), own()]), Standing::Wait(_)));
        assert_eq!(judge(&mut flag, 15, &[own(), own()]), Standing::Proven);
        // Read late once more: it waits, and never withdraws.
        assert!(matches!(judge(&mut flag, 20, &[None, own()]), Standing::Wait(_)));
    }

    #[test]
    fn the_later_roll_withdraws_when_it_has_seen_the_earlier_one_twice() {
        let other = || Some(mark("other", NOW - 60, NOW));
        for mut flag in [raised(), Flag::new(mark("own", NOW, NOW))] {
            assert!(matches!(judge(&mut flag, 5, &[other(), None]), Standing::Wait(_)));
            assert!(matches!(judge(&mut flag, 10, &[other(), None]), Standing::Withdraw(_)));
        }
    }

    #[test]
    fn the_earlier_roll_writes_its_flag_again_over_a_later_ones() {
        let mut flag = raised();
        let later = Some(mark("later", NOW + 1, NOW + 1));
        assert_eq!(judge(&mut flag, 5, &[later.clone(), later]), Standing::Write);
    }

    #[test]
    fn a_flag_without_a_heartbeat_for_two_minutes_is_dead() {
        let mut flag = raised();
        let own = || Some(mark("own", NOW, NOW));
        let silent = Some(mark("other", NOW - 600, NOW - 116));
        assert!(matches!(judge(&mut flag, 4, &[own(), silent.clone()]), Standing::Wait(_)));
        assert!(!is_alive(silent.as_ref().unwrap(), Some(NOW + 5)));
    }

    #[test]
    fn a_flag_of_this_machine_is_dead_with_its_process() {
        let gone =
            FlagMark { process: Identity { pid: i32::MAX, ..Identity::own().unwrap() }, ..mark("other", NOW, NOW) };
        assert!(!is_alive(&gone, Some(NOW)));
        assert!(is_alive(&FlagMark { process: Identity::own().unwrap(), ..gone }, Some(NOW)));
    }

    #[test]
    fn a_roll_that_slept_gives_way_to_one_that_began_meanwhile() {
        let mut flag = raised();
        let since = NOW + 300;
        let other = || Some(mark("other", since, since + 300));
        assert!(matches!(judge(&mut flag, 600, &[other(), other()]), Standing::Wait(_)));
        assert!(matches!(judge(&mut flag, 605, &[other(), other()]), Standing::Withdraw(_)));
        // Alone, it begins anew.
        let mut flag = raised();
        let own = || Some(mark("own", NOW, NOW));
        assert_eq!(judge(&mut flag, 600, &[own(), own()]), Standing::Write);
        assert_eq!(flag.mark.since, NOW + 600);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        /// Two rolls that begin at about the same time, with answers up to ten seconds old: in the end exactly one goes on, and the
        /// two never hold the cluster together.
        #[test]
        fn of_two_rolls_exactly_one_goes_on(
            second_begins in 0..8_u64,
            phase in 0..5_u64,
            ages in prop::collection::vec((0..10_usize, 0..10_usize), 60),
            orders in any::<bool>(),
        ) {
            const GROUPS: usize = 3;
            // What the tags were at each second.
            let mut history: Vec<Vec<Option<FlagMark>>> = vec![vec![None; GROUPS]];
            let mut flags = [Flag::new(mark("a", 0, 0)), Flag::new(mark("b", 0, 0))];
            let mut gone = [false, false];
            let begins = [0, second_begins];
            for second in 1..280_u64 {
                let mut now = history.last().unwrap().clone();
                let mut proven = [false, false];
                for which in 0..2 {
                    let since = second.checked_sub(begins[which]);
                    let looks = since.is_some_and(|since| since % 5 == if which == 0 { 0 } else { phase });
                    if gone[which] || !looks {
                        continue;
                    }
                    let (a, b) = ages[usize::try_from(second / 5).unwrap() % ages.len()];
                    let age = if which == 0 { a } else { b };
                    let seen = &history[history.len().saturating_sub(1 + age)];
                    match judge(&mut flags[which], second, seen) {
                        Standing::Write => {
                            flags[which].mark.beat = NOW + second.cast_signed();
                            flags[which].written = Some(Duration::from_secs(second));
                            let mut all: Vec<usize> = (0..GROUPS).collect();
                            if orders { all.reverse(); }
                            for group in all {
                                now[group] = Some(flags[which].mark.clone());
                            }
                        }
                        Standing::Proven => proven[which] = true,
                        Standing::Wait(_) => {}
                        Standing::Withdraw(_) => {
                            gone[which] = true;
                            for tag in &mut now {
                                if tag.as_ref().is_some_and(|flag| flag.run == flags[which].mark.run) {
                                    *tag = None;
                                }
                            }
                        }
                    }
                    let due = flags[which].written.is_some_and(|at| second >= at.as_secs() + BEAT.as_secs());
                    if proven[which] && due {
                        flags[which].mark.beat = NOW + second.cast_signed();
                        flags[which].written = Some(Duration::from_secs(second));
                        now.fill(Some(flags[which].mark.clone()));
                    }
                }
                history.push(now);
            }
            prop_assert_eq!(gone.iter().filter(|gone| **gone).count(), 1);
        }
    }
}
