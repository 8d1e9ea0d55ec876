//! The API server as its clients see it: a real server on a free port over a store in memory.

mod apply;
mod bad_input;
mod crud;
mod frames;
mod hostile;
mod kubectl;
mod kubelets;
mod lists;
mod metrics;
mod negotiation;
mod network;
mod overload;
mod services;
mod special;
mod support;
mod verbs;
mod versions;
mod watches;
mod writes;
