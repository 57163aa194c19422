//! Brings a stateful EC2 node up: attaches and mounts its volumes, writes its files, runs its hooks, and only then tells
//! Auto Scaling CONTINUE.
//!
//! Start reading at [`node::boot`], the sequence; [`runner`] has the contract that every step keeps. [`node`] is what runs on the
//! instance, [`state`] what was done, [`lifecycle`] what Auto Scaling is told, [`config`] what the user wrote, [`failure`] what
//! can go wrong. [`aws`] has the services' clients, [`host`] all that touches the machine.

pub mod aws;
pub mod cli;
pub mod config;
pub mod failure;
pub mod host;
pub mod lifecycle;
pub mod log;
pub mod node;
pub mod readable;
pub mod runner;
pub mod sequence;
pub mod state;
pub mod time;
