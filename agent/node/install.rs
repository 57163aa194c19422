//! `node-agent install`: installs this binary and its units, or enables the service of the package that it belongs to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::config::Sha256Digest;
use crate::failure::{Code, Failure, Named};
use crate::host::atomic::Replacement;
use crate::host::{file_id, process, systemd};
use crate::node::settings::CONFIG;

/// The path for a program outside of the package manager (FHS, /usr/local).
const BINARY: &str = "/usr/local/bin/node-agent";
/// The directory for units outside of the package manager (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";
/// The path of the package's binary, as in the unit in the repository.
const PACKAGED: &str = "/usr/bin/node-agent";
/// The directories for packages' units, by distribution.
const PACKAGED_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// The directories in which an administrator masks a unit, permanently or until the next boot.
const MASKS: [&str; 2] = [UNITS, "/run/systemd/system"];
/// A first boot enables the units that presets name, and on some distributions disables all others.
const PRESET: &str = "/etc/systemd/system-preset/50-node-agent.preset";

const SERVICE: &str = include_str!("../../systemd/node-agent.service");
const MOUNT: &str = include_str!("../../systemd/node-agent-mount.service");
const TARGET: &str = include_str!("../../systemd/node-agent-mounted.target");
const ENABLED: &str = include_str!("../../systemd/node-agent.preset");

/// The first line of an installed unit begins with this and ends with the checksum of the rest. Any other unit was written or
/// edited by an administrator.
const MARK: &str = "# By node-agent install; SHA-256 of what follows: ";
/// The checksums of the units that 0.1.0 installed, which has no such line.
const UNMARKED: [&str; 2] = [
    "b615a894217a49abf313e60a62446f4046e9d2e165b486da87ac45e3463a105e",
    "1813bd5b0cb4ef14231f7d994957b28a93229e72d2f9a299e882006370b52192",
];

/// Installs into `root` and enables the service; with `now`, starts it without waiting for it. Files that are up to date are
/// left alone.
pub async fn install(root: &Path, now: bool) -> Result<(), Failure> {
    let here = root == Path::new("/");
    if now && !here {
        return Err(Failure::new(Code::InstallImpossible, "--now starts the service here, --root installs elsewhere")
            .remedy("omit one of the two"));
    }
    if now && !systemd::is_running() {
        return Err(Failure::new(Code::InstallImpossible, "no systemd runs here, so no service can be started")
            .remedy("run it in the foreground: node-agent run --once"));
    }
    for unit in [systemd::UNIT, systemd::MOUNT_UNIT, systemd::MOUNTED_TARGET] {
        must_not_be_masked(root, unit)?;
    }
    let binary = if is_packaged(root) {
        tracing::info!("this is the package's agent: its unit is enabled, and nothing is copied");
        in_root(root, PACKAGED)
    } else {
        install_files(root)?
    };
    enable(root).await?;
    tracing::info!("{} is enabled: it runs {}", systemd::UNIT, binary.display());
    if now { start(&binary).await } else { Ok(()) }
}

fn in_root(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Fails if an administrator has masked the unit.
fn must_not_be_masked(root: &Path, unit: &str) -> Result<(), Failure> {
    for dir in MASKS {
        let path = in_root(root, dir).join(unit);
        let masked = fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null"))
            || fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
        if masked {
            let text = format!("{unit} is masked: {}", path.display());
            return Err(Failure::new(Code::InstallImpossible, text)
                .remedy(format!("if it is to run after all: systemctl unmask {unit}, then install again")));
        }
    }
    Ok(())
}

/// The package's unit, if the package is installed in `root`.
fn packaged_unit(root: &Path) -> Option<PathBuf> {
    PACKAGED_UNITS.iter().map(|dir| in_root(root, dir).join(systemd::UNIT)).find(|path| path.exists())
}

/// Whether this process runs the program of the package that is installed in `root`.
fn is_packaged(root: &Path) -> bool {
    packaged_unit(root).is_some() && is_same_file(process::OWN_PROGRAM, &in_root(root, PACKAGED))
}

fn is_same_file(one: &str, other: &Path) -> bool {
    file_id(one).is_ok_and(|one| file_id(other).is_ok_and(|other| one == other))
}

fn install_files(root: &Path) -> Result<PathBuf, Failure> {
    if let Some(unit) = packaged_unit(root) {
        tracing::warn!(
            "the package node-agent is installed, too: its unit {} and its upgrades have no effect until this copy is removed: \
             rm {BINARY} {UNITS}/node-agent*.{{service,target}}; systemctl daemon-reload",
            unit.display()
        );
    }
    let binary = install_binary(root)?;
    install_unit(root, systemd::UNIT, &SERVICE.replace(PACKAGED, BINARY))?;
    install_unit(root, systemd::MOUNT_UNIT, &MOUNT.replace(PACKAGED, BINARY))?;
    install_unit(root, systemd::MOUNTED_TARGET, TARGET)?;
    install_file(&in_root(root, PRESET), ENABLED.as_bytes(), 0o644)?;
    Ok(binary)
}

fn install_binary(root: &Path) -> Result<PathBuf, Failure> {
    let path = in_root(root, BINARY);
    let what = || format!("installing {}", path.display());
    let own = Path::new(process::OWN_PROGRAM);
    if !own.exists() {
        let text = "/proc is not mounted, and the program needs it to find its own file";
        return Err(Failure::new(Code::InstallImpossible, text).remedy("mount -t proc proc /proc, then install again"));
    }
    if fs::canonicalize(own).ok() != fs::canonicalize(&path).ok() {
        let mut contents = File::open(own).named(what())?;
        make_parent(&path)?;
        Replacement::new(&path).mode(0o755).write_from(&mut contents).named(what())?;
    }
    Ok(path)
}

/// Installs a unit, unless an administrator has written or edited the existing one.
fn install_unit(root: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = in_root(root, UNITS).join(name);
    if fs::read_to_string(&path).is_ok_and(|there| there != text && !is_of_an_install(&there)) {
        tracing::warn!(
            "{} was written or edited by an administrator and stays as it is; to get this version's: rm {0}, then install again",
            path.display()
        );
        return Ok(());
    }
    install_file(&path, format!("{MARK}{}\n{text}", checksum(text)).as_bytes(), 0o644)
}

fn is_of_an_install(text: &str) -> bool {
    let marked = text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n'));
    marked.is_some_and(|(sum, rest)| sum == checksum(rest)) || UNMARKED.contains(&checksum(text).as_str())
}

fn checksum(text: &str) -> String {
    Sha256Digest::of(text.as_bytes()).to_string()
}

fn install_file(path: &Path, contents: &[u8], mode: u32) -> Result<(), Failure> {
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

/// Enables the service: through systemd, or through its files if systemd does not run, as in a chroot or an image.
async fn enable(root: &Path) -> Result<(), Failure> {
    let root_option = format!("--root={}", root.display());
    let elsewhere = (root != Path::new("/")).then_some(root_option.as_str());
    if elsewhere.is_none() {
        // A failed reload does not prevent enabling; a failed start reports more.
        if let Err(failure) = systemd::reload().await {
            tracing::warn!("{failure}");
        }
    }
    for command in ["enable", "is-enabled"] {
        let arguments: Vec<_> = elsewhere.into_iter().chain([command, systemd::UNIT]).collect();
        systemd::must("systemctl", &arguments).await?;
    }
    Ok(())
}

/// Starts the service without waiting for it. A running service is left alone.
async fn start(binary: &Path) -> Result<(), Failure> {
    if !fs::exists(CONFIG).unwrap_or(true) {
        tracing::warn!(
            "{CONFIG} does not exist yet, and the service does not start without it: write it, then: systemctl start {}",
            systemd::UNIT
        );
    }
    if let Some(pid) = systemd::main_process(systemd::UNIT).await
        && !is_same_file(&process::program(pid), binary)
    {
        tracing::warn!(
            "{} runs already (process {pid}), but from another binary than {}; to replace it: systemctl restart {0}",
            systemd::UNIT,
            binary.display()
        );
    }
    systemd::start(systemd::UNIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_somebody_has_edited_is_not_taken_for_an_installed_one() {
        let installed = format!("{MARK}{}\n{SERVICE}", checksum(SERVICE));
        assert!(is_of_an_install(&installed));
        for edited in
            [format!("{installed}\nNice=5\n"), SERVICE.to_owned(), installed.replacen("no", "yes", 1), String::new()]
        {
            assert!(!is_of_an_install(&edited), "{edited}");
        }
    }
}
