//! The plugin as the runtime sees it: environment and standard input in, a document and an exit code out.

use super::*;

fn call(environment: &[(&str, &str)], input: &Value) -> (Value, i32) {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut output = Vec::new();
    let code = cni_main(&environment, &mut input.to_string().as_bytes(), &mut output);
    (serde_json::from_slice(&output).unwrap_or(Value::Null), code)
}

#[test]
fn version_lists_what_is_supported() {
    let (answer, code) = call(&[("CNI_COMMAND", "VERSION")], &json!({}));
    assert_eq!(code, 0);
    assert!(answer["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")));
}

#[test]
fn faults_are_documents_with_a_code() {
    let id = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_COMMAND", "ADD")];
    let config = json!({"cniVersion": "1.0.0", "name": "n", "type": PLUGIN, "subnet": "10.1.0.0/24"});
    for (environment, input, code, text) in [
        (&id[..], json!({"cniVersion": "9.9.9", "name": "n", "type": PLUGIN}), 1, "incompatible"),
        (&id[..], json!({"name": 3}), 6, "invalid type"),
        (&id[1..], config.clone(), 4, "CNI_CONTAINERID"),
        (&id[..2], config, 4, "unknown CNI_COMMAND"),
        (
            &id[..],
            json!({"cniVersion": "1.0.0", "name": "n", "type": PLUGIN, "subnet": "x"}),
            7,
            "IPv4 range",
        ),
    ] {
        let (answer, exit) = call(environment, &input);
        assert_eq!((exit, answer["code"].as_u64()), (1, Some(code)), "{answer}");
        assert!(answer["msg"].as_str().unwrap().contains(text), "{answer}");
    }
}

#[test]
fn interface_names_fit_the_kernel() {
    let name = host_interface("0123456789abcdef0123456789abcdef");
    assert_eq!(name, "pod0123456789a");
    assert!(name.len() <= 15);
}

/// The queue of a link of this thread's namespace, as `tc` shows it.
fn queue(link: &str) -> String {
    let done = std::process::Command::new("tc").args(["qdisc", "show", "dev", link]).output().unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn queue_in(namespace: &str, link: &str) -> String {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            queue(link)
        });
        thread.join().unwrap()
    })
}

/// The whole path in namespaces of our own: two pods on a bridge reach each other through the host.
#[test]
fn pods_get_addresses_and_reach_each_other() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return;
    }
    let unique = format!("{}", std::process::id());
    let (host, a, b) = (format!("pnh{unique}"), format!("pna{unique}"), format!("pnb{unique}"));
    let ip = |args: &[&str]| {
        let done = std::process::Command::new("ip").args(args).output().unwrap();
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    struct Cleanup(Vec<String>);
    impl Drop for Cleanup {
        fn drop(&mut self) {
            for name in &self.0 {
                let _ = std::process::Command::new("ip").args(["netns", "del", name]).output();
            }
        }
    }
    let _cleanup = Cleanup(vec![host.clone(), a.clone(), b.clone()]);
    for name in [&host, &a, &b] {
        ip(&["netns", "add", name]);
    }
    let directory = tempfile::tempdir().unwrap();
    let config = json!({
        "cniVersion": "1.0.0", "name": "n", "type": PLUGIN, "bridge": "podium0", "subnet": "10.99.0.0/24",
        "mtu": 1400, "addressDirectory": directory.path(), "table": "unused",
        "runtimeConfig": {"bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 400_000_000}},
    });
    // A thread of our own plays the host, so that the machine's own namespace is untouched.
    let namespace = std::fs::File::open(format!("/run/netns/{host}")).unwrap();
    let addresses: Vec<String> = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                crate::agent::prepare_bridge("podium0", "10.99.0.0/24".parse().unwrap(), 1400).unwrap();
                [&a, &b]
                    .into_iter()
                    .map(|pod| {
                        let netns = format!("/run/netns/{pod}");
                        let environment = [
                            ("CNI_CONTAINERID", pod.as_str()),
                            ("CNI_IFNAME", "eth0"),
                            ("CNI_NETNS", &netns),
                            ("CNI_COMMAND", "ADD"),
                        ];
                        let (answer, code) = call(&environment, &config);
                        assert_eq!(code, 0, "{answer}");
                        // The host sends what the pod receives.
                        let received = queue(&host_interface(pod));
                        assert!(received.contains("tbf") && received.contains("rate 80Mbit"), "{received}");
                        // Asked again, it answers the same.
                        assert_eq!(call(&environment, &config).0["ips"], answer["ips"]);
                        answer["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32").to_owned()
                    })
                    .collect()
            })
            .join()
            .unwrap()
    });
    assert_eq!(addresses, ["10.99.0.2", "10.99.0.3"]);
    let sent = queue_in(&a, "eth0");
    assert!(sent.contains("tbf") && sent.contains("rate 400Mbit"), "{sent}");
    // TCP from one pod to the other, through the host's IP layer.
    let listener_ns = std::fs::File::open(format!("/run/netns/{b}")).unwrap();
    let dialer_ns = std::fs::File::open(format!("/run/netns/{a}")).unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            nix::sched::setns(&listener_ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let listener = std::net::TcpListener::bind("10.99.0.3:7000").unwrap();
            ready.send(()).unwrap();
            listener.accept().unwrap().1.ip().to_string()
        });
        wait.recv().unwrap();
        scope
            .spawn(move || {
                nix::sched::setns(&dialer_ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                std::net::TcpStream::connect_timeout(
                    &"10.99.0.3:7000".parse().unwrap(),
                    std::time::Duration::from_secs(20),
                )
                .unwrap();
            })
            .join()
            .unwrap();
        assert_eq!(server.join().unwrap(), "10.99.0.2", "the source address must be kept");
    });
    // DEL returns the address and removes the interface.
    std::thread::scope(|scope| {
        let namespace = std::fs::File::open(format!("/run/netns/{host}")).unwrap();
        let (a, config) = (&a, &config);
        scope
            .spawn(move || {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                for _ in 0..2 {
                    let environment =
                        [("CNI_CONTAINERID", a.as_str()), ("CNI_IFNAME", "eth0"), ("CNI_COMMAND", "DEL")];
                    assert_eq!(call(&environment, config).1, 0);
                }
                assert_eq!(
                    crate::netlink::Netlink::open().unwrap().index_of(&host_interface(a)).unwrap(),
                    None
                );
            })
            .join()
            .unwrap();
    });
    let left = Addresses::open(directory.path(), "10.99.0.0/24".parse().unwrap()).unwrap().list().unwrap();
    assert_eq!(left.len(), 1);
}
