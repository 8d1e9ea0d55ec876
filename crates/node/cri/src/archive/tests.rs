//! Archives made in memory: both layouts, links, compression, and what must be refused.

use std::io::Write as _;

use super::*;

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn on_disk(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn read_back(blob: &Blob) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(blob.size).unwrap()];
    blob.source.read(0, &mut bytes).unwrap();
    bytes
}

const DOCKER_JSON: &[u8] =
    br#"[{"Config":"c.json","RepoTags":["app:v1","joe/app:v2"],"Layers":["a/layer.tar"]}]"#;

#[track_caller]
fn check_docker(images: &Images) {
    let names: Vec<&str> = images.names.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["docker.io/library/app:v1", "docker.io/joe/app:v2"]);
    assert_eq!(images.blobs.len(), 3);
    let manifest = images.blobs.last().unwrap();
    assert_eq!(manifest.digest, images.names[0].1.digest);
    assert_eq!(manifest.labels["containerd.io/gc.ref.content.config"], digest(b"{}"));
    assert_eq!(manifest.labels["containerd.io/gc.ref.content.l.0"], digest(b"layer"));
    for blob in &images.blobs {
        assert_eq!(digest(&read_back(blob)), blob.digest);
    }
}

#[test]
fn docker_archive() {
    let tar = tar_of(&[("manifest.json", DOCKER_JSON), ("c.json", b"{}"), ("a/layer.tar", b"layer")]);
    check_docker(&read(on_disk(&tar).path()).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    check_docker(&read(on_disk(&gzip.finish().unwrap()).path()).unwrap());
}

#[test]
fn a_layer_may_be_a_link() {
    let mut bytes = tar_of(&[("manifest.json", DOCKER_JSON), ("c.json", b"{}"), ("b/layer.tar", b"layer")]);
    bytes.truncate(bytes.len() - 1024); // the end mark
    let mut builder = tar::Builder::new(bytes);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "a/layer.tar", "../b/layer.tar").unwrap();
    check_docker(&read(on_disk(&builder.into_inner().unwrap()).path()).unwrap());
}

fn oci(names: &str, tamper: bool) -> Vec<u8> {
    let layer: &[u8] = b"layer";
    let config: &[u8] = b"{}";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"x","digest":"{}","size":2}},"layers":[{{"mediaType":"y","digest":"{}","size":5}}]}}"#,
        digest(config),
        digest(layer)
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"annotations":{{{names}}}}}]}}"#,
        digest(manifest.as_bytes()),
        manifest.len()
    );
    let blob = |bytes: &[u8]| blob_name(&digest(bytes)).unwrap();
    tar_of(&[
        ("oci-layout", b"{}"),
        ("index.json", index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(config), config),
        (&blob(layer), if tamper { b"LAYER" } else { layer }),
    ])
}

#[test]
fn oci_layout() {
    let images = read(on_disk(&oci(r#""io.containerd.image.name":"q.io/app:v1""#, false)).path()).unwrap();
    assert_eq!(images.names[0].0, "q.io/app:v1");
    let order: Vec<usize> = images.blobs.iter().map(|blob| blob.labels.len()).collect();
    assert_eq!(order, [0, 0, 2], "children come first");
}

#[test]
fn what_is_wrong_is_refused() {
    let refused = |bytes: &[u8]| read(on_disk(bytes).path()).unwrap_err();
    assert!(matches!(refused(&tar_of(&[("x", b"y")])), ArchiveError::Unknown { .. }));
    assert!(matches!(
        refused(&oci(r#""org.opencontainers.image.ref.name":"v1""#, false)),
        ArchiveError::Unnamed
    ));
    assert!(matches!(
        refused(&oci(r#""io.containerd.image.name":"q.io/app:v1""#, true)),
        ArchiveError::Digest { .. }
    ));
    let outside = br#"[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]"#;
    assert!(matches!(refused(&tar_of(&[("manifest.json", outside)])), ArchiveError::Missing { .. }));
    assert!(matches!(refused(&tar_of(&[("manifest.json", b"{")])), ArchiveError::Document { .. }));
}
