//! The programs and kernel modules that the image needs.

use tokio::time::timeout;

use super::{Finding, LIMIT};
use crate::config::{Config, FileSystemType, Format, Volume};
use crate::failure::{Code, Failure};
use crate::host::command;
use crate::host::filesystem::{self, InKernel, MANAGERS, Maker, package};

/// The programs and the filesystems that the configuration needs.
pub(super) async fn check(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![
        program("bash", "bash"),
        program("blkid", "util-linux"),
        program("mount", "util-linux (Debian and Ubuntu: mount)"),
    ];
    for kind in [FileSystemType::Xfs, FileSystemType::Ext4] {
        let volumes = config.map(|config| config.volumes.as_slice()).unwrap_or_default();
        let volumes: Vec<_> = volumes.iter().filter(|volume| volume.file_system == kind).collect();
        if volumes.is_empty() {
            continue;
        }
        findings.extend(tools(kind, &volumes).await);
        findings.push(kernel(kind));
    }
    findings
}

fn program(name: &str, package: &str) -> Finding {
    match command::find(name) {
        Some(path) => Finding::ok(name, path.display().to_string()),
        None => Finding::attention(name, "is not installed", format!("install the package {package} in the image")),
    }
}

/// `mkfs`, and the check that ext4 gets before it is mounted.
async fn tools(kind: FileSystemType, volumes: &[&Volume]) -> Vec<Finding> {
    let package = package(kind);
    let name = format!("mkfs.{kind}");
    let mut findings = Vec::new();
    let mut installs = false;
    // A volume that is never formatted needs no mkfs.
    if volumes.iter().any(|volume| volume.format == Format::IfBlank) {
        let found = timeout(LIMIT, Maker::find(kind)).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::ToolFailed, format!("{name} -V has not ended for {} s", LIMIT.as_secs())))
        });
        let manager = MANAGERS.into_iter().find(|manager| command::find(manager).is_some());
        let willing = volumes.iter().all(|volume| volume.install_tools || volume.format == Format::Never);
        findings.push(match (found, manager) {
            (Ok(maker), _) => Finding::ok(name, format!("version {maker}")),
            (Err(failure), Some(manager)) if failure.code == Code::ToolMissing && willing => {
                installs = true;
                let seen = format!("is not installed; {manager} will install {package} (install_tools = true)");
                Finding::ok(name, seen)
            }
            (Err(failure), None) if failure.code == Code::ToolMissing && willing => Finding::attention(
                name,
                format!("is not installed, and there is neither dnf, yum nor apt-get to install {package}"),
                format!("install the package {package} in the image"),
            ),
            (Err(failure), _) if failure.code == Code::ToolMissing => Finding::attention(
                name,
                "is not installed",
                format!("install the package {package} in the image, or set install_tools = true"),
            ),
            (Err(failure), _) => Finding::failed(name, &failure),
        });
    }
    if kind == FileSystemType::Ext4 && !installs {
        findings.push(program("e2fsck", package));
    }
    findings
}

/// Whether the kernel has the filesystem: built in, loaded, or as a loadable module.
fn kernel(kind: FileSystemType) -> Finding {
    let name = format!("kernel's {kind}");
    match filesystem::in_kernel(kind) {
        InKernel::Running => Finding::ok(name, "in the running kernel"),
        InKernel::Module => Finding::ok(name, "a module of the running kernel"),
        InKernel::No { release } => {
            let seen = format!("the kernel {release} has no {kind}, neither built in nor as a module");
            Finding::attention(
                name,
                seen,
                "use a kernel that has it (often a package kernel-modules-extra), or the other type",
            )
        }
    }
}
