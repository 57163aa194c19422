//! A reboot without AWS: the volumes of a node in service are mounted, and its applications started, without any answer from
//! AWS or the instance metadata. The boot sequence follows, and observes everything again.
//!
//! Three facts make such a mount safe: the journal is this machine's own and says that its launch was completed, the disk's
//! serial number names the volume, and the disk holds the filesystem that the node was launched with. The sequence handles any
//! other case.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Volume;
use crate::failure::{FailedStep, Failure};
use crate::host::device::Device;
use crate::host::probe::{Found, Verdict, probe};
use crate::host::{self, systemd};
use crate::node::boot::Boot;
use crate::node::steps::filesystem::Formatted;
use crate::runner::Runner;
use crate::sequence::StepName;
use crate::state::{Journal, LaunchOutcome};

/// How long the kernel may take to find a disk that was attached before the boot. If the disk was detached meanwhile, the
/// sequence attaches it.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Whether this machine's own journal shows a node in service that is not about to leave, and no step up to the mount is to be
/// redone.
pub fn is_in_service(journal: &Journal) -> bool {
    journal.read(|state| {
        let launched = state.lifecycle.outcome().is_some_and(|outcome| outcome != LaunchOutcome::Abandoned);
        launched
            && state.departure.is_none()
            && state.redone_from().is_none_or(|step| step.follows(StepName::Mount))
            && host::instance_id().is_some_and(|id| id == state.instance_id)
    })
}

/// Mounts all volumes and starts the applications that wait for them, if every volume's disk is present.
pub async fn mount(boot: &Boot<'_>) -> Result<(), FailedStep> {
    if boot.config.volumes.is_empty() {
        return Ok(());
    }
    systemd::must_share_mounts().await.map_err(|failure| FailedStep::at(StepName::Mount, failure))?;
    let Some(disks) = find_disks(boot).await else { return Ok(()) };
    let run = Runner::new(boot.journal, boot.config.timeouts.aws, boot.stop.clone(), boot.allowance);
    let formatted = disks.iter().map(|(want, device, found)| Formatted { want, device, found: found.clone() });
    boot.mount(&run, &formatted.collect::<Vec<_>>()).await
}

/// The disks of all volumes, in their order.
async fn find_disks<'a>(boot: &Boot<'a>) -> Option<Vec<(&'a Volume, Device, Found)>> {
    let give_up = Instant::now() + FOUND_WITHIN;
    let mut disks = Vec::new();
    for want in &boot.config.volumes {
        let disk = loop {
            match find_disk(boot.journal, want).await {
                Ok(Disk::Usable(device, found)) => break (want, device, found),
                Ok(Disk::NotYet) if Instant::now() < give_up && !*boot.stop.borrow() => sleep(POLL).await,
                Ok(Disk::NotYet) => {
                    tracing::info!("volume {} has no device yet; it is mounted after AWS answers", want.id);
                    return None;
                }
                Ok(Disk::Unusable) => return None,
                Err(failure) => {
                    tracing::info!("volume {} is mounted after AWS answers: {failure}", want.id);
                    return None;
                }
            }
        };
        disks.push(disk);
    }
    Some(disks)
}

enum Disk {
    Usable(Device, Found),
    NotYet,
    Unusable,
}

async fn find_disk(journal: &Journal, want: &Volume) -> Result<Disk, Failure> {
    let known = journal.volume(want.id.as_str());
    if known.formatting.is_some() {
        return Ok(Disk::Unusable);
    }
    let is_the_same = |found: &Found| known.filesystem_uuid.as_ref().is_none_or(|uuid| *uuid == found.uuid);
    let Some(device) = Device::find_by_identity(&want.id.serial())? else { return Ok(Disk::NotYet) };
    Ok(match probe(&device).await? {
        Verdict::Filesystem(found) if found.kind == want.file_system.as_str() && is_the_same(&found) => {
            Disk::Usable(device, found)
        }
        _ => Disk::Unusable,
    })
}
