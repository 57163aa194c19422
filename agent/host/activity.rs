//! What systemd does about a unit: starts it, stops it, or leaves it alone.

use std::collections::BTreeSet;
use std::path::Path;

use super::systemd::{has_job, is_running, must, stop};
use crate::failure::Failure;

/// Those of the units that are stopped with this one that have not stopped yet. The unit itself does not wait for them where it
/// is not ordered before them.
pub async fn still_stopping(unit: &str) -> Result<Vec<String>, Failure> {
    if !is_running() {
        return Ok(Vec::new());
    }
    let shown = must("systemctl", &["show", "--property=ConsistsOf,RequiredBy,BoundBy", unit]).await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let lists = shown.lines().filter_map(|line| line.split_once('=')).map(|(_, units)| units);
    let units: BTreeSet<&str> = lists.flat_map(str::split_whitespace).collect();
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let mut ask = vec!["show", "--property=Id,ActiveState,Job"];
    ask.extend(units);
    let shown = must("systemctl", &ask).await?;
    Ok(stopping_among(&String::from_utf8_lossy(&shown.stdout)))
}

/// The names of the units that these properties show as being stopped; an empty line is between two units.
fn stopping_among(shown: &str) -> Vec<String> {
    let stopping = shown.split("\n\n").filter(|shown| Activity::read(shown) == Activity::Stopping);
    let name = |shown: &str| shown.lines().find_map(|line| line.strip_prefix("Id=")).map(str::to_owned);
    stopping.filter_map(name).collect()
}

/// What a unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It is inactive, and stays so.
    Ended,
    /// It is being started, or about to be.
    Starting,
    /// It is active, and stays so.
    Active,
    /// It is being stopped, or about to be.
    Stopping,
}

impl Activity {
    /// What systemd does about this mount point; none if it does not answer, or does not run.
    pub async fn of_mount(place: &Path) -> Option<Self> {
        let unit = mount_unit(place).await?;
        let shown = must("systemctl", &["show", "--property=ActiveState,Job", &unit]).await.ok()?;
        Some(Activity::read(&String::from_utf8_lossy(&shown.stdout)))
    }

    /// As these properties say. What is active can only be about to be stopped.
    fn read(shown: &str) -> Self {
        let state = shown.lines().find_map(|line| line.strip_prefix("ActiveState=")).unwrap_or_default();
        match (state, has_job(shown)) {
            ("deactivating", _) | ("active", true) => Activity::Stopping,
            ("active" | "reloading", _) => Activity::Active,
            ("activating", _) | (_, true) => Activity::Starting,
            _ => Activity::Ended,
        }
    }
}

/// Begins to stop the unit of a mount, and with it what requires the mount. That it may not be stopped is not said here: the mount
/// itself shows it.
pub async fn stop_mount(place: &Path) {
    let Some(unit) = mount_unit(place).await else { return };
    if let Err(failure) = stop(&unit).await {
        tracing::debug!("{failure}");
    }
}

/// The name of the unit of a mount.
async fn mount_unit(place: &Path) -> Option<String> {
    if !is_running() {
        return None;
    }
    let escaped = must("systemd-escape", &["--path", "--suffix=mount", &place.to_string_lossy()]).await.ok()?;
    Some(String::from_utf8_lossy(&escaped.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_does_is_read_from_its_state_and_its_job() {
        let cases = [
            ("ActiveState=inactive\nJob=0\n", Activity::Ended),
            ("ActiveState=failed\n", Activity::Ended),
            ("ActiveState=inactive\nJob=77\n", Activity::Starting),
            ("ActiveState=activating\nJob=77\n", Activity::Starting),
            ("ActiveState=active\nJob=\n", Activity::Active),
            ("ActiveState=active\nJob=77\n", Activity::Stopping),
            ("ActiveState=deactivating\nJob=77\n", Activity::Stopping),
            ("", Activity::Ended),
        ];
        for (shown, activity) in cases {
            assert_eq!(Activity::read(shown), activity, "{shown}");
        }
        let shown = "Job=\nId=a.service\nActiveState=inactive\n\nJob=7\nId=b.service\nActiveState=deactivating\n\n\
                     Id=c.service\nActiveState=active\n";
        assert_eq!(stopping_among(shown), ["b.service"]);
    }
}
