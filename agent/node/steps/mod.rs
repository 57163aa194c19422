//! The steps of both sequences, one file per step.

pub mod attach;
pub mod complete;
pub mod detach;
pub mod device;
pub mod drain;
pub mod fetch;
pub mod files;
pub mod filesystem;
pub mod function;
pub mod gate;
pub mod grow;
pub mod hook_environment;
pub mod hooks;
pub mod identity;
pub mod leave;
pub mod lost_journal;
pub mod mount;
pub mod ownership;
pub mod tag;
pub mod unmount;
pub mod warm_pool;
