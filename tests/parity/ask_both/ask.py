#!/usr/bin/env python3
"""Asks two API servers the same writes and tells what they answer differently: ours, and upstream's where one is at hand.

    ask.py OURS UPSTREAM [--mode create|update|status] [--depth 2] [--kinds Pod,Job] [--swagger FILE]

OURS and UPSTREAM are kubeconfigs of administrators of servers that nobody else uses, without controllers. Each valid object of
`objects.py` is sent with one field changed at a time, by what the OpenAPI document says of the field: left out, null, of another
type, out of range, ill-formed, given twice. An update sends what the server stored, so changed; all but what makes the object is a
dry run. What differs is printed in groups: code, warnings, message, causes, or the answer. A run of all kinds takes a minute or
two and about 30,000 requests.

Run by hand. The gate has no upstream server to ask; what was found by this is pinned by the tests of `podium-api` and
`podium-apiserver`.
"""

import argparse
import base64
import collections
import copy
import http.client
import json
import os
import re
import ssl
import sys
import tempfile
import threading

from objects import OBJECTS

STRINGS = ["", "x" * 300, "Bad_Value!", "-1", "a.b/c", "10%", "1.2.3.4"]
INTEGERS = [-1, 0, 1, 70000, 2**31 - 1, 2**31, 1.5, "1"]
QUANTITIES = ["-1", "0", "1.5", "abc", 3, "1Ki", "0.5m"]
NUMBERS_OR_NAMES = [-1, 0, 70000, "", "abc", "10%", "-5%", "150%", True]
TIMES = ["2020-01-01T00:00:00Z", "bad", 5]
KEYS = ["", "Bad Key!", "a/b", "x" * 300, "k"]
ABSENT = object()

# What two servers cannot agree on.
VARYING_FIELDS = {"uid", "creationTimestamp", "resourceVersion", "selfLink", "time", "managedFields"}
CHOSEN = re.compile(r"kube-api-access-[a-z0-9]{5}")
# What a patched server may project into pods besides, and where lines are that are behind it.
PATCHED_SOURCE = "openshift-service-ca.crt"
PLACE = re.compile(r"@@ -\d+((?:,\d+)?) \+\d+((?:,\d+)?) @@")
UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class Server:
    """One connection to a server, by a kubeconfig."""

    def __init__(self, kubeconfig):
        with open(kubeconfig) as file:
            text = file.read()
        try:
            config = json.loads(text)
        except ValueError:
            import yaml

            config = yaml.safe_load(text)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.host = cluster["server"].split("//")[1]
        # Both run on this machine.
        self.tls = ssl._create_unverified_context()
        self.headers = {"Content-Type": "application/json"}
        if "token" in user:
            self.headers["Authorization"] = "Bearer " + user["token"]
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile() as file:
                for part in ("client-certificate-data", "client-key-data"):
                    file.write(base64.b64decode(user[part]) + b"\n")
                file.flush()
                self.tls.load_cert_chain(file.name)
        elif "client-certificate" in user:
            self.tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self.connection = None

    def ask(self, method, path, body=None):
        """The code, the warnings and the body of an answer, without what varies."""
        code, warnings, said = self.ask_plainly(method, path, body)
        return {"code": code, "warnings": settled(warnings), "body": settled(said)}

    def ask_plainly(self, method, path, body=None):
        """The same with everything."""
        for last in (False, True):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection(self.host, context=self.tls, timeout=20)
                self.connection.request(method, path, json.dumps(body) if body is not None else None, self.headers)
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, OSError) as error:
                self.connection = None
                if last:
                    # Upstream's breaks a connection off where a request makes it panic.
                    return 0, None, f"no answer: {error}"
        try:
            said = json.loads(text)
        except ValueError:
            said = text.decode("utf8", "replace")
        return answer.status, answer.headers.get_all("Warning"), said


def settled(value):
    if isinstance(value, dict):
        return {key: settled(inner) for key, inner in value.items() if key not in VARYING_FIELDS}
    if isinstance(value, list):
        return [settled(inner) for inner in value if not from_patch(inner)]
    if isinstance(value, str):
        value = CHOSEN.sub("TOKEN", TIME.sub("TIME", UID.sub("UID", value)))
        return PLACE.sub(r"@@ -N\1 +N\2 @@", value) if "@@ -" in value else value
    return value


def from_patch(item):
    source = item.get("configMap") if isinstance(item, dict) else None
    return isinstance(source, dict) and source.get("name") == PATCHED_SOURCE


class Schema:
    """What an OpenAPI document says of types."""

    def __init__(self, path):
        with open(path) as file:
            self.definitions = json.load(file)["definitions"]

    def of(self, schema):
        while "$ref" in schema:
            schema = self.definitions[schema["$ref"].split("/")[-1]]
        return schema

    def changes(self, schema, current, depth, path=()):
        """Pairs of a path and what to put there. Fields that the object lacks are gone into `depth` levels deep."""
        reference = schema.get("$ref", "")
        schema = self.of(schema)
        if path:
            yield path, None
        if reference.endswith("Quantity"):
            values = QUANTITIES
        elif reference.endswith("IntOrString"):
            values = NUMBERS_OR_NAMES
        elif schema.get("format") == "date-time":
            values = TIMES
        else:
            values = {"integer": INTEGERS, "boolean": [True, False, "true"]}.get(schema.get("type"))
            if schema.get("type") == "string":
                values = [*STRINGS, 5, *schema.get("enum", [])]
        if values is not None:
            yield from ((path, value) for value in values)
        elif schema.get("type") == "array":
            yield from self.changes_of_list(schema["items"], current, depth, path)
        elif "properties" in schema:
            yield from self.changes_of_fields(schema["properties"], current, depth, path)
        elif "additionalProperties" in schema:
            inner = schema["additionalProperties"]
            texts = self.of(inner).get("type") == "string" and "Quantity" not in inner.get("$ref", "")
            for key in KEYS:
                yield from ((path, {key: value}) for value in (["v", "", "Bad Value!"] if texts else ["1", "-1", "x"]))

    def changes_of_list(self, items, current, depth, path):
        yield from ((path, value) for value in ([], {}, [None]))
        if current:
            yield path, [*current, copy.deepcopy(current[-1])]
            yield from self.changes(items, current[0], depth - 1, (*path, 0))
        elif depth > 0 and self.of(items).get("type") == "string":
            yield from ((path, value) for value in ([text] for text in STRINGS))
            yield path, ["a", "a"]
        elif depth > 0 and "properties" in self.of(items):
            yield from ((path, value) for value in ([{}], [{}, {}]))
            for inner, value in self.changes(items, {}, depth - 1):
                if inner:
                    yield path, [changed({}, inner, value)]

    def changes_of_fields(self, properties, current, depth, path):
        if path:
            yield from ((path, value) for value in ({}, "text"))
        for name, inner in properties.items():
            if not path and name in ("apiVersion", "kind"):
                continue
            there = current.get(name) if isinstance(current, dict) else None
            if there is not None:
                yield (*path, name), ABSENT
            if there is not None or depth > 0:
                yield from self.changes(inner, there, depth if there is not None else depth - 1, (*path, name))


def changed(thing, path, value):
    """A copy with that at the path, and what the way there needs."""
    thing = copy.deepcopy(thing)
    if not path:
        return thing if value is ABSENT else value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        thing = thing if isinstance(thing, list) else []
        thing.extend({} for _ in range(step + 1 - len(thing)))
    elif not isinstance(thing, dict):
        thing = {}
    if not rest and value is ABSENT:
        if isinstance(thing, dict):
            thing.pop(step, None)
        return thing
    inner = thing[step] if isinstance(step, int) else thing.get(step)
    thing[step] = changed(inner if isinstance(inner, (dict, list)) else {}, rest, value)
    return thing


def compare(name, servers, schema, options):
    """Groups of what differs about one of the objects, and how much was asked."""
    definition, path, valid = OBJECTS[name]
    valid = copy.deepcopy(valid)
    method, target, bases = "POST", path, [valid, valid]
    if options.mode != "create":
        named = valid.get("metadata", {}).get("name")
        if named is None or name == "Eviction":
            return {}, 0
        if name != "IPAddress":
            # What another run made may still be going.
            named = valid["metadata"]["name"] = f"{named}-{os.getpid()}"
        method, target = "PUT", f"{path}/{named}" + ("/status" if options.mode == "status" else "")
        bases = []
        for server in servers:
            code, _, made = server.ask_plainly("POST", path, valid)
            if code >= 300:
                print(f"{name} was not made by {server.host}: {made}")
                made = copy.deepcopy(valid)
            made["metadata"].pop("managedFields", None)
            bases.append(made)
    groups, seen = collections.OrderedDict(), set()
    changes = (schema.changes({"$ref": f"#/definitions/{definition}"}, base, options.depth) for base in bases)
    for (where, value), theirs in zip(*changes):
        # Where the two stored something else, it is told by what they answer to the same change.
        values = [value, theirs[1] if theirs[0] == where else value]
        bodies = [changed(base, where, value) for base, value in zip(bases, values)]
        if (text := json.dumps(bodies[0], sort_keys=True)) in seen:
            continue
        seen.add(text)
        ours, upstream = (
            server.ask(method, target + "?dryRun=All&fieldManager=ask", body) for server, body in zip(servers, bodies)
        )
        if ours != upstream:
            group, told = difference(ours, upstream, where)
            groups.setdefault(group, []).append((where, value, told))
    if options.mode != "create":
        for server in servers:
            server.ask("DELETE", f"{path}/{named}?gracePeriodSeconds=0")
    return groups, len(seen)


def difference(ours, upstream, where):
    """What sort of difference it is, and the difference in words."""
    field = ".".join(step for step in where if isinstance(step, str))
    if ours["code"] != upstream["code"]:
        return (f"code {ours['code']}, upstream {upstream['code']}", field), (message(ours), message(upstream))
    if causes(ours) != causes(upstream):
        if sorted(causes(ours)) == sorted(causes(upstream)):
            return ("order", field), (causes(ours), causes(upstream))
        told, wanted = collections.Counter(causes(ours)), collections.Counter(causes(upstream))
        only, missing = list((told - wanted).elements()), list((wanted - told).elements())
        return ("causes", str((only + missing)[:1])), (only, missing)
    places = list(unlike(ours, upstream))
    return ("answer", places[0][0]), ([place[:2] for place in places[:4]], [place[2] for place in places[:4]])


def message(answer):
    body = answer["body"]
    return (body.get("message") or "accepted") if isinstance(body, dict) else body


def causes(answer):
    details = answer["body"].get("details") if isinstance(answer["body"], dict) else None
    all_causes = (details.get("causes") if isinstance(details, dict) else None) or []
    return [f"{cause.get('field')}: {cause.get('reason')}: {cause.get('message')}" for cause in all_causes]


def unlike(ours, upstream, path=""):
    if isinstance(ours, dict) and isinstance(upstream, dict):
        for key in dict.fromkeys([*ours, *upstream]):
            yield from unlike(ours.get(key, "(absent)"), upstream.get(key, "(absent)"), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(upstream, list) and len(ours) == len(upstream):
        for one, other in zip(ours, upstream):
            yield from unlike(one, other, path + "[]")
    elif ours != upstream:
        yield path, ours, upstream


def short(value):
    return re.sub(r"x{40,}", "xxx…", value if isinstance(value, str) else json.dumps(value))[:400]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours")
    parser.add_argument("upstream")
    parser.add_argument("--mode", choices=["create", "update", "status"], default="create")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(OBJECTS))
    shared = os.path.join(os.path.dirname(__file__), "../../../../shared/data/openapi/swagger.json")
    parser.add_argument("--swagger", default=shared)
    options = parser.parse_args()
    schema, waiting, lock = Schema(options.swagger), options.kinds.split(","), threading.Lock()
    totals = collections.Counter()

    def work():
        servers = [Server(options.ours), Server(options.upstream)]
        while True:
            with lock:
                if not waiting:
                    return
                name = waiting.pop(0)
            groups, asked = compare(name, servers, schema, options)
            with lock:
                totals.update(asked=asked, groups=len(groups))
                print(f"{name}: {asked} requests, {len(groups)} groups of differences")
                for (sort, _), found in groups.items():
                    where, value, (ours, upstream) = found[0]
                    shown = "(absent)" if value is ABSENT else short(value)
                    print(f"  {sort}, {len(found)} times: {'.'.join(map(str, where))} = {shown}")
                    print(f"    ours     {short(ours)}\n    upstream {short(upstream)}", flush=True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{totals['asked']} requests, {totals['groups']} groups of differences")
    return 1 if totals["groups"] else 0


if __name__ == "__main__":
    sys.exit(main())
