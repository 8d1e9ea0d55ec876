//! Takes ResourceSlices of this node away whose driver is gone, so that no scheduler counts on it: all of them when the kubelet
//! starts, for nobody knows what happened meanwhile, and those of a driver that has been gone for a while. A driver that is
//! there publishes again.

use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use podium_client::{error_chain, is_not_found};
use tokio::time::Instant;

use super::Drivers;

/// Pauses after a failure, upstream's.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// Runs until dropped.
pub(crate) async fn run(client: &Client, node: &str, drivers: &Drivers) {
    drivers.wipe_at(None, Instant::now());
    let mut pause = FIRST_RETRY;
    loop {
        let next = drivers.next_wipe();
        let due = async {
            match &next {
                Some((_, at)) => tokio::time::sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = drivers.wipes_changed.notified() => continue,
        }
        // Meanwhile the driver may have come back.
        let Some((driver, _)) = next.filter(|next| drivers.next_wipe().as_ref() == Some(next)) else {
            continue;
        };
        match wipe(client, node, driver.as_deref()).await {
            Ok(()) => {
                pause = FIRST_RETRY;
                drivers.wiped(driver.as_deref());
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::debug!(node, driver, error, "deleting ResourceSlices failed");
                drivers.wipe_at(driver, Instant::now() + pause);
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn wipe(client: &Client, node: &str, driver: Option<&str>) -> Result<(), kube::Error> {
    let mut fields = format!("spec.nodeName={node}");
    if let Some(driver) = driver {
        fields = format!("{fields},spec.driver={driver}");
    }
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let done =
        slices.delete_collection(&DeleteParams::default(), &ListParams::default().fields(&fields)).await;
    match done {
        // An older API server has no such things.
        Err(error) if is_not_found(&error) => Ok(()),
        other => other.map(drop),
    }
}
