//! systemd and udev, if they run; uses only options that systemd 219 has.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::command::{self, Query};
use super::{file_id, mount};
use crate::failure::{Code, Failure};

/// Applications that need the volumes are `WantedBy` this.
pub const MOUNTED_TARGET: &str = "node-agent-mounted.target";

/// The agent's own unit.
pub const UNIT: &str = "node-agent.service";

/// The unit that runs before [`UNIT`] at a reboot.
pub const MOUNT_UNIT: &str = "node-agent-mount.service";

/// The time limit of a request to systemd or udev. Both answer in milliseconds, or hang: a reload runs all generators, and a
/// generator of another package may wait for a network.
const DEADLINE: Duration = Duration::from_secs(30);
/// The limit after a request has hung: a boot makes half a dozen requests and must finish all the same.
const DEADLINE_ONCE_HUNG: Duration = Duration::from_secs(3);

/// Whether systemd runs here (`sd_booted(3)`).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The running systemd's version, if it can be read.
pub async fn version() -> Option<u32> {
    if !is_running() {
        return None;
    }
    let output = must("systemctl", &["--version"]).await.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `systemd 252 (252.38-1~deb12u1)`
fn parse_version(text: &str) -> Option<u32> {
    text.strip_prefix("systemd ")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Makes systemd read a changed fstab; otherwise it unmounts what its old units consider stale.
pub async fn reload() -> Result<(), Failure> {
    if is_running() {
        must("systemctl", &["daemon-reload"]).await?;
    }
    Ok(())
}

/// Starts a unit without waiting for it: waiting would deadlock the boot.
pub async fn start(unit: &str) -> Result<(), Failure> {
    if is_running() {
        must("systemctl", &["start", "--no-block", unit]).await?;
    }
    Ok(())
}

/// Begins to stop a unit, and with it what is part of it or requires it.
pub async fn stop(unit: &str) -> Result<(), Failure> {
    must("systemctl", &["stop", "--no-block", unit]).await.map(drop)
}

/// Whether a unit is neither active nor about to be started or stopped. True also where no systemd runs.
pub async fn has_ended(unit: &str) -> bool {
    if !is_running() {
        return true;
    }
    let Ok(shown) = must("systemctl", &["show", "--property=ActiveState,Job", unit]).await else { return false };
    shows_ended(&String::from_utf8_lossy(&shown.stdout))
}

/// Whether a unit is installed.
pub async fn has_unit(unit: &str) -> bool {
    is_running() && must("systemctl", &["cat", unit]).await.is_ok()
}

/// Adds an installed unit to what multi-user.target wants, until the next boot, so that `systemctl isolate` of that target does
/// not stop it.
pub async fn keep_in_isolation(unit: &str) -> Result<(), Failure> {
    let link = Path::new("/run/systemd/system/multi-user.target.wants").join(unit);
    if !link.exists() && has_unit(unit).await {
        must("systemctl", &["--runtime", "add-wants", "multi-user.target", unit]).await?;
    }
    Ok(())
}

/// Whether a unit is installed, but neither started nor about to be; none if systemd does not answer. Blocks the thread.
pub fn is_stopped(unit: &str) -> Option<bool> {
    if !is_running() {
        return None;
    }
    let asked =
        command::query("systemctl", &["show", "--property=LoadState,ActiveState,Job", unit], DEADLINE_ONCE_HUNG);
    let Ok(Query::Ended(output)) = asked else { return None };
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| shows_stopped(&shown))
}

/// Whether these properties are of an installed unit that is neither started nor about to be.
fn shows_stopped(shown: &str) -> bool {
    shown.lines().any(|line| line == "LoadState=loaded") && shows_ended(shown)
}

/// Whether these properties are of a unit that is neither active nor about to be started or stopped.
fn shows_ended(shown: &str) -> bool {
    let has = |line: &str| shown.lines().any(|shown| shown == line);
    (has("ActiveState=inactive") || has("ActiveState=failed")) && !has_job(shown)
}

/// Whether these properties are of a unit that is about to be started or stopped.
pub(super) fn has_job(shown: &str) -> bool {
    // Without a job, versions of systemd omit the line, the number, or show 0.
    shown.lines().filter_map(|line| line.strip_prefix("Job=")).any(|job| !matches!(job, "" | "0"))
}

/// Whether a unit was started.
pub async fn is_active(unit: &str) -> bool {
    is_running() && must("systemctl", &["is-active", "--quiet", unit]).await.is_ok()
}

/// The main process of a running service.
pub async fn main_process(unit: &str) -> Option<i32> {
    let shown = must("systemctl", &["show", "--property=MainPID", unit]).await.ok()?;
    let shown = String::from_utf8_lossy(&shown.stdout).trim().strip_prefix("MainPID=")?.parse().ok();
    shown.filter(|pid| *pid > 0)
}

/// Whether the last request hung.
static HUNG: AtomicBool = AtomicBool::new(false);

/// Runs systemctl or udevadm, which must exit with 0 within `DEADLINE`.
pub async fn must(program: &str, args: &[&str]) -> Result<Output, Failure> {
    let limit = if HUNG.load(Ordering::Relaxed) { DEADLINE_ONCE_HUNG } else { DEADLINE };
    let began = Instant::now();
    let result = command::must_within(program, args, limit).await;
    HUNG.store(result.is_err() && began.elapsed() >= limit, Ordering::Relaxed);
    result
}

/// The unit of a process in these groups, as `node-agent.service`; none outside of a service.
///
/// cgroups(7): `0::/system.slice/node-agent.service`, before the unified hierarchy `1:name=systemd:/system.slice/…`. A service
/// with delegation can have groups of its own below that.
fn unit_in(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        (controllers == "name=systemd" || (number == "0" && controllers.is_empty())).then_some(path)
    })?;
    path.split('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// Fails if systemd runs and this process has a mount namespace of its own: its mounts would be visible to itself alone, and
/// every application would write to the root disk.
pub async fn must_share_mounts() -> Result<(), Failure> {
    if !is_running() || shares_mounts()? {
        return Ok(());
    }
    let Some(unit) = unit_in(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()) else {
        let text = "this shell has a mount namespace of its own: what is mounted in it is invisible to the rest of the machine";
        return Err(Failure::new(Code::PrivateMounts, text)
            .remedy("run it in the machine's mount namespace: nsenter --target 1 --mount node-agent retry"));
    };
    let Isolation { settings, drop_ins } = Isolation::of(&unit).await;
    let named =
        |what: &str, all: &[String]| if all.is_empty() { String::new() } else { format!("{what}{}", all.join(" ")) };
    let text = format!(
        "{unit} has a mount namespace of its own: what is mounted in it is invisible to the rest of the machine{}{}",
        named("; set: ", &settings),
        named("; its drop-ins: ", &drop_ins)
    );
    let remedy = if ![UNIT, MOUNT_UNIT].contains(&unit.as_str()) {
        "run the agent as a service of its own: node-agent install --now".to_owned()
    } else if settings.is_empty() {
        format!(
            "find the setting that causes this (man systemd.exec; systemctl show {unit}), and override it in a drop-in"
        )
    } else {
        override_settings(&settings)
    };
    Err(Failure::new(Code::PrivateMounts, text).remedy(remedy))
}

/// Whether this process is in the machine's mount namespace.
fn shares_mounts() -> Result<bool, Failure> {
    match (file_id("/proc/1/ns/mnt"), file_id("/proc/self/ns/mnt")) {
        (Ok(machines), Ok(own)) => Ok(machines == own),
        // Without CAP_SYS_PTRACE process 1's namespace is hidden. systemd makes a service's namespace a slave of the machine's.
        _ => Ok(!mount::at(Path::new("/"))?.is_some_and(|root| root.is_slave)),
    }
}

/// The remedy that overrides these settings for the agent's services alone.
fn override_settings(settings: &[String]) -> String {
    let lines: Vec<_> = settings.iter().map(|setting| override_line(setting)).collect();
    format!(
        "override the settings for the agent's services alone: for unit in {UNIT} {MOUNT_UNIT}; do \
         mkdir -p /etc/systemd/system/$unit.d && \
         printf '[Service]\\n{}\\n' >/etc/systemd/system/$unit.d/zz-host-mounts.conf; done; \
         systemctl daemon-reload && systemctl restart {UNIT}",
        lines.join("\\n")
    )
}

/// The settings that give a service a mount namespace of its own (systemd.exec(5)), and the values that do not.
const ISOLATING: &str = "PrivateMounts=no PrivateTmp=no PrivateDevices=no PrivateNetwork=no PrivateIPC=no PrivateUsers=no \
    ProtectSystem=no ProtectHome=no ProtectHostname=no ProtectKernelTunables=no ProtectKernelModules=no \
    ProtectKernelLogs=no ProtectControlGroups=no ProtectProc=default ProcSubset=all DynamicUser=no ReadWritePaths= \
    ReadOnlyPaths= InaccessiblePaths= BindPaths= BindReadOnlyPaths= TemporaryFileSystem= MountFlags= \
    RootDirectory= RootImage= MountImages= ExtensionImages= ExtensionDirectories= NoExecPaths= ExecPaths= \
    LogNamespace=";

/// [`ISOLATING`] as names and values.
fn isolating() -> impl Iterator<Item = (&'static str, &'static str)> {
    ISOLATING.split(' ').filter_map(|setting| setting.split_once('='))
}

/// Why a service has a mount namespace of its own, as shown by systemd.
struct Isolation {
    /// As `PrivateTmp=yes`.
    settings: Vec<String>,
    /// The files that may have set them.
    drop_ins: Vec<String>,
}

impl Isolation {
    async fn of(unit: &str) -> Self {
        let properties = isolating().map(|(name, _)| name).chain(["DropInPaths"]).collect::<Vec<_>>().join(",");
        // systemd omits unknown properties.
        let shown = must("systemctl", &["show", unit, "--property", &properties]).await;
        let shown = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        Isolation::read(&shown)
    }

    fn read(shown: &str) -> Self {
        let is_set = |line: &&str| {
            line.split_once('=').is_some_and(|(name, value)| {
                let without = isolating().find(|(known, _)| *known == name);
                // MountFlags is shown as a number: 0, or `shared` in newer versions.
                without.is_some_and(|(_, without)| {
                    value != without && !(name == "MountFlags" && matches!(value, "0" | "shared"))
                })
            })
        };
        let drop_ins = shown.lines().find_map(|line| line.strip_prefix("DropInPaths=")).unwrap_or_default();
        Isolation {
            settings: shown.lines().filter(is_set).map(str::to_owned).collect(),
            drop_ins: drop_ins.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// The line that overrides a setting: `PrivateTmp=no` for `PrivateTmp=yes`.
fn override_line(setting: &str) -> String {
    let name = setting.split('=').next().unwrap_or_default();
    let without = isolating().find(|(known, _)| *known == name).map_or("", |(_, without)| without);
    format!("{name}={without}")
}

/// Makes udev probe a device again, so that its links match its new contents, and waits for that. The agent itself does not need
/// the links: a failure is only logged.
pub async fn refresh_device(device: &Path) {
    if !has_udev() {
        return;
    }
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let sysname = format!("--sysname-match={name}");
    let triggered = must("udevadm", &["trigger", "--subsystem-match=block", &sysname]).await;
    if let Err(failure) = triggered {
        tracing::warn!("udev could not be notified that {} has changed: {failure}", device.display());
    }
    wait_for_udev().await;
}

/// Waits until udev has handled its queued events, so that a new device's links exist.
pub async fn wait_for_udev() {
    if !has_udev() {
        return;
    }
    // udevadm times out by itself before it would be killed.
    let limit = format!("--timeout={}", DEADLINE.as_secs() - 1);
    if let Err(failure) = must("udevadm", &["settle", &limit]).await {
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
    fn the_service_of_a_process_is_read_from_its_control_group() {
        let cases = [
            ("0::/system.slice/node-agent.service\n", Some("node-agent.service")),
            ("0::/system.slice/docker.service/init.scope\n", Some("docker.service")),
            (
                "12:pids:/user.slice\n1:name=systemd:/system.slice/cloud-final.service\n0::/other.service\n",
                Some("cloud-final.service"),
            ),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ];
        for (cgroups, unit) in cases {
            assert_eq!(unit_in(cgroups).as_deref(), unit, "{cgroups}");
        }
    }

    #[test]
    fn settings_that_isolate_a_service_are_named_and_overridden() {
        let shown = "PrivateMounts=no\nPrivateTmp=yes\nProtectSystem=full\nProtectProc=default\nReadOnlyPaths=/etc /usr\n\
                     MountFlags=0\nDropInPaths=/etc/systemd/system/service.d/hardening.conf\n";
        let Isolation { settings, drop_ins } = Isolation::read(shown);
        assert_eq!(settings, ["PrivateTmp=yes", "ProtectSystem=full", "ReadOnlyPaths=/etc /usr"]);
        assert_eq!(drop_ins, ["/etc/systemd/system/service.d/hardening.conf"]);
        let back: Vec<_> = settings.iter().map(|setting| override_line(setting)).collect();
        assert_eq!(back, ["PrivateTmp=no", "ProtectSystem=no", "ReadOnlyPaths="]);
        assert!(override_settings(&settings).contains(
            "printf '[Service]\\nPrivateTmp=no\\nProtectSystem=no\\nReadOnlyPaths=\\n' \
             >/etc/systemd/system/$unit.d/zz-host-mounts.conf"
        ));
    }

    #[test]
    fn a_unit_is_stopped_if_it_is_installed_and_nothing_starts_it() {
        let cases = [
            ("LoadState=loaded\nActiveState=inactive\nJob=\n", true),
            ("LoadState=loaded\nActiveState=inactive\n", true),
            ("LoadState=loaded\nActiveState=failed\nJob=0\n", true),
            ("LoadState=loaded\nActiveState=inactive\nJob=77\n", false),
            ("LoadState=loaded\nActiveState=active\nJob=\n", false),
            ("LoadState=not-found\nActiveState=inactive\nJob=\n", false),
            ("", false),
        ];
        for (shown, stopped) in cases {
            assert_eq!(shows_stopped(shown), stopped, "{shown}");
        }
    }

    #[test]
    fn the_version_is_read_as_each_distribution_writes_it() {
        assert_eq!(parse_version("systemd 219\n+PAM +AUDIT"), Some(219));
        assert_eq!(parse_version("systemd 239 (239-82.el8_10.2)\n+PAM"), Some(239));
        assert_eq!(parse_version("systemd 252 (252.38-1~deb12u1)\n"), Some(252));
        assert_eq!(parse_version("systemd 256~rc3\n"), Some(256));
        assert_eq!(parse_version("busybox"), None);
    }
}
