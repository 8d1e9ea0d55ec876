//! CRI as its clients may rely on it: every case runs on podium's runtime and on containerd, so that a case which asks too
//! much is found out. What is tested follows cri-tools' validation suite; cases and words are our own.
//!
//! Needs root and busybox; containerd's half says when it is skipped.

mod containers;
mod figures;
mod fixture;
mod handlers;
mod images;
mod mounts;
mod registry;
mod restart;
mod sandboxes;
mod security;
mod streams;
mod systemd;
mod users;

use fixture::{Fixture, Kind};

/// Runs a case on both runtimes.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        mod podium {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if let Some(fixture) = super::Fixture::start(super::Kind::Podium).await {
                    super::$module::$case(&fixture).await;
                    fixture.finish().await;
                }
            })*
        }
        mod containerd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if let Some(fixture) = super::Fixture::start(super::Kind::Containerd).await {
                    super::$module::$case(&fixture).await;
                    fixture.finish().await;
                }
            })*
        }
    };
}

cases! {
    sandboxes::version_and_status,
    sandboxes::life_of_a_pod,
    sandboxes::lists_are_filtered,
    sandboxes::namespaces,
    sandboxes::sysctls_and_dns,
    containers::life_of_a_container,
    containers::ends_are_told,
    containers::logs,
    containers::commands,
    containers::volumes,
    containers::limits,
    containers::stopping,
    containers::devices_and_files,
    images::life_of_an_image,
    images::pulled_from_a_registry,
    images::as_volumes,
    mounts::read_only_to_the_ground,
    mounts::which_way_they_travel,
    security::users,
    security::capabilities,
    security::filters,
    security::paths,
    security::leaked_descriptors,
    security::links_of_images,
    security::commands_are_confined,
    security::streams_are_its_own,
    streams::exec_attach_and_forward,
}
