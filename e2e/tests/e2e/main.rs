//! The tutorial, as a person would type it: the official kubectl against a real cluster with real containers and packets.
//! Run through `cargo xtask e2e`, which makes the cluster.

mod attacks;
mod clients;
mod custom;
mod deployments;
mod helm;
mod images;
mod interaction;
mod load;
mod manifests;
mod objects;
mod pods;
mod pods_churn;
mod pods_claims;
mod pods_lifecycle;
mod pods_network;
mod pods_security;
mod pods_starting;
mod pods_volumes;
mod reading;
mod scheduling;
mod services;
mod workloads;
