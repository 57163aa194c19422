//! systemd and udev, where there are any.

use std::path::Path;

use super::command;
use crate::failure::Failure;

/// Applications that need the volumes are `WantedBy` this.
pub const MOUNTED_TARGET: &str = "node-agent-mounted.target";

/// The agent's own unit.
pub const UNIT: &str = "node-agent.service";

/// Whether systemd runs here (`sd_booted(3)`).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Tells systemd of a changed fstab: it unmounts what it believes stale.
pub async fn reload() -> Result<(), Failure> {
    if is_running() {
        command::must("systemctl", &["daemon-reload"], None).await?;
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

/// Lets udev look at a device again and waits until it has.
pub async fn settle(device: &Path) -> Result<(), Failure> {
    if Path::new("/run/udev/control").exists() {
        let device = device.to_string_lossy();
        command::must("udevadm", &["trigger", "--settle", &device], None).await?;
    }
    Ok(())
}

/// Restores the SELinux labels of a mount point where SELinux is on.
pub async fn restore_labels(path: &Path) -> Result<(), Failure> {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        command::must("restorecon", &[&path.to_string_lossy()], None).await?;
    }
    Ok(())
}
