//! kybern-scheduler
