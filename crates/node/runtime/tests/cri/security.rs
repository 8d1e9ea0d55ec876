//! What containers may and may not. Tests of podium alone that take a hostile container's part are named after the rows of
//! SECURITY.md.

use podium_cri::v1;

use super::fixture::image_with_links;
use super::{Fixture, Kind};

type Security = v1::LinuxContainerSecurityContext;

/// Runs a script under a security context.
async fn with(fixture: &Fixture, name: &str, change: impl FnOnce(&mut Security), script: &str) -> String {
    let change = |_: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    };
    fixture.outcome(name, change, script).await.1
}

fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

pub(crate) async fn users(fixture: &Fixture) {
    let script = "id -u; id -g; id -G; echo $HOME";
    assert_eq!(with(fixture, "root", |_| {}, "id -u; id -g; echo $HOME").await, "0\n0\n/root\n");
    let number = with(fixture, "number", |s| s.run_as_user = int(1000), "id -u; id -g").await;
    assert_eq!(number, "1000\n0\n");
    let named = with(fixture, "named", |s| s.run_as_username = "web".into(), script).await;
    assert_eq!(named, "33\n34\n34 50\n/srv\n");
    let groups = with(
        fixture,
        "groups",
        |s| {
            s.run_as_user = int(1000);
            s.run_as_group = int(2000);
            s.supplemental_groups = vec![3000, 4000];
        },
        "id -u; id -g; id -G",
    )
    .await;
    assert_eq!(groups, "1000\n2000\n2000 3000 4000\n");
    if fixture.kind == Kind::Podium {
        let strict = |s: &mut Security| {
            s.run_as_username = "web".into();
            s.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
        };
        assert_eq!(with(fixture, "strict", strict, "id -G").await, "34\n");
    }
    let pod = fixture.pod("nobody");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("c", "true");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().run_as_username = "no-such-user".into();
    let refused = match fixture.create(&sandbox, config, &pod).await {
        Ok(id) => fixture.start_container(&id).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
}

pub(crate) async fn capabilities(fixture: &Fixture) {
    let effective = "grep CapEff /proc/self/status; grep CapBnd /proc/self/status";
    let sets = |text: &str| -> Vec<u64> {
        let number = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        text.lines().map(number).collect()
    };
    assert_eq!(sets(&with(fixture, "default", |_| {}, effective).await), [0xa804_25fb, 0xa804_25fb]);
    let caps = |add: &[&str], drop: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some(v1::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Default::default()
        })
    };
    let none = with(fixture, "none", |s| s.capabilities = caps(&[], &["ALL"]), effective).await;
    assert_eq!(sets(&none), [0, 0]);
    let one = with(fixture, "one", |s| s.capabilities = caps(&["NET_ADMIN"], &["ALL"]), effective).await;
    assert_eq!(sets(&one), [1 << 12, 1 << 12]);
    // Somebody else than root has nothing, but could get it back through a program that root has marked.
    let other = with(fixture, "other", |s| s.run_as_user = int(1000), effective).await;
    assert_eq!(sets(&other), [0, 0xa804_25fb]);
    let privileges = |s: &mut Security| s.no_new_privs = true;
    let text = with(fixture, "nnp", privileges, "grep NoNewPrivs /proc/self/status").await;
    assert_eq!(text.split_whitespace().nth(1), Some("1"));
}

pub(crate) async fn filters(fixture: &Fixture) {
    use v1::security_profile::ProfileType;
    let profile = |kind: ProfileType, name: &str| {
        Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
    };
    let admin = Some(v1::Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() });
    let script =
        "grep '^Seccomp:' /proc/self/status; unshare -m true 2>/dev/null && echo unshared || echo refused";
    let mode = |text: &str| text.split_whitespace().nth(1).map(str::to_owned);
    let open = with(fixture, "open", |s| s.seccomp = profile(ProfileType::Unconfined, ""), script).await;
    assert_eq!(mode(&open).as_deref(), Some("0"));
    let default = |s: &mut Security| s.seccomp = profile(ProfileType::RuntimeDefault, "");
    let text = with(fixture, "default", default, script).await;
    assert!(mode(&text).as_deref() == Some("2") && text.ends_with("refused\n"), "{text}");
    let both = |s: &mut Security| {
        s.seccomp = profile(ProfileType::RuntimeDefault, "");
        s.capabilities = admin;
    };
    assert!(with(fixture, "admin", both, script).await.ends_with("unshared\n"));
    let path = fixture.path("profile.json");
    std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#).unwrap();
    let name = path.display().to_string();
    for (case, nnp) in [("local", false), ("local-nnp", true)] {
        let local = |s: &mut Security| {
            s.seccomp = profile(ProfileType::Localhost, &name);
            s.no_new_privs = nnp;
        };
        let text = with(
            fixture,
            case,
            local,
            "mkdir /x 2>/dev/null && echo made || echo refused; touch /y && echo made",
        )
        .await;
        assert_eq!(text, "refused\nmade\n", "{case}");
    }
    if fixture.kind == Kind::Podium {
        // A profile that allows little more than the program itself needs is enough.
        let calls = "execve,capset,brk,mmap,munmap,arch_prctl,set_tid_address,set_robust_list,rseq,prlimit64,mprotect,\
            readlink,getrandom,write,exit_group,getuid,getpid,getppid,rt_sigaction,rt_sigprocmask,stat,newfstatat,\
            getcwd,fstat,uname,prctl,readlinkat";
        let names: Vec<&str> = calls.split(',').collect();
        let text = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let tight = |s: &mut Security| s.seccomp = profile(ProfileType::Localhost, &name);
        assert_eq!(with(fixture, "tight", tight, "echo through").await, "through\n");
    }
    // A profile that is not there, or has no name, is no permission (CVE-2023-2431).
    let pod = fixture.pod("absent");
    let sandbox = fixture.run_pod(&pod).await;
    for name in ["/no/such/profile.json", ""] {
        let mut config = fixture.script(&format!("c{}", name.len()), "true");
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().seccomp =
            profile(ProfileType::Localhost, name);
        let refused = match fixture.create(&sandbox, config, &pod).await {
            Ok(id) => fixture.start_container(&id).await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{name:?}");
    }
}

pub(crate) async fn paths(fixture: &Fixture) {
    let masked = |s: &mut Security| {
        s.masked_paths =
            vec!["/proc/kcore".into(), "/proc/timer_list".into(), "/sys/firmware".into(), "/no/such".into()];
        s.readonly_paths = vec!["/proc/sys".into(), "/proc/no-such".into()];
    };
    let script = "cat /proc/timer_list | busybox wc -c; ls -A /sys/firmware 2>/dev/null | busybox wc -l; \
        (echo 1 > /proc/sys/kernel/shm_rmid_forced) 2>/dev/null && echo written || echo refused; \
        test -c /proc/kcore && echo null";
    let text = with(fixture, "masked", masked, script).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["0", "0", "refused"], "{text}");
    // Privileged: the host's devices, nothing hidden; only in a pod that may.
    let change = |pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
        pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    };
    let script = "grep CapEff /proc/self/status; test -e /dev/vda -o -e /dev/sda -o -e /dev/kmsg && echo devices; mount -t tmpfs x /tmp && echo mounted";
    let (_, text) = fixture.outcome("privileged", change, script).await;
    assert!(text.contains("devices\n") && text.ends_with("mounted\n"), "{text}");
    let pod = fixture.pod("plain");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("c", "true");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    assert!(fixture.create(&sandbox, config, &pod).await.is_err());
}

/// SECURITY.md, container runtime: a working directory that is a descriptor of the runtime's (runc CVE-2024-21626) leads
/// nowhere outside the container, and no descriptor of the runtime's is open in it.
pub(crate) async fn leaked_descriptors(fixture: &Fixture) {
    let pod = fixture.pod("leaks");
    let sandbox = fixture.run_pod(&pod).await;
    for number in 3..20 {
        let mut config = fixture.script(&format!("c{number}"), "test -e ../../../../../../../usr/lib/systemd -o -e ../../../../../../../boot && echo outside; ls / > /dev/null");
        config.working_dir = format!("/proc/self/fd/{number}");
        let id = fixture.create(&sandbox, config, &pod).await.unwrap();
        if fixture.start_container(&id).await.is_ok() {
            fixture.ended(&id).await;
            assert_eq!(fixture.log("leaks", &format!("c{number}")).await, "", "descriptor {number}");
        }
    }
}

/// SECURITY.md, lost security context: what a container may not, its later commands may not either.
pub(crate) async fn commands_are_confined(fixture: &Fixture) {
    use v1::security_profile::ProfileType;
    let pod = fixture.pod("confined");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("c", "sleep 1000");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_user = int(1000);
    security.run_as_group = int(2000);
    security.no_new_privs = true;
    security.seccomp = Some(v1::SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    security.capabilities =
        Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    let id = fixture.run(&sandbox, config, &pod).await;
    let (_, out, _) =
        fixture.exec(&id, "id -u; id -g; grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status").await;
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["1000", "2000", "CapBnd:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]);
    // The limits on memory and processes hold them too: they are in the container's groups.
    let (_, out, _) = fixture.exec(&id, "cat /proc/self/cgroup").await;
    assert!(out.lines().filter(|line| line.ends_with(&id)).count() >= 1 || out.trim() == "0::/", "{out}");
}

/// SECURITY.md, container runtime: what a container has as its streams is its own. The host's null device is not among them
/// (its mode is everybody's), they can be opened by their names by whoever runs, and no keys of the daemon's come along.
pub(crate) async fn streams_are_its_own(fixture: &Fixture) {
    let null = "stat -L -c '%d %i' /proc/self/fd/0; stat -c '%d %i' /dev/null";
    let same = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0] == lines[1], "another null device: {text}");
    };
    same(&with(fixture, "root", |_| {}, null).await);
    let number = |s: &mut Security| s.run_as_user = int(1000);
    assert_eq!(with(fixture, "out", number, "echo out > /dev/stdout").await, "out\n");
    assert_eq!(with(fixture, "err", number, "echo err > /dev/stderr").await, "err\n");
    // The null device is nobody's in particular.
    assert_eq!(with(fixture, "owner", number, "stat -L -c %u /proc/self/fd/0").await, "0\n");
    let pod = fixture.pod("streams");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("c", "sleep 1000");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().run_as_user = int(1000);
    let id = fixture.run(&sandbox, config, &pod).await;
    let said = fixture.exec(&id, "echo out > /dev/stdout; echo err > /dev/stderr").await;
    assert_eq!(said, (0, "out\n".to_owned(), "err\n".to_owned()));
    if fixture.kind == Kind::Podium {
        // runc leaves a later command the null device that it was given.
        same(&fixture.exec(&id, null).await.1);
        // A kernel that has keys shows those that a process can see.
        if std::path::Path::new("/proc/keys").exists() {
            let own = format!("keyring   _ses.{id}");
            let (_, keys, _) = fixture.exec(&id, "cat /proc/keys").await;
            assert!(keys.contains(&own), "{keys}");
            assert!(with(fixture, "keys", number, "cat /proc/keys").await.contains("_ses."));
        }
    }
}

/// SECURITY.md, volume path and symlink races, for images: links in an image do not move what the runtime mounts out of the
/// container's root, nor the kernel's file systems within it.
pub(crate) async fn links_of_images(fixture: &Fixture) {
    const LINKED: &str = "example.com/podium/linked:v1";
    if fixture.kind == Kind::Containerd {
        println!(
            "skipped: runc 1.1.5 makes its links of /dev in whatever an image's /dev leads to, on the host too"
        );
        return;
    }
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "as it was").unwrap();
    let absolute = outside.to_str().unwrap();
    let climbing = format!("../../../../../../../../../../..{absolute}");
    let untouched = |what: &str| {
        let found: Vec<_> =
            std::fs::read_dir(&outside).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(found, ["kept"], "{what}");
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "as it was", "{what}");
    };
    let archive = fixture.path("linked.tar");
    let pod = fixture.pod("linked");
    let sandbox = fixture.run_pod(&pod).await;
    let config = |name: &str, script: &str| {
        let mut config = fixture.script(name, script);
        config.image.as_mut().unwrap().image = LINKED.to_owned();
        config
    };
    let mut number = 0;
    for at in ["/proc", "/dev", "/sys"] {
        for target in [absolute, &climbing, "/etc"] {
            image_with_links(LINKED, &[(at, target)], &archive);
            podium_cri::import_image(&fixture.endpoint(), &archive).await.unwrap();
            number += 1;
            let started = match fixture.create(&sandbox, config(&format!("c{number}"), "true"), &pod).await {
                Ok(id) => fixture.start_container(&id).await.is_ok(),
                Err(_) => false,
            };
            untouched(at);
            // runc mounts some of them where the link leads in the root.
            assert!(!started || fixture.kind != Kind::Podium, "{at} is a link to {target}");
        }
    }
    // Files that the kubelet puts into a container: where links lead in the root, though nothing is there yet.
    let links = [
        ("/far", absolute),
        ("/up", &*climbing),
        ("/var/run", "/run"),
        ("/stub.conf", "run/resolve/stub.conf"),
    ];
    image_with_links(LINKED, &links, &archive);
    podium_cri::import_image(&fixture.endpoint(), &archive).await.unwrap();
    let file = fixture.path("hosts");
    std::fs::write(&file, "10.0.0.1 name\n").unwrap();
    let places = ["/far/hosts", "/up/also/hosts", "/var/run/secrets/hosts", "/stub.conf"];
    let mut config_of_files =
        config("files", &format!("for at in {}; do cat $at; done; ls /run/secrets", places.join(" ")));
    let host_path = file.to_str().unwrap().to_owned();
    config_of_files.mounts = places
        .iter()
        .map(|at| v1::Mount {
            container_path: (*at).to_owned(),
            host_path: host_path.clone(),
            readonly: true,
            ..Default::default()
        })
        .collect();
    let id = fixture.run(&sandbox, config_of_files, &pod).await;
    fixture.ended(&id).await;
    assert_eq!(fixture.log("linked", "files").await, "10.0.0.1 name\n".repeat(4) + "hosts\n");
    untouched("files");
    // Nor over what confines the program.
    image_with_links(LINKED, &[("/conf", "/proc/self/attr")], &archive);
    podium_cri::import_image(&fixture.endpoint(), &archive).await.unwrap();
    let mut config = config("over", "true");
    config.mounts = vec![v1::Mount { container_path: "/conf/exec".into(), host_path, ..Default::default() }];
    let started = match fixture.create(&sandbox, config, &pod).await {
        Ok(id) => fixture.start_container(&id).await.is_ok(),
        Err(_) => false,
    };
    assert!(!started);
}
