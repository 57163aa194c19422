//! Brings a stateful EC2 node up: attaches and mounts its volumes, writes its files, runs its hooks, and only then tells
//! Auto Scaling CONTINUE.
//!
//! Start reading at [`node::boot`], the sequence; [`runner`] has the contract that every step keeps. [`node`] runs on the
//! instance, [`state`] records what was done, [`lifecycle`] reports to Auto Scaling, [`config`] reads what the user wrote,
//! [`failure`] lists what can go wrong. [`aws`] has the services' clients, [`host`] everything that touches the machine.

pub mod aws;
pub mod cli;
pub mod config;
pub mod failure;
pub mod host;
pub mod lifecycle;
pub mod log;
pub mod node;
pub mod plot;
pub mod readable;
mod roll;
pub mod runner;
pub mod sequence;
pub mod state;
pub mod time;
