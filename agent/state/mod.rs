//! What is known of the node: what is written down ([`model`], [`lifecycle`]), how it is read and kept ([`store`], [`journal`]),
//! and what is published from it ([`publish`], `metrics`, `summary`).

pub mod journal;
pub mod lifecycle;
mod metrics;
pub mod model;
pub mod publish;
pub mod store;
mod summary;
pub mod words;

pub use journal::Journal;
pub use lifecycle::{LaunchOutcome, LifecycleRecord};
pub use model::{
    FailedStepRecord, FormatIntent, Lost, MountRecord, Outcome, Phase, Process, State, StepRecord, Subject,
    VolumeRecord, Warning,
};
