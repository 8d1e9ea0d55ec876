//! Layouts and limits of both versions, as tables; groups on a pretended tree of version 2.

use super::*;

#[test]
fn layouts() {
    let v1 = "30 1 0:1 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
              31 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
              32 1 0:2 /pod/x /var/lib/x rw - cgroup cgroup rw,memory\n\
              33 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let Some(Layout::V1 { mounts }) = parse_layout(v1) else { panic!("not version 1") };
    let places: Vec<String> = mounts.iter().map(|(_, mount)| mount.display().to_string()).collect();
    assert_eq!(places, ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]);
    let shown: Vec<String> =
        Cgroups { layout: Layout::V1 { mounts } }.trees().into_iter().map(|(name, _)| name).collect();
    assert_eq!(shown, ["cpu", "memory"]);
    let v2 = "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(parse_layout(v2), Some(Layout::V2 { mount: "/sys/fs/cgroup".into() }));
    // A hybrid machine whose version 1 only carries systemd's names is version 2 at heart.
    let hybrid = format!("{v2}31 1 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n");
    assert!(matches!(parse_layout(&hybrid), Some(Layout::V2 { .. })));
    assert_eq!(parse_layout("30 1 0:1 / / rw - ext4 /dev/vda rw\n"), None);
}

#[track_caller]
fn check(v2: bool, resources: &Resources, expected: &[(&str, &str)]) {
    let found = writes(v2, resources);
    let found: Vec<(&str, &str)> =
        found.iter().map(|write| (write.file.as_str(), write.value.as_str())).collect();
    assert_eq!(found, expected, "{resources:?}");
}

#[test]
fn limits_of_both_versions() {
    let none = Resources::default();
    check(true, &none, &[]);
    check(false, &none, &[]);
    let cpu = Resources {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        ..none.clone()
    };
    check(true, &cpu, &[("cpu.weight", "100"), ("cpu.max", "50000 100000")]);
    check(
        false,
        &cpu,
        &[("cpu.shares", "1024"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")],
    );
    let free = Resources { cpu_shares: Some(2), cpu_quota: Some(-1), ..none.clone() };
    check(true, &free, &[("cpu.weight", "1"), ("cpu.max", "max 100000")]);
    check(false, &free, &[("cpu.shares", "2"), ("cpu.cfs_quota_us", "-1")]);
    check(true, &Resources { cpu_shares: Some(262_144), ..none.clone() }, &[("cpu.weight", "10000")]);
    let memory = Resources { memory_limit: Some(1 << 20), memory_swap_limit: Some(3 << 20), ..none.clone() };
    check(true, &memory, &[("memory.max", "1048576"), ("memory.swap.max", "2097152")]);
    check(
        false,
        &memory,
        &[("memory.limit_in_bytes", "1048576"), ("memory.memsw.limit_in_bytes", "3145728")],
    );
    let even = Resources { memory_limit: Some(1 << 20), memory_swap_limit: Some(1 << 20), ..none.clone() };
    check(true, &even, &[("memory.max", "1048576"), ("memory.swap.max", "0")]);
    let endless = Resources { memory_limit: Some(-1), memory_swap_limit: Some(-1), ..none.clone() };
    check(true, &endless, &[("memory.max", "max"), ("memory.swap.max", "max")]);
    let rest = Resources {
        pids_limit: Some(-1),
        cpuset_cpus: Some("0-1".into()),
        cpuset_mems: Some(String::new()),
        hugepages: vec![("2MB".into(), 4096)],
        unified: vec![("memory.high".into(), "9".into())],
        ..none
    };
    check(
        true,
        &rest,
        &[("cpuset.cpus", "0-1"), ("pids.max", "max"), ("hugetlb.2MB.max", "4096"), ("memory.high", "9")],
    );
}

#[test]
fn a_tree_of_version_2() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
    let groups = Cgroups::with_layout(Layout::V2 { mount: root.path().to_owned() });
    groups.create("/pods/a").unwrap();
    // The last of the controllers that were lent.
    assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+memory");
    groups.apply("/pods/a", &Resources { memory_limit: Some(5), ..Default::default() }).unwrap();
    assert_eq!(groups.read("/pods/a", "memory", "memory.max").as_deref(), Some("5"));
    fs::write(root.path().join("pods/a/memory.events"), "oom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
    assert_eq!(groups.oom_kills("/pods/a"), Some(2));
    fs::write(root.path().join("pods/a/cgroup.procs"), "7\n8\n").unwrap();
    assert_eq!(groups.processes("/pods/a"), [7, 8]);
}

#[test]
fn where_a_containers_first_process_has_gone() {
    for (text, expected) in [
        ("0::/pods/a/b\n", Some("/pods/a/b")),
        ("1:cpu:/x\n0::/pods/a/b/c/d\n", Some("/pods/a/b/c/d")),
        ("0::/pods/a/bc\n", None),
        ("0::/pods/a\n", None),
        ("0::/pods/a/b/../../x\n", None),
        ("0::/../x\n", None),
        ("1:cpu:/pods/a/b\n", None),
        ("", None),
    ] {
        assert_eq!(group_below(text, "/pods/a/b"), expected, "{text:?}");
    }
}

#[test]
fn weights_of_containers_and_of_pods() {
    for (shares, container, pod) in [
        (0, 1, 1),
        (2, 1, 1),
        (3, 2, 1),
        (102, 17, 4),
        (512, 59, 20),
        (1024, 100, 39),
        (2048, 174, 79),
        (262_144, 10_000, 10_000),
        (u64::MAX, 10_000, 10_000),
    ] {
        assert_eq!((weight(shares), weight_in_proportion(shares)), (container, pod), "{shares}");
    }
}
