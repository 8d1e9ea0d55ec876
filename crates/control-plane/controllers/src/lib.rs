//! Podium's controllers: the loops that make the cluster what its objects say.
//!
//! Each controller is a folder with the same files: `decide` (a pure function from what the caches show to what is to be done),
//! `shell` (watches, calls `decide`, carries it out), `status` where there is one, and `tests`. Time and new names are arguments
//! of every decision. What a controller has written and its cache does not show yet is tracked in `expect`, so no controller acts
//! twice on one observation.
//!
//! Entry point: [`run`] with a [`Config`]. Deliberately absent: any state that the API does not have, and polling.

mod attachdetach;
#[cfg(test)]
mod bad_input;
mod bootstrapsigner;
mod bootstraptokens;
mod canonical;
mod certificates;
mod children;
mod clock;
mod clusterroleaggregation;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod devicetainteviction;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod ephemeralvolume;
mod eviction;
mod expect;
mod finalizers;
mod garbagecollector;
mod hash;
mod history;
mod horizontalpodautoscaler;
mod job;
mod labels;
mod legacytokencleaner;
#[cfg(test)]
mod lost_answers;
mod manager;
mod metrics;
mod names;
mod namespace;
mod node_affinity;
mod nodeipam;
mod nodelifecycle;
mod nodes;
#[cfg(test)]
mod one_watch;
mod owner;
mod plugin_names;
mod podgc;
mod pods;
mod protection;
mod pvcprotection;
mod pvprotection;
mod replicaset;
mod resourceclaim;
mod resourcequota;
mod rootca;
mod scale;
mod serviceaccount;
mod serviceaccounttoken;
mod servicecidr;
mod services;
#[cfg(test)]
mod simulation;
mod slow_start;
mod statefulset;
mod storageversiongc;
mod tainteviction;
#[cfg(test)]
mod testing;
mod tokencleaner;
mod ttl;
mod ttlafterfinished;
mod vacprotection;
mod validatingadmissionpolicystatus;
mod volumebinder;
mod volumeexpander;

pub use certificates::Signers;
pub use clock::{Clock, RuntimeClock, SystemClock};
pub use horizontalpodautoscaler::Autoscaling;
pub use manager::{Config, Error, Settings, accounts, chosen, names, run, workers};
pub use metrics::collect as collect_metrics;
pub use names::{CountedNames, NameSource, RandomNames};
pub use nodelifecycle::Rates as NodeEviction;
