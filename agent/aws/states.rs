//! The lifecycle states of an instance in its group.

use std::fmt;

pub use aws_sdk_autoscaling::types::LifecycleState as State;

/// An instance's lifecycle state in its group (docs/facts.md, "Lifecycle states").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifecycleState {
    /// `Pending`: not yet waiting for a launch hook.
    Pending,
    /// `Pending:Wait`: waiting for a launch hook.
    PendingWait,
    /// `Pending:Proceed`: the launch hooks have completed.
    PendingProceed,
    /// `InService`.
    InService,
    /// `Terminating…`, `Terminated`, `Warmed:Terminating…`: leaving the group, or gone.
    Terminating(State),
    /// `Warmed:…`: in the warm pool.
    Warmed(State),
    /// `Standby`, `Detached`, …: the instance has been in service, so its launch is complete.
    OutOfService(State),
    /// Any other state, including those that AWS adds later.
    Other(State),
    /// The instance is in no group.
    NoGroup,
    /// IAM denies reading the state.
    Unreadable,
}

/// The prefix of the states in a warm pool.
const POOL: &str = "Warmed:";

/// The states of an instance whose root volume is replaced, from the time at which its hooks have been completed.
const REPLACES_ROOT_VOLUME: &str = "ReplacingRootVolume";
const ROOT_VOLUME_PROCEEDS: &str = "ReplacingRootVolume:Proceed";
const ROOT_VOLUME_REPLACED: &str = "RootVolumeReplaced";

/// The prefixes of the states of an instance that was in service before (docs/facts.md, "Lifecycle states").
const OUT_OF_SERVICE: [&str; 5] = ["Standby", "EnteringStandby", "ReplacingRootVolume", "RootVolumeReplaced", "Detach"];

impl fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LifecycleState::Pending => State::Pending.as_str(),
            LifecycleState::PendingWait => State::PendingWait.as_str(),
            LifecycleState::PendingProceed => State::PendingProceed.as_str(),
            LifecycleState::InService => State::InService.as_str(),
            LifecycleState::Terminating(state)
            | LifecycleState::Warmed(state)
            | LifecycleState::OutOfService(state)
            | LifecycleState::Other(state) => state.as_str(),
            LifecycleState::NoGroup => "in no group",
            LifecycleState::Unreadable => "in an unknown state",
        })
    }
}

impl LifecycleState {
    /// Parses a state's name, from Auto Scaling or the metadata service.
    pub fn parse(text: &str) -> Self {
        let starts_with = |prefix: &&str| text.starts_with(*prefix);
        match State::from(text) {
            State::Pending => LifecycleState::Pending,
            State::PendingWait => LifecycleState::PendingWait,
            State::PendingProceed => LifecycleState::PendingProceed,
            State::InService => LifecycleState::InService,
            // By prefix, so that a state which AWS adds to a family is recognised; `Terminated` and `Warmed:Terminat…` too.
            state if text.strip_prefix(POOL).unwrap_or(text).starts_with("Terminat") => {
                LifecycleState::Terminating(state)
            }
            state if starts_with(&POOL) => LifecycleState::Warmed(state),
            state if OUT_OF_SERVICE.iter().any(starts_with) => LifecycleState::OutOfService(state),
            state => LifecycleState::Other(state),
        }
    }

    /// Whether the instance does not wait for its termination hooks any more: their actions are over, or it is in no group.
    pub fn has_left(&self) -> bool {
        use State::{Terminating, TerminatingWait, WarmedTerminating, WarmedTerminatingWait};
        match self {
            LifecycleState::NoGroup => true,
            LifecycleState::Terminating(state) => {
                !matches!(state, Terminating | TerminatingWait | WarmedTerminating | WarmedTerminatingWait)
            }
            LifecycleState::OutOfService(state) => {
                matches!(state.as_str(), ROOT_VOLUME_PROCEEDS | ROOT_VOLUME_REPLACED)
            }
            _ => false,
        }
    }

    /// Whether the instance is about to lose its root volume, and keeps its other volumes and its network interface.
    pub fn replaces_root_volume(&self) -> bool {
        matches!(self, LifecycleState::OutOfService(state) if state.as_str().starts_with(REPLACES_ROOT_VOLUME))
    }

    /// Whether the instance is in a warm pool, even while it terminates.
    pub fn is_in_pool(&self) -> bool {
        matches!(self, LifecycleState::Warmed(state) | LifecycleState::Terminating(state) if state.as_str().starts_with(POOL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminating_states_are_distinguished_from_states_in_the_warm_pool() {
        let in_group = ["Terminating", "Terminating:Wait", "Terminating:Retained", "Terminated"];
        for name in in_group.into_iter().chain(["Warmed:Terminating:Wait", "Warmed:Terminated"]) {
            let state = LifecycleState::parse(name);
            assert_eq!(state.is_in_pool(), name.starts_with("Warmed:"), "{name}");
            assert_eq!(state, LifecycleState::Terminating(name.into()));
        }
        for warm in ["Warmed:Pending:Wait", "Warmed:Stopped", "Warmed:Hibernated"] {
            let state = LifecycleState::parse(warm);
            assert!(state.is_in_pool(), "{warm}");
            assert_eq!(state, LifecycleState::Warmed(warm.into()));
        }
    }
}
