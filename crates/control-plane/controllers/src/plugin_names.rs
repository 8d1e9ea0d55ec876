//! The plugins that upstream's controller manager has for volumes, by the names that metrics use.

use k8s_openapi::api::core::v1::{PersistentVolume, Volume};

const FIBRE_CHANNEL: &str = "kubernetes.io/fc";
const ISCSI: &str = "kubernetes.io/iscsi";

/// The plugin of a CSI driver.
pub(crate) fn of_driver(driver: &str) -> String {
    format!("kubernetes.io/csi:{driver}")
}

/// The plugin of a volume; `None` when there is none for it, as for local ones and for those that CSI drivers took over.
pub(crate) fn of_volume(volume: &PersistentVolume) -> Option<String> {
    let spec = volume.spec.as_ref()?;
    let plugins = [
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.fc.is_some(), FIBRE_CHANNEL),
        (spec.iscsi.is_some(), ISCSI),
    ];
    let inside = plugins.into_iter().find_map(|(is_it, name)| is_it.then(|| name.to_owned()));
    inside.or_else(|| spec.csi.as_ref().map(|csi| of_driver(&csi.driver)))
}

/// The plugin of a volume if it is one of those that are attached to nodes.
pub(crate) fn attaching(volume: &PersistentVolume) -> Option<String> {
    let spec = volume.spec.as_ref()?;
    let attaches = spec.fc.is_some() || spec.iscsi.is_some() || spec.csi.is_some();
    of_volume(volume).filter(|_| attaches)
}

/// The same of a volume that a pod describes itself.
pub(crate) fn attaching_inline(volume: &Volume) -> Option<String> {
    let inside = [(volume.fc.is_some(), FIBRE_CHANNEL), (volume.iscsi.is_some(), ISCSI)];
    let inside = inside.into_iter().find_map(|(is_it, name)| is_it.then(|| name.to_owned()));
    inside.or_else(|| volume.csi.as_ref().map(|csi| of_driver(&csi.driver)))
}
