//! The server through its one entry, on memory storage, with a few rows made by hand.

mod admission;
mod attacks;
mod audit;
mod audit_webhook;
mod deletes;
mod fairness;
mod fixture;
mod forms;
mod generated_names;
mod parts;
mod patches;
mod protocol;
mod reads;
mod rows;
mod stages;
mod transactions;
mod watches;
mod writes;
