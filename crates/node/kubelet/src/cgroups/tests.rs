//! Layouts, paths and limits in trees that are only directories.

use super::*;

#[test]
fn layouts() {
    let v1 = "30 1 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        31 30 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        32 30 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        33 30 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let mount = |controller: &str| {
        (vec![controller.to_owned()], PathBuf::from(format!("/sys/fs/cgroup/{controller}")))
    };
    assert_eq!(
        parse_layout(v1),
        Some(Layout::V1 {
            mounts: vec![mount("cpu"), mount("memory"), (vec![], "/sys/fs/cgroup/unified".into())]
        })
    );
    let joint = "31 30 0:2 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
    assert_eq!(
        parse_layout(joint),
        Some(Layout::V1 {
            mounts: vec![(vec!["cpu".into(), "cpuacct".into()], "/sys/fs/cgroup/cpu,cpuacct".into())]
        })
    );
    let v2 = "31 30 0:2 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(parse_layout(v2), Some(Layout::V2 { mount: "/sys/fs/cgroup".into() }));
    assert_eq!(parse_layout("1 0 0:1 / / rw - ext4 /dev/vda rw\n"), None);
}

#[tokio::test]
async fn paths_of_both_drivers() {
    let pod = |uid: &str, resources: serde_json::Value| -> Pod {
        let containers = serde_json::json!([{"name": "c", "resources": resources}]);
        let value = serde_json::json!({"metadata": {"uid": uid}, "spec": {"containers": containers}});
        serde_json::from_value(value).unwrap()
    };
    let best = pod("1-2", serde_json::json!({}));
    let burstable = pod("a-b", serde_json::json!({"requests": {"cpu": "1"}}));
    let guaranteed = pod("g", serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    let of = |root: &str| Cgroups {
        layout: Layout::V2 { mount: "/sys/fs/cgroup".into() },
        root: root.to_owned(),
        cpu: CpuBounds::of(&Configuration::default()),
        pod_pids: None,
        page_sizes: PageSizes::default(),
        systemd: None,
    };
    for (root, pod, plain, slice) in [
        (
            "",
            &best,
            "/kubepods/besteffort/pod1-2",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
        ),
        (
            "",
            &burstable,
            "/kubepods/burstable/poda-b",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice",
        ),
        ("", &guaranteed, "/kubepods/podg", "/kubepods.slice/kubepods-podg.slice"),
        (
            "/own-root",
            &guaranteed,
            "/own-root/kubepods/podg",
            "/own_root.slice/own_root-kubepods.slice/own_root-kubepods-podg.slice",
        ),
    ] {
        let through = of(root).through(Systemd::new(podium_systemd::Systemd::at("/nonexistent")));
        assert_eq!((of(root).pod_path(pod).as_str(), through.pod_path(pod).as_str()), (plain, slice));
        assert_eq!(of(root).container_path(pod, "id", "cri-o"), format!("{plain}/id"));
        for (runtime, scope) in [
            ("cri-o", "crio-id.scope"),
            ("containerd", "cri-containerd-id.scope"),
            ("podium", "cri-podium-id.scope"),
        ] {
            assert_eq!(through.container_path(pod, "id", runtime), format!("{slice}/{scope}"));
        }
    }
}

#[test]
fn weights() {
    for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
        assert_eq!(weight(shares), expected);
    }
}

#[test]
fn pods_have_the_huge_pages_they_ask_for() {
    let trees = tempfile::tempdir().unwrap();
    let mounts =
        ["cpu", "memory", "pids", PAGES].map(|name| (vec![name.to_owned()], trees.path().join(name)));
    let cgroups = Cgroups {
        layout: Layout::V1 { mounts: mounts.to_vec() },
        root: String::new(),
        cpu: CpuBounds::of(&Configuration::default()),
        pod_pids: None,
        page_sizes: ["hugepages-2Mi", "hugepages-1Gi", "hugepages-16Gi"]
            .into_iter()
            .filter_map(huge_pages::PageSize::of_resource)
            .collect(),
        systemd: None,
    };
    let pod: Pod =
        serde_json::from_value(serde_json::json!({"metadata": {"uid": "x"}, "spec": {"containers": [
        {"name": "a", "resources": {"requests": {"cpu": "1", "hugepages-2Mi": "4Mi"}}},
        {"name": "b", "resources": {"requests": {"hugepages-2Mi": "2Mi"}}}]}}))
        .unwrap();
    let group = trees.path().join(PAGES).join("kubepods/burstable/podx");
    fs::create_dir_all(&group).unwrap();
    fs::write(group.join("hugetlb.1GB.limit_in_bytes"), "9223372036854771712").unwrap();
    cgroups.make_pod(&pod, false).unwrap();
    let limit = |size: &str| fs::read_to_string(group.join(format!("hugetlb.{size}.limit_in_bytes"))).ok();
    assert_eq!(limit("2MB").as_deref(), Some("6291456"));
    assert_eq!(limit("1GB").as_deref(), Some("0"));
    assert_eq!(limit("16GB"), None, "this kernel's groups do not have it");
}

/// A daemon that was killed while it removed a pod's group finds the rest of it.
#[test]
fn what_is_left_in_any_tree_is_found_and_goes() {
    let trees = tempfile::tempdir().unwrap();
    let mounts = ["cpu", "memory", "pids"].map(|name| (vec![name.to_owned()], trees.path().join(name)));
    let groups = |controller: &str| trees.path().join(controller).join("r/kubepods/besteffort/podx");
    for controller in ["memory", "pids"] {
        fs::create_dir_all(groups(controller).join("container")).unwrap();
    }
    let cgroups = Cgroups {
        layout: Layout::V1 { mounts: mounts.to_vec() },
        root: "/r".to_owned(),
        cpu: CpuBounds::of(&Configuration::default()),
        pod_pids: None,
        page_sizes: PageSizes::default(),
        systemd: None,
    };
    let path = "/r/kubepods/besteffort/podx".to_owned();
    assert_eq!(cgroups.pods(), [("x".to_owned(), path.clone())].into());
    // One that cannot go yet keeps no other.
    let held = groups("memory").join("held");
    fs::write(&held, "").unwrap();
    cgroups.remove(&path).unwrap_err();
    assert!(groups("memory").exists() && !groups("pids").exists());
    fs::remove_file(held).unwrap();
    cgroups.remove(&path).unwrap();
    assert!(cgroups.pods().is_empty());
}

#[test]
fn a_pod_with_processors_of_its_own_has_no_quota() {
    let trees = tempfile::tempdir().unwrap();
    let cgroups = |layout: Layout| Cgroups {
        layout,
        root: String::new(),
        cpu: CpuBounds::of(&Configuration::default()),
        pod_pids: None,
        page_sizes: PageSizes::default(),
        systemd: None,
    };
    let pod: Pod =
        serde_json::from_value(serde_json::json!({"metadata": {"uid": "g"}, "spec": {"containers": [
        {"name": "a", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}]}}))
        .unwrap();
    let mounts = ["cpu", "memory", "pids"].map(|name| (vec![name.to_owned()], trees.path().join(name)));
    let old = cgroups(Layout::V1 { mounts: mounts.to_vec() });
    let new = cgroups(Layout::V2 { mount: trees.path().join("v2") });
    for (cgroups, file, bounded, free) in [
        (old, "cpu/kubepods/podg/cpu.cfs_quota_us", "200000", "-1"),
        (new, "v2/kubepods/podg/cpu.max", "200000 100000", "max 100000"),
    ] {
        for (own_cpus, expected) in [(false, bounded), (true, free)] {
            cgroups.make_pod(&pod, own_cpus).unwrap();
            assert_eq!(fs::read_to_string(trees.path().join(file)).unwrap(), expected, "{file} {own_cpus}");
        }
    }
}
