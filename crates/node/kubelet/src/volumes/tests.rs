//! Volumes in a temporary directory; what needs root says so and is skipped without it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        CSIVolumeSource, ConfigMap, ConfigMapProjection, ConfigMapVolumeSource, Container,
        DownwardAPIVolumeFile, DownwardAPIVolumeSource, HostPathVolumeSource, ImageVolumeSource, KeyToPath,
        ObjectFieldSelector, PodSpec, ProjectedVolumeSource, Secret, SecretVolumeSource,
        ServiceAccountTokenProjection, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::*;
use crate::volumes::payload::{File, TokenRef, payload};

fn pod(volumes: Vec<Volume>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("p".into()),
            uid: Some("u1".into()),
            ..Default::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container { name: "c".into(), ..Default::default() }],
            volumes: Some(volumes),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn lookup() -> Lookup {
    let config = ConfigMap {
        data: Some([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into()),
        ..Default::default()
    };
    let secret =
        Secret { data: Some([("pw".to_owned(), ByteString(b"s3".to_vec()))].into()), ..Default::default() };
    Lookup {
        config_maps: [("cfg".to_owned(), Arc::new(config))].into(),
        secrets: [("db".to_owned(), Arc::new(secret))].into(),
        tokens: [(
            TokenRef { audience: String::new(), expiration_seconds: 3607, account_uid: String::new() },
            "tok".to_owned(),
        )]
        .into(),
        ..Default::default()
    }
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.into(), path: path.into(), mode: None }
}

fn config(items: Option<Vec<KeyToPath>>, name: &str, optional: bool) -> Volume {
    Volume {
        name: "v".into(),
        config_map: Some(ConfigMapVolumeSource {
            items,
            name: name.into(),
            optional: Some(optional),
            default_mode: Some(0o640),
        }),
        ..Default::default()
    }
}

fn show(volume: &Volume) -> Result<Vec<(String, String, u32)>, String> {
    let files = payload(&pod(vec![volume.clone()]), volume, &lookup()).map_err(|error| error.to_string())?;
    Ok(files
        .unwrap()
        .into_iter()
        .map(|(path, file)| (path, String::from_utf8(file.data).unwrap(), file.mode))
        .collect())
}

fn row(path: &str, text: &str, mode: u32) -> (String, String, u32) {
    (path.to_owned(), text.to_owned(), mode)
}

#[test]
fn payloads() {
    assert_eq!(show(&config(None, "cfg", false)), Ok(vec![row("a", "1", 0o640), row("b", "2", 0o640)]));
    assert_eq!(show(&config(Some(vec![item("a", "x/y")]), "cfg", false)), Ok(vec![row("x/y", "1", 0o640)]));
    assert_eq!(show(&config(None, "gone", true)), Ok(vec![]));
    assert_eq!(show(&config(None, "gone", false)), Err("configmap \"gone\" not found".into()));
    assert_eq!(
        show(&config(Some(vec![item("z", "z")]), "cfg", false)),
        Err("configmap references non-existent config key: z".into())
    );
    for path in ["../x", "/x", "..data", "a/../b", ""] {
        assert!(show(&config(Some(vec![item("a", path)]), "cfg", false)).is_err(), "{path}");
    }
    let secret = Volume {
        name: "v".into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some("db".into()),
            items: Some(vec![item("z", "z")]),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(show(&secret), Err("references non-existent secret key: z".into()));
}

#[test]
fn trust_anchors_are_for_the_pods_user() {
    let source = serde_json::json!({"clusterTrustBundle": {"name": "roots", "path": "tls/ca.pem"}});
    let volume: Volume = serde_json::from_value(serde_json::json!({"name": "v", "projected": {
        "defaultMode": 0o444, "sources": [{"configMap": {"name": "cfg"}}, source]}}))
    .unwrap();
    let files = |security: serde_json::Value, anchors: &[(usize, &str)]| {
        let mut pod = pod(vec![volume.clone()]);
        pod.spec.as_mut().unwrap().security_context = serde_json::from_value(security).unwrap();
        let anchors = anchors.iter().map(|(at, text)| (("v".to_owned(), *at), (*text).to_owned())).collect();
        let files =
            payload(&pod, &volume, &Lookup { anchors, ..lookup() }).map_err(|error| error.to_string())?;
        let file = files.unwrap().remove("tls/ca.pem").unwrap();
        Ok::<_, String>((String::from_utf8(file.data).unwrap(), file.mode, file.uid))
    };
    let found = |mode, uid| Ok(("PEM".to_owned(), mode, uid));
    assert_eq!(files(serde_json::json!({}), &[(1, "PEM")]), found(0o444, None));
    assert_eq!(files(serde_json::json!({"runAsUser": 7}), &[(1, "PEM")]), found(0o600, Some(7)));
    assert_eq!(files(serde_json::json!({"fsGroup": 7}), &[(1, "PEM")]), found(0o600, None));
    assert_eq!(files(serde_json::json!({}), &[(0, "PEM")]), Err("no trust anchors for source 1".to_owned()));
}

#[test]
fn projected_volumes_collect() {
    let field = DownwardAPIVolumeFile {
        path: "ns".into(),
        field_ref: Some(ObjectFieldSelector {
            field_path: "metadata.namespace".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sources = vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                path: "token".into(),
                expiration_seconds: Some(3607),
                audience: None,
            }),
            ..Default::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "cfg".into(),
                items: Some(vec![item("a", "ca.crt")]),
                optional: None,
            }),
            ..Default::default()
        },
        VolumeProjection {
            downward_api: Some(k8s_openapi::api::core::v1::DownwardAPIProjection {
                items: Some(vec![field]),
            }),
            ..Default::default()
        },
    ];
    let volume = Volume {
        name: "v".into(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(sources) }),
        ..Default::default()
    };
    assert_eq!(
        show(&volume),
        Ok(vec![row("ca.crt", "1", 0o644), row("ns", "p", 0o644), row("token", "tok", 0o644)])
    );
}

fn files(list: &[(&str, &str)]) -> payload::Payload {
    list.iter()
        .map(|(path, text)| {
            ((*path).to_owned(), File { data: text.as_bytes().to_vec(), mode: 0o644, uid: None })
        })
        .collect()
}

#[test]
fn the_writer_switches_all_files_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path();
    assert!(atomic::write(target, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
    let first = fs::read_link(target.join("..data")).unwrap();
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(target.join("d/b")).unwrap(), "2");
    assert_eq!(fs::read_link(target.join("a")).unwrap(), Path::new("..data/a"));
    assert!(!atomic::write(target, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
    assert_eq!(fs::read_link(target.join("..data")).unwrap(), first, "the same content is not written again");
    assert!(atomic::write(target, &files(&[("a", "3")]), None).unwrap());
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
    assert!(!target.join("d").exists() && !target.join(&first).exists());
    let names: Vec<_> = fs::read_dir(target).unwrap().collect();
    assert_eq!(names.len(), 3, "one name, ..data and its directory: {names:?}");
}

#[test]
fn sub_paths_stay_beneath() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("inside")).unwrap();
    fs::write(directory.path().join("secret"), "x").unwrap();
    std::os::unix::fs::symlink("inside", root.join("good")).unwrap();
    std::os::unix::fs::symlink("../secret", root.join("bad")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("worse")).unwrap();
    for (path, create, ok) in [
        ("inside", false, true),
        ("good", false, true),
        ("new/deep", true, true),
        ("absent", false, false),
        ("bad", true, false),
        ("worse/passwd", true, false),
        ("worse/new", true, false),
        ("../secret", true, false),
    ] {
        assert_eq!(sub_path::open_beneath(&root, path, create).is_ok(), ok, "{path}");
    }
    assert!(root.join("new/deep").is_dir());
}

#[test]
fn sub_paths_are_made_as_their_volume_is() {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: giving a volume to a group needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (shared, private) = (directory.path().join("shared"), directory.path().join("private"));
    for root in [&shared, &private] {
        fs::create_dir_all(root.join("old")).unwrap();
        fs::set_permissions(root.join("old"), fs::Permissions::from_mode(0o711)).unwrap();
    }
    own(&shared, 0o777, Some(5000)).unwrap();
    own(&private, 0o750, None).unwrap();
    let found = |path: PathBuf| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.gid())
    };
    for (root, expected) in [(&shared, (0o2777, 5000)), (&private, (0o750, 0))] {
        sub_path::open_beneath(root, "a/b", true).unwrap();
        assert_eq!(found(root.join("a")), expected);
        assert_eq!(found(root.join("a/b")), expected);
        sub_path::open_beneath(root, "old", true).unwrap();
        assert_eq!(found(root.join("old")).0, 0o711, "what was there stays as it is");
    }
}

#[test]
fn host_path_types() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let new = |name: &str| directory.path().join(name);
    for (path, type_, ok) in [
        (file.clone(), "File", true),
        (file.clone(), "Directory", false),
        (file.clone(), "", true),
        (new("absent"), "Directory", false),
        (new("absent"), "", true),
        (new("d1/d2"), "DirectoryOrCreate", true),
        (new("f1"), "FileOrCreate", true),
        (file.clone(), "Socket", false),
        (PathBuf::from("/dev/null"), "CharDevice", true),
        (file, "Nonsense", false),
    ] {
        assert_eq!(host_path::check(&path, type_).is_ok(), ok, "{path:?} {type_}");
    }
    assert!(new("d1/d2").is_dir() && new("f1").is_file());
}

fn kernel_has_noswap(at: &Path) -> bool {
    let place = at.join("probe");
    fs::create_dir(&place).unwrap();
    let has = mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some("noswap")).is_ok();
    if has {
        nix::mount::umount(&place).unwrap();
    }
    has
}

#[test]
fn volumes_of_huge_pages() {
    let size = crate::huge_pages::PageSize::of_resource("hugepages-2Mi").unwrap();
    let kernel = std::path::Path::new(crate::huge_pages::KERNEL);
    if !nix::unistd::geteuid().is_root() || !crate::huge_pages::read(kernel).contains_key(&size) {
        println!("skipped: needs root and a kernel with pages of 2 MiB");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = PodDir::new(root.path(), "u1");
    let medium = Some("HugePages".to_owned());
    let volume = Volume {
        name: "h".into(),
        empty_dir: Some(EmptyDirVolumeSource { medium, size_limit: None }),
        ..Default::default()
    };
    let mut pod = pod(vec![volume.clone()]);
    let refused = ensure(&directory, &pod, &volume, &lookup()).unwrap_err();
    let text = podium_client::error_chain(&refused);
    assert!(text.contains("there is no resource request for huge pages"), "{text}");
    let container = serde_json::json!({"name": "c", "resources": {"requests": {"hugepages-2Mi": "4Mi"}}});
    pod.spec.as_mut().unwrap().containers = vec![serde_json::from_value(container).unwrap()];
    for _ in 0..2 {
        ensure(&directory, &pod, &volume, &lookup()).unwrap();
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let here = mounts.lines().find(|line| line.contains(&*root.path().to_string_lossy())).unwrap();
    assert!(here.contains(" hugetlbfs ") && here.contains("pagesize=2M"), "{here}");
    teardown(&directory).unwrap();
    assert!(!directory.path().exists());
}

#[test]
fn volumes_come_and_go() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = PodDir::new(root.path(), "u1");
    let secret = Volume {
        name: "s".into(),
        secret: Some(SecretVolumeSource { secret_name: Some("db".into()), ..Default::default() }),
        ..Default::default()
    };
    let memory = Volume {
        name: "m".into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".into()),
            size_limit: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity("1Mi".into())),
        }),
        ..Default::default()
    };
    let plain =
        Volume { name: "e".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() };
    let pod = pod(vec![secret.clone(), memory.clone(), plain.clone()]);
    for _ in 0..2 {
        for volume in [&secret, &memory, &plain] {
            ensure(&directory, &pod, volume, &lookup()).unwrap();
        }
    }
    let at = |volume: &Volume| host_path_of(&directory, volume).unwrap();
    assert_eq!(fs::read_to_string(at(&secret).join("pw")).unwrap(), "s3");
    assert!(sub_path::is_mounted(&at(&secret)).unwrap() && sub_path::is_mounted(&at(&memory)).unwrap());
    let options = |at: &Path| {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str()).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert!(options(&at(&memory)).contains("size=1024k"), "{}", options(&at(&memory)));
    if kernel_has_noswap(root.path()) {
        for volume in [&secret, &memory] {
            let options = options(&at(volume));
            assert!(options.split(',').any(|option| option == "noswap"), "{options}");
        }
    } else {
        println!("skipped: this kernel has no file systems in memory that are kept from swap");
    }
    fs::write(at(&plain).join("f"), "kept").unwrap();
    let target = directory.sub_path("e", "c", 0);
    sub_path::bind(&at(&plain), "f", &target).unwrap();
    sub_path::bind(&at(&plain), "f", &target).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    let said = directory.container("c").join("said");
    fs::create_dir_all(said.parent().unwrap()).unwrap();
    fs::write(&said, "bye").unwrap();
    fs::write(directory.etc_hosts(), "").unwrap();
    for _ in 0..2 {
        release(&directory).unwrap();
        assert!(sub_path::mounts_below(root.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&said).unwrap(), "bye");
    }
    teardown(&directory).unwrap();
    teardown(&directory).unwrap();
    assert!(!directory.path().exists());
    assert!(sub_path::mounts_below(root.path()).unwrap().is_empty());
}

#[test]
fn a_sub_path_leads_to_what_has_the_name_now() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = PodDir::new(root.path(), "u1");
    let volume = config(None, "cfg", false);
    let pod = pod(vec![volume.clone()]);
    let at = host_path_of(&directory, &volume).unwrap();
    let target = directory.sub_path("v", "c", 0);
    let start = |lookup: &Lookup| {
        ensure(&directory, &pod, &volume, lookup).unwrap();
        sub_path::bind(&at, "a", &target).unwrap();
        sub_path::mounts_below(root.path()).unwrap().len()
    };
    let holding = |text: &str| {
        let data = Some([("a".to_owned(), text.to_owned())].into());
        let config = ConfigMap { data, ..Default::default() };
        Lookup { config_maps: [("cfg".to_owned(), Arc::new(config))].into(), ..Default::default() }
    };
    assert_eq!(start(&holding("old")), 1);
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    assert_eq!(start(&holding("new")), 1);
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    // A key that is gone: a directory is made in its place, as upstream does.
    let gone = ConfigMap::default();
    let gone = Lookup { config_maps: [("cfg".to_owned(), Arc::new(gone))].into(), ..Default::default() };
    assert_eq!(start(&gone), 1);
    assert!(target.is_dir());
    teardown(&directory).unwrap();
}

#[test]
fn what_is_not_supported_says_so() {
    let csi = Volume { name: "n".into(), csi: Some(CSIVolumeSource::default()), ..Default::default() };
    let directory = PodDir::new(Path::new("/nonexistent"), "u1");
    let error = ensure(&directory, &pod(vec![csi.clone()]), &csi, &lookup()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"n\" : volume source csi is not supported by this kubelet"
    );
    let host = Volume {
        name: "h".into(),
        host_path: Some(HostPathVolumeSource {
            path: "/nonexistent".into(),
            type_: Some("Directory".into()),
        }),
        ..Default::default()
    };
    let error = ensure(&directory, &pod(vec![host.clone()]), &host, &lookup()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"h\" : hostPath type check failed: /nonexistent is not a directory"
    );
}

#[test]
fn images_are_the_runtimes() {
    let volume = Volume {
        name: "i".into(),
        image: Some(ImageVolumeSource { reference: Some("app:v1".into()), pull_policy: None }),
        ..Default::default()
    };
    let directory = PodDir::new(Path::new("/nonexistent"), "u1");
    let mut pod = pod(vec![volume.clone()]);
    let ensured = |pod: &Pod, image_mounts| {
        ensure(&directory, pod, &volume, &Lookup { image_mounts, ..lookup() })
            .map_err(|error| error.to_string())
    };
    let without = "MountVolume.SetUp failed for volume \"i\" : volume source image is not supported by this \
                   container runtime";
    assert_eq!(ensured(&pod, image::Mounts::Nothing), Err(without.into()));
    assert_eq!(ensured(&pod, image::Mounts::Whole), Ok(()));
    let part = VolumeMount { name: "i".into(), sub_path: Some("etc".into()), ..Default::default() };
    pod.spec.as_mut().unwrap().containers[0].volume_mounts = Some(vec![part]);
    assert!(ensured(&pod, image::Mounts::Whole).unwrap_err().contains("subPath of a volume source image"));
    assert_eq!(ensured(&pod, image::Mounts::Parts), Ok(()));
    // Nothing of it is on the host, to be written to, counted or removed.
    assert_eq!(host_path_of(&directory, &volume), None);
    assert!(!is_refreshable(&pod));
}

#[test]
fn a_downward_volume_changes_with_its_pod() {
    let file = DownwardAPIVolumeFile {
        path: "labels".into(),
        field_ref: Some(ObjectFieldSelector { field_path: "metadata.labels".into(), ..Default::default() }),
        ..Default::default()
    };
    let volume = Volume {
        name: "v".into(),
        downward_api: Some(DownwardAPIVolumeSource { items: Some(vec![file]), default_mode: None }),
        ..Default::default()
    };
    let mut pod = pod(vec![volume.clone()]);
    let mut text = |labels: BTreeMap<String, String>| {
        pod.metadata.labels = Some(labels);
        let files = payload(&pod, &volume, &lookup()).unwrap().unwrap();
        String::from_utf8(files["labels"].data.clone()).unwrap()
    };
    assert_eq!(text([("a".to_owned(), "1".to_owned())].into()), "a=\"1\"");
    assert_eq!(
        text([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x\"".to_owned())].into()),
        "a=\"1\"\nb=\"x\\\"\""
    );
}

#[test]
fn nothing_of_the_host_goes_with_a_pod() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounts need root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let host = root.path().join("host");
    fs::create_dir_all(host.join("data/disk")).unwrap();
    // As the roots of machines are: what is mounted in one place appears in all that share it.
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(Some(&host), &host, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(None::<&str>, &host, None::<&str>, shared, None::<&str>).unwrap();
    let directory = PodDir::new(root.path(), "u1");
    let target = directory.sub_path("v", "c", 0);
    sub_path::bind(&host, "data", &target).unwrap();
    // A disk that is mounted while the pod runs.
    tmpfs(&host.join("data/disk"), Some(1 << 20)).unwrap();
    fs::write(host.join("data/disk/file"), "the owner's").unwrap();
    assert!(target.join("disk/file").exists());
    teardown(&directory).unwrap();
    assert!(!directory.path().exists());
    assert_eq!(fs::read_to_string(host.join("data/disk/file")).unwrap(), "the owner's");
    sub_path::unmount_below(&host).unwrap();
}

#[test]
fn a_mount_that_appears_late_is_not_removed_through() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounts need root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (server, target) = (root.path().join("server"), root.path().join("pod/volumes/nfs/v"));
    for path in [&server, &target] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(server.join("file"), "kept").unwrap();
    mount(Some(&server), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    podium_shim::remove::tree(&root.path().join("pod")).unwrap_err();
    assert_eq!(fs::read_to_string(server.join("file")).unwrap(), "kept");
    sub_path::unmount_below(root.path()).unwrap();
}
