"""Streams of the Python client: exec over WebSocket, and ports by v4.channel.k8s.io, which kubectl does not speak.

Arguments: a kubeconfig; the name of a pod with a shell; the name of a pod that serves HTTP at port 3000.
"""

import sys

from kubernetes import client, config
from kubernetes.stream import portforward, stream

kubeconfig, shell, web = sys.argv[1:]
config.load_kube_config(kubeconfig)
core = client.CoreV1Api()


def executed(*command, given=None):
    """What a command prints to both its outputs, and its exit code."""
    process = stream(
        core.connect_get_namespaced_pod_exec, shell, "default", command=list(command),
        stdin=given is not None, stdout=True, stderr=True, tty=False, _preload_content=False,
    )
    if given is not None:
        process.write_stdin(given)
    process.run_forever(timeout=30)
    return process.read_stdout(), process.read_stderr(), process.returncode


seen = executed("sh", "-c", "echo out; echo err >&2; exit 3")
assert seen == ("out\n", "err\n", 3), seen
seen = executed("sh", "-c", "read line; echo got $line", given="a line\n")
assert seen == ("got a line\n", "", 0), seen


def asked(socket, path):
    """The answer to a request, until the server closes."""
    socket.settimeout(30)
    socket.sendall(f"GET {path} HTTP/1.0\r\nHost: web\r\n\r\n".encode())
    answer = b""
    while piece := socket.recv(65536):
        answer += piece
    return answer.decode()


# Two ports on one WebSocket: one is served, at the other nobody listens.
forward = portforward(core.connect_get_namespaced_pod_portforward, web, "default", ports="3000,3001")
answer = asked(forward.socket(3000), "/")
assert answer.startswith("HTTP/1.1 200") and answer.endswith(f"web v2.0.0 {web}\n"), answer
assert forward.error(3000) is None, forward.error(3000)
refused = forward.socket(3001)
refused.settimeout(30)
assert refused.recv(1) == b""
assert "3001" in (forward.error(3001) or ""), forward.error(3001)

print("all streams")
