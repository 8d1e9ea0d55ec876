//! Runtime handlers: another OCI runtime's program makes the containers of pods that ask for it, and nothing else differs.

use podium_cri::v1;

use super::fixture::{Fixture, IMAGE, Kind, eventually};
use super::images::volume;

const RUNC: &str = "/usr/sbin/runc";
/// Finds the container's root by its state and configuration, as vendors' hooks do.
const HOOK: &str = r#"b=$(grep -o '"bundle":"[^"]*"' | cut -d'"' -f4)
    test -e $b/config.json && echo hooked > $b/rootfs/hooked"#;

/// A runtime that knows runc as `other`.
async fn start() -> Option<Fixture> {
    if !std::path::Path::new(RUNC).exists() {
        println!("skipped: {RUNC} is not installed");
        return None;
    }
    let mut fixture = Fixture::start(Kind::Podium).await?;
    fixture.down().await;
    std::fs::write(fixture.path("runtime.toml"), format!("[handlers.other]\nbinary = {RUNC:?}\n")).unwrap();
    fixture.up().await;
    Some(fixture)
}

/// The containers of a pod that runc keeps notes on.
fn runc_state(fixture: &Fixture, sandbox: &str) -> Vec<String> {
    let state = fixture.path("root/sandboxes").join(sandbox).join("oci");
    let entries = std::fs::read_dir(state).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_another_runtime() {
    let Some(mut fixture) = start().await else { return };
    let status = fixture.cri.status(v1::StatusRequest::default()).await.unwrap();
    let names: Vec<&str> = status.runtime_handlers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["", "other", "podium", "runc"]);
    let pod = fixture.pod("p");
    let refused = fixture.cri.run_pod_sandbox(pod.clone(), "unknown").await.unwrap_err().to_string();
    assert!(refused.contains("no runtime for \"unknown\" is configured"), "{refused}");
    let sandbox = fixture.cri.run_pod_sandbox(pod.clone(), "other").await.unwrap();
    let mut config = fixture.script(
        "c",
        "id -u; id -g; hostname; cat /v/passwd | grep -c root; echo $FROM_IMAGE; cat /proc/self/status | grep Seccomp:
         touch /bin/x 2> /dev/null || echo read-only; echo error >&2; cat /etc/hostname; exec sleep 1000",
    );
    config.mounts = vec![volume("/v", IMAGE, "etc")];
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_username = "web".to_owned();
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.seccomp = Some(v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    let id = fixture.run(&sandbox, config, &pod).await;
    assert_eq!(runc_state(&fixture, &sandbox), std::slice::from_ref(&id));
    let expected = "33\n34\np\n1\nyes\nSeccomp:\t2\nread-only\nerror\np\n";
    eventually("the script is through", || async {
        let log = fixture.log("p", "c").await;
        // Two streams have no order between them.
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        if sorted(&log) == sorted(expected) { Ok(()) } else { Err(log) }
    })
    .await;
    let user = fixture.status(&id).await.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (33, 34, vec![34, 50]));
    assert_eq!(
        fixture.exec(&id, "id -u; echo out; echo err >&2; exit 3").await,
        (3, "33\nout\n".into(), "err\n".into())
    );
    // A daemon that comes again finds it as any other.
    fixture.down().await;
    fixture.up().await;
    assert_eq!(fixture.exec(&id, "echo still").await.1, "still\n");
    // Nor does it get our own in its place.
    fixture.down().await;
    std::fs::remove_file(fixture.path("runtime.toml")).unwrap();
    fixture.up().await;
    let refused = fixture.create(&sandbox, fixture.script("d", "true"), &pod).await.unwrap_err().to_string();
    assert!(refused.contains("no runtime for \"other\" is configured any more"), "{refused}");
    fixture.cri.stop_container(&id, 0).await.unwrap();
    assert_eq!(fixture.ended(&id).await.exit_code, 137);
    assert_eq!(runc_state(&fixture, &sandbox), Vec::<String>::new(), "forgotten there too");
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_terminals_and_failures_of_another_runtime() {
    let Some(fixture) = start().await else { return };
    let pod = fixture.pod("p");
    let sandbox = fixture.cri.run_pod_sandbox(pod.clone(), "other").await.unwrap();
    let mut terminal = fixture.script("tty", "tty; exit 7");
    terminal.tty = true;
    let id = fixture.run(&sandbox, terminal, &pod).await;
    assert_eq!(fixture.ended(&id).await.exit_code, 7);
    assert_eq!(fixture.log("p", "tty").await.replace('\r', ""), "/dev/pts/0\n");
    let mut missing = fixture.script("missing", "");
    missing.command = vec!["no-such-program".to_owned()];
    let id = fixture.create(&sandbox, missing, &pod).await.unwrap();
    let refused = fixture.start_container(&id).await.unwrap_err().to_string();
    assert!(refused.contains("executable file not found in $PATH"), "{refused}");
    let status = fixture.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    // Its limits hold: the group is ours, and so is what the kernel says of it.
    let mut greedy = fixture.script("greedy", "x=x; while true; do x=$x$x; done");
    greedy.linux.as_mut().unwrap().resources =
        Some(v1::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
    let id = fixture.run(&sandbox, greedy, &pod).await;
    assert_eq!(fixture.ended(&id).await.reason, "OOMKilled");
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_by_name() {
    let Some(fixture) = start().await else { return };
    let given = fixture.path("given");
    std::fs::create_dir_all(&given).unwrap();
    std::fs::create_dir_all(fixture.path("cdi")).unwrap();
    let edits = |name: &str| {
        serde_json::json!({"name": name, "containerEdits": {
            "env": [format!("GPU={name}")],
            "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/zero", "permissions": "r"}],
            "mounts": [{"hostPath": given, "containerPath": "/gpu", "options": ["ro", "rbind"]}],
            "additionalGids": [44],
            "hooks": [{"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", HOOK]}],
        }})
    };
    let file = serde_json::json!({"cdiVersion": "1.0.0", "kind": "example.com/gpu", "devices": [edits("0")]});
    std::fs::write(fixture.path("cdi/gpu.json"), file.to_string()).unwrap();
    std::fs::write(given.join("file"), "x").unwrap();
    let script = "echo $GPU; stat -c %t:%T /dev/gpu; cat /gpu/file; echo; cat /hooked; id -G
        touch /gpu/y 2> /dev/null || echo read-only";
    for handler in ["", "other"] {
        let pod = fixture.pod(&format!("p{handler}"));
        let sandbox = fixture.cri.run_pod_sandbox(pod.clone(), handler).await.unwrap();
        let mut config = fixture.script("c", script);
        config.cdi_devices = vec![v1::CdiDevice { name: "example.com/gpu=0".to_owned() }];
        let id = fixture.run(&sandbox, config.clone(), &pod).await;
        assert_eq!(fixture.ended(&id).await.exit_code, 0);
        let log = fixture.log(&format!("p{handler}"), "c").await;
        assert_eq!(log, "0\n1:5\nx\nhooked\n0 44\nread-only\n", "handler {handler:?}");
        config.metadata.as_mut().unwrap().attempt = 1;
        config.cdi_devices[0].name = "example.com/gpu=7".to_owned();
        let refused = fixture.create(&sandbox, config, &pod).await.unwrap_err().to_string();
        assert!(refused.contains("unresolvable CDI devices example.com/gpu=7"), "{refused}");
    }
    fixture.finish().await;
}
