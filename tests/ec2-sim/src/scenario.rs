//! A world written down in TOML, for the binary.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{GroupSpec, InstanceSpec, SimConfig, VolumeSpec, duration};
use crate::error::SimError;
use crate::ids::{InstanceId, VolumeId};
use crate::interfaces::InterfaceSpec;
use crate::sim::Sim;
use crate::templates::TemplateSpec;

/// A whole world.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The simulator's settings.
    pub sim: SimConfig,
    /// The volumes.
    #[serde(default)]
    pub volume: Vec<VolumeSpec>,
    /// The launch templates.
    #[serde(default)]
    pub template: Vec<TemplateSpec>,
    /// The network interfaces that are made before the instances.
    #[serde(default)]
    pub interface: Vec<InterfaceSpec>,
    /// The groups.
    #[serde(default)]
    pub group: Vec<GroupSpec>,
    /// The instances.
    #[serde(default)]
    pub instance: Vec<InstanceSpec>,
    /// What is attached from the start.
    #[serde(default)]
    pub attach: Vec<Attach>,
    /// What is terminated later.
    #[serde(default)]
    pub terminate: Vec<Terminate>,
    /// S3 objects.
    #[serde(default)]
    pub object: Vec<StoredObject>,
    /// Pages of the https file server.
    #[serde(default)]
    pub page: Vec<Page>,
}

/// A volume that is attached from the start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Its id.
    pub volume: String,
    /// The instance's id.
    pub instance: String,
    /// The device name.
    pub device: String,
}

/// An instance that is terminated later.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminate {
    /// Its id.
    pub instance: String,
    /// How long after the start.
    #[serde(deserialize_with = "duration")]
    pub after: Duration,
}

/// An S3 object; exactly one of `content` and `file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its bytes, as text.
    pub content: Option<String>,
    /// Where its bytes are.
    pub file: Option<PathBuf>,
}

/// A page of the https file server; exactly one of `content` and `file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Its path.
    pub path: String,
    /// Its bytes, as text.
    pub content: Option<String>,
    /// Where its bytes are.
    pub file: Option<PathBuf>,
}

/// A world that runs.
pub struct Running {
    /// The handle.
    pub sim: Sim,
    /// The instances, in the order of the scenario.
    pub instances: Vec<InstanceId>,
    /// The addresses of the pages, in the order of the scenario.
    pub pages: Vec<String>,
}

impl Scenario {
    /// Reads one.
    pub fn read(path: &Path) -> Result<Self, SimError> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(SimError::io(format!("read {shown}")))?;
        toml::from_str(&text).map_err(|error| SimError::Invalid(format!("{shown}: {error}")))
    }

    /// Starts it.
    pub fn start(self) -> Result<Running, SimError> {
        let sim = Sim::start_blocking(self.sim)?;
        for volume in self.volume {
            sim.create_volume(volume)?;
        }
        for template in self.template {
            sim.create_template(template)?;
        }
        for interface in self.interface {
            sim.create_interface(interface)?;
        }
        for group in self.group {
            sim.create_group(group)?;
        }
        for object in self.object {
            sim.put_object(&object.bucket, &object.key, bytes(object.content, object.file)?);
        }
        let mut pages = Vec::new();
        for page in self.page {
            pages.push(sim.put_page(&page.path, bytes(page.content, page.file)?));
        }
        let mut instances = Vec::new();
        for instance in self.instance {
            instances.push(sim.launch(instance)?);
        }
        for Attach { volume, instance, device } in self.attach {
            sim.attach(&VolumeId::from(volume), &InstanceId::from(instance), &device)?;
        }
        for Terminate { instance, after } in self.terminate {
            sim.terminate_later(&InstanceId::from(instance), after)?;
        }
        Ok(Running { sim, instances, pages })
    }
}

fn bytes(content: Option<String>, file: Option<PathBuf>) -> Result<Vec<u8>, SimError> {
    match (content, file) {
        (Some(content), None) => Ok(content.into_bytes()),
        (None, Some(file)) => std::fs::read(&file).map_err(SimError::io(format!("read {}", file.display()))),
        _ => Err(SimError::Invalid("an object or page has exactly one of content and file".to_owned())),
    }
}
