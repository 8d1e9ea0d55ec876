//! Garbage collection of images: by age, and when the disk that holds them is full; before pods are evicted for want of
//! disk, too. Numbers and events are upstream's.

pub(crate) mod decide;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use podium_client::EventType;
use podium_cri::v1;
use tokio::sync::Mutex;

use crate::{context::Shared, manager::Pods, metrics, node};
use decide::{Disk, Records, Unused, Used};

/// How often, upstream's `ImageGCPeriod`.
const EVERY: Duration = Duration::from_secs(300);

/// Why images could not be collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Runtime(#[from] podium_cri::Error),
    #[error("invalid capacity 0 on image filesystem")]
    NoDisk,
    #[error("{0}")]
    NotEnough(String),
    #[error(
        "wanted to free {wanted}, but freed {freed} bytes space with errors in image deletion: [{errors}]"
    )]
    Deletion { wanted: String, freed: u64, errors: String },
}

/// What images are here, and since when nobody uses them.
#[derive(Debug)]
pub(crate) struct ImageGc {
    began: Timestamp,
    records: Mutex<Records>,
}

impl ImageGc {
    pub(crate) fn new(began: Timestamp) -> Self {
        Self { began, records: Mutex::default() }
    }

    /// Collects now and then. Failing once says nothing; failing again is an event.
    pub(crate) async fn run(&self, shared: &Shared, pods: &Pods) {
        let settings = &shared.config.settings;
        if settings.image_gc_high_threshold_percent == 100 && settings.image_maximum_gc_age.0.is_zero() {
            return;
        }
        let mut failed = false;
        loop {
            match self.collect(shared, pods, Timestamp::now()).await {
                Ok(()) => failed = false,
                Err(error) => {
                    tracing::warn!(%error, "image garbage collection failed");
                    if failed {
                        event(shared, "ImageGCFailed", error.to_string());
                    }
                    failed = true;
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Removes old images, then, if the disk is fuller than it may be, others until it is not.
    pub(crate) async fn collect(
        &self,
        shared: &Shared,
        pods: &Pods,
        now: Timestamp,
    ) -> Result<(), CollectError> {
        let settings = &shared.config.settings;
        let mut records = self.records.lock().await;
        let mut unused = see(&mut records, shared, pods, now).await?;
        let most = settings.image_maximum_gc_age;
        let old = decide::old(&unused, most.0, self.began, now);
        unused.retain(|one| !old.contains(one));
        free(shared, &old, None, "age", &format!("images older than {most}")).await?;
        let disk = match disk(shared).await? {
            Some(disk) if disk.capacity > 0 => disk,
            _ => {
                event(shared, "InvalidDiskCapacity", CollectError::NoDisk.to_string());
                return Err(CollectError::NoDisk);
            }
        };
        let (high, low) = (settings.image_gc_high_threshold_percent, settings.image_gc_low_threshold_percent);
        let Some(excess) = disk.excess(high, low) else { return Ok(()) };
        let grown = decide::grown(&unused, settings.image_minimum_gc_age.0, now);
        let freed = free(shared, &grown, Some(excess), "space", &format!("{excess} bytes")).await?;
        if freed < excess {
            let message = disk.not_enough(freed);
            event(shared, "FreeDiskSpaceFailed", message.clone());
            return Err(CollectError::NotEnough(message));
        }
        Ok(())
    }

    /// Removes all that nobody uses: the disk is short. True if something was freed.
    pub(crate) async fn remove_unused(&self, shared: &Shared, pods: &Pods) -> Result<bool, CollectError> {
        let now = Timestamp::now();
        let unused = see(&mut *self.records.lock().await, shared, pods, now).await?;
        let grown = decide::grown(&unused, shared.config.settings.image_minimum_gc_age.0, now);
        Ok(free(shared, &grown, None, "space", "unused images").await? > 0)
    }
}

fn event(shared: &Shared, reason: &str, message: String) {
    let about = node::reference(&shared.config.node_name);
    shared.recorder.event(&about, EventType::Warning, reason, message);
}

async fn see(
    records: &mut Records,
    shared: &Shared,
    pods: &Pods,
    now: Timestamp,
) -> Result<Vec<Unused>, podium_cri::Error> {
    let looked = Timestamp::now();
    let images = shared.cri.list_images().await?;
    let here: BTreeSet<String> = images.iter().map(|image| image.id.clone()).collect();
    shared.images.prune_records(looked, move |reference| !here.contains(reference)).await;
    let containers = shared.cri.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let known = pods.list();
    let used = Used::of(&containers, known.iter().map(|pod| &**pod));
    Ok(records.see(&images, &used, now))
}

/// The file system that holds images; None if the runtime does not say where it is.
pub(crate) async fn disk(shared: &Shared) -> Result<Option<Disk>, podium_cri::Error> {
    let answer = shared.cri.image_fs_info(v1::ImageFsInfoRequest {}).await?;
    let Some(path) = mountpoint(&answer) else { return Ok(None) };
    let stats = tokio::task::spawn_blocking(move || statvfs(path.as_str())).await;
    Ok(stats.ok().and_then(Result::ok).map(|stats| Disk {
        capacity: stats.blocks().saturating_mul(stats.fragment_size()),
        available: stats.blocks_available().saturating_mul(stats.fragment_size()),
    }))
}

/// Where the runtime keeps images.
pub(crate) fn mountpoint(answer: &v1::ImageFsInfoResponse) -> Option<String> {
    let first = answer.image_filesystems.first()?.fs_id.as_ref()?;
    Some(first.mountpoint.clone()).filter(|path| !path.is_empty())
}

/// Removes images in order until `enough` bytes are free; all of them if None. `reason` is what metrics call it. The answer is how many bytes that made.
async fn free(
    shared: &Shared,
    images: &[Unused],
    enough: Option<u64>,
    reason: &str,
    wanted: &str,
) -> Result<u64, CollectError> {
    let (mut freed, mut errors) = (0_u64, Vec::new());
    for image in images {
        if enough.is_some_and(|enough| freed >= enough) {
            break;
        }
        tracing::info!(image = image.id, bytes = image.bytes, "removing an unused image");
        let (asked, id) = (Timestamp::now(), image.id.clone());
        match shared.cri.remove_image(&image.id).await {
            Ok(()) => {
                freed = freed.saturating_add(image.bytes);
                shared.metrics.count(&metrics::IMAGES_COLLECTED, &[("reason", reason)]);
                shared.images.prune_records(asked, move |reference| reference == id).await;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() {
        return Ok(freed);
    }
    Err(CollectError::Deletion { wanted: wanted.to_owned(), freed, errors: errors.join(", ") })
}
