//! Specifications as tables.

use super::*;

fn image() -> Execution {
    Execution {
        user: "7:8".into(),
        env: vec!["PATH=/bin".into(), "A=image".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["default".into()],
        working_dir: "/work".into(),
        ..Execution::default()
    }
}

/// What the containers below have for volumes.
fn volume_images() -> BTreeMap<String, VolumeImage> {
    [("one:v1", vec!["l1"]), ("two:v1", vec!["l1", "l2"]), ("none:v1", vec![])]
        .into_iter()
        .map(|(name, layers)| {
            let layers = layers.into_iter().map(str::to_owned).collect();
            (name.to_owned(), VolumeImage { id: format!("sha256:{name}"), layers })
        })
        .collect()
}

fn build(config: &v1::ContainerConfig, sandbox: &v1::PodSandboxConfig) -> Result<ContainerSpec, Status> {
    container(&Ingredients {
        id: "c1",
        config,
        sandbox,
        image: &image(),
        layers: &["one".into(), "two".into()],
        layers_directory: Path::new("/layers"),
        volume_images: &volume_images(),
        directory: Path::new("/c"),
        sandbox_directory: Path::new("/s"),
        runtime: None,
        available_capabilities: u64::MAX,
        open_files: 4096,
    })
}

fn with(security: v1::LinuxContainerSecurityContext) -> v1::ContainerConfig {
    v1::ContainerConfig {
        linux: Some(v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    }
}

#[test]
fn open_files_are_limited_whatever_the_daemon_may_have() {
    let spec = build(&v1::ContainerConfig::default(), &v1::PodSandboxConfig::default()).unwrap();
    let files = nix::sys::resource::Resource::RLIMIT_NOFILE as u32;
    assert_eq!(spec.process.rlimits, [(files, 4096, 4096)]);
    let config = crate::oci::config(&spec, None).unwrap();
    let expected = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}]);
    assert_eq!(config["process"]["rlimits"], expected);
}

#[test]
fn commands() {
    for (command, args, expected) in [
        (vec![], vec![], vec!["/entry", "default"]),
        (vec![], vec!["x"], vec!["/entry", "x"]),
        (vec!["/c"], vec![], vec!["/c"]),
        (vec!["/c"], vec!["x"], vec!["/c", "x"]),
    ] {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let config = v1::ContainerConfig { command: list(&command), args: list(&args), ..Default::default() };
        let spec = build(&config, &v1::PodSandboxConfig::default()).unwrap();
        assert_eq!(spec.process.args, expected);
    }
}

#[test]
fn what_the_image_says_is_overridden() {
    let mut config = with(v1::LinuxContainerSecurityContext::default());
    config.envs = vec![v1::KeyValue { key: "A".into(), value: b"own".to_vec() }];
    let sandbox = v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() };
    let spec = build(&config, &sandbox).unwrap();
    assert_eq!(spec.process.env, ["HOSTNAME=h", "PATH=/bin", "A=own"]);
    assert_eq!((spec.process.user.user.as_str(), spec.process.user.group.as_str()), ("7", "8"));
    assert_eq!(spec.process.cwd, Path::new("/work"));
    assert_eq!(spec.rootfs.lower, ["two", "one"]);
    let own = with(v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 1000 }),
        ..Default::default()
    });
    let user = build(&own, &sandbox).unwrap().process.user;
    // The image's group goes with the image's user.
    assert_eq!((user.user.as_str(), user.group.as_str()), ("1000", ""));
}

#[test]
fn a_filter_is_never_lost() {
    use v1::security_profile::ProfileType;
    let profile = |kind: ProfileType, name: &str| {
        with(v1::LinuxContainerSecurityContext {
            seccomp: Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() }),
            ..Default::default()
        })
    };
    let sandbox = v1::PodSandboxConfig::default();
    let filter = |config: &v1::ContainerConfig| build(config, &sandbox).map(|spec| spec.process.seccomp);
    assert!(filter(&profile(ProfileType::RuntimeDefault, "")).unwrap().is_some());
    assert!(filter(&profile(ProfileType::Unconfined, "")).unwrap().is_none());
    for name in ["", "relative.json", "/no/such/profile.json", "/dev/null"] {
        assert!(filter(&profile(ProfileType::Localhost, name)).is_err(), "{name}");
    }
}

#[test]
fn a_confinement_that_is_not_given_is_refused() {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let (with, without) = ("lockdown,capability,apparmor\n", "lockdown,capability,bpf\n");
    for (kernel, profile, privileged, allowed) in [
        (with, None, false, true),
        (with, Some(Unconfined), false, true),
        (with, Some(RuntimeDefault), false, false),
        (with, Some(RuntimeDefault), true, true),
        (with, Some(Localhost), false, true),
        (without, Some(RuntimeDefault), false, true),
        (without, Some(Localhost), false, false),
        ("", Some(RuntimeDefault), false, true),
    ] {
        let asked = profile.map(|kind| v1::SecurityProfile {
            profile_type: i32::from(kind),
            localhost_ref: "our profile".to_owned(),
        });
        let loaded = "podman (enforce)\nour profile (complain)\n";
        let found = check_modules_of(kernel, loaded, asked.as_ref(), None, privileged);
        assert_eq!(found.is_ok(), allowed, "{kernel:?} {profile:?} {privileged}");
        let applied = found.ok().flatten();
        assert_eq!(applied.as_deref(), Some("our profile").filter(|_| allowed && profile == Some(Localhost)));
        if profile == Some(Localhost) {
            assert!(check_modules_of(kernel, "our (enforce)\n", asked.as_ref(), None, privileged).is_err());
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let sandbox = v1::PodSandboxConfig::default();
    let privileged = with(v1::LinuxContainerSecurityContext { privileged: true, ..Default::default() });
    assert!(build(&privileged, &sandbox).is_err());
    for (host, inside) in [("relative", "/x"), ("/x", "relative"), ("/x/../y", "/x"), ("/x", "/a/../../b")] {
        let config = v1::ContainerConfig {
            mounts: vec![v1::Mount {
                host_path: host.into(),
                container_path: inside.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert!(build(&config, &sandbox).is_err(), "{host} {inside}");
    }
    assert!(cgroup("kubepods--pod1.slice", "c").is_err());
    assert!(cgroup("/a/../..", "c").is_err());
    assert_eq!(cgroup("/kubepods/pod1", "c").unwrap(), "/kubepods/pod1/c");
    let device = v1::ContainerConfig {
        devices: vec![v1::Device {
            host_path: "/etc/passwd".into(),
            container_path: "/dev/x".into(),
            permissions: "rw".into(),
        }],
        ..Default::default()
    };
    assert!(build(&device, &sandbox).is_err());
}

#[test]
fn mounts_are_ordered_outer_first() {
    let mount =
        |path: &str| v1::Mount { host_path: "/h".into(), container_path: path.into(), ..Default::default() };
    let config = v1::ContainerConfig {
        mounts: vec![mount("/a/b/c"), mount("/a"), mount("/etc/hosts"), mount("/a/b")],
        ..Default::default()
    };
    let spec = build(&config, &v1::PodSandboxConfig::default()).unwrap();
    let targets: Vec<String> = spec.binds.iter().map(|bind| bind.target.display().to_string()).collect();
    assert_eq!(targets, ["/etc/hostname", "/etc/resolv.conf", "/a", "/etc/hosts", "/a/b", "/a/b/c"]);
}

#[test]
fn images_as_volumes() {
    let mount = |name: &str, sub_path: &str| v1::Mount {
        container_path: "/v".into(),
        readonly: true,
        image: Some(v1::ImageSpec { image: name.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        propagation: v1::MountPropagation::PropagationHostToContainer.into(),
        ..Default::default()
    };
    let build = |mount: v1::Mount| {
        let config =
            v1::ContainerConfig { mounts: vec![mount], command: vec!["x".into()], ..Default::default() };
        let built = build(&config, &v1::PodSandboxConfig::default());
        built.map(|spec| spec.binds.into_iter().find(|bind| bind.target == Path::new("/v")).unwrap())
    };
    for (name, sub_path, lower) in [
        ("two:v1", "", vec!["l2", "l1"]),
        ("two:v1", "etc/file", vec!["l2", "l1"]),
        ("one:v1", "", vec!["l1", "empty"]),
        ("none:v1", "", vec!["empty"]),
    ] {
        let bind = build(mount(name, sub_path)).unwrap();
        let files = bind.image.unwrap();
        assert_eq!(
            (files.lower, files.sub_path),
            (lower.into_iter().map(str::to_owned).collect::<Vec<_>>(), PathBuf::from(sub_path))
        );
        assert_eq!((files.base.as_path(), bind.read_only), (Path::new("/layers"), true));
        assert_eq!(bind.propagation, Propagation::Private);
        // A shim from before image volumes finds nothing under this name, rather than something else.
        assert!(bind.source.is_relative(), "{:?}", bind.source);
    }
    for (what, refused) in [
        ("unknown", mount("absent:v1", "")),
        ("writable", v1::Mount { readonly: false, ..mount("two:v1", "") }),
        ("also of the host", v1::Mount { host_path: "/etc".into(), ..mount("two:v1", "") }),
        ("above", mount("two:v1", "a/../../b")),
        ("absolute", mount("two:v1", "/etc")),
        ("nowhere", v1::Mount { container_path: "v".into(), ..mount("two:v1", "") }),
    ] {
        assert!(build(refused).is_err(), "{what}");
    }
}

#[test]
fn signals() {
    for (name, number) in
        [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMINPLUS2", 36)]
    {
        assert_eq!(parse_signal(name), Some(number), "{name}");
    }
    assert_eq!(parse_signal("SIGNOTHING"), None);
    assert_eq!(parse_signal("65"), None);
    let quit = v1::ContainerConfig { stop_signal: v1::Signal::Sigquit.into(), ..Default::default() };
    assert_eq!(stop_signal(&quit, "SIGINT"), 3);
    assert_eq!(stop_signal(&v1::ContainerConfig::default(), "SIGINT"), 2);
    assert_eq!(stop_signal(&v1::ContainerConfig::default(), ""), 15);
}
