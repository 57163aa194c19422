//! Snapshots of volumes.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::ids::{InstanceId, VolumeId};

/// A snapshot, as it was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// Its identifier.
    pub id: String,
    /// The volume.
    pub volume: VolumeId,
    /// The instance that the volume was attached to, or was not detached from yet, at that moment.
    pub attached_to: Option<InstanceId>,
    /// Its description.
    pub description: String,
    /// The tags that the same call put on it.
    pub tags: BTreeMap<String, String>,
    /// When it was begun, by the clock of the services.
    pub started: OffsetDateTime,
}
