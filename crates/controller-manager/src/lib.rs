//! The controllers: one pure file per control loop, one driver for all.
//!
//! A [`Controller`](controller::Controller) reads a [`Snapshot`](snapshot::Snapshot) and returns a
//! [`Plan`](controller::Plan); `driver` watches, queues, executes, retries and reports. [`manager::run`] starts those that
//! are asked for, under upstream's names.

pub mod ask;
pub mod controller;
pub mod controllers;
pub mod inventory;
pub mod manager;
pub mod metrics;
pub mod snapshot;
pub mod watches;

mod bootstrap_tokens;
mod certificates;
mod claim;
mod driver;
mod hash;
mod history;
mod pods;
mod protection;
mod slices;

#[cfg(test)]
mod testing;

pub use manager::{ClientFor, Config, run};
