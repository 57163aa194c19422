//! What runs on the instance: the boot sequence and its steps, the resident service, and the operator's commands.

pub mod boot;
pub mod check;
pub mod install;
mod launched;
pub mod leave;
mod leaving;
pub mod lock;
pub mod order;
pub mod places;
pub mod plan;
pub mod reboot;
pub mod service;
pub mod session;
pub mod settings;
pub mod site;
pub mod status;
pub mod status_tag;
pub mod steps;
