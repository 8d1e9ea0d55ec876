//! The real kubectl against the server; skipped, saying so, where there is none.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::Server;

async fn kubectl(server: &Server, args: &[&str], input: Option<&str>) -> Option<(bool, String)> {
    use tokio::io::AsyncWriteExt;
    let home = server.directory.join("home");
    let mut child = match Command::new("kubectl")
        .args(args)
        .env("KUBECONFIG", &server.kubeconfig)
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
    {
        Ok(child) => child,
        Err(error) => {
            println!("skipped: kubectl cannot be run: {error}");
            return None;
        }
    };
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.unwrap_or_default().as_bytes()).await.expect("kubectl reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("kubectl ends");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

const MANIFEST: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {mode: fast}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'example.com/web:v1', ports: [{containerPort: 3000}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 3000}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_session() {
    let server = Server::start().await;
    // Arguments, and what must be in the output.
    let steps: &[(&[&str], &str)] = &[
        (&["apply", "-f", "-"], "deployment.apps/web created"),
        (&["apply", "-f", "-"], "deployment.apps/web unchanged"),
        (&["get", "deployments"], "NAME   READY   UP-TO-DATE   AVAILABLE   AGE"),
        (&["get", "all"], "service/kubernetes"),
        (
            &["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"],
            "example.com/web:v1",
        ),
        (&["get", "cm", "settings", "-o", "yaml"], "mode: fast"),
        (&["get", "svc", "-o", "wide"], "app=web"),
        (&["scale", "deploy/web", "--replicas=3"], "deployment.apps/web scaled"),
        (&["set", "image", "deploy/web", "c=example.com/web:v2"], "deployment.apps/web image updated"),
        (&["label", "deploy", "web", "tier=front"], "deployment.apps/web labeled"),
        (&["annotate", "deploy", "web", "note=x"], "deployment.apps/web annotated"),
        (
            &["patch", "deploy", "web", "-p", "{\"spec\":{\"minReadySeconds\":5}}"],
            "deployment.apps/web patched",
        ),
        (&["describe", "deploy", "web"], "Replicas:"),
        (&["explain", "pod.spec.containers"], "image"),
        (&["api-resources"], "deployments"),
        (&["api-versions"], "apps/v1"),
        (&["auth", "can-i", "delete", "nodes"], "yes"),
        (&["create", "deployment", "other", "--image=i"], "deployment.apps/other created"),
        (&["run", "one", "--image=i"], "pod/one created"),
        (&["get", "pods", "one"], "Pending"),
        (&["expose", "deploy", "other", "--port=80"], "service/other exposed"),
        (&["create", "namespace", "team"], "namespace/team created"),
        (&["get", "events"], ""),
        (&["cluster-info"], "Kubernetes control plane"),
        (&["version"], "Server Version: v1.36"),
        (&["delete", "pod", "one"], "pod \"one\" deleted"),
        (&["delete", "-f", "-", "--wait=false"], "deployment.apps \"web\" deleted"),
    ];
    for (args, expected) in steps {
        let input = args.contains(&"-").then_some(MANIFEST);
        let Some((good, text)) = kubectl(&server, args, input).await else { break };
        assert!(good && text.contains(expected), "kubectl {args:?} said:\n{text}");
    }
    if let Some((good, text)) = kubectl(&server, &["get", "deploy", "none"], None).await {
        assert!(
            !good && text.contains("Error from server (NotFound): deployments.apps \"none\" not found"),
            "{text}"
        );
    }
    server.stop().await;
}

/// From client-side apply to server-side, and back.
#[tokio::test(flavor = "multi_thread")]
async fn applies_on_either_side() {
    let server = Server::start().await;
    let changed = MANIFEST.replace("example.com/web:v1", "example.com/web:v2");
    let steps: &[(&[&str], &str, bool, &[&str])] = &[
        (&["apply", "-f", "-"], MANIFEST, true, &["deployment.apps/web created"]),
        (&["apply", "--server-side", "-f", "-"], MANIFEST, true, &["deployment.apps/web serverside-applied"]),
        (&["diff", "--server-side", "-f", "-"], MANIFEST, true, &[]),
        (
            &["diff", "--server-side", "-f", "-"],
            &changed,
            false,
            &["-", "example.com/web:v1", "+", "example.com/web:v2"],
        ),
        (&["apply", "--server-side", "-f", "-"], &changed, true, &["deployment.apps/web serverside-applied"]),
        (
            &["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"],
            "",
            true,
            &["example.com/web:v2"],
        ),
        // Another manager is told what it would take, and may take it.
        (
            &["apply", "--server-side", "--field-manager=other", "-f", "-"],
            MANIFEST,
            false,
            &[
                "conflict with \"kubectl\"",
                ".spec.template.spec.containers[name=\"c\"].image",
                "--force-conflicts",
            ],
        ),
        (
            &["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"],
            MANIFEST,
            true,
            &["deployment.apps/web serverside-applied"],
        ),
        (&["apply", "-f", "-"], &changed, true, &["deployment.apps/web configured"]),
        (
            &["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"],
            "",
            true,
            &["example.com/web:v2"],
        ),
        (
            &["get", "deploy", "web", "--show-managed-fields", "-o", "yaml"],
            "",
            true,
            &["kubectl-client-side-apply", "manager: other"],
        ),
        (&["scale", "deploy/web", "--replicas=5"], "", true, &["deployment.apps/web scaled"]),
        (&["get", "deploy", "web", "--show-managed-fields", "-o", "yaml"], "", true, &["subresource: scale"]),
    ];
    for (args, input, good, expected) in steps {
        let input = (!input.is_empty()).then_some(*input);
        let Some((succeeded, text)) = kubectl(&server, args, input).await else { break };
        assert_eq!(succeeded, *good, "kubectl {args:?} said:\n{text}");
        for part in *expected {
            assert!(text.contains(part), "kubectl {args:?} lacks {part:?}:\n{text}");
        }
    }
    server.stop().await;
}
