//! Brings a stateful EC2 node up: attaches and mounts its volumes, writes its files, runs its hooks, and only then tells
//! Auto Scaling CONTINUE.
//!
//! Start reading at [`boot`], the sequence; [`runner`] is the contract every step keeps. `steps/` has a file for each,
//! `aws/` the services' clients, `host/` all that touches the machine, [`config`] what the user wrote, [`state`] what
//! was done, [`failure`] what can go wrong, [`check`] what `node-agent check` looks at.

pub mod aws;
pub mod boot;
pub mod check;
pub mod cli;
pub mod config;
pub mod failure;
pub mod host;
pub mod install;
pub mod lifecycle;
pub mod lock;
pub mod log;
pub mod plan;
pub mod readable;
pub mod reboot;
pub mod runner;
pub mod sequence;
pub mod service;
pub mod session;
pub mod settings;
pub mod state;
pub mod status;
pub mod steps;
pub mod time;
