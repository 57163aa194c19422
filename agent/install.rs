//! `node-agent install`: the binary puts itself and its units in their places.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure, Named};
use crate::host::atomic::Replacement;
use crate::host::{command, systemd};
use crate::settings::CONFIG;

/// Where a program that no package manager knows belongs (FHS, /usr/local).
const BINARY: &str = "/usr/local/bin/node-agent";
/// Where units that no package manager knows belong (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";
const SERVICE: &str = include_str!("../systemd/node-agent.service");
const TARGET: &str = include_str!("../systemd/node-agent-mounted.target");
/// Where the packages install the binary, as the unit in the repository has it.
const PACKAGED: &str = "/usr/bin/node-agent";

/// Installs into `root`; with `now`, starts the service without waiting for it. What is in place already stays.
pub async fn install(root: &Path, now: bool) -> Result<(), Failure> {
    let here = root == Path::new("/");
    if now && !here {
        return Err(Failure::new(Code::InstallImpossible, "--now starts the service here, --root installs elsewhere")
            .remedy("leave one of the two out"));
    }
    if now && !systemd::is_running() {
        return Err(Failure::new(Code::InstallImpossible, "no systemd runs here, so no service can be started")
            .remedy("run it in the foreground: node-agent run --once"));
    }
    let binary = put_binary(root)?;
    // A packaged agent that is called here keeps its unit.
    let service = SERVICE.replace(PACKAGED, BINARY);
    put(&inside(root, UNITS).join(systemd::UNIT), service.as_bytes(), 0o644)?;
    put(&inside(root, UNITS).join(systemd::MOUNTED_TARGET), TARGET.as_bytes(), 0o644)?;
    if systemd::is_running() || !here {
        let root_option = format!("--root={}", root.display());
        let enable: &[&str] = if here { &["enable", systemd::UNIT] } else { &[&root_option, "enable", systemd::UNIT] };
        if here {
            systemd::reload().await?;
        }
        command::must("systemctl", enable, None).await?;
    }
    tracing::info!("installed {} and {} in {UNITS}", binary.display(), systemd::UNIT);
    if now {
        if !fs::exists(CONFIG).unwrap_or(true) {
            tracing::warn!(
                "there is no {CONFIG} yet: the service starts once it is there: systemctl start {}",
                systemd::UNIT
            );
        }
        systemd::start(systemd::UNIT).await?;
    }
    Ok(())
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn put_binary(root: &Path) -> Result<PathBuf, Failure> {
    let path = inside(root, BINARY);
    let what = || format!("installing {}", path.display());
    let own = Path::new("/proc/self/exe");
    if fs::canonicalize(own).ok() != fs::canonicalize(&path).ok() {
        let mut contents = File::open(own).named(what())?;
        make_parent(&path)?;
        Replacement::new(&path).mode(0o755).write_from(&mut contents).named(what())?;
    }
    Ok(path)
}

fn put(path: &Path, contents: &[u8], mode: u32) -> Result<(), Failure> {
    if fs::read(path).is_ok_and(|there| there == contents) {
        return Ok(());
    }
    make_parent(path)?;
    Replacement::new(path).mode(mode).write(contents).named(format_args!("installing {}", path.display()))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    match path.parent() {
        Some(dir) => fs::create_dir_all(dir).named(format_args!("making {}", dir.display())),
        None => Ok(()),
    }
}
