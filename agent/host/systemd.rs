//! systemd and udev, where there are any; of their tools only what systemd 219 knows.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::command;
use crate::failure::{Code, Failure};

/// Applications that need the volumes are `WantedBy` this.
pub const MOUNTED_TARGET: &str = "node-agent-mounted.target";

/// The agent's own unit.
pub const UNIT: &str = "node-agent.service";

/// How long what is only a courtesy, or only for the next boot, may take.
const COURTESY: Duration = Duration::from_secs(30);

/// Whether systemd runs here (`sd_booted(3)`).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The version of the systemd that runs here, if it tells.
pub async fn version() -> Option<u32> {
    if !is_running() {
        return None;
    }
    let output = command::must("systemctl", &["--version"], None).await.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `systemd 252 (252.38-1~deb12u1)`
fn parse_version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("systemd ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().ok()
}

/// Tells systemd of a changed fstab: it unmounts what it believes stale. It also runs all generators, and one of another
/// package may hang.
pub async fn reload() -> Result<(), Failure> {
    if is_running() {
        let reloading = command::must("systemctl", &["daemon-reload"], None);
        timeout(COURTESY, reloading).await.unwrap_or_else(|_| {
            let text = format!("systemctl daemon-reload has not ended within {} s", COURTESY.as_secs());
            Err(Failure::new(Code::ToolFailed, text))
        })?;
    }
    Ok(())
}

/// Starts a unit without waiting for it, because waiting within the boot would deadlock it.
pub async fn start(unit: &str) -> Result<(), Failure> {
    if is_running() {
        command::must("systemctl", &["start", "--no-block", unit], None).await?;
    }
    Ok(())
}

/// Whether a unit is installed.
pub async fn has_unit(unit: &str) -> bool {
    is_running() && command::must("systemctl", &["cat", unit], None).await.is_ok()
}

/// Whether a unit was started.
pub async fn is_active(unit: &str) -> bool {
    is_running() && command::must("systemctl", &["is-active", "--quiet", unit], None).await.is_ok()
}

/// Has udev look at a device again, so that its links show what is on it now, and waits until it has. A courtesy: whatever
/// comes of it, the device is as it is.
pub async fn settle(device: &Path) {
    if !has_udev() {
        return;
    }
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let sysname = format!("--sysname-match={name}");
    let triggered = command::must("udevadm", &["trigger", "--subsystem-match=block", &sysname], None).await;
    if let Err(failure) = triggered {
        tracing::warn!("udev was not told that {} has changed: {failure}", device.display());
    }
    wait_for_udev().await;
}

/// Waits until udev has handled what has happened so far, so that the links of a device that has just appeared are there.
pub async fn wait_for_udev() {
    if !has_udev() {
        return;
    }
    let limit = format!("--timeout={}", COURTESY.as_secs());
    if let Err(failure) = command::must("udevadm", &["settle", &limit], None).await {
        tracing::warn!("udev may not have settled: {failure}");
    }
}

fn has_udev() -> bool {
    Path::new("/run/udev/control").exists()
}

/// Restores the SELinux labels of a mount point where SELinux is on.
pub async fn restore_labels(path: &Path) -> Result<(), Failure> {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        command::must("restorecon", &[&path.to_string_lossy()], None).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_as_each_distribution_writes_it() {
        assert_eq!(parse_version("systemd 219\n+PAM +AUDIT"), Some(219));
        assert_eq!(parse_version("systemd 239 (239-82.el8_10.2)\n+PAM"), Some(239));
        assert_eq!(parse_version("systemd 252 (252.38-1~deb12u1)\n"), Some(252));
        assert_eq!(parse_version("systemd 256~rc3\n"), Some(256));
        assert_eq!(parse_version("busybox"), None);
    }
}
