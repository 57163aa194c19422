//! What is known of the node: what is written down ([`model`], [`record`], [`lifecycle`], [`departure`]), how it is read
//! and kept ([`store`], [`journal`], `leaving`, `apart`, `timing`), and what is published from it ([`publish`], `metrics`, `summary`).

mod apart;
pub mod departure;
pub mod journal;
mod leaving;
pub mod lifecycle;
mod metrics;
pub mod model;
pub mod publish;
pub mod record;
pub mod store;
mod summary;
mod timing;
pub mod words;

pub use departure::{DepartureOutcome, DepartureRecord, Reason};
pub use journal::Journal;
pub use lifecycle::{Action, Clock, LaunchOutcome, LifecycleRecord};
pub use model::{FormatIntent, Lost, MountRecord, Phase, Process, RunRecord, State, Subject, VolumeRecord, Warning};
pub use record::{FailedStepRecord, FailureRecord, Outcome, PartRecord, StepRecord, WaitRecord};
