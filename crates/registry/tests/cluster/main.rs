//! The API server with every built-in kind, its rules and its first objects, on memory storage: what a client sees.

mod access;
mod answers;
mod custom;
mod every_kind;
mod every_verb;
mod forms;
mod harness;
mod kubelets;
mod minimal;
mod mutating_policies;
mod node_attacks;
mod nodes;
mod pods;
mod policies;
mod proxied;
mod proxy_attacks;
mod published;
mod quotas;
mod selectors;
mod service_claims;
mod services;
mod streams;
mod webhooks;
mod workloads;
