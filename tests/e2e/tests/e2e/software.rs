//! Real software, unmodified, from images made of Debian packages: nginx, PostgreSQL, Redis, etcd with three members.

use podium_testkit::debian::{self, Software};
use podium_testkit::{Cluster, Kubectl, http, wait, wait_for};

use crate::{LIMIT, becomes, cluster, pods, service_address};

/// A cluster that has the image, or `None`, having said why.
fn cluster_with(software: &Software) -> Option<Cluster> {
    let cluster = cluster()?;
    let archive = debian::image(software, cluster.scratch()).expect("the image can be made")?;
    cluster.load(&archive);
    std::fs::remove_file(archive).expect("the archive is there");
    Some(cluster)
}

/// What a command prints inside a pod; it must succeed.
#[track_caller]
fn inside(kubectl: &Kubectl, pod: &str, command: &[&str]) -> String {
    kubectl.args(&[&["exec", pod, "--"], command].concat()).ok()
}

/// How often a pod's only container was started again.
fn restarts(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.get(&format!("pod {pod}"), "{.status.containerStatuses[0].restartCount}")
}

const NGINX: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data:
  default: |
    server {
      listen 8080;
      access_log /dev/stdout;
      location / { root /site; }
      location /old { return 301 /new; }
    }
  index.html: |
    served by nginx
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx}
spec:
  replicas: 2
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - name: nginx
        image: podium.test/nginx:debian
        ports: [{containerPort: 8080, name: web}]
        readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1}
        volumeMounts:
        - {name: site, mountPath: /etc/nginx/sites-enabled/default, subPath: default}
        - {name: site, mountPath: /site/index.html, subPath: index.html}
      volumes: [{name: site, configMap: {name: site}}]
---
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {selector: {app: nginx}, ports: [{port: 80, targetPort: web}]}
";

#[test]
fn nginx_serves_a_site() {
    let Some(cluster) = cluster_with(&debian::NGINX) else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(NGINX);
    kubectl.run("rollout status deployment/nginx --timeout=60s").ok();
    let address = service_address(&kubectl, "default", "nginx");
    wait_for(
        "the page",
        LIMIT,
        || http::get(address, "/").map(|a| a.body).ok(),
        |body| body.as_deref() == Some("served by nginx\n"),
    );
    for pod in pods(&kubectl, "default", "app=nginx") {
        inside(&kubectl, &pod, &["/usr/sbin/nginx", "-t"]);
        inside(&kubectl, &pod, &["/usr/sbin/nginx", "-s", "reload"]);
        let log = kubectl.run(&format!("logs {pod}")).ok();
        assert!(log.contains("GET / HTTP/1.1\" 200"), "the probes are in the access log: {log}");
    }
    assert_eq!(http::get(address, "/").unwrap().body, "served by nginx\n", "after the reload");
}

const POSTGRESQL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: postgresql}
spec:
  securityContext: {runAsUser: 999, runAsGroup: 999, runAsNonRoot: true, fsGroup: 999}
  initContainers:
  - name: initdb
    image: podium.test/postgresql:debian
    command: [/usr/lib/postgresql/15/bin/initdb, -D, /data/main, --auth=trust]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: postgresql
    image: podium.test/postgresql:debian
    command: [/usr/lib/postgresql/15/bin/postgres, -D, /data/main, -k, /tmp, -h, '*']
    ports: [{containerPort: 5432}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    readinessProbe:
      exec: {command: [/usr/lib/postgresql/15/bin/pg_isready, -h, /tmp]}
      periodSeconds: 1
    volumeMounts: [{name: data, mountPath: /data}, {name: shm, mountPath: /dev/shm}]
  volumes: [{name: data, emptyDir: {}}, {name: shm, emptyDir: {medium: Memory, sizeLimit: 64Mi}}]
";

#[test]
fn postgresql_keeps_what_it_committed_when_it_is_killed() {
    let Some(cluster) = cluster_with(&debian::POSTGRESQL) else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(POSTGRESQL);
    kubectl.run("wait --for=condition=Ready pod/postgresql --timeout=60s").ok();
    let sql = |text: &str| {
        kubectl.args(&[
            "exec",
            "postgresql",
            "-c",
            "postgresql",
            "--",
            "/usr/lib/postgresql/15/bin/psql",
            "-h",
            "/tmp",
            "-d",
            "postgres",
            "-At",
            "-c",
            text,
        ])
    };
    sql("create table numbers as select n from generate_series(1, 100000) n").ok();
    assert_eq!(sql("select sum(n) from numbers").ok().trim(), "5000050000");
    assert_eq!(sql("show data_directory").ok().trim(), "/data/main");

    // The postmaster is the container's first process, which ignores even SIGKILL from within its namespace.
    inside(&kubectl, "postgresql", &["bash", "-c", "kill -QUIT 1"]);
    wait_for("a restart", LIMIT, || restarts(&kubectl, "postgresql"), |count| count == "1");
    kubectl.run("wait --for=condition=Ready pod/postgresql --timeout=60s").ok();
    let sum =
        wait_for("recovery", LIMIT, || sql("select sum(n) from numbers").stdout, |text| !text.is_empty());
    assert_eq!(sum.trim(), "5000050000");
    assert!(
        kubectl
            .run("logs postgresql -c postgresql")
            .ok()
            .contains("database system was not properly shut down"),
        "it recovered from its log"
    );
}

const REDIS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: redis}
spec:
  securityContext: {runAsUser: 998, runAsGroup: 998, fsGroup: 998}
  terminationGracePeriodSeconds: 10
  containers:
  - name: redis
    image: podium.test/redis:debian
    args: [--bind, 0.0.0.0, --dir, /data, --appendonly, 'yes', --appendfsync, always]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    livenessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}
    readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
";

#[test]
fn redis_finds_its_data_again() {
    let Some(cluster) = cluster_with(&debian::REDIS) else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(REDIS);
    kubectl.run("wait --for=condition=Ready pod/redis --timeout=60s").ok();
    assert_eq!(inside(&kubectl, "redis", &["redis-cli", "set", "answer", "42"]).trim(), "OK");
    let load = inside(&kubectl, "redis", &["redis-benchmark", "-q", "-n", "2000", "-t", "set,get"]);
    assert!(load.contains("requests per second"), "{load}");
    // SIGTERM, as at the end of a pod: redis saves and leaves with 0, and the pod's policy starts it again.
    inside(&kubectl, "redis", &["bash", "-c", "kill -TERM 1"]);
    wait_for("a restart", LIMIT, || restarts(&kubectl, "redis"), |count| count == "1");
    let last = "{.status.containerStatuses[0].lastState.terminated.reason}";
    becomes(&kubectl, "pod redis", last, "Completed");
    kubectl.run("wait --for=condition=Ready pod/redis --timeout=60s").ok();
    assert_eq!(inside(&kubectl, "redis", &["redis-cli", "get", "answer"]).trim(), "42");
}

const ETCD: &str = "
apiVersion: v1
kind: Service
metadata: {name: etcd}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: etcd}
  ports: [{name: client, port: 2379}, {name: peer, port: 2380}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: etcd}
spec:
  serviceName: etcd
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: etcd}}
  template:
    metadata: {labels: {app: etcd}}
    spec:
      containers:
      - name: etcd
        image: podium.test/etcd:debian
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        args:
        - --name=$(NAME)
        - --data-dir=/data
        - --listen-client-urls=http://0.0.0.0:2379
        - --listen-peer-urls=http://0.0.0.0:2380
        - --advertise-client-urls=http://$(NAME).etcd:2379
        - --initial-advertise-peer-urls=http://$(NAME).etcd:2380
        - --initial-cluster=etcd-0=http://etcd-0.etcd:2380,etcd-1=http://etcd-1.etcd:2380,etcd-2=http://etcd-2.etcd:2380
        readinessProbe: {httpGet: {path: /health, port: 2379}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
";

#[test]
fn three_etcd_members_form_a_cluster_and_outlive_one_of_them() {
    let Some(cluster) = cluster_with(&debian::ETCD) else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(ETCD);
    kubectl.run("rollout status statefulset/etcd --timeout=120s").ok();
    let all = "--endpoints=http://etcd-0.etcd:2379,http://etcd-1.etcd:2379,http://etcd-2.etcd:2379";
    let etcdctl = |pod: &str, arguments: &[&str]| {
        let head = ["exec", pod, "--", "env", "ETCDCTL_API=3", "etcdctl"];
        kubectl.args(&[&head, arguments].concat())
    };
    etcdctl("etcd-0", &["put", "where", "everywhere"]).ok();
    assert_eq!(etcdctl("etcd-2", &["get", "--print-value-only", "where"]).ok().trim(), "everywhere");

    // A member ends, the others go on, and it finds them and its log again.
    inside(&kubectl, "etcd-1", &["bash", "-c", "kill -TERM 1"]);
    etcdctl("etcd-0", &["put", "while", "away"]).ok();
    wait_for("a restart", LIMIT, || restarts(&kubectl, "etcd-1"), |count| count == "1");
    wait("all members' health", LIMIT, || {
        let health = etcdctl("etcd-0", &[all, "endpoint", "health"]);
        if health.code == 0 { Ok(()) } else { Err(health.stderr) }
    });
    assert_eq!(etcdctl("etcd-1", &["get", "--print-value-only", "while"]).ok().trim(), "away");
}
