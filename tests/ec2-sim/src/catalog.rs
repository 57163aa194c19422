//! What EC2 has to offer: images and instance types. Everything is there and offered unless a scenario says otherwise.

use std::collections::{BTreeMap, BTreeSet};

/// The state of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageState {
    /// It can be launched.
    #[default]
    Available,
    /// It is being made.
    Pending,
    /// It could not be made.
    Failed,
    /// There is no such image, for instance any more.
    Absent,
}

impl ImageState {
    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Absent => "deregistered",
        }
    }
}

/// What differs from everything being there.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    images: BTreeMap<String, ImageState>,
    /// Type and zone.
    withheld: BTreeSet<(String, String)>,
}

impl Catalog {
    pub(crate) fn set_image(&mut self, image: &str, state: ImageState) {
        self.images.insert(image.to_owned(), state);
    }

    pub(crate) fn set_offered(&mut self, instance_type: &str, zone: &str, offered: bool) {
        let pair = (instance_type.to_owned(), zone.to_owned());
        if offered {
            self.withheld.remove(&pair)
        } else {
            self.withheld.insert(pair)
        };
    }

    pub(crate) fn image(&self, image: &str) -> ImageState {
        self.images.get(image).copied().unwrap_or_default()
    }

    /// The images that a scenario has said something of.
    pub(crate) fn images(&self) -> impl Iterator<Item = &String> {
        self.images.keys()
    }

    pub(crate) fn offers(&self, instance_type: &str, zone: &str) -> bool {
        !self.withheld.contains(&(instance_type.to_owned(), zone.to_owned()))
    }

    /// Why such an instance cannot be launched, in EC2's words.
    pub(crate) fn refusal(&self, image: &str, instance_type: &str, zone: &str) -> Option<String> {
        let state = self.image(image);
        match state {
            ImageState::Available if self.offers(instance_type, zone) => None,
            ImageState::Available => Some(format!(
                "Your requested instance type ({instance_type}) is not supported in your requested Availability Zone ({zone})"
            )),
            ImageState::Absent => Some(format!("The image id '[{image}]' does not exist")),
            ImageState::Pending | ImageState::Failed => {
                Some(format!("The image id '[{image}]' is '{}' and cannot be run", state.name()))
            }
        }
    }
}
