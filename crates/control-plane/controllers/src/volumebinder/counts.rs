//! What there is of volumes and claims, counted, and which plugins they are the work of. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use podium_api::volumes::{MIGRATED_TO, annotation, class_of_claim, class_of_volume, phase};
use podium_client::metrics::gauges;

use super::claims::Needs;
use super::decide;
use super::plugins::{self, HOST_PATH, Maker, Remover};
use super::status::{self, BOUND};
use crate::owner;
use crate::plugin_names;

/// Where upstream has no name.
const UNKNOWN: &str = "N/A";

type Counted<const LABELS: usize> = BTreeMap<[String; LABELS], f64>;

fn count<const LABELS: usize>(of: impl Iterator<Item = [String; LABELS]>) -> Counted<LABELS> {
    let mut counted = BTreeMap::new();
    of.for_each(|labels| *counted.entry(labels).or_default() += 1.0);
    counted
}

/// Writes how many volumes and claims there are. Source: `pkg/controller/volume/persistentvolume/metrics`.
pub(crate) fn tell(
    out: &mut String,
    volumes: &[Arc<PersistentVolume>],
    claims: &[Arc<PersistentVolumeClaim>],
) {
    let all = volumes.iter().map(|volume| {
        let spec = volume.spec.as_ref();
        let mode = spec.and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
        let plugin = plugin_names::of_volume(volume).unwrap_or_else(|| UNKNOWN.to_owned());
        [plugin, mode.to_owned()]
    });
    let labels = ["plugin_name", "volume_mode"];
    let help = "[ALPHA] Gauge measuring total number of persistent volumes";
    gauges(out, "pv_collector_total_pv_count", help, labels, count(all));
    for (bound, name, help) in [
        (
            true,
            "pv_collector_bound_pv_count",
            "[ALPHA] Gauge measuring number of persistent volume currently bound",
        ),
        (
            false,
            "pv_collector_unbound_pv_count",
            "[ALPHA] Gauge measuring number of persistent volume currently unbound",
        ),
    ] {
        let of = volumes.iter().filter(|volume| (phase(volume) == BOUND) == bound);
        let of = of.map(|volume| [class_of_volume(volume).to_owned()]);
        gauges(out, name, help, ["storage_class"], count(of));
    }
    for (bound, name, help) in [
        (
            true,
            "pv_collector_bound_pvc_count",
            "[ALPHA] Gauge measuring number of persistent volume claim currently bound",
        ),
        (
            false,
            "pv_collector_unbound_pvc_count",
            "[ALPHA] Gauge measuring number of persistent volume claim currently unbound",
        ),
    ] {
        let of = claims.iter().filter(|claim| (status::phase(claim) == BOUND) == bound).map(|claim| {
            let attributes =
                claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
            let namespace = owner::namespace(&claim.metadata);
            [namespace, class_of_claim(claim), attributes.unwrap_or_default()].map(str::to_owned)
        });
        let labels = ["namespace", "storage_class", "volume_attributes_class"];
        gauges(out, name, help, labels, count(of));
    }
}

/// Who was asked to make a volume, if somebody was, and whether nobody will.
pub(crate) fn asked_for(needs: &Needs, class: Option<&StorageClass>) -> Option<(String, bool)> {
    let reason = needs.event.as_ref()?.reason;
    match (reason, plugins::maker(&class?.provisioner)) {
        ("ExternalProvisioning", Maker::External(name)) => Some((name, false)),
        ("ProvisioningFailed", Maker::Nobody { marked: Some(name), .. }) => Some((name, true)),
        _ => None,
    }
}

/// Who is to remove a volume whose claim is gone; `None` when it stays, or a CSI driver does it that took a plugin's place.
///
/// `class` finds the volume's class: it is asked for seldom.
pub(crate) fn removed_by(
    volume: &PersistentVolume,
    class: impl FnOnce(&str) -> Option<Arc<StorageClass>>,
) -> Option<String> {
    let migrated = annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty());
    if migrated || !decide::is_over(volume) || decide::policy(volume) != "Delete" {
        return None;
    }
    Some(match plugins::remover(volume) {
        Remover::HostPath(_) => HOST_PATH.to_owned(),
        // Names that volumes give are anything: only those of classes are used.
        Remover::External => {
            match class(class_of_volume(volume)).map(|class| plugins::maker(&class.provisioner)) {
                Some(Maker::External(name)) => name,
                _ => UNKNOWN.to_owned(),
            }
        }
        Remover::Nobody(_) => UNKNOWN.to_owned(),
    })
}
