//! The kubelet: runs the pods bound to one node, through a runtime that speaks CRI v1.
//!
//! [`run`] registers the node, follows the pods whose `spec.nodeName` it is, and gives each a worker that
//! observes, decides and acts (`worker`). Decisions are pure functions with table tests: what a pod needs
//! next (`actions`), its status (`status`), its environment, its files, its probes.
//!
//! Nothing here is global: directories, cgroups, ports and the runtime's socket come from [`Config`], so
//! several kubelets can run on one machine. Stopping the kubelet leaves containers running, and starting
//! it again takes them over untouched.

// Tests build objects from JSON literals, which read better by value.
#![cfg_attr(test, allow(clippy::needless_pass_by_value, clippy::redundant_clone))]

mod actions;
mod admission;
mod backoff;
mod cgroups;
mod config;
mod configuration;
mod container;
mod container_gc;
mod container_manager;
mod context;
mod credentials;
mod directory_watch;
mod environment;
mod eviction;
mod exits;
mod healthz;
mod hooks;
mod host_checks;
mod http_get;
mod huge_pages;
mod image_gc;
mod images;
mod local_storage;
mod logs;
mod manager;
mod metrics;
mod network_files;
mod node;
mod node_shutdown;
mod observe;
mod plugin_manager;
mod pod;
mod preemption;
mod probes;
mod process;
mod record;
mod references;
mod resize;
mod resources;
mod rounds;
mod run;
mod sandbox;
mod security;
mod server;
mod service_manager;
mod static_pods;
mod status;
mod status_writer;
mod sysctls;
mod system_oom;
mod tokens;
mod trust_bundles;
mod userns;
mod volumes;
mod worker;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests_amounts;
#[cfg(test)]
mod tests_devices;
#[cfg(test)]
mod tests_end;
#[cfg(test)]
mod tests_files;
#[cfg(test)]
mod tests_images;
#[cfg(test)]
mod tests_life;
#[cfg(test)]
mod tests_real;
#[cfg(test)]
mod tests_sources;
#[cfg(test)]
mod tests_spec;

pub use config::{Cloud, Config, ServingCertificate};
pub use configuration::{
    Amounts, Anonymous, Authentication, Authorization, Configuration, ConfigurationError, CrashLoopBackOff,
    MemoryReservation, MemorySwap, ShutdownPeriod, SignedSpan, Span, WebhookAuthentication,
    WebhookAuthorization, X509,
};
pub use container_gc::ContainerGcPolicy;
pub use container_manager::{ContainerManagerSettings, SettingsError};
pub use credentials::provider::{ConfigError, Providers as CredentialProviders};
pub use directory_watch::{Changed, DirectoryWatch};
pub use node_shutdown::logind::LogindPlaces;
pub use process::apply as apply_to_process;
pub use run::{Error, run};
pub use server::ServerError;
pub use service_manager::{ServiceManager, ServiceManagerError};
